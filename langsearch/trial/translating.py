"""Lines in, lines out, through exported adapters."""

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import torch

from langsearch.adapters.learners import adapt
from langsearch.adapters.peft_export import load_export, read_export
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import load_base
from langsearch.model.device import settle_here
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings

_LINES_AT_ONCE = 64


def translate_lines(
    adapters: Path, lines: Iterable[bytes], src: str, tgt: str, beams: int = 5, base: str | None = None
) -> Iterator[str]:
    """Yields the translation of each line, an empty one for an empty line.

    Args:
        adapters: A folder that `langsearch export` wrote.
        lines: UTF-8.
        src: The source language, in any code that means one of the adapters' languages.
        tgt: The target language.
        beams: 1 for greedy.
        base: The base, if it is not where the adapters say.

    Raises:
        InputError: If the adapters, a language or a line is wrong.
    """
    exported = read_export(adapters)
    problems: list[str] = []
    names = []
    for code in (src, tgt):
        try:
            names.append(match_code(code, exported.languages))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    loaded = settle_here(load_base(base or exported.source))
    learner = adapt(loaded, exported.architecture, exported.languages)
    load_export(learner, adapters)
    vocabulary = loaded.vocabulary(exported.languages)
    numbered = enumerate(lines, start=1)
    while chunk := list(islice(numbered, _LINES_AT_ONCE)):
        texts = [_decode(line, number) for number, line in chunk]
        tokens = loaded.tokenizer.encode(texts)
        translations = decode_rows(
            learner,
            [DecodingRow(torch.tensor(ids).numpy(), names[0], names[1]) for ids in tokens if ids],
            tokenizer=loaded.tokenizer,
            vocabulary=vocabulary,
            languages=exported.languages,
            settings=DecodingSettings(beams=beams),
        )
        remaining = iter(translations)
        yield from (next(remaining) if ids else "" for ids in tokens)


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"Input must be UTF-8, but line {number} is not ({error.reason}).") from error
