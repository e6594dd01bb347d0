import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from langsearch.cli.app import main
from langsearch.cli.search import check
from langsearch.experiment.folder import read_json, read_rows
from langsearch.space.schema import load_space

pytest_plugins = ["search_fixtures"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def learn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, space_file: Path) -> Command:
    """Runs `langsearch learn` on the tiny space, in the test's folder."""
    monkeypatch.chdir(space_file.parent)
    monkeypatch.setenv("COLUMNS", "200")

    def run(kind: str, *arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["langsearch", "learn", kind, "tiny.yaml", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"\d|^$") as caught:
            main()
        captured = capsys.readouterr()
        return Ended(caught.value.code or 0, captured.out, captured.err)

    return run


def test_sides_are_learned_shown_and_written_for_a_space(learn: Command) -> None:
    ended = learn("sides", "--steps", 4, "--rank", 2, "--by", "module")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "sides by module: 4 steps, rank 2 of either side at 12 sites, 50,688 parameters"
    assert [line.split("  ")[0] for line in lines[1:5]] == [f"step {step}/4" for step in range(1, 5)]
    assert sum(line.startswith(("encoder.", "decoder.")) for line in lines) == 12
    value = read_json(Path("experiments/tiny-sides/sides.json"))
    assert (value["by"], value["steps"], value["rank"], len(value["weights"])) == ("module", 4, 2, 12)
    # Four updates move no share far.
    assert all(not entry["is_sure"] and entry["margin"] < 0.2 for entry in value["weights"].values())
    assert sum(line.endswith(", not sure") for line in lines) == 12
    assert f"Not sure, and so left to the search: {', '.join(value['weights'])}" in lines
    (proposal,) = (line for line in lines if line.startswith("In a space:  encoder: {sides: ["))
    sides = [f"{{choice: [{', '.join(part['choice'])}]}}" for part in value["architecture"]["encoder"]["sides"]]
    assert f"encoder: {{sides: [{', '.join(sides)}]}}" in proposal
    again = learn("sides")
    assert again.code == 2
    assert again.err.startswith("error: Learning must have a folder of its own, but ")
    assert again.err.endswith("exists. Go on with it by --resume, or give another with --to DIR.\n")
    assert learn("sides", "--steps", 4, "--rank", 2, "--by", "module", "--resume").code == 0
    other = learn("sides", "--steps", 5, "--resume")
    assert other.code == 2 and "has other settings. Give another folder with --to DIR." in other.err


def test_a_demand_is_shown_and_its_narrowed_space_is_one_that_runs(learn: Command) -> None:
    ended = learn("subspace", "--epochs", 2, "--rank", 4, "--target", 0.5, "--to", "demand")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("subspace: 2 epochs, rank 4 at 12 sites, 50% of B pruned, 50,688 parameters\nepoch 1/2")
    rows = read_rows(Path("demand/demand.parquet"))
    assert len(rows) == 12 * 3
    assert {(row["language"], row["class"]) for row in rows} == {("en", "high"), ("fr", "high"), ("sw", "low")}
    assert sum(row["kept"] for row in rows) == pytest.approx(0.5 * sum(row["stored"] for row in rows), rel=1e-3)
    text = Path("demand/narrowed.yaml").read_text(encoding="utf-8")
    assert text.startswith(
        "# tiny with ranks around the demand (subspace: 2 epochs, rank 4 at 12 sites, 50% of B pruned"
    )
    space = load_space(Path("demand/narrowed.yaml"))
    assert space.name == "tiny-narrowed"
    assert space.dimensions().keys() >= {"rank.high", "rank.low", "trainer.lr"}
    check(Path("demand/narrowed.yaml"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sides", "--by", "row"), "--by must be layer or module, but got 'row'."),
        (("sides", "--rank", 500), "--rank must be at most the narrowest adapted layer's width, 128, but got 500"),
        (("subspace", "--target", 1.5), "--target must lie between 0 and 1, but got 1.5."),
        (("subspace", "--set", "trainer.epoch=3"), "--set trainer.epoch=3: `trainer.epoch` must be a key of `trainer`"),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(
    arguments: tuple[object, ...], message: str, learn: Command
) -> None:
    before = sorted(Path().rglob("*"))
    ended = learn(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"error: {message}")
    assert sorted(Path().rglob("*")) == before


def test_the_spaces_own_prior_says_what_is_not_given(learn: Command) -> None:
    settings = ("--set", "prior.sides={steps: 3, rank: 1}", "--set", "architecture.encoder.source_layers={int: [0, 3]}")
    ended = learn("sides", *settings, "--rank", 2)
    assert ended.out.startswith("sides by layer: 3 steps, rank 2 of either side"), ended.err
