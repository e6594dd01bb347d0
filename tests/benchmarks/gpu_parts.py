"""What is measured of a base on a device: steps, full fine-tuning, precisions, decoding; each in its share of time."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from langsearch.model.base import Base
from langsearch.model.device import Resident, allow_tf32
from tests.benchmarks.gpu_decoding import decode_in_a_loop, decode_mixed, random_sentences
from tests.benchmarks.step_variants import Size, Step, adapted, floor, full, random_base, random_batch, shared_peft
from tests.benchmarks.timing import seconds_of, time_in_turn

_MAX_ROUNDS = 30
_MAX_DECODINGS = 3
_LOOPS = 1.5
"""What one round of decoding takes, in times of the loop alone."""

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_SHARES = {"steps": 2.0, "full": 1.0, "precisions": 1.5, "greedy": 2.0, "beam 5": 3.0}
"""How the time of a size is shared between its parts."""


@dataclass(frozen=True)
class Work:
    """How much is trained on and decoded."""

    rows: int
    length: int
    """Tokens of a side."""

    step_languages: int
    decoding_languages: int
    """All directions between them are decoded."""

    sentences: int
    """Of each direction."""


@dataclass(frozen=True)
class Row:
    """A row of the table; what was not measured is None, and the note says why."""

    base: str
    what: str
    milliseconds: float | None = None
    """Median of the rounds."""

    ratio: float | None = None
    ratio_to: str = ""
    """floor: time over the floor's. loop: how many times as fast as it."""

    per_second: float | None = None
    """Target tokens of a step, sentences of decoding."""

    weights: int | None = None
    """Bytes."""

    trained: int | None = None
    working: int | None = None
    num_rounds: int = 0
    note: str = ""


def shares(weights: Mapping[str, float], seconds: float) -> Iterator[tuple[str, float]]:
    """Yields names with their seconds; time that was not used, or used too much, is shared by those that follow."""
    end = time.perf_counter() + seconds
    left = sum(weights.values())
    for name, weight in weights.items():
        yield name, (end - time.perf_counter()) * weight / left
        left -= weight


