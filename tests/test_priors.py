import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray

from langsearch.cli.app import main
from langsearch.experiment.environment import CheckedSpace, Environment
from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows
from langsearch.experiment.opening import start_experiment
from langsearch.experiment.task import searched_task
from langsearch.model.base import Base
from langsearch.prior.seeding import learn, next_task, seed
from langsearch.search.searcher import TableSearcher
from langsearch.space.prior_section import rank_dimensions, side_dimensions
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.study.table import TrialTable

pytest_plugins = ["search_fixtures"]

PRIOR = "prior={sides: {steps: 6, rank: 2}, subspace: {epochs: 2, rank: 4}}"
SEARCHED = "architecture.encoder.source_layers={int: [0, 3]}"
WIDE = "architecture.rank.low={choice: [1, 2, 4, 8, 16, 32, 64]}"
TableMaker = Callable[..., TrialTable]


@pytest.fixture
def load(tmp_path: Path, tiny_space: str) -> Callable[..., Space]:
    """Loads the tiny space with settings."""

    def make(*overrides: str) -> Space:
        path = tmp_path / "tiny.yaml"
        path.write_text(tiny_space, encoding="utf-8")
        return load_space(path, overrides)

    return make


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("prior={}", "`prior` must name sides, subspace or both, but names neither."),
        ("prior={side: {}}", "`prior.side` must be a key of `prior`, but is none. Did you mean sides?"),
        ("prior.sides.by=row", "`prior.sides.by` must be one of layer, module, but got 'row'."),
        ("prior.sides.steps=0", "`prior.sides.steps` must be a whole number of at least 1, but got 0"),
        ("prior.subspace.epochs=1", "`prior.subspace.epochs` must be a whole number of at least 2, but got 1"),
        ("prior.subspace.target=0", "`prior.subspace.target` must be a number above 0 and at most 0.999, but got 0"),
        ("prior={sides: {}}", "`prior.sides` informs nothing: the space searches neither source_layers nor sides."),
    ],
)
def test_a_wrong_prior_is_told(setting: str, message: str, load: Callable[..., Space]) -> None:
    with pytest.raises(InputError) as caught:
        load(setting)
    assert f"--set {setting}: {message}" in str(caught.value)


def test_a_demand_without_a_searched_rank_is_told(load: Callable[..., Space]) -> None:
    with pytest.raises(InputError, match=r"`prior\.subspace` informs nothing: the space searches no rank\. Search one"):
        load("prior.subspace.rank=4", "architecture.rank=2")


def test_a_prior_wider_than_the_base_is_told(load: Callable[..., Space], checked: CheckedSpace) -> None:
    (problem,) = load("prior.subspace.rank=500").check(checked.shape)
    text = "`prior.subspace.rank` must be at most the narrowest adapted layer's width, 128, but got 500"
    assert problem == f"--set prior.subspace.rank=500: {text}"


def test_a_prior_is_resolved_with_its_defaults_and_a_space_without_one_has_none(load: Callable[..., Space]) -> None:
    assert load(SEARCHED, "prior={sides: {}}").text.endswith("prior:\n  sides: {steps: 200, rank: 4, by: layer}\n")
    assert "prior" not in load().text


def test_the_dimensions_that_a_prior_informs_are_known_by_their_names() -> None:
    sides = ["encoder.source_layers", "decoder.sides", "encoder.sides.3", "decoder.overrides.0.side"]
    ranks = ["rank", "rank.low", "rank.low.src", "encoder.rank.wo", "decoder.overrides.1.rank.low"]
    others = ["encoder.layers.start", "encoder.modules.fc1", "pruning.target.rank", "trainer.lr", "rank.sides"]
    names = [*others, *sides, *ranks]
    assert side_dimensions(names) == sides
    assert rank_dimensions(names) == ["rank.sides", *ranks]


@pytest.fixture(scope="module")
def learned(
    base: Base, environment: Environment, checked: CheckedSpace, tmp_path_factory: pytest.TempPathFactory
) -> ExperimentFolder:
    """An experiment whose priors are learned and whose search has not begun."""
    path = tmp_path_factory.mktemp("learned") / "tiny.yaml"
    path.write_text(checked.space.text, encoding="utf-8")
    space = load_space(path, [PRIOR, SEARCHED, WIDE])
    folder = start_experiment(path.parent / "experiments" / "tiny", space, resume=False)
    kinds = []
    while (task := next_task(space, checked.shape, folder)) is not None:
        kinds.append(task.kind)
        learn(base, environment, task, folder)
    assert kinds == ["sides", "subspace"], "the demand is estimated with the learned sides"
    return folder


def test_the_search_begins_at_what_was_learned(learned: ExperimentFolder, checked: CheckedSpace) -> None:
    space = load_space(learned.space)
    seeding = seed(space, checked.shape, learned)
    assert seeding.distributions == space.dimensions() and not seeding.narrowed
    assert 1 < len(seeding.points) <= 3
    # The learning rate is left to the sampler, and so are sides that six updates cannot be sure of.
    assert all(point.keys() == {"rank.high", "rank.low"} for point in seeding.points)
    lows = [point["rank.low"] for point in seeding.points]
    assert lows[1] <= lows[0] <= lows[-1] and lows[-1] / lows[1] <= 4
    proposed = load_space(learned.subspace / "narrowed.yaml")
    assert not proposed.check(checked.shape)
    assert len(proposed.dimensions()["rank.low"].choices) < 7


