"""What `langsearch check` says of the sentences: what parts have in common, and what is wrong with them."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any

from rich.table import Table

from langsearch.data.dirt import KINDS, MAX_SHARE, MAX_SPLIT
from langsearch.experiment.dirt import MAX_LOOKED_AT, Filtered, FoundDirt, look_at, worst_kind
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.leaks import describe_overlap, language_pairs
from langsearch.experiment.lengths import Lengths
from langsearch.experiment.printable import printable
from langsearch.search.swapped_lines import find_swapped_in, swapped_words

_MAX_WORST = 12
"""So many languages' worst sentences are shown at most; --json has all."""

_MAX_QUOTED = 60

_HEADINGS = {"copies": "copies", "script": "other script", "unknown": "unknown pieces", "lengths": "lengths"}

_WORDS = {
    "copies": "of the sentences of {language} are the same text as their translation",
    "script": "of the sentences of {language} are mostly in another script",
    "lengths": "of the sentences of {language} are three times too long or too short for their translation",
}


def find_dirt_of(checked: CheckedSpace) -> FoundDirt:
    """Returns what is wrong with the sentences of a space, after its filter."""
    pairs = language_pairs(checked.space, checked.directions)
    found = look_at(checked.corpus.parts, pairs, checked.base_tokenizer.unknown_shares)
    return replace(found, swapped=tuple(find_swapped_in(checked)))


def sentence_lines(checked: CheckedSpace, dirt: FoundDirt) -> Iterator[tuple[str, str]]:
    """Yields a label and a text for all that is to be told; nothing where nothing is."""
    for overlap in checked.overlaps:
        yield "overlap", describe_overlap(checked.space, overlap, checked.corpus, max_places=1)
    if checked.filtered is not None:
        yield "filter", describe_filtered(checked.filtered)
    if checked.lengths.num_left_out or checked.lengths.num_cut:
        yield "lengths", _show_lengths(checked.lengths)
    for text in swapped_words(checked, dirt.swapped):
        yield "warning", text
    for language in checked.space.languages:
        for kind in _WORDS:  # unknown pieces have a warning of their own
            if (share := dirt.share(language, kind)) > MAX_SHARE:
                told = _WORDS[kind].format(language=language)
                way_out = f"Mend them, or leave them out of training: data.filter: {{{kind}: true}}."
                yield "warning", f"{_percent(share)} {told}, more than {100 * MAX_SHARE:g} %. {way_out}"


def dirt_table(checked: CheckedSpace, dirt: FoundDirt) -> Table | None:
    """Returns which share of each language's sentences has each kind of fault; None if none has any."""
    table = Table(
        box=None,
        pad_edge=False,
        title="sentences with faults, in % of a language's sentences",
        title_justify="left",
        title_style="bold",
    )
    table.add_column("language")
    for heading in _HEADINGS.values():
        table.add_column(heading, justify="right")
    for language in checked.space.languages:
        if worst_kind(dirt, language) is not None:
            table.add_row(language, *(_percent(dirt.share(language, kind)) for kind in KINDS))
    if not table.row_count:
        return None
    if any(num > MAX_LOOKED_AT for num in dirt.num_rows.values()):
        table.caption = f"of {MAX_LOOKED_AT:,} rows of each part at most, evenly spaced"
    return table


def worst_lines(checked: CheckedSpace, dirt: FoundDirt) -> Iterator[tuple[str, str]]:
    """Yields a label and the worst sentence of each of the languages with the most faults, with its line."""
    kinds = {language: worst_kind(dirt, language) for language in checked.space.languages}
    found = [(dirt.share(language, kind), language, kind) for language, kind in kinds.items() if kind is not None]
    for _, language, kind in sorted(found, key=lambda item: -item[0])[:_MAX_WORST]:
        yield "worst", f"{language}, {_HEADINGS[kind]}: {describe_worst(checked, dirt, language, kind)}"


def describe_sentences(checked: CheckedSpace, dirt: FoundDirt) -> Mapping[str, Any]:
    """Returns the same as JSON data."""
    return {
        "overlaps": [
            {"part": overlap.part, "other": overlap.other, "rows": len(overlap.rows), "share": overlap.share}
            for overlap in checked.overlaps
        ],
        "filtered": asdict(checked.filtered) if checked.filtered is not None else None,
        "lengths": asdict(checked.lengths),
        "swapped": [asdict(found) for found in dirt.swapped],
        "faults": {
            language: {
                kind: {
                    "sentences": dirt.num(language, kind),
                    "share": dirt.share(language, kind),
                    "worst": describe_worst(checked, dirt, language, kind),
                }
                for kind in KINDS
                if dirt.num(language, kind)
            }
            for language in checked.space.languages
        },
        "split_into_pieces": MAX_SPLIT,
    }


def describe_worst(checked: CheckedSpace, dirt: FoundDirt, language: str, kind: str) -> str:
    """Returns where the worst sentence with a kind of fault was written, and how it begins."""
    found = dirt.worst(language, kind)
    assert found is not None
    part, row, _ = found
    place = checked.corpus.place(checked.space.data, part, language, row)
    text = checked.corpus.parts[part].sentences[language][row] or ""
    return f"{place}: {textwrap.shorten(printable(text), _MAX_QUOTED)}"


def describe_filtered(filtered: Filtered) -> str:
    """Returns what is left out of training, in a line."""
    kinds = [
        f"{kind} {', '.join(f'{language} {num:,}' for language, num in by_language.items())}"
        for kind, by_language in filtered.num_left_out.items()
    ]
    rows = f"{filtered.num_rows:,} rows are left out of training"
    return f"{filtered.num_sentences:,} sentences ({'; '.join(kinds) or 'none has a fault'}); {rows}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %" if share else ""


def _show_lengths(lengths: Lengths) -> str:
    """Returns what is left out and cut for its length, in a line."""
    of_base = " (the base's positions)" if lengths.max_length == lengths.positions else ""
    text = f"{lengths.num_left_out:,} sentences above {lengths.max_length:,} tokens{of_base} are not trained on"
    return f"{text} · {lengths.num_cut:,} are cut before they are translated" if lengths.num_cut else text
