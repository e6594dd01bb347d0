"""The data sets that come with the package. Origin, licence and limits: the cards in `embedded/`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from langsearch.data.parallel import ParallelText
from langsearch.data.tables import read_tsv, tsv_columns
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError, near_names

NAMES: Final = ("quickstart",)
PARTS: Final = ("train", "validation", "test")


def embedded_file(name: str) -> Path:
    """Returns the TSV file of an embedded data set. Raises InputError if there is none of this name."""
    if name not in NAMES:
        raise InputError(f"An embedded data set must be one of {', '.join(NAMES)}, but got {name!r}")
    return Path(__file__).parent / "embedded" / f"{name}.tsv"


def part_rows(part: str, num_rows: int) -> list[int]:
    """Returns the rows of one part: of ten rows, the 5th and the 10th are test, the 1st is validation, 7 are train.

    Raises:
        InputError: If the part is not one of `PARTS`.
    """
    if part not in PARTS:
        raise InputError(f"The part of an embedded data set must be one of {', '.join(PARTS)}, but got {part!r}")
    return [row for row in range(num_rows) if _part_of(row) == part]


def read_embedded(name: str, part: str, languages: Sequence[str]) -> ParallelText:
    """Returns one part of an embedded data set.

    Args:
        name: One of `NAMES`.
        part: One of `PARTS`.
        languages: Codes of any family.

    Raises:
        InputError: If the name or the part is unknown, or the data set lacks a language.
    """
    path = embedded_file(name)
    known = tsv_columns(path)
    columns, problems = {}, []
    for language in languages:
        try:
            columns[language] = match_code(language, known)
        except InputError:
            rule = f"The embedded data set {name} must have the language, but got {language!r}."
            problems.append(rule + near_names(language, known))
    if problems:
        raise InputError(problems)
    sentences = read_tsv(path, columns)
    rows = part_rows(part, len(next(iter(sentences.values()), ())))
    return ParallelText(tuple(languages), sentences, f"embedded {name}, {part}").select(rows)


def _part_of(row: int) -> str:
    if row % 5 == 4:
        return "test"
    return "validation" if row % 10 == 0 else "train"