def test_the_search_begins_with_the_sides_that_are_sure(
    learned: ExperimentFolder, checked: CheckedSpace, tmp_path: Path
) -> None:
    folder = ExperimentFolder(tmp_path / "sure")
    shutil.copytree(learned.path, folder.path)
    value = read_json(folder.sides / "sides.json")
    # As an older version wrote it: without a margin.
    value["weights"] = {f"encoder.{layer}": {"src": src, "tgt": 1 - src} for layer, src in enumerate((0.9, 0.6, 0.2))}
    (folder.sides / "sides.json").write_text(json.dumps(value), encoding="utf-8")
    points = seed(load_space(folder.space), checked.shape, folder).points
    assert [point["encoder.source_layers"] for point in points] == [2] * len(points)
    shutil.rmtree(folder.subspace)
    task = next_task(load_space(folder.space), checked.shape, folder)
    assert task is not None and task.kind == "subspace"
    sides = {entry.site.layer: entry.side for entry in task.architecture.adapters if entry.site.stack == "encoder"}
    assert sides == {0: "src", 1: "src", 2: "tgt"}, "the published side where it is not sure"


def test_a_narrow_prior_leaves_far_ranks_out(learned: ExperimentFolder, checked: CheckedSpace) -> None:
    seeding = seed(load_space(learned.space, ["prior.subspace.narrow=true"]), checked.shape, learned)
    assert seeding.narrowed == ("rank.low",)
    choices = seeding.distributions["rank.low"].choices
    assert 2 <= len(choices) < 7
    assert all(point["rank.low"] in choices for point in seeding.points)
    assert seeding.describe() == {"seeds": list(seeding.points), "narrowed": ["rank.low"]}


def test_a_space_without_a_prior_is_searched_as_it_is(checked: CheckedSpace, tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path)
    assert next_task(checked.space, checked.shape, folder) is None
    seeding = seed(checked.space, checked.shape, folder)
    assert (seeding.distributions, seeding.points) == (checked.space.dimensions(), ())
    assert not list(tmp_path.iterdir())


def test_the_first_trials_have_the_seeds_and_the_proposals_are_reproducible(
    checked: CheckedSpace, make_table: TableMaker
) -> None:
    dimensions = checked.space.dimensions()
    seeds = [{"rank.high": 2, "rank.low": 4}, {"rank.low": 2}]

    def propose(num: int, given: list[dict[str, Any]]) -> list[dict[str, Any]]:
        table = make_table(sampler="random")
        points = []
        for _ in range(num):
            found = table.next_point(dimensions, given)
            assert found is not None
            table.add(*found)
            points.append(found[1])
        return points

    found = propose(4, seeds)
    assert found == propose(4, seeds)
    assert all(point.keys() == dimensions.keys() for point in found)
    assert (found[0]["rank.high"], found[0]["rank.low"], found[1]["rank.low"]) == (2, 4, 2)
    assert found[2:] == propose(4, [])[2:], "a seed changes no later proposal of a sampler that looks at none"


def test_equal_seeds_train_once(checked: CheckedSpace, make_table: TableMaker, tmp_path: Path) -> None:
    space, shape = checked.space, checked.shape
    point = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.01}
    table = make_table()
    searcher = TableSearcher(
        table,
        ExperimentFolder(tmp_path),
        lambda number, drawn: searched_task(space, shape, number, drawn),
        space.dimensions(),
        [],
        2,
        seeds=[point, point, {**point, "rank.low": 2}],
    )
    assert [searcher.suggest(name) for name in "ab"] == [{"name": "00000"}, {"name": "00002"}]
    assert [row.same_as for row in table.rows()] == [None, "00000", None]


@pytest.mark.integration
def test_a_run_learns_its_priors_once_and_begins_with_them(
    learned: ExperimentFolder, checked: CheckedSpace, tiny_space: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [PRIOR, SEARCHED, WIDE, "baselines=[]", "trainer.epochs=1"]
    space = tmp_path / "tiny.yaml"
    space.write_text(tiny_space, encoding="utf-8")
    folder = ExperimentFolder(tmp_path / "experiments" / "tiny")

    def run(*more: str) -> int:
        arguments = ["run", str(space), "--experiments", str(folder.path.parent), *more]
        monkeypatch.setattr(sys, "argv", ["langsearch", *arguments, *(f"--set={setting}" for setting in settings)])
        with pytest.raises(SystemExit, match=r"\d|^$") as caught:
            main()
        return int(caught.value.code or 0)

    # The run was killed after it had learned the sides and before it had the demand.
    loaded = load_space(space, settings)
    start_experiment(folder.path, loaded, resume=False)
    shutil.copytree(learned.sides, folder.sides)
    written = (folder.sides / "sides.json").stat().st_mtime_ns
    try:
        assert run("--resume", "--trials=2") == 0
    finally:
        ray.shutdown()
    assert (folder.sides / "sides.json").stat().st_mtime_ns == written
    assert (folder.subspace / "demand.parquet").read_bytes() == (learned.subspace / "demand.parquet").read_bytes()
    assert next_task(loaded, checked.shape, folder) is None, "another resume has nothing to learn"
    seeds = read_json(folder.description)["prior"]["seeds"]
    rows = {row["name"]: row for row in read_rows(folder.results) if row["kind"] == "searched"}
    assert [row["state"] for row in rows.values()] == ["complete", "complete"]
    for name, point in zip(("00000", "00001"), seeds, strict=False):
        params = json.loads(rows[name]["params"])
        assert {key: params[key] for key in point} == point
    page = (folder.path / "report.html").read_text(encoding="utf-8")
    assert 'id="priors"' in page and "The search began with" in page
