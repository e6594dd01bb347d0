"""A single training is an experiment: what it leaves, and the commands that know it."""

import io
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from rich.console import Console
from torch import Tensor

from langsearch.api.conducting import conduct_training
from langsearch.data.batches import Batch
from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows, write_json
from langsearch.experiment.lock import hold
from langsearch.experiment.opening import check_start
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.train.loop import _Run
from langsearch.train.losses import NonFiniteLossError
from langsearch.trial.monitor import TrialMonitor
from langsearch.trial.standalone import Training, train_single
from langsearch.trial.training import TrainingFailedError, TrainingStoppedError
from langsearch.trial.trial import run_trial
from tests.test_tracking import events

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["search_fixtures", "cli_fixtures"]

FIXED = ("architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1")


def train(space: Path, to: Path, *overrides: str, resume: bool = False) -> Training:
    return train_single(Console(file=io.StringIO()), space, None, to, [*FIXED, *overrides], resume=resume)


@pytest.fixture(scope="module")
def trained_alone(tmp_path_factory: pytest.TempPathFactory, tiny_space: str) -> Training:
    """A training of one epoch, among experiments."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "tiny.yaml").write_text(tiny_space, encoding="utf-8")
    return train(folder / "tiny.yaml", folder / "experiments" / "alone")


@pytest.fixture
def copied(trained_alone: Training, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_alone.folder, tmp_path / "experiments" / "alone"))


def test_it_leaves_the_space_a_table_and_the_pretrained_score_on_the_same_sentences(trained_alone: Training) -> None:
    folder = ExperimentFolder(trained_alone.folder)
    space = load_space(folder.space)
    assert (space.name, space.search.trials, [item.name for item in space.baselines]) == ("alone", 1, ["pretrained"])
    rows = {row["name"]: row for row in read_rows(folder.results)}
    assert rows.keys() == {"pretrained", "00000"}
    own, base = rows["00000"], rows["pretrained"]
    assert (own["spbleu"], base["spbleu"]) == (trained_alone.result.spbleu, trained_alone.pretrained.spbleu)
    for name in ("num_sentences", "num_directions", "beams", "signature", "state"):
        assert own[name] == base[name], name
    assert base["spbleu_low"] <= base["spbleu"] <= base["spbleu_high"]
    pairs = [{(row["src"], row["tgt"]) for row in read_rows(folder.trial(name).scores)} for name in rows]
    assert pairs[0] == pairs[1]
    about = read_json(folder.description)
    assert (about["command"], about["num_trials"], about["finished"] is None) == ("train", 1, False)


def test_list_and_show_know_it(copied: Path, langsearch: "Command") -> None:
    listed = json.loads(langsearch("list", copied.parent, "--json").out)
    rows = {row["name"]: row for row in read_rows(copied / "results.parquet")}
    assert [(one["name"], one["state"], one["num_ended"], one["best"]) for one in listed] == [
        ("alone", "done", 1, "00000")
    ]
    assert listed[0]["to_pretrained"] == rows["00000"]["spbleu"] - rows["pretrained"]["spbleu"]
    shown = langsearch("show", copied)
    assert shown.code == 0
    assert "1 of 1 ended (1 complete)" in shown.out and "= pretrained" in shown.out and "to pre" in shown.out
    assert "these scores chose the epoch that is kept, so they flatter it" in " ".join(shown.out.split())
    assert "rank 2;2" in langsearch("show", copied, "0").out


def test_report_export_evaluate_and_translate_know_it(
    copied: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    assert langsearch("report", copied).code == 0
    page = (copied / "report.html").read_text(encoding="utf-8")
    command = f"langsearch train {copied}/trials/00000/architecture.json --to {copied}-again"
    assert command.replace(f"{Path.cwd()}/", "") in page
    assert "The training: " in page and "the scores here chose the epoch that is kept" in page
    # Whether it beats the base, which is told before, is not the same on every machine.
    assert langsearch("export", copied, "--to", "out").out.endswith("Wrote 6 adapters and a card to out\n")
    texts = []
    for place in (copied, copied / "adapters", "out"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The house is small.\n")))
        ended = langsearch("translate", place, "--from", "en", "--to", "fr", "--beams", "1")
        assert (ended.code, ended.err) == (0, "")
        texts.append(ended.out)
    assert len(set(texts)) == 1
    for place in (copied, copied / "adapters"):
        assert langsearch("evaluate", place, "--split", "validation").code == 0


def test_the_card_holds_the_pretrained_score_beside_its_own(trained_alone: Training) -> None:
    card = (trained_alone.folder / "adapters" / "README.md").read_text(encoding="utf-8")
    own, base = trained_alone.result, trained_alone.pretrained
    for name, found in (("validation", own), ("validation, the pretrained base", base)):
        assert f"| {name} | {found.spbleu:.2f} | {found.spbleu_low:.2f}–{found.spbleu_high:.2f} |" in card


def test_what_the_command_prints_ends_with_the_table_the_adapters_and_the_report(
    space_file: Path, langsearch: "Command"
) -> None:
    ended = langsearch("train", space_file, *(part for item in FIXED for part in ("--set", item)))
    assert (ended.code, ended.err) == (0, "")
    folder = space_file.parent / "experiments" / "tiny-train"
    assert ended.out.splitlines()[-2:] == [f"Adapters: {folder}/adapters", f"Report: {folder}/report.html"]
    assert "= pretrained" in ended.out


def test_a_training_of_an_earlier_version_is_named_and_taken_in(
    copied: Path, trained_alone: Training, langsearch: "Command"
) -> None:
    trial = copied / "trials" / "00000"
    for name in ("architecture.json", "curve.parquet", "result.json", "scores.parquet", "trial.json", "weights"):
        (trial / name).rename(copied / name)
    shutil.rmtree(copied / "trials")
    for name in ("space.yaml", "study.db", "results.parquet", "experiment.json"):
        (copied / name).unlink()
    write_json(copied / "trial.json", read_json(copied / "trial.json") | {"name": "single"})
    listed = langsearch("list", copied.parent)
    assert f"`langsearch train SPACE --resume --to {copied}` makes it an experiment" in listed.out
    assert "It is a training of an earlier version" in langsearch("show", copied).err
    assert "It is a training of an earlier version" in langsearch("evaluate", copied).err
    space = trained_alone.folder.parent.parent / "tiny.yaml"
    with pytest.raises(InputError, match=r"has other settings\. Undo"):
        train(space, copied, "trainer.seed=1", resume=True)
    assert (copied / "trial.json").exists()
    again = train(space, copied, resume=True)
    assert again.result == trained_alone.result
    assert not (copied / "trial.json").exists() and (trial / "weights").is_dir()
    assert langsearch("show", copied, "0").code == 0


def test_a_search_and_a_training_keep_out_of_each_others_folders(
    trained: Path, trained_alone: Training, space_file: Path
) -> None:
    with pytest.raises(InputError, match=r"^A training must have a folder of its own, but .* holds a search\. Go on"):
        train(space_file, trained, resume=True)
    with pytest.raises(InputError, match=r"^A search must have a folder of its own, but .* holds a single training\."):
        check_start(trained_alone.folder, load_space(space_file), resume=True)


def test_a_folder_of_other_files_is_refused_also_by_resume(space_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"^A training must have a folder of its own, but .* holds other files\."):
        train(space_file, tmp_path / "mine", resume=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_training_that_another_run_holds_is_refused(copied: Path, trained_alone: Training) -> None:
    with hold(copied), pytest.raises(InputError, match="takes one run at a time"):
        train(trained_alone.folder.parent.parent / "tiny.yaml", copied, resume=True)


def test_a_training_that_fails_tells_its_cause_and_is_tried_again(
    space_file: Path, tmp_path: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(base: object, environment: object, task: object, *rest: object, **named: object) -> object:
        if getattr(task, "kind", "") == "searched":
            raise NonFiniteLossError("The loss must be finite")
        return run_trial(base, environment, task, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("langsearch.trial.training.run_trial", fail)
    to = tmp_path / "out"
    with pytest.raises(TrainingFailedError, match="non-finite loss: The loss must be finite"):
        train(space_file, to)
    rows = {row["name"]: row for row in read_rows(to / "results.parquet")}
    assert (rows["00000"]["state"], rows["pretrained"]["state"]) == ("failed", "complete")
    assert "failed 1 x: non-finite loss: The loss must be finite" in langsearch("show", to).out
    monkeypatch.setattr("langsearch.trial.training.run_trial", run_trial)
    assert train(space_file, to, resume=True).result.finished
    rows = {row["name"]: row for row in read_rows(to / "results.parquet")}
    assert (rows["00001"]["state"], rows["00001"]["retry_of"]) == ("complete", "00000")
    assert read_json(to / "experiment.json")["finished"] is not None


def test_a_training_that_is_asked_to_stop_goes_on_behind_its_checkpoint(
    space_file: Path, tmp_path: Path, trained_alone: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopping(TrialMonitor):
        def should_pause(self) -> bool:
            return True

    with monkeypatch.context() as patched:
        patched.setattr("langsearch.trial.training.TrialMonitor", Stopping)
        with pytest.raises(TrainingStoppedError):
            train(space_file, tmp_path / "alone")
    rows = {row["name"]: row for row in read_rows(tmp_path / "alone" / "results.parquet")}
    assert rows["00000"]["state"] == "running"
    result = train(space_file, tmp_path / "alone", resume=True).result
    assert (result.spbleu, result.train_loss) == (trained_alone.result.spbleu, trained_alone.result.train_loss)


def test_where_memory_runs_out_the_batches_are_halved_down_to_single_pairs_as_in_a_search(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rows, said = _Run._loss, [], io.StringIO()

    def loss(run: _Run, batch: Batch) -> Tensor:
        if batch.src_ids.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        rows.append(batch.src_ids.shape[0])
        return whole(run, batch)

    monkeypatch.setattr(_Run, "_loss", loss)
    training = train_single(Console(file=said, width=300), space_file, None, tmp_path / "to", FIXED)
    assert training.result.finished and set(rows) == {1}
    lines = [line for line in said.getvalue().splitlines() if line.startswith("Out of memory in epoch 1: accumulation")]
    assert len(lines) > 1 and training.result.note == lines[-1].rstrip(".").replace("Out", "out")
    (row,) = [row for row in read_rows(ExperimentFolder(tmp_path / "to").results) if row["kind"] == "searched"]
    assert (row["state"], row["note"]) == ("complete", training.result.note)


def test_a_single_pair_without_room_fails_as_in_a_search(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loss(run: _Run, batch: Batch) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")

    monkeypatch.setattr(_Run, "_loss", loss)
    with pytest.raises(TrainingFailedError, match="out of memory: A single row must have room to be trained"):
        train(space_file, tmp_path / "to")


def test_failures_fail_at_once_where_the_space_says_so(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def loss(run: _Run, batch: Batch) -> Tensor:
        calls.append(batch.src_ids.shape[0])
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(_Run, "_loss", loss)
    with pytest.raises(TrainingFailedError, match="out of memory"):
        train(space_file, tmp_path / "to", "failures.out_of_memory=fail")
    assert len(calls) == 1


def test_it_writes_event_files_as_a_search_does_and_none_where_the_space_has_no_tracking(
    space_file: Path, tmp_path: Path
) -> None:
    for name, tracking, wanted in (("with", "[tensorboard]", {"00000", "pretrained"}), ("without", "[]", set())):
        console = Console(file=io.StringIO())
        overrides = [*FIXED, f"tracking={tracking}"]
        folder, told = conduct_training(console, space_file, None, tmp_path / name, overrides)
        curve = read_rows(folder / "trials" / "00000" / "curve.parquet")
        assert {path.name for path in folder.glob("tensorboard/*")} == wanted
        assert told[-1] == f"Report: {folder / 'report.html'}"
        if wanted:
            losses = events(folder / "tensorboard" / "00000")["ray/tune/train_loss"]
            assert losses == pytest.approx({row["epoch"]: row["train_loss"] for row in curve}, rel=1e-6)


def test_a_tracker_that_is_not_installed_is_refused_before_a_training_writes_anything(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match="asks for MLflow, but it is not installed"):
        conduct_training(Console(quiet=True), space_file, None, tmp_path / "to", [*FIXED, "tracking=[mlflow]"])
    assert not (tmp_path / "to").exists()
