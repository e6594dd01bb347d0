"""What a GPU makes of training and decoding; run it by `python -m tests.benchmarks.gpu`, at most 8 minutes.

Bases of d 512, 1024 and 2048 with random weights, of the shapes of M2M-124 175M, NLLB-200 600M and NLLB-200 3.3B. It
needs torch and transformers; where PEFT is not installed, what is compared with it is left out. A part that does not
fit into the card's memory, or that no time is left for, is left out with that reason.

Memory: weights of the frozen base; trained: the adapters, or the model that is trained whole, with Adam's two moments;
working: what a step or a batch takes beyond these at its peak: activations, gradients, the cache of decoding.
"""

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from langsearch.model.device import Compute, Resident, cuda_problem
from tests.benchmarks.gpu_parts import Parts, Row, Work, shares
from tests.benchmarks.step_variants import RANK, Size

SIZES = {
    "512": Size(d_model=512, layers=6, ffn_dim=2048, heads=8, vocab=256_000),
    "1024": Size(d_model=1024, layers=12, ffn_dim=4096, heads=16, vocab=256_000),
    "2048": Size(d_model=2048, layers=24, ffn_dim=8192, heads=16, vocab=256_000),
    "small": Size(d_model=32, layers=1, ffn_dim=64, heads=2, vocab=300),
}
_WORK = Work(rows=100, length=40, step_languages=12, decoding_languages=8, sentences=8)
_SMALL_WORK = Work(rows=4, length=6, step_languages=12, decoding_languages=3, sentences=1)
_WEIGHTS = {"512": 1.0, "1024": 2.0, "2048": 3.0, "small": 1.0}
"""How the time is shared between the sizes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="512,1024,2048", help="some of these; or small, which a CPU takes too")
    parser.add_argument("--minutes", type=float, default=7.0, help="of measuring, over all sizes")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: with --sizes small alone")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    given = parser.parse_args(arguments)
    names = given.sizes.split(",")
    if problem := _problem(names, given.device):
        print(problem, file=sys.stderr)
        raise SystemExit(2)
    resident = Compute(gpu=1.0 if given.device == "cuda" else 0.0).resident("auto")
    about = _about(resident, _SMALL_WORK if names == ["small"] else _WORK)
    print("\n".join(about.values()), flush=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)  # transformers' on itself and on PEFT
        print(_line(("base", "what", "ms", "ratio", "tokens or", "weights", "trained", "working", "")))
        print(_line(("", "", "", "", "sentences/s", "GB", "GB", "GB", "")))
        rows = []
        for row in _measure(names, resident, 60 * given.minutes):
            rows.append(row)
            print(_line(_cells(row)), flush=True)
    if given.json:
        figures = {**about, "rows": [asdict(row) for row in rows]}
        given.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _problem(names: Sequence[str], device: str) -> str | None:
    """Returns in a sentence why it cannot be run so; None if it can."""
    if unknown := [name for name in names if name not in SIZES]:
        return f"--sizes must be some of {', '.join(SIZES)}, but got {', '.join(unknown)}."
    if device == "cpu":
        return None if names == ["small"] else "--device cpu must come with --sizes small: the others take hours there."
    if (problem := cuda_problem()) is not None:
        return f"This benchmark needs a GPU that CUDA can use, but here: {problem}."
    return None


def _about(resident: Resident, work: Work) -> dict[str, str]:
    """Returns what the figures depend on, each in a line."""
    card = "no GPU: this only shows that the code runs"
    if resident.device.type == "cuda":
        found = torch.cuda.get_device_properties(resident.device)
        card = f"{found.name}, {found.total_memory / 1e9:.1f} GB, compute capability {found.major}.{found.minor}"
        card += f"; driver {_driver()}, CUDA {torch.version.cuda}"
    peft = f"PEFT {version('peft')}" if find_spec("peft") else "PEFT is not installed: left out"
    return {
        "card": card,
        "versions": f"torch {torch.__version__}, transformers {version('transformers')}, {peft}",
        "precision": f"trainer.precision: auto is {_name(resident.dtype)} here",
        "step": f"a step: {work.rows} x {work.length} tokens a side, and one update; rank {RANK} at all places; "
        "PEFT: adapters in fp32 on a base in the same type, under autocast of it",
        "decoding": f"decoding: {work.sentences} sentences in each direction; the loop: `generate`, one direction at "
        "a time, same adapters",
    }


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        found = []
    return found[0] if found else "unknown"


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}[dtype]


def _measure(names: Sequence[str], resident: Resident, seconds: float) -> Iterator[Row]:
    for name, share in shares({name: _WEIGHTS[name] for name in names}, seconds):
        yield from Parts(SIZES[name], _SMALL_WORK if name == "small" else _WORK, resident).measure(share)


def _cells(row: Row) -> tuple[str, ...]:
    def number(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    ratio = "" if row.ratio is None else f"{row.ratio:.2f} x {row.ratio_to}"
    gigabytes = [None if value is None else value / 1e9 for value in (row.weights, row.trained, row.working)]
    memory = [number(value, ".2f") for value in gigabytes]
    speeds = number(row.milliseconds, ".1f"), ratio, number(row.per_second, ",.0f")
    return row.base, row.what, *speeds, *memory, row.note


def _line(cells: Sequence[str]) -> str:
    base, what, *numbers, note = cells
    widths = (10, 14, 12, 9, 9, 9)
    text = f"{base:<21}{what:<38}" + "".join(f"{cell:>{width}}" for cell, width in zip(numbers, widths, strict=True))
    return f"{text}  {note}".rstrip()


if __name__ == "__main__":
    main()
