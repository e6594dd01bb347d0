"""Lines in, lines out, through exported adapters."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import torch

from langsearch.adapters.learners import adapt
from langsearch.adapters.peft_export import ExportedAdapters, load_export, read_export
from langsearch.adapters.peft_limits import active_adapters
from langsearch.data.batches import NUM_MARKS
from langsearch.data.directions import Direction
from langsearch.evaluate.decoding import Decoded, DecodingRow, decode_rows
from langsearch.model.base import load_base
from langsearch.model.device import settle_here
from langsearch.model.memory import in_parts
from langsearch.model.new_languages import with_new_languages
from langsearch.model.positions import num_positions
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings

logger = logging.getLogger(__name__)

_LINES_AT_ONCE = 64
_MAX_LISTED = 5


@dataclass
class CutLines:
    """What of a text was cut, counted while it is translated, and what is to be known of its direction."""

    note: str = ""
    """Why the adapters may say nothing of use in this direction; "" where nothing stands against it."""

    sources: list[int] = field(default_factory=list)
    """Numbers of the lines that were longer than allowed, from 1."""

    translations: list[int] = field(default_factory=list)
    """Numbers of the lines whose translation ended by its longest length."""

    @property
    def words(self) -> str:
        """The note, and what was cut, in a sentence for each; "" for nothing."""
        found = (
            (self.sources, "Cut before they were translated"),
            (self.translations, "Translations cut at their longest length"),
        )
        counts = [f"{what}: {len(lines):,} (lines {_listed(lines)})." for lines, what in found if lines]
        return " ".join([self.note, *counts] if self.note else counts)


def translate_lines(
    adapters: Path,
    lines: Iterable[bytes],
    src: str,
    tgt: str,
    beams: int = 5,
    base: str | None = None,
    max_length: int | None = None,
    cut: CutLines | None = None,
) -> Iterator[str]:
    """Yields the translation of each line, an empty one for an empty line.

    A translation may have twice the line's tokens plus 10, or 200 if that is more, within the base's positions.

    Args:
        adapters: A folder that `langsearch export` wrote.
        lines: UTF-8.
        src: The source language, in any code that means one of the adapters' languages.
        tgt: The target language.
        beams: 1 for greedy.
        base: The base, if it is not where the adapters say.
        max_length: Longer lines are cut to so many tokens, language and end included. None: none is cut, and one that
            is longer than the base's positions is an error.
        cut: Hears of what was cut.

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
    new_languages = dict(exported.architecture.new_languages)
    loaded = settle_here(with_new_languages(load_base(base or exported.source), new_languages))
    learner = adapt(loaded, exported.architecture, exported.languages)
    load_export(learner, adapters)
    vocabulary = loaded.vocabulary(exported.languages)
    positions = num_positions(loaded.model.config)
    if max_length is not None and not NUM_MARKS < max_length <= positions:
        raise InputError(
            f"--max-length must be from {NUM_MARKS + 1} to the base's {positions:,} positions, but got {max_length}."
        )
    longest, cut = (max_length or positions) - NUM_MARKS, cut or CutLines()
    cut.note = _note_on(exported, Direction(*names))
    parts = [1]  # what there was room for holds for the lines that follow

    def decode(rows: list[DecodingRow], num_parts: int) -> Decoded:
        return decode_rows(
            learner,
            rows,
            tokenizer=loaded.tokenizer,
            vocabulary=vocabulary,
            languages=exported.languages,
            settings=DecodingSettings(beams=beams),
            num_parts=num_parts,
        )

    def tell(num_parts: int) -> None:
        parts.append(num_parts)
        logger.warning("Memory ran out: once more with 1/%d of a batch at once.", num_parts)

    numbered = enumerate(lines, start=1)
    while chunk := list(islice(numbered, _LINES_AT_ONCE)):
        texts = [_decode(line, number) for number, line in chunk]
        tokens = loaded.tokenizer.encode(texts)
        too_long = [number for (number, _), ids in zip(chunk, tokens, strict=True) if len(ids) > longest]
        if too_long and max_length is None:
            raise InputError(
                f"A line must have at most {longest:,} tokens, which is what the base has positions for, but longer "
                f"are lines {_listed(too_long)}. Split them, or cut them with --max-length {positions}."
            )
        cut.sources += too_long
        present = [(number, ids[:longest]) for (number, _), ids in zip(chunk, tokens, strict=True) if ids]
        rows = [DecodingRow(torch.tensor(ids).numpy(), names[0], names[1]) for _, ids in present]
        decoded = in_parts(partial(decode, rows), tell, parts[-1])
        cut.translations += [number for (number, _), is_cut in zip(present, decoded.is_cut, strict=True) if is_cut]
        remaining = iter(decoded.texts)
        yield from (next(remaining) if ids else "" for ids in tokens)


def _listed(numbers: Sequence[int]) -> str:
    """Returns the first of some numbers, and how many more there are."""
    more = len(numbers) - _MAX_LISTED
    return ", ".join(map(str, numbers[:_MAX_LISTED])) + (f" and {more:,} more" if more > 0 else "")


def _decode(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"Input must be UTF-8, but line {number} is not ({error.reason}).") from error


def _note_on(exported: ExportedAdapters, direction: Direction) -> str:
    """Returns what is to be known before a direction's translations are used."""
    if not active_adapters(exported.architecture, direction):
        return f"No adapter is for {direction}: the base alone translates."
    if exported.directions and str(direction) not in exported.directions:
        return f"The adapters were not trained on {direction}: what they say of it is zero-shot."
    return ""
