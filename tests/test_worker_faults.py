"""What a worker does about failures: tried again, halved, reported, or gone on with in the next process."""

import errno
import gc
import inspect
import subprocess
import sys
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

from langsearch.evaluate.incremental import IncrementalDecoder
from langsearch.evaluate.sources import Sources
from langsearch.experiment.folder import ExperimentFolder, read_json
from langsearch.experiment.task import TrialTask
from langsearch.model.base import share_base
from langsearch.model.memory import MAX_PARTS
from langsearch.search import worker
from langsearch.search.lost_nodes import lost_cause
from langsearch.search.tasks import evaluate_on_worker
from langsearch.space.settings import FailureSettings
from langsearch.train.loop import _Run
from langsearch.trial.attempts import read_attempts
from langsearch.trial.failures import FAILED
from tests.worker_fixtures import Start, steps_of

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures", "worker_fixtures"]


def fail_in(monkeypatch: pytest.MonkeyPatch, error: Exception, *updates: int) -> None:
    """Lets the loss of these updates fail, counted over all tries, from 1."""
    whole, count = _Run._loss, 0

    def loss(self: Any, batch: Any) -> Any:
        nonlocal count
        count += 1
        if count in updates:
            raise type(error)(*error.args)  # a new one: an error holds on to all that ran
        return whole(self, batch)

    monkeypatch.setattr(_Run, "_loss", loss)


def little_memory(monkeypatch: pytest.MonkeyPatch, num_rows: int) -> list[int]:
    """Lets a training batch of more rows than this run out of memory; returns the rows of those that did not."""
    whole, rows = _Run._loss, []

    def loss(self: Any, batch: Any) -> Any:
        if batch.src_ids.shape[0] > num_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        rows.append(batch.src_ids.shape[0])
        return whole(self, batch)

    monkeypatch.setattr(_Run, "_loss", loss)
    return rows


def largest_batch(monkeypatch: pytest.MonkeyPatch, start: Start, task: TrialTask) -> int:
    with monkeypatch.context() as patch:
        rows = little_memory(patch, 10**6)
        steps_of(start(replace(task, name="99999")))
    return max(rows)


