"""One merged direction by CTranslate2 and by langsearch; run it by `python -m tests.benchmarks.ctranslate2_peer`.

CTranslate2 (`pip install ctranslate2`, needed by this benchmark alone) is an inference engine in C++ for models that
are done: one direction, its adapters merged. Langsearch decodes the same sentences of quickstart.tsv with the adapters
in the model, in the same batches of 128 hypotheses. One thread, seconds of the process, rounds in turn.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from langsearch.adapters.merged_export import export_merged
from langsearch.data.directions import Direction
from langsearch.evaluate.decoding import decode_batches
from langsearch.model.base import BaseTokenizer, load_base
from langsearch.space.settings import DecodingSettings
from tests.benchmarks.decoding import embedded_sentences
from tests.benchmarks.gpu_decoding import Sentences

_DIRECTION = Direction("en", "fr")
_HYPOTHESES = 128

Found = list[list[int]]


def main() -> None:
    """Runs the benchmark and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=52)
    arguments = parser.parse_args()
    if find_spec("ctranslate2") is None:
        raise SystemExit("This benchmark needs CTranslate2, which is not installed: pip install ctranslate2")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    text = embedded_sentences(arguments.sentences)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = load_base("tiny-m2m")
        export_merged(text.learner, base, _DIRECTION, folder / "merged", "# Benchmark\n")
        engines = {kind: _translator(folder, kind) for kind in ("float32", "int8")}
        print(f"{'beams':>6} {'what':<26}{'CPU s':>9}{'langsearch takes':>18}  same tokens")
        for beams in (1, 5):
            ways: dict[str, Callable[[], Found]] = {"langsearch, fp32": lambda beams=beams: _own(text, beams)}  # type: ignore[misc]
            for kind, engine in engines.items():
                ways[f"CTranslate2, {kind}"] = lambda engine=engine, beams=beams: _peer(
                    engine, text, base.tokenizer, beams
                )  # type: ignore[misc]
            taken: dict[str, list[float]] = {way: [] for way in ways}
            found: dict[str, Found] = {}
            for _ in range(arguments.rounds):
                for way, run in ways.items():
                    began = time.process_time()
                    found[way] = run()
                    taken[way].append(time.process_time() - began)
            own, *_ = ways
            for way in ways:
                ratio = statistics.median(mine / its for mine, its in zip(taken[own], taken[way], strict=True))
                same = sum(a == b for a, b in zip(found[own], found[way], strict=True))
                told = f"{statistics.median(taken[way]):>9.2f}{ratio:>17.2f}x  {same} of {len(found[own])}"
                print(f"{beams:>6} {way:<26}{told}")


def _translator(folder: Path, kind: str) -> Any:
    from ctranslate2 import Translator
    from ctranslate2.converters import TransformersConverter

    converted = TransformersConverter(str(folder / "merged")).convert(str(folder / kind), quantization=kind)
    return Translator(converted, device="cpu", compute_type=kind, inter_threads=1, intra_threads=1)


def _own(text: Sentences, beams: int) -> Found:
    rows = text.rows[_DIRECTION]
    settings = DecodingSettings(beams=beams, max_length_factor=2.0, rows_per_batch=_HYPOTHESES)
    found: Found = [[] for _ in rows]
    for indices, hypotheses in decode_batches(
        text.learner, rows, vocabulary=text.vocabulary, languages=text.learner.languages, settings=settings
    ):
        for index, tokens in zip(indices, hypotheses, strict=True):
            found[index] = tokens
    return found


def _peer(engine: Any, text: Sentences, tokenizer: BaseTokenizer, beams: int) -> Found:
    rows, vocabulary = text.rows[_DIRECTION], text.vocabulary
    to_tokens, to_ids = tokenizer._tokenizer.convert_ids_to_tokens, tokenizer._tokenizer.convert_tokens_to_ids
    (mark,) = vocabulary.src_marks([_DIRECTION])
    sources = [to_tokens([mark, *row.tokens.tolist(), vocabulary.eos_id]) for row in rows]
    results = engine.translate_batch(
        sources,
        target_prefix=[[tokenizer.language_token(_DIRECTION.tgt)]] * len(rows),
        beam_size=beams,
        max_batch_size=_HYPOTHESES // beams,
        max_decoding_length=max(2 * len(row.tokens) + 12 for row in rows),
        return_end_token=True,
    )
    return [to_ids(result.hypotheses[0]) for result in results]


if __name__ == "__main__":
    main()
