import errno
import json
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from langsearch.train import checkpoint as checkpoint_module
from langsearch.train.checkpoint import Checkpoint, read_checkpoint, read_newest_checkpoint, write_checkpoint


def checkpoint(updates: int) -> Checkpoint:
    tensors = {
        "model/encoder.0.fc1.A": torch.full((3, 5), float(updates)),
        "model/alive": torch.tensor([True, False]),
        "optimizer/step": torch.tensor(float(updates)),
        "rng/cpu": torch.arange(7, dtype=torch.uint8),
    }
    return Checkpoint(tensors, {"updates": updates, "lr": 0.003, "scaler": {}, "history": [[1, 2.5]]})


def updates_of(found: Checkpoint | None) -> int | None:
    return None if found is None else found.state["updates"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = checkpoint(12)
    path = write_checkpoint(tmp_path / "checkpoint", written)
    assert path == tmp_path / "checkpoint" / "000000012"
    for found in (read_checkpoint(path), read_newest_checkpoint(tmp_path / "checkpoint")):
        assert found is not None
        assert found.state == written.state
        assert set(found.tensors) == set(written.tensors)
        assert all(torch.equal(found.tensors[name], value) for name, value in written.tensors.items())


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert read_newest_checkpoint(tmp_path) is None
    assert read_newest_checkpoint(tmp_path / "nowhere") is None


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for updates in (5, 10, 9_999, 10_000):
        write_checkpoint(tmp_path, checkpoint(updates))
    assert names(tmp_path) == ["000009999", "000010000"]
    assert updates_of(read_newest_checkpoint(tmp_path)) == 10_000


def test_a_checkpoint_of_the_same_update_is_replaced(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(5))
    again = checkpoint(5)
    write_checkpoint(tmp_path, Checkpoint(again.tensors, {**again.state, "lr": 1.0}))
    found = read_newest_checkpoint(tmp_path)
    assert found is not None and found.state["lr"] == 1.0


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "overwritten", "null"])
def test_a_torn_checkpoint_is_named_and_the_one_before_it_serves(
    file: str, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for updates in (1, 2):
        write_checkpoint(tmp_path, checkpoint(updates))
    path = tmp_path / "000000002" / file
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        half = len(content) // 2
        path.write_bytes(
            {
                "truncated": content[:half],
                "emptied": b"",
                "null": b"null",
                "overwritten": content[:half] + b"\xff" * half,
            }[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert updates_of(read_newest_checkpoint(tmp_path)) == 1
    assert "000000002 is torn" in caplog.text


def test_if_all_are_torn_there_is_none(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1))
    (tmp_path / "000000001" / "state.json").write_text("{}")
    assert read_newest_checkpoint(tmp_path) is None
    with pytest.raises(ValueError, match=r"must be the file that state.json was written with"):
        read_checkpoint(tmp_path / "000000001")


def test_what_a_dead_writer_left_aside_is_never_read_and_goes_away(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1))
    partial = tmp_path / ".000000009.123.partial"
    (tmp_path / "000000001").rename(partial)
    assert read_newest_checkpoint(tmp_path) is None
    write_checkpoint(tmp_path, checkpoint(2))
    assert names(tmp_path) == ["000000002"]


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Lets every write beyond so many bytes of a file fail, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, checkpoint(1))
    big = Checkpoint({"model/a": torch.zeros(1 << 20)}, {"updates": 2})
    with largest_file(1 << 16), pytest.raises(OSError, match=r"Could not write a checkpoint|File too large"):
        write_checkpoint(tmp_path, big)
    assert names(tmp_path) == ["000000001"]
    assert updates_of(read_newest_checkpoint(tmp_path)) == 1


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path, checkpoint(1))

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("save_file", "_sync"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device"):
            patch.setattr(checkpoint_module, name, fail)
            write_checkpoint(tmp_path, checkpoint(2))
        assert updates_of(read_newest_checkpoint(tmp_path)) == 1
        assert not list(tmp_path.glob(".*"))


KILLED_WRITER = """
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint

folder, random_moment = Path(sys.argv[1]), random.Random(0)
first, outcomes = 1, []
for _ in range(10):
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        updates = first
        while True:
            write_checkpoint(folder, Checkpoint({"a": torch.full((200_000,), float(updates))}, {"updates": updates}))
            os.write(write_end, b"%d " % updates)
            updates += 1
    os.close(write_end)
    started = time.perf_counter()
    done = os.read(read_end, 100)
    time.sleep(random_moment.uniform(0, 1.5) * (time.perf_counter() - started))  # somewhere in the next one or two
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    done = (done + os.fdopen(read_end, "rb").read()).split()
    found = read_newest_checkpoint(folder)
    newest = found.state["updates"] if found else 0
    whole = found is None or bool((found.tensors["a"] == newest).all())
    outcomes.append([int(done[-1]), newest, whole])
    first = newest + 1
print(json.dumps(outcomes))
"""


def test_killing_the_writer_at_any_moment_costs_at_most_the_checkpoint_in_progress(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", KILLED_WRITER, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    outcomes = json.loads(result.stdout)
    assert len(outcomes) == 10
    assert outcomes[-1][1] >= 10
    for done, newest, whole in outcomes:
        assert done <= newest <= done + 1
        assert whole