class Parts:
    """The parts of a size.

    Args:
        size: Of the base.
        work: How much is trained on and decoded.
        resident: Where the base is, and in which type by default.
    """

    def __init__(self, size: Size, work: Work, resident: Resident) -> None:
        self._size, self._work, self._resident = size, work, resident
        self._device = resident.device
        self._is_gpu = self._device.type == "cuda"
        self._floor_s: float | None = None

    def measure(self, seconds: float) -> Iterator[Row]:
        """Yields the rows of all parts; takes about so many seconds."""
        parts: dict[str, Callable[[float], Iterator[Row]]] = {
            "steps": self._steps,
            "full": self._full,
            "precisions": self._precisions,
            "greedy": lambda share: self._decoding(1, share),
            "beam 5": lambda share: self._decoding(5, share),
        }
        torch.ones(8, 8, device=self._device) @ torch.ones(8, 8, device=self._device)  # cuBLAS takes its workspace
        for name, share in shares(_SHARES, seconds):
            allow_tf32(self._device, is_full=name == "full")
            if share <= 0:
                yield self._row(name, note="left out: no time was left")
                continue
            try:
                yield from parts[name](share)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                note = _does_not_fit(error)
            else:
                continue
            self._free()
            yield self._row(name, note=note)
        allow_tf32(self._device, is_full=False)

    def _steps(self, seconds: float) -> Iterator[Row]:
        """The floor, langsearch and PEFT in turn, on one copy of the weights."""
        base, weights = self._base(self._resident)
        batch = self._batch()
        languages = self._work.step_languages
        builds: dict[str, Callable[[], Step]] = {
            "floor": lambda: floor(base, batch),
            f"langsearch, {languages} languages": lambda: adapted(base, batch, languages),
        }
        if find_spec("peft"):
            builds["PEFT, one shared LoRA"] = lambda: shared_peft(base, batch)
        steps: dict[str, Step] = {}
        rows: dict[str, Row] = {}
        for name, build in builds.items():
            rows[name] = self._row(name, weights=weights)
            try:
                steps[name], rows[name] = self._first_steps(build, rows[name])
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                rows[name] = replace(rows[name], note=_does_not_fit(error))
            self._free()
        rows["floor"] = replace(rows["floor"], trained=None)  # only its inputs
        found = time_in_turn(steps, self._device, num_rounds=_MAX_ROUNDS, num_warm=1, seconds=seconds)
        for name, row in rows.items():
            if name in found and "floor" in found:
                self._floor_s = statistics.median(found["floor"])
                ratio = statistics.median(a / b for a, b in zip(found[name], found["floor"], strict=True))
                yield self._timed(row, found[name], ratio)
            else:
                yield row

    def _full(self, seconds: float) -> Iterator[Row]:
        """A trial of full fine-tuning: a base in fp32 and a copy that is trained, products in the type of `auto`."""
        dtype = self._resident.dtype
        base, weights = self._base(Resident(self._device, torch.float32))
        autocast = None if dtype is torch.float32 else dtype
        row = self._row("full fine-tuning", weights=weights)
        step, row = self._first_steps(lambda: full(base, self._batch(), autocast), row)
        yield self._alone(step, row, seconds)

    def _precisions(self, seconds: float) -> Iterator[Row]:
        """Langsearch's step with the base resident in each type."""
        for name, share in shares(dict.fromkeys(_PRECISIONS, 1.0), seconds):
            row = self._row(f"langsearch in {name}")
            if name == "bf16" and self._is_gpu and not torch.cuda.is_bf16_supported(including_emulation=False):
                row = replace(row, note="emulated by this card")
            try:
                row = self._precision(_PRECISIONS[name], row, share)
            except RuntimeError as error:
                if not _is_out_of_memory(error):
                    raise
                row = replace(row, note=_does_not_fit(error))
            self._free()
            yield row

    def _precision(self, dtype: torch.dtype, row: Row, seconds: float) -> Row:
        base, weights = self._base(Resident(self._device, dtype))
        step, row = self._first_steps(
            lambda: adapted(base, self._batch(), self._work.step_languages), replace(row, weights=weights)
        )
        return self._alone(step, row, seconds)

    def _decoding(self, beams: int, seconds: float) -> Iterator[Row]:
        """All directions in mixed batches, and in a loop; so many of the directions as the time is enough for."""
        base, weights = self._base(self._resident)
        text = random_sentences(base, self._size, self._work.decoding_languages, self._work.sentences)
        one = text.some(1)
        decode_mixed(one, beams)
        decode_in_a_loop(one, beams)
        of_one = seconds_of(lambda: decode_in_a_loop(one, beams), self._device)
        num_directions = min(max(int(seconds / (_LOOPS * of_one)), 1), len(text.rows))
        text = text.some(num_directions)
        peaks: dict[str, int | None] = {}

        def noting(name: str, decode: Callable[[], object]) -> Step:
            def run() -> None:
                peaks[name] = self._peak(decode)

            return run

        found = time_in_turn(
            {
                "mixed": noting("mixed", lambda: decode_mixed(text, beams)),
                "loop": noting("loop", lambda: decode_in_a_loop(text, beams)),
            },
            self._device,
            num_rounds=_MAX_DECODINGS,
            num_warm=0,
            seconds=seconds,
        )
        how = "greedy" if beams == 1 else f"beam {beams}"
        for name, taken in found.items():
            ratio = statistics.median(loop / own for loop, own in zip(found["loop"], taken, strict=True))
            yield self._row(
                f"{how}, {num_directions} directions {'mixed' if name == 'mixed' else 'in a loop'}",
                milliseconds=1000 * statistics.median(taken),
                ratio=ratio,
                ratio_to="loop",
                per_second=text.num_rows / statistics.median(taken),
                weights=weights,
                working=peaks[name],
                num_rounds=len(taken),
            )

    def _base(self, resident: Resident) -> tuple[Base, int | None]:
        self._free()
        torch.manual_seed(0)
        before = self._held()
        base = random_base(self._size, resident)
        return base, self._held() - before if self._is_gpu else None

    def _batch(self) -> torch.Tensor:
        return random_batch(self._size, self._work.rows, self._work.length, self._device)

    def _first_steps(self, build: Callable[[], Step], row: Row) -> tuple[Step, Row]:
        """Builds a step and makes it twice: the first time leaves Adam's moments behind."""
        before = self._held()
        step = build()
        step()
        trained = self._held() - before
        working = self._peak(step)
        return step, replace(row, trained=trained if self._is_gpu else None, working=working)

    def _alone(self, step: Step, row: Row, seconds: float) -> Row:
        """Times a step that cannot be in memory together with the floor; the ratio is that of the medians."""
        found = time_in_turn({"": step}, self._device, num_rounds=_MAX_ROUNDS, num_warm=1, seconds=seconds)[""]
        return self._timed(row, found, statistics.median(found) / self._floor_s if self._floor_s else None)

    def _timed(self, row: Row, seconds: list[float], ratio: float | None) -> Row:
        median = statistics.median(seconds)
        return replace(
            row,
            milliseconds=1000 * median,
            ratio=ratio,
            ratio_to="floor",
            per_second=self._work.rows * self._work.length / median,
            num_rounds=len(seconds),
        )

    def _row(self, what: str, **values: object) -> Row:
        return replace(Row(str(self._size), what), **values)  # type: ignore[arg-type]

    def _held(self) -> int:
        """Returns the bytes of tensors on the GPU; 0 on a CPU."""
        return int(torch.cuda.memory_allocated(self._device)) if self._is_gpu else 0

    def _peak(self, run: Callable[[], object]) -> int | None:
        """Runs something and returns how many bytes it took beyond those held before; None on a CPU."""
        if not self._is_gpu:
            run()
            return None
        torch.cuda.reset_peak_memory_stats(self._device)
        before = self._held()
        run()
        torch.cuda.synchronize(self._device)
        return int(torch.cuda.max_memory_allocated(self._device)) - before

    def _free(self) -> None:
        gc.collect()
        if self._is_gpu:
            torch.cuda.empty_cache()


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error)


def _does_not_fit(error: RuntimeError) -> str:
    return f"left out, does not fit: {str(error).partition('. ')[0]}"
