"""`train`, `translate`, `evaluate`, `export` and the baselines with a language that the embedded base does not have."""

import io
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.data.embedded import read_embedded
from langsearch.experiment.environment import Environment, build_environment, check_space
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.experiment.task import baseline_task
from langsearch.model.base import Base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.schema import load_space
from langsearch.trial.trial import run_trial

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["search_fixtures", "cli_fixtures"]


@pytest.fixture
def space_file(tmp_path: Path, tiny_space: str) -> Path:
    """The small space, its Swahili sentences under a code that neither the base nor FLORES has."""
    for part in ("train", "validation", "test"):
        text = read_embedded("quickstart", part, ("en", "fr", "sw"))
        (tmp_path / part).mkdir()
        for language, code in (("en", "en"), ("fr", "fr"), ("sw", "tyv")):
            lines = "".join(f"{line}\n" for line in text.sentences[language])
            (tmp_path / part / f"{code}.txt").write_text(lines, encoding="utf-8")
        tiny_space = tiny_space.replace(f"{{embedded: quickstart, part: {part}}}", f"{{files: {tmp_path / part}}}")
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny_space.replace("low: [sw]", "low: [tyv], new: {tyv: {like: sw}}"), encoding="utf-8")
    return path


@pytest.fixture
def trained_folder(space_file: Path, langsearch: "Command") -> Path:
    fixed = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1"]
    ended = langsearch("train", space_file, "--to", "out/first", *(part for item in fixed for part in ("--set", item)))
    assert (ended.code, ended.err) == (0, "")
    assert "1 new language: " in ended.out
    return Path("out/first")


def test_what_train_learns_of_a_new_language_translates_is_scored_and_merged(
    trained_folder: Path, space_file: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = trained_folder / "adapters"
    assert json.loads((adapters / "langsearch.json").read_text())["architecture"]["new_languages"] == {"tyv": "sw"}
    for direction in (("en", "tyv"), ("tyv", "en")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Water\n\nThe house is big.\n")))
        ended = langsearch("translate", adapters, "--from", direction[0], "--to", direction[1])
        assert (ended.code, ended.err) == (0, "")
        lines = ended.out.splitlines()
        assert len(lines) == 3 and lines[1] == "" and lines[0] and lines[2]
        assert "__" not in ended.out
    ended = langsearch("evaluate", adapters, "--space", space_file, "--split", "validation")
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^high to low: [\d.]+$|^low to high: [\d.]+$", ended.out, flags=re.MULTILINE)
    ended = langsearch("export", adapters, "--format", "merged", "--direction", "tyv-en", "--to", "merged")
    assert ended.code == 0
    assert 'tokenizer.src_lang = "tyv"' in Path("merged/README.md").read_text()
    assert 'tokenizer.lang_token_to_id["__tyv__"]' in ended.out + ended.err
    ended = langsearch("export", adapters, "--compact", "--to", "small")
    assert ended.code == 0
    assert (Path("small") / "tokens" / "adapter_model.safetensors").exists()


def test_adapters_of_other_new_languages_than_the_spaces_are_refused(
    trained_folder: Path, space_file: Path, langsearch: "Command"
) -> None:
    changed = space_file.with_name("other.yaml")
    changed.write_text(space_file.read_text().replace("like: sw", "like: en"), encoding="utf-8")
    ended = langsearch("evaluate", trained_folder / "adapters", "--space", changed, "--split", "validation")
    assert ended.code == 2
    assert "must have the adapters' new languages {tyv: {like: sw}}, but has {tyv: {like: en}}." in ended.err
    architecture = trained_folder / "trials" / "00000" / "architecture.json"
    ended = langsearch("train", architecture, "--space", changed, "--to", "out/second")
    assert ended.code == 2
    assert "must have the space's new languages {tyv: {like: en}}, but" in ended.err


def test_a_trained_row_starts_another_training(trained_folder: Path, space_file: Path, langsearch: "Command") -> None:
    fixed = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1"]
    fixed.append(f"trainer.init_from={(trained_folder / 'adapters').resolve()}")
    ended = langsearch("train", space_file, "--to", "out/third", *(part for item in fixed for part in ("--set", item)))
    assert (ended.code, ended.err) == (0, "")


def test_baselines_say_how_many_parameters_a_new_language_costs_them(
    space_file: Path, base: Base, tmp_path: Path
) -> None:
    checked = check_space(load_space(space_file, ["trainer.epochs=1"]))
    known = with_new_languages(base, checked.space.new_languages)
    environment: Environment = build_environment(checked, known, tmp_path / "store")
    size, width = checked.shape.num_parameters, checked.shape.d_model
    for name, count in (("pretrained", 0), ("full_finetuning", size + width)):
        task = baseline_task(checked.space, checked.shape, name)
        folder = TrialFolder(tmp_path / name)
        task.write(folder)
        *_, result = run_trial(known, environment, task, folder)
        assert result.finished
        assert (result.trainable_parameters, result.nonzero_parameters) == (count, count)
        assert read_json(folder.task)["summary"] == task.summary
    assert not any("rows" in name for name, _ in known.model.named_parameters())
