"""What one full evaluation of a large base costs: all directions of many languages, measured on some sentences.

    python -m tests.benchmarks.full_evaluation                 # the shape of M2M-100 418M, a few minutes of two cores

The base has random weights, so that none has to be fetched: a product of matrices takes as long with any. Sentences
are as long as encyclopedic ones, each with an adapter of rank 8 of its own languages, every hypothesis as long as its
source and ten tokens, which is more than a trained base writes. Wall-clock seconds of all threads of the machine, or of
its CUDA device where it has one; spBLEU comes on top (`tests/benchmarks/README.md`).
"""

import argparse
import os
import time

import torch

from langsearch.evaluate.decoding import decode_batches
from langsearch.model.device import Resident
from langsearch.space.settings import DecodingSettings
from tests.benchmarks.gpu_decoding import random_sentences
from tests.benchmarks.step_variants import Size, random_base

_M2M100_418M = Size(d_model=1024, layers=12, ffn_dim=4096, heads=16, vocab=128112)


def main() -> None:
    """Measures, and prints what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", type=int, default=30)
    parser.add_argument("--part", type=int, default=48, help="sentences translated, spread over the directions")
    parser.add_argument("--sentences", type=int, nargs="*", default=[100, 1012], help="of a direction, in the whole")
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 5])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    on_card = torch.cuda.is_available()
    resident = Resident(torch.device("cuda" if on_card else "cpu"), torch.bfloat16 if on_card else torch.float32)
    where = torch.cuda.get_device_name() if on_card else f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    text = random_sentences(random_base(_M2M100_418M, resident), _M2M100_418M, arguments.languages, 1)
    num_directions = len(text.rows)
    text = text.some(min(arguments.part, num_directions))
    rows = [row for of_direction in text.rows.values() for row in of_direction]
    lengths = f"{sum(len(row.tokens) for row in rows) / len(rows):.0f} tokens on average"
    print(f"{_M2M100_418M}, {where}: {len(rows)} sentences of {lengths}, {num_directions} directions in the whole")
    columns = [f"{num:,} sentences a direction" for num in arguments.sentences]
    print(f"| beams | s a sentence | {' | '.join(columns)} |")
    print("|---|---|" + "---|" * len(arguments.sentences))
    for beams in arguments.beams:
        settings = DecodingSettings(beams=beams, max_length_factor=1.0)
        started = time.perf_counter()
        for _ in decode_batches(
            text.learner, rows, vocabulary=text.vocabulary, languages=text.learner.languages, settings=settings
        ):
            pass
        seconds = (time.perf_counter() - started) / len(rows)
        whole = [f"{seconds * num_directions * num / 3600:,.1f} h" for num in arguments.sentences]
        print(f"| {beams} | {seconds:.3f} | {' | '.join(whole)} |", flush=True)


if __name__ == "__main__":
    main()
