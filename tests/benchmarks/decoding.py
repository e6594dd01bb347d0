"""What decoding all directions in mixed batches brings on a CPU; run it by `python -m tests.benchmarks.decoding`.

Compared are, round by round in turn: langsearch; a loop over the directions with `generate` and the same adapters in
the model; and, on the embedded base, the same loop with the adapters of each direction merged into the weights, which
is not counted. Two bases: the embedded one with sentences of quickstart.tsv, and a random one of d 512 and 6+6 layers
whose hypotheses are as long as their sources and ten tokens. Adapters of rank 8 for 8 languages, one thread. Seconds
are the process's own.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.mounting import mount
from langsearch.data.batches import is_token, padded
from langsearch.data.directions import Direction, all_directions
from langsearch.data.embedded import read_embedded
from langsearch.evaluate.decoding import DecodingRow, decode_batches
from langsearch.evaluate.limits import PLUS_TOKENS
from langsearch.model.base import load_base
from langsearch.model.device import Resident
from langsearch.space.settings import DecodingSettings
from tests.benchmarks.gpu_decoding import Sentences, random_sentences
from tests.benchmarks.step_variants import Size, adapted_model, random_base

_LANGUAGES = ("cy", "de", "en", "es", "fr", "id", "nl", "sw")
_D512 = Size(d_model=512, layers=6, ffn_dim=2048, heads=8, vocab=8000)
_ROWS_OF_LOOP = 128
"""Hypotheses that a batch of the loop has at most."""

Found = list[list[int]]


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=6, help="sentences of each direction, embedded base")
    parser.add_argument("--random-sentences", type=int, default=1, help="the same of the random base")
    parser.add_argument("--directions", type=int, default=56, help="so many of the 56, evenly spread")
    parser.add_argument("--beams", type=int, nargs="*", default=[1, 5])
    parser.add_argument("--bases", nargs="*", default=["embedded", "d512"])
    parser.add_argument("--tokens-per-batch", type=int, default=DecodingSettings().tokens_per_batch)
    parser.add_argument("--alone", action="store_true", help="langsearch alone, without what it is compared with")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    figures = []
    print(f"{'base':<10}{'beams':>6} {'what':<34}{'CPU s':>9}{'faster':>9}{'min':>7}{'max':>7}  same tokens")
    for name in arguments.bases:
        text, factor = (
            (embedded_sentences(arguments.sentences), 2.0)
            if name == "embedded"
            else _random(arguments.random_sentences)
        )
        text = text.some(arguments.directions)
        for beams in arguments.beams:
            settings = DecodingSettings(
                beams=beams, max_length_factor=factor, tokens_per_batch=arguments.tokens_per_batch
            )
            ways = 1 if arguments.alone else 3 if name == "embedded" else 2
            for row in _compare(text, settings, arguments.rounds, ways):
                figures.append({"base": name, "beams": beams, **row})
                spread = f"{row['ratio']:>9.2f}{row['min']:>7.2f}{row['max']:>7.2f}"
                print(
                    f"{name:<10}{beams:>6} {row['what']:<34}{row['seconds']:>9.2f}{spread}  {row['same']}", flush=True
                )
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=1) + "\n")


def _compare(text: Sentences, settings: DecodingSettings, num_rounds: int, num_ways: int) -> Iterator[dict[str, Any]]:
    """Yields what each way took, and how many times as fast as each langsearch is."""
    ways: dict[str, Callable[[], tuple[Found, float]]] = {
        "langsearch, directions mixed": lambda: _mixed(text, settings)
    }
    ways["generate, direction by direction"] = lambda: _looped(text, settings, is_merged=False)
    ways["the same, adapters merged"] = lambda: _looped(text, settings, is_merged=True)
    ways = dict(list(ways.items())[:num_ways])
    taken: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Found] = {}
    for _ in range(num_rounds):
        for way, run in ways.items():
            found[way], seconds = run()
            taken[way].append(seconds)
    own, *_ = ways
    for way in ways:
        ratios = [other / mine for other, mine in zip(taken[way], taken[own], strict=True)]
        same = sum(_is_same(a, b, text.vocabulary.eos_id) for a, b in zip(found[own], found[way], strict=True))
        yield {
            "what": way,
            "seconds": statistics.median(taken[way]),
            "ratio": statistics.median(ratios),
            "min": min(ratios),
            "max": max(ratios),
            "same": f"{same} of {text.num_rows}",
        }


def _is_same(own: list[int], other: list[int], eos_id: int) -> bool:
    """Returns whether tokens are the same; an end that langsearch's limit forces is none of `generate`'s."""
    return own == other or (own[-1] == eos_id and own[:-1] == other[: len(own) - 1] and eos_id not in other)


def embedded_sentences(num_sentences: int) -> Sentences:
    """Returns so many sentences of quickstart.tsv in each of 56 directions, and the embedded base with adapters."""
    base = load_base("tiny-m2m")
    learner = adapted_model(base, len(_LANGUAGES), _LANGUAGES)
    _disturb(learner)
    given = read_embedded("quickstart", "validation", _LANGUAGES).sentences
    tokens = {language: base.tokenizer.encode([text for text in given[language] if text]) for language in _LANGUAGES}
    rows = {
        direction: [
            DecodingRow(np.array(ids, np.int32), direction.src, direction.tgt)
            for ids in tokens[direction.src][:num_sentences]
        ]
        for direction in all_directions(_LANGUAGES)
    }
    return Sentences(learner, base.vocabulary(_LANGUAGES), rows)


def _random(num_sentences: int) -> tuple[Sentences, float]:
    base = random_base(_D512, Resident(torch.device("cpu"), torch.float32))
    text = random_sentences(base, _D512, len(_LANGUAGES), num_sentences)
    _disturb(text.learner)
    return text, 1.0


def _disturb(learner: AdaptedModel) -> None:
    """Gives every B small random values, so that adapters do something."""
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        layer.B.data.copy_(torch.randn(layer.B.shape, generator=generator) * 0.01)


def _mixed(text: Sentences, settings: DecodingSettings) -> tuple[Found, float]:
    rows = [row for of_direction in text.rows.values() for row in of_direction]
    found: Found = [[] for _ in rows]
    started = time.process_time()
    for indices, hypotheses in decode_batches(
        text.learner, rows, vocabulary=text.vocabulary, languages=text.learner.languages, settings=settings
    ):
        for index, tokens in zip(indices, hypotheses, strict=True):
            found[index] = tokens
    return found, time.process_time() - started


@torch.inference_mode()
def _looped(text: Sentences, settings: DecodingSettings, *, is_merged: bool) -> tuple[Found, float]:
    learner = text.learner
    model: Any = learner.model
    model.eval()
    num_rows = max(_ROWS_OF_LOOP // settings.beams, 1)
    found: Found = []
    seconds = 0.0
    for direction, rows in text.rows.items():
        with _merged(learner, direction) if is_merged else nullcontext():
            for start in range(0, len(rows), num_rows):
                batch = rows[start : start + num_rows]
                began = time.process_time()
                with _routed(learner, direction, len(batch)):
                    output = model.generate(**_inputs(text, direction, batch, settings))
                seconds += time.process_time() - began
                found += [_trimmed(row, text.vocabulary.eos_id) for row in output.tolist()]
    return found, seconds


def _inputs(
    text: Sentences, direction: Direction, batch: list[DecodingRow], settings: DecodingSettings
) -> Mapping[str, Any]:
    ids, lengths = padded(
        [row.tokens for row in batch], text.vocabulary.src_marks([direction] * len(batch)), text.vocabulary
    )
    assert settings.max_length_factor is not None
    return {
        "input_ids": torch.from_numpy(ids),
        "attention_mask": torch.from_numpy(is_token(ids, lengths).astype(np.int64)),
        "forced_bos_token_id": text.vocabulary.language_ids[direction.tgt],
        # As langsearch's limit has it: its last token is the end, which then costs a hypothesis nothing.
        "forced_eos_token_id": text.vocabulary.eos_id,
        "num_beams": settings.beams,
        "do_sample": False,
        "max_new_tokens": int(settings.max_length_factor * max(len(row.tokens) for row in batch)) + PLUS_TOKENS + 2,
    }


def _routed(learner: AdaptedModel, direction: Direction, num_rows: int) -> AbstractContextManager[None]:
    src, tgt = (learner.languages.index(language) for language in (direction.src, direction.tgt))
    return learner.route(torch.full((num_rows,), src), torch.full((num_rows,), tgt))


@contextmanager
def _merged(learner: AdaptedModel, direction: Direction) -> Iterator[None]:
    before = mount(learner.model, learner.adapters.merged(direction))
    try:
        yield
    finally:
        mount(learner.model, before)


def _trimmed(tokens: list[int], eos_id: int) -> list[int]:
    return tokens[1 : tokens.index(eos_id, 1) + 1] if eos_id in tokens[1:] else tokens[1:]


if __name__ == "__main__":
    main()
