"""What one training step costs over the floor; run it by `python -m tests.benchmarks.step`.

The floor is the frozen base with gradients to its inputs: no adapter can be trained for less. Every round times one
step of each variant in turn, and the ratios are taken within a round, so that a machine whose speed drifts gives the
same answer. Every round has another shape, as every batch of a training has: about 96 rows of 24 tokens a side. M2M-100
of d 256, 4+4 layers, rank 8, one thread. On a CPU the seconds are the process's own, which other work on the machine
moves less than the clock's.

Variants: langsearch with 1, 4, 12 and 30 languages, and with 12 of rank 32; PEFT's LoRA, one for all; full fine-tuning;
a loop over the languages with a mask, as the published code does it, on plain autograd.

With `--encode-once` instead: a batch of sentences with all their targets, encoded for each of them and once for all, of
8 and of 12 languages, where all encoder layers are indexed by the source and where the lower half of them is.
"""

import argparse
import json
import statistics
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import torch

from langsearch.model.device import Resident
from tests.benchmarks.step_variants import (
    Size,
    Step,
    floor,
    full,
    makers,
    mask_loop,
    multi_parallel,
    random_base,
    random_batch,
)
from tests.benchmarks.timing import time_in_turn

_SIZES = {
    256: Size(d_model=256, layers=4, ffn_dim=1024, heads=4, vocab=8000),
    1024: Size(d_model=1024, layers=1, ffn_dim=4096, heads=16, vocab=8000),
}

_SLOW = ("full fine-tuning", "mask loop, 12 languages")


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds after two that do not count")
    parser.add_argument("--rows", type=int, default=96, help="rows of a batch")
    parser.add_argument("--length", type=int, default=24, help="tokens of a side")
    parser.add_argument("--width", type=int, default=256, choices=_SIZES, help="d_model")
    parser.add_argument(
        "--encode-once", action="store_true", help="what encoding a sentence once for its targets saves"
    )
    parser.add_argument("--no-slow", action="store_true", help="without full fine-tuning and the mask loop")
    parser.add_argument("--warm", type=int, default=2, help="rounds before those that are timed")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="the base in bf16, as `trainer.precision: bf16` has it")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    resident = Resident(device, torch.bfloat16 if arguments.bf16 else torch.float32)
    size, rows, length = _SIZES[arguments.width], arguments.rows, arguments.length
    if arguments.encode_once:
        steps, ratios_of = _encode_once(size, rows, length, resident)
    else:
        numbers = range(arguments.warm + arguments.rounds)
        shapes = [(rows + 7 * number % 13 - 6, length + 5 * number % 9 - 4) for number in numbers]
        steps, ratios_of = _variants(size, shapes, resident, with_slow=not (arguments.no_slow or arguments.bf16))
    seconds = time_in_turn(steps, device, num_rounds=arguments.rounds, num_warm=arguments.warm)
    frozen = seconds["floor"]
    figures = {}
    print(f"{'variant':<36}{'over the floor':>16}{'min':>8}{'max':>8}{'ms':>10}")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, frozen, strict=True)]
        median, milliseconds = statistics.median(ratios), 1000 * statistics.median(times)
        figures[name] = {"ratio": median, "min": min(ratios), "max": max(ratios), "milliseconds": milliseconds}
        print(f"{name:<36}{median:>16.3f}{min(ratios):>8.2f}{max(ratios):>8.2f}{milliseconds:>10.1f}")
    for name, other in ratios_of:
        ratio = statistics.median([a / b for a, b in zip(seconds[name], seconds[other], strict=True)])
        figures[f"{name} / {other}"] = {"ratio": ratio}
        print(f"{name} / {other}: {ratio:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=1) + "\n")


Variants = tuple[dict[str, Step], Sequence[tuple[str, str]]]
"""Steps by name, and pairs of them whose ratios are told."""


def _variants(size: Size, shapes: Sequence[tuple[int, int]], resident: Resident, *, with_slow: bool) -> Variants:
    base = random_base(size, resident)
    batches = [random_batch(size, rows, length, resident.device) for rows, length in shapes]
    made = makers(base)
    if with_slow:
        full_tuning, masked = _SLOW
        made[full_tuning] = partial(full, base)
        made[masked] = partial(mask_loop, base, num_languages=12)
    ratios_of = [
        ("langsearch, 12 languages", "PEFT, one shared LoRA"),
        ("langsearch, 30 languages", "langsearch, 1 language"),
    ]
    return {name: _in_turn([make(batch) for batch in batches]) for name, make in made.items()}, ratios_of


def _in_turn(steps: Sequence[Step]) -> Step:
    """Returns a step that is another one of these each time."""
    turns = cycle(steps)
    return lambda: next(turns)()


def _encode_once(size: Size, rows: int, length: int, resident: Resident) -> Variants:
    base = random_base(size, resident)
    batch = random_batch(size, rows, length, resident.device)
    steps = {"floor": floor(base, batch)}
    ratios_of = []
    for num_languages in (8, 12):
        for num_by_source in sorted({size.layers, (size.layers + 1) // 2}, reverse=True):
            of = f"{num_languages} languages, {num_by_source} of {size.layers} by src"
            for way, once in (("each", False), ("once", True)):
                steps[f"{of}, {way}"] = multi_parallel(base, batch, num_languages, num_by_source, once=once)
            ratios_of.append((f"{of}, once", f"{of}, each"))
    return steps, ratios_of


if __name__ == "__main__":
    main()
