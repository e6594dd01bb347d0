"""What `langsearch check` says of columns that look like another language than they are said to be in."""

from collections.abc import Iterator, Sequence

from langsearch.data.readers import column_names
from langsearch.data.swapped import Place, Swapped, find_swapped, known_profiles, profiles
from langsearch.experiment.corpus import sources_by_part
from langsearch.experiment.environment import CheckedSpace
from langsearch.space.document import show_path
from langsearch.space.settings import Source


def find_swapped_in(checked: CheckedSpace) -> list[Swapped]:
    """Returns the columns of a space's sources that look like another of its languages."""
    corpus = checked.corpus
    columns = {
        (part, index): profiles(text, rows)
        for part, text in corpus.parts.items()
        for index, rows in enumerate(corpus.rows_of_sources(part))
    }
    return find_swapped(columns, known_profiles(checked.space.languages))


def swapped_words(checked: CheckedSpace, found: Sequence[Swapped]) -> Iterator[str]:
    """Yields a sentence for each source with such columns: which they are, and what to change."""
    by_place: dict[Place, list[Swapped]] = {}
    for one in found:
        by_place.setdefault(one.place, []).append(one)
    for (part, index), columns in by_place.items():
        source = sources_by_part(checked.space.data)[part][index]
        draft = checked.space.draft
        where = f"{draft.where_part(part, index)}: `{show_path(draft.part_path(part, index))}`"
        told: set[str] = set()
        for one in columns:
            if one.language in told:
                continue
            is_pair = one.is_exchange or any(
                (other.language, other.like) == (one.like, one.language) for other in columns
            )
            told |= {one.language, one.like} if is_pair else {one.language}
            looks = f"the column of {one.language} looks like {one.like}"
            if is_pair:
                looks += f", and that of {one.like} does not: they seem to be swapped"
            yield f"{where}: in {source}, {looks}. {_way_out(checked, source, one)}"


def _way_out(checked: CheckedSpace, source: Source, found: Swapped) -> str:
    """Returns what to change in the space, or in the files, if the other column is this language's."""
    pair = {found.language: found.like, found.like: found.language}
    if source.header:
        header = ", ".join(pair.get(name, name) for name in source.header)
        return f"If so, write `header: [{header}]`."
    if source.kind in ("files", "flores101", "flores200", "embedded"):
        return "If so, rename the files."
    names = column_names(source, checked.space.languages)
    if not pair.keys() <= names.keys():
        return "Say which column is which by `columns`."
    columns = ", ".join(f"{language}: {names[pair.get(language, language)]}" for language in names)
    return f"If so, write `columns: {{{columns}}}`."
