"""Sentences split into pieces by several processes, in the order in which they come."""

import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Any

Tokenize = Callable[[Sequence[str]], list[list[int]]]
"""Sentences to token ids, without language and end tokens."""

Encoded = tuple[Sequence["str | None"], list[list[int]]]
"""Rows, and the ids of those that are there."""

MIN_FOR_PROCESSES = 200_000
"""Below so many sentences starting further processes takes longer than it saves."""

_AHEAD = 3
"""Blocks that wait for each process, or behind it to be written."""


class Encoder:
    """Splits blocks of rows into pieces; further processes are started when the first block comes.

    Args:
        tokenize: Splits sentences; to be pickled where there is more than one process.
        num_processes: 1: this process does it.
    """

    def __init__(self, tokenize: Tokenize, num_processes: int) -> None:
        self._tokenize, self._num_processes = tokenize, num_processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Encoder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def encode(self, blocks: Iterable[Sequence[str | None]]) -> Iterator[Encoded]:
        """Yields each block with its ids, in the order of the blocks.

        Raises:
            ValueError: If `tokenize` does not return one list of ids for each sentence.
        """
        if self._num_processes == 1:
            for block in blocks:
                yield block, _checked(_present(block), self._tokenize(_present(block)))
            return
        if self._pool is None:
            # Not forked: this process has threads of PyTorch, Arrow or Ray.
            self._pool = ProcessPoolExecutor(
                self._num_processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_begin,
                initargs=(self._tokenize,),
            )
        waiting: deque[tuple[Sequence[str | None], Future[list[list[int]]]]] = deque()
        for block in blocks:
            with _script_left_alone():
                waiting.append((block, self._pool.submit(_encode, _present(block))))
            if len(waiting) > _AHEAD * self._num_processes:
                block, future = waiting.popleft()
                yield block, _checked(_present(block), future.result())
        while waiting:
            block, future = waiting.popleft()
            yield block, _checked(_present(block), future.result())


def num_cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _present(block: Sequence[str | None]) -> list[str]:
    return [sentence for sentence in block if sentence is not None]


def _checked(sentences: Sequence[str], ids: list[list[int]]) -> list[list[int]]:
    if len(ids) != len(sentences):
        raise ValueError(f"`tokenize` must return a list for each of {len(sentences)} sentences, but got {len(ids)}")
    return ids


@contextmanager
def _script_left_alone() -> Iterator[None]:
    """Has processes that start in the context not run the script of this one: its functions are not needed there.

    A script that calls us without `if __name__ == "__main__"` would begin once more in each of them.
    """
    main = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.pop("__spec__", None)
        main.update(hidden)


_tokenizes: list[Tokenize] = []
"""Of a further process: its own tokenizer, once it has begun."""


def _begin(tokenize: Tokenize) -> None:
    _tokenizes.append(tokenize)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends this process once the one that it works for is gone, also by `kill -9`: its pool would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _encode(sentences: Sequence[str]) -> list[list[int]]:
    return _tokenizes[-1](sentences)