def test_out_of_memory_is_tried_again_once_with_half_the_tokens_and_twice_the_accumulation(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(dropout=0.0)
    wanted = steps_of(start(make_task("00009", dropout=0.0)))
    largest = largest_batch(monkeypatch, start, task)
    rows = little_memory(monkeypatch, -(-largest // 2))
    steps = steps_of(start(task))
    assert [step["epoch"] for step in steps] == [1, 2]
    assert max(rows) == -(-largest // 2)
    note = "out of memory in epoch 1: accumulation 2 instead of 1 from there"
    assert [step["note"] for step in steps] == [note, note]
    assert [step["updates"] for step in steps] == [step["updates"] for step in wanted]
    assert [step["train_loss"] for step in steps] == pytest.approx([step["train_loss"] for step in wanted], rel=1e-3)
    assert read_json(folder.trial("00000").path / "attempts.json") == {
        "counts": {"out of memory": 1},
        "num_parts": 2,
        "notes": [note],
    }
    assert read_json(folder.trial("00000").result)["note"] == note


def test_out_of_memory_halves_as_often_as_needed_down_to_single_pairs_and_says_so(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(dropout=0.0)
    wanted = steps_of(start(make_task("00009", dropout=0.0)))
    rows = little_memory(monkeypatch, 1)
    steps = steps_of(start(task))
    assert [step["epoch"] for step in steps] == [1, 2] and set(rows) == {1}
    attempts = read_json(folder.trial("00000").path / "attempts.json")
    num_parts = attempts["num_parts"]
    assert num_parts == 2 ** attempts["counts"]["out of memory"] > 4
    note = f"out of memory in epoch 1: accumulation {num_parts} instead of 1 from there"
    assert attempts["notes"] == [note] and steps[-1]["note"] == note
    assert [step["updates"] for step in steps] == [step["updates"] for step in wanted]
    assert [step["train_loss"] for step in steps] == pytest.approx([step["train_loss"] for step in wanted], rel=1e-3)


def test_a_single_pair_without_room_fails_and_no_smaller_batch_is_tried(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    little_memory(monkeypatch, 0)
    (step,) = steps_of(start(make_task()))
    assert step[FAILED].startswith("out of memory: A single row must have room to be trained, but: CUDA out of memory.")
    assert (step["name"], step["kind"], step["done"]) == ("00000", "searched", True)
    parts = read_json(folder.trial("00000").path / "attempts.json")["num_parts"]
    assert parts < MAX_PARTS


def test_what_has_no_room_whatever_the_batch_fails_in_the_end_also_on_another_worker(
    start: Start, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsearch.search.worker.run_trial", _without_room)
    for _ in range(2):
        (step,) = steps_of(start(make_task()))
        assert step[FAILED] == f"out of memory: {MAX_PARTS} parts"


def _without_room(*_: Any, attempts: Any, **__: Any) -> Iterator[Any]:
    yield from ()
    raise torch.OutOfMemoryError(f"{attempts.num_parts} parts")


def test_a_trial_whose_scoring_has_little_room_decodes_row_by_row(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, rows = IncrementalDecoder.add, []

    def add(decoder: IncrementalDecoder, sources: Sources) -> Tensor:
        if decoder._rows is not None or len(sources.ids) > 1:
            raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.")
        rows.append(len(sources.ids))
        return whole(decoder, sources)

    monkeypatch.setattr(IncrementalDecoder, "add", add)
    steps = steps_of(start(make_task(epochs=1)))
    assert rows == [1] * 6 and steps[-1]["note"].startswith("out of memory in epoch 1: accumulation 4 instead of 1")
    # The test set has more rows, which take more parts; a trial that knows of as many begins with them.
    evaluate = partial(evaluate_on_worker, share_base(start.base), start.environment, folder.path, "00000", "test", 1)
    assert evaluate()["test_note"] == "out of memory: decoded with 1/8 of a batch at once"
    replace(read_attempts(folder.trial("00000")), num_parts=8).write(folder.trial("00000"))
    assert evaluate()["test_note"] == "" and set(rows) == {1}


def test_out_of_memory_in_the_middle_goes_on_from_the_checkpoint_and_frees_what_the_run_held(
    start: Start, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    is_freed: list[bool] = []

    def free() -> None:
        gc.collect()
        is_freed.append(held() is None)

    monkeypatch.setattr(worker, "free_memory", free)
    trainable = start(make_task())
    first = trainable.step()
    fail_in(monkeypatch, torch.OutOfMemoryError("no"), 1)
    held = weakref.ref(inspect.getgeneratorlocals(trainable._run)["learner"])  # type: ignore[arg-type]
    last = trainable.step()
    trainable.cleanup()
    assert (first["epoch"], last["epoch"], last["done"]) == (1, 2, True)
    assert last["note"] == "out of memory in epoch 2: accumulation 2 instead of 1 from there"
    assert is_freed == [True], "neither the error nor the generator holds the model of the failed run"


def test_failures_are_tried_again_from_the_checkpoint_as_often_as_the_space_says(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = steps_of(start(make_task("00009")))
    num_batches = wanted[0]["updates"]
    with monkeypatch.context() as patch:
        fail_in(patch, ValueError("odd"), num_batches + 1, num_batches + 2)
        steps = steps_of(start(make_task(), FailureSettings(error="retry"), max_failures=2))
    assert [step["epoch"] for step in steps] == [1, 2]
    assert [step["train_loss"] for step in steps] == [step["train_loss"] for step in wanted]
    assert steps[-1]["note"] == "; ".join(["ValueError in epoch 2: tried again"] * 2)
    with monkeypatch.context() as patch:
        fail_in(patch, ValueError("odd"), 1, 2, 3)
        (step,) = steps_of(start(make_task("00001"), FailureSettings(error="retry"), max_failures=2))
        assert step[FAILED] == "ValueError: odd"
        fail_in(patch, ValueError("odd"), 1)
        (step,) = steps_of(start(make_task("00001"), FailureSettings(error="retry"), max_failures=2))
        assert step[FAILED] == "ValueError: odd", "earlier workers' tries count"


@pytest.mark.parametrize("how", ["fail", "stop"])
def test_what_is_not_to_be_tried_again_is_reported_at_once(
    how: Any, start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_in(monkeypatch, OSError(errno.ENOSPC, "No space left on device"), 1)
    (step,) = steps_of(start(make_task(), FailureSettings(disk_full=how)))
    assert step[FAILED].startswith("disk full: ")
    assert not (folder.trial("00000").path / "attempts.json").exists()


def test_a_disk_too_full_to_record_a_failure_does_not_end_the_worker(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    trainable = start(make_task(), FailureSettings(disk_full="retry"), max_failures=2)
    with monkeypatch.context() as patch:
        patch.setattr("langsearch.experiment.folder._write_aside", full)
        patch.setattr("langsearch.train.checkpoint.save_file", full)
        patch.setattr(Path, "open", full)
        (step,) = steps_of(trainable)
    assert step[FAILED].startswith("disk full: ")
    assert not folder.trial("00000").failure.exists()
    assert [step["epoch"] for step in steps_of(start(make_task()))] == [1, 2]


def test_a_stalled_trial_goes_on_from_its_checkpoint_until_its_tries_are_used_up(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    stall = folder.trial("00000").path / "stall.txt"
    dump = "Timeout (0:30:00)!\nThread 0x1 (most recent call first):\n"
    for number in (1, 2):
        trainable = start(make_task())
        stall.write_text(dump)
        trainable = start(make_task(), max_failures=2)
        step = trainable.step()
        assert step["epoch"] == 1
        trainable.cleanup()
        assert (stall.parent / f"stall-{number}.txt").read_text() == dump
        assert not stall.exists()
    stall.write_text(dump)
    (step,) = steps_of(start(make_task(), max_failures=2))
    assert step[FAILED] == "stalled: no progress for 30 minutes; where it hung is in stall-3.txt"
    assert read_json(folder.trial("00000").failure)["cause"] == "stalled"
    (step, _) = steps_of(start(make_task(), max_failures=2))
    assert step["epoch"] == 1, "a stall that was reported does not count again"


@pytest.mark.parametrize("how", ["fail", "stop"])
def test_a_stall_is_reported_where_the_space_does_not_try_again(
    how: Any, start: Start, folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    folder.trial("00000").path.mkdir(parents=True)
    (folder.trial("00000").path / "stall.txt").write_text("Timeout (0:02:00)!\n")
    (step,) = steps_of(start(make_task(), FailureSettings(stalled=how)))
    assert step[FAILED] == "stalled: no progress for 2 minutes; where it hung is in stall-1.txt"


HANGING = """
import sys, time
from pathlib import Path
from langsearch.model.base import load_base, share_base
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import searched_task
from langsearch.search.worker import TrialTrainable
from langsearch.space.schema import load_space
from langsearch.space.settings import FailureSettings
import langsearch.train.loop as loop

class Trainable(TrialTrainable):
    def __init__(self): pass

folder = ExperimentFolder(Path(sys.argv[1]))
checked = check_space(load_space(sys.argv[2], ["architecture.rank=2", "trainer.lr=0.01", "trainer.pairs_per_epoch=8"]))
base = load_base("tiny-m2m")
environment = build_environment(checked, base, folder.path / "store")
for number in (0, 1):
    task = searched_task(checked.space, checked.shape, number, {})
    task.write(folder.trial(task.name))
trainable = Trainable()
settings = FailureSettings(stall_minutes=4 / 60)
trainable.setup({"name": "00000"}, share_base(base), environment, folder.path, 1, settings, 1)
print(trainable.step()["epoch"], trainable.step()["epoch"], flush=True)
trainable.reset_config({"name": "00001"})
print(trainable.step()["epoch"], flush=True)
loop._Run._loss = lambda *_: time.sleep(60)
trainable.step()
"""


def test_a_trial_that_really_hangs_ends_its_process_and_goes_on_in_the_next(
    start: Start, folder: ExperimentFolder, make_task: "TaskMaker", space_file: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGING, str(folder.path), str(space_file)], capture_output=True, text=True, timeout=90
    )
    assert (ended.returncode, ended.stdout) == (1, "1 2\n1\n"), ended.stderr
    trial = folder.trial("00001")
    assert "Timeout" in (trial.path / "stall.txt").read_text()
    assert lost_cause(trial, "The actor died") == "stalled: no progress for 4 seconds; where it hung is in stall.txt"
    assert not (folder.trial("00000").path / "stall.txt").exists()
    trainable = start(TrialTask.read(trial))
    again, last = steps_of(trainable)
    assert (again["epoch"], last["epoch"], last["note"]) == (1, 2, "stalled before: tried again")
