import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.adapters.peft_export import read_export
from langsearch.experiment.folder import read_json
from langsearch.space.problems import InputError
from langsearch.study.results import TrialResult
from langsearch.trial.standalone import train_single

pytest_plugins = ["search_fixtures"]

FIXED = ("architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1")


def train(
    target: Path, *overrides: str, space: Path | None = None, to: Path | None = None, resume: bool = False
) -> tuple[TrialResult, str]:
    stream = io.StringIO()
    training = train_single(Console(file=stream, width=200), target, space, to, overrides, resume=resume)
    return training.result, stream.getvalue()


def test_a_space_without_searched_values_is_trained_and_exported(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result, text = train(space_file, *FIXED)
    folder = tmp_path / "experiments" / "tiny-train"
    assert read_export(folder / "adapters").languages == ("en", "fr", "sw")
    assert read_json(folder / "trials" / "00000" / "result.json")["spbleu"] == result.spbleu
    assert text.splitlines()[0] == "rank 2;2 · enc 0-2 dec 0-2 · 6 src 6 tgt: 25,344 parameters"
    assert text.splitlines()[1].startswith("pretrained  spBLEU ")
    assert text.splitlines()[2].startswith(f"epoch 1/1  spBLEU {result.spbleu:.2f} ")
    with pytest.raises(InputError, match=r"exists\. Go on with it by --resume, or give another with --to DIR\.$"):
        train(space_file, *FIXED)
    assert train(space_file, *FIXED, resume=True)[0] == result
    with pytest.raises(InputError, match=r"has other settings:\n  trainer.seed: 0 -> 1\nUndo the changes, or give an"):
        train(space_file, *FIXED, "trainer.seed=1", resume=True)


def test_a_searched_space_is_refused_with_its_dimensions(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"but 3 are searched: rank\.high, rank\.low, trainer\.lr\. Fix each with"):
        train(space_file)
    assert not (tmp_path / "experiments").exists()


def test_a_trials_architecture_trains_again_to_the_same_score(trained: Path, tmp_path: Path) -> None:
    result, _ = train(trained / "trials" / "00000" / "architecture.json", to=tmp_path / "again")
    before = read_json(trained / "trials" / "00000" / "result.json")
    assert (result.spbleu, result.train_loss) == (before["spbleu"], before["train_loss"])


def test_an_architecture_alone_takes_data_and_trainer_from_a_space(
    trained: Path, space_file: Path, tmp_path: Path
) -> None:
    lonely = tmp_path / "mine.json"
    lonely.write_bytes((trained / "trials" / "00000" / "architecture.json").read_bytes())
    with pytest.raises(InputError, match=r"^An architecture needs data to train on: name a space with --space for "):
        train(lonely, to=tmp_path / "out")
    with pytest.raises(InputError, match=r"^Training needs fixed settings, but trainer\.lr is searched\. Fix it with"):
        train(lonely, space=space_file, to=tmp_path / "out")
    result, text = train(lonely, *FIXED[1:], space=space_file, to=tmp_path / "out")
    assert result.epoch == 1
    assert text.startswith("rank 2;4 ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 9}, r"must be an architecture, but cannot be read as one: The architecture's format must be 1"),
        ({"slots": {"en": "en"}}, r"cannot be read as one: A slot must be used by a language"),
        (None, r"must be an architecture, but cannot be read as one: "),
    ],
)
def test_a_file_that_is_no_architecture_is_refused(
    change: dict[str, object] | None, message: str, trained: Path, space_file: Path, tmp_path: Path
) -> None:
    value = json.loads((trained / "trials" / "00000" / "architecture.json").read_text(encoding="utf-8"))
    file = tmp_path / "mine.json"
    file.write_text("{" if change is None else json.dumps(value | change), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        train(file, *FIXED, space=space_file, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_architecture_of_other_languages_is_refused(trained: Path, space_file: Path, tmp_path: Path) -> None:
    text = space_file.read_text(encoding="utf-8").replace("low: [sw]", "low: [cy]")
    (tmp_path / "other.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"must have the space's languages en, fr, cy, but .* has en, fr, sw\.$"):
        train(trained / "trials" / "00000" / "architecture.json", space=tmp_path / "other.yaml", to=tmp_path / "out")


@pytest.mark.parametrize(
    ("site", "rank", "message"),
    [
        ("encoder.7.fc1", 2, r"must fit the base's 3 encoder layers, but .* names encoder\.7\.fc1"),
        ("encoder.0.fc1", 500, r"must have ranks up to the width 128 of encoder\.0\.fc1, but .* has 500"),
    ],
)
def test_an_architecture_for_another_base_is_refused(
    site: str, rank: int, message: str, trained: Path, space_file: Path, tmp_path: Path
) -> None:
    value = json.loads((trained / "trials" / "00000" / "architecture.json").read_text(encoding="utf-8"))
    value["adapters"] = [{"side": "src", "ranks": {"en": rank}, "sites": [site]}]
    (tmp_path / "mine.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=message):
        train(tmp_path / "mine.json", *FIXED, space=space_file, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_architecture_without_adapters_is_scored_and_not_exported(
    trained: Path, space_file: Path, tmp_path: Path
) -> None:
    value = json.loads((trained / "trials" / "00000" / "architecture.json").read_text(encoding="utf-8"))
    (tmp_path / "mine.json").write_text(json.dumps(value | {"adapters": []}), encoding="utf-8")
    result, _ = train(tmp_path / "mine.json", *FIXED[1:], space=space_file, to=tmp_path / "out")
    assert (result.epoch, result.trainable_parameters) == (0, 0)
    assert not (tmp_path / "out" / "adapters").exists()
