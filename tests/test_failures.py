import errno
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors import SafetensorError
from sqlalchemy.exc import OperationalError

from langsearch.evaluate.evaluation import NonFiniteScoreError
from langsearch.experiment.folder import TrialFolder
from langsearch.model.memory import SmallestBatchError, smallest_told
from langsearch.search.lost_nodes import lost_cause
from langsearch.space.settings import FailureSettings, Reaction
from langsearch.train.losses import NonFiniteLossError
from langsearch.trial.attempts import Attempts, read_attempts
from langsearch.trial.failures import failure_cause, kind_of, plain_cause, reaction
from langsearch.trial.stalls import stall_file, take_stall


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (NonFiniteLossError("nan"), "non-finite loss"),
        (NonFiniteScoreError("nan"), "non-finite score"),
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk full"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk full"),
        (OSError("Could not write: I/O error: No space left on device (os error 28)"), "disk full"),
        (chained(OSError("Could not write"), OSError(errno.ENOSPC, "full")), "disk full"),
        (OSError(errno.EIO, "Input/output error"), "storage"),
        (OSError(errno.ESTALE, "Stale file handle"), "storage"),
        (OSError(errno.EROFS, "Read-only file system"), "storage"),
        (chained(RuntimeError("while a store was opened"), OSError(errno.ENOTCONN, "not connected")), "storage"),
        (SafetensorError("Error while serializing: I/O error: Input/output error (os error 5)"), "storage"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk full"),
        (SafetensorError("Error while deserializing header: header too large"), "SafetensorError"),
        (OSError(errno.EACCES, "Permission denied"), "PermissionError"),
        (RuntimeError("CUDA error: device-side assert triggered"), "CUDA error"),
        (KeyError("x"), "KeyError"),
    ],
)
def test_causes_are_named_in_words(error: Exception, cause: str) -> None:
    assert failure_cause(error) == cause


def test_what_the_space_says_decides_and_lost_workers_are_always_tried_again() -> None:
    settings = FailureSettings(
        stalled="stop", non_finite_loss="retry", out_of_memory="fail", disk_full="fail", error="stop"
    )
    wanted = {
        "stalled: no progress for 3 minutes": "stop",
        "non-finite loss: nan": "retry",
        "non-finite score": "retry",
        "out of memory: CUDA out of memory: tried": "fail",
        "disk full: x": "fail",
        "KeyError: 'x'": "stop",
        "no result": "stop",
        "worker lost: y": "retry",
        "node lost: y": "retry",
    }
    assert {text: reaction(settings, text) for text in wanted} == wanted
    assert reaction(FailureSettings(), "out of memory") == "halve"
    assert set(wanted.values()) == set(get_args(Reaction))
    assert kind_of("out of memory: CUDA out of memory: tried") == kind_of("out of memory") == "out of memory"


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.\n"
            "\tclass_name: TrialTrainable\nThe actor is dead because its worker process has died. Worker exit type: "
            "SYSTEM_ERROR Worker exit detail: killed by SIGKILL",
            "worker lost: ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.",
        ),
        ("The actor died because its node has died. Node Id: 3f", "node lost: The actor died because its node has"),
        (
            'Traceback (most recent call last):\n  File "x.py", line 1\nray.exceptions.OutOfMemoryError: Task was '
            "killed due to the node running low on memory.",
            "out of memory: ray.exceptions.OutOfMemoryError: Task was killed due to the node running low on memory.",
        ),
        ("", "worker lost: Ray did not say why"),
    ],
)
def test_a_lost_worker_is_told_from_a_lost_node_and_a_full_memory(error: str, cause: str, tmp_path: Path) -> None:
    assert lost_cause(TrialFolder(tmp_path), error).startswith(cause)


@pytest.mark.parametrize(
    ("first_line", "waited"),
    [("Timeout (0:30:00)!", "30 minutes"), ("Timeout (0:00:01.500000)!", "1.5 seconds"), ("garbage", "too long")],
)
def test_a_worker_that_ended_in_a_stall_says_so_and_where(first_line: str, waited: str, tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path)
    stall_file(trial).write_text(f"{first_line}\nThread 0x1 (most recent call first):\n")
    assert lost_cause(trial, "The actor died") == f"stalled: no progress for {waited}; where it hung is in stall.txt"
    assert take_stall(trial, 2) == f"stalled: no progress for {waited}; where it hung is in stall-2.txt"
    assert (tmp_path / "stall-2.txt").read_text().startswith(first_line)
    assert take_stall(trial, 3) is None
    assert lost_cause(trial, "The actor died").startswith("worker lost")


def test_an_empty_stall_file_says_nothing(tmp_path: Path) -> None:
    stall_file(TrialFolder(tmp_path)).touch()
    assert take_stall(TrialFolder(tmp_path), 1) is None


def test_attempts_are_read_as_they_were_written(tmp_path: Path) -> None:
    trial = TrialFolder(tmp_path)
    assert read_attempts(trial) == Attempts()
    attempts = Attempts().plus("stalled", "one").plus("stalled", "two").halved("out of memory", 3, 4, is_trained=True)
    attempts.write(trial)
    assert read_attempts(trial) == attempts
    assert (attempts.counts, attempts.num_parts) == ({"stalled": 2, "out of memory": 1}, 2)
    assert attempts.note == "one; two; out of memory in epoch 3: accumulation 8 instead of 4 from there"


def test_halving_again_and_again_is_one_note_an_epoch() -> None:
    attempts = Attempts()
    for epoch in (1, 1, 1, 2):
        attempts = attempts.halved("out of memory", epoch, 4, is_trained=True)
    assert (attempts.num_parts, attempts.counts) == (16, {"out of memory": 4})
    assert attempts.notes == (
        "out of memory in epoch 1: accumulation 32 instead of 4 from there",
        "out of memory in epoch 2: accumulation 64 instead of 32 from there",
    )
    scored = Attempts().halved("out of memory", 1, 4, is_trained=False).halved("out of memory", 1, 4, is_trained=False)
    assert scored.notes == ("out of memory: decoded with 1/4 of a batch at once",)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 80000000000 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_memory_that_ran_out_with_a_single_row_is_told_apart(error: Exception) -> None:
    assert failure_cause(error) == "out of memory"
    with pytest.raises(type(error), match=r"."), smallest_told(2, "decoded"):
        raise error
    rule = r"^A single row must have room to be decoded, but: "
    with pytest.raises(SmallestBatchError, match=rule) as caught, smallest_told(1, "decoded"):
        raise error
    assert failure_cause(caught.value) == "out of memory"
    with pytest.raises(ValueError, match="odd"), smallest_told(1, "decoded"):
        raise ValueError("odd")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"counts": 1, "num_parts": 1, "notes": []}', "\xff"])
def test_attempts_that_cannot_be_read_are_none(content: Any, tmp_path: Path) -> None:
    (tmp_path / "attempts.json").write_text(content, encoding="latin-1")
    assert read_attempts(TrialFolder(tmp_path)) == Attempts()


def test_the_cause_of_an_unwritten_table_is_one_line_without_the_statement() -> None:
    full = OperationalError("INSERT INTO trials", {}, Exception("database or disk is full"))
    assert plain_cause(chained(RuntimeError("An exception is raised during the commit."), full)) == (
        "database or disk is full"
    )
    assert plain_cause(OSError(errno.ENOSPC, "No space left on device")) == "[Errno 28] No space left on device"
