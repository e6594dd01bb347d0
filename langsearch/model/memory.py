"""The memory of the device: how much there is, and what it looks like when it has run out."""

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import torch

_NO_MEMORY_TEXT = re.compile(
    r"CUDA out of memory|CUDA error: out of memory|can't allocate memory|not enough memory|"
    r"CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED"
)
_MEMINFO = Path("/proc/meminfo")
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""What a container may have, and has: version 2, then version 1."""

MAX_PARTS = 1 << 12
"""A batch is not split into more parts than this: what has no room then is not the batch."""

T = TypeVar("T")


class SmallestBatchError(MemoryError):
    """Memory has run out with a batch of a single row: a smaller one cannot help."""


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether an error, or one that it was raised from, says that memory has run out.

    PyTorch's allocator on a CPU, cuBLAS and cuDNN say so in the text of a RuntimeError.
    """
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    if any(isinstance(link, MemoryError | torch.OutOfMemoryError) for link in chain):
        return True
    return isinstance(error, RuntimeError) and bool(_NO_MEMORY_TEXT.search(str(error)))


@contextmanager
def smallest_told(num_rows: int, what: str) -> Iterator[None]:
    """Gives a context in which running out of memory with a single row raises SmallestBatchError.

    Args:
        num_rows: Rows of the batch inside.
        what: What is done with it, for the message.
    """
    try:
        yield
    except Exception as error:
        if num_rows > 1 or not is_out_of_memory(error):
            raise
        raise SmallestBatchError(f"A single row must have room to be {what}, but: {error}") from error


def in_parts(run: Callable[[int], T], tell: Callable[[int], None], first: int = 1) -> T:
    """Returns what `run` returns; where memory runs out, again with batches half as large, down to single rows.

    Args:
        run: Takes into how many parts a batch is split.
        tell: Hears of the parts of every further try before it begins.
        first: The parts of the first try.
    """
    num_parts = first
    while True:
        try:
            return run(num_parts)
        except Exception as error:
            is_smallest = isinstance(error, SmallestBatchError) or num_parts >= MAX_PARTS
            if is_smallest or not is_out_of_memory(error):
                raise
        # Behind the handler: the error holds on to all that ran.
        free_memory()
        num_parts *= 2
        tell(num_parts)


def free_memory() -> None:
    """Gives back what a run that has ended left behind. Call it where no error of that run is handled any more."""
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()


def total_bytes(device: torch.device) -> int:
    """Returns how much memory a device has; of a container's machine, how much the container may have."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    limits = [_meminfo("MemTotal")]
    limits += [limit for limit, _ in map(_read_cgroup, _CGROUPS) if limit]
    return min(limits)


def available_bytes(device: torch.device) -> int:
    """Returns how much memory can be had now without taking it from another process."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    rooms = [_meminfo("MemAvailable")]
    rooms += [limit - used for limit, used in map(_read_cgroup, _CGROUPS) if limit]
    return max(min(rooms), 0)


def _meminfo(key: str) -> int:
    """Returns an entry of /proc/meminfo in bytes; where there is none, 4 GiB, so that nothing large is begun."""
    with suppress(OSError):
        if (found := re.search(rf"^{key}:\s*(\d+) kB", _MEMINFO.read_text(encoding="utf-8"), re.MULTILINE)) is not None:
            return 1024 * int(found[1])
    return 4 << 30


def _read_cgroup(files: tuple[Path, Path]) -> tuple[int, int]:
    """Returns (limit, use) in bytes; (0, 0) where there is no limit."""
    with suppress(OSError, ValueError):
        limit, used = (int(file.read_text(encoding="utf-8")) for file in files)
        if limit < 1 << 60:  # version 1 says "no limit" by a number of 63 bits
            return limit, used
    return 0, 0
