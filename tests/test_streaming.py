"""However a large text lies, it is read as a stream: what is held at once is a small part of it."""

import gzip
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from langsearch.data import jsonl, tables, tmx
from langsearch.data import sentences as sentences_module
from langsearch.data.readers import read_source
from langsearch.space.languages import find_language
from langsearch.space.settings import Source

NUM_ROWS = 15_000
ENGLISH = [f"{row} {'the house is very large and old ' * 12}".strip() for row in range(NUM_ROWS)]
FRENCH = [f"{row} {'la maison est fort grande et vieille ' * 12}".strip() for row in range(NUM_ROWS)]
NUM_BYTES = sum(map(len, ENGLISH)) + sum(map(len, FRENCH))


def table(folder: Path) -> Source:
    rows = "".join(f"{en}\t{fr}\n" for en, fr in zip(ENGLISH, FRENCH, strict=True))
    (folder / "t.tsv").write_text(f"en\tfr\n{rows}", encoding="utf-8")
    return Source("tsv", str(folder / "t.tsv"), None)


def excel_table(folder: Path) -> Source:
    rows = "".join(f'"{en} ""x"""\t{fr}\n' for en, fr in zip(ENGLISH, FRENCH, strict=True))
    (folder / "t.tsv").write_text(f"en\tfr\n{rows}", encoding="utf-8")
    return Source("tsv", str(folder / "t.tsv"), None)


def compressed_table(folder: Path) -> Source:
    path = Path(str(table(folder).path))
    (folder / "t.tsv.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    return Source("tsv", f"{path}.gz", None)


def compressed_bitext(folder: Path) -> Source:
    for language, sentences in (("en", ENGLISH), ("fr", FRENCH)):
        text = "".join(f"{sentence}\n" for sentence in sentences)
        (folder / f"a.{language}.gz").write_bytes(gzip.compress(text.encode(), 1))
    return Source("moses", str(folder / "a"), None)


def labelled_bitext(folder: Path) -> Source:
    texts = {"src": ENGLISH, "trg": FRENCH, "id": ["x\ten\tfr"] * NUM_ROWS}
    for ending, lines in texts.items():
        (folder / f"train.{ending}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Source("moses", str(folder / "train"), None)


def records(folder: Path) -> Source:
    lines = (f'{{"en": "{en}", "id": {len(en)}, "fr": "{fr}"}}\n' for en, fr in zip(ENGLISH, FRENCH, strict=True))
    (folder / "t.jsonl").write_text("".join(lines), encoding="utf-8")
    return Source("jsonl", str(folder / "t.jsonl"), None)


def memory(folder: Path) -> Source:
    variant = '<tuv xml:lang="{}"><seg>{}</seg></tuv>'.format
    units = (f"<tu>{variant('en', en)}{variant('fr', fr)}</tu>\n" for en, fr in zip(ENGLISH, FRENCH, strict=True))
    (folder / "t.tmx").write_text(f"<tmx><body>{''.join(units)}</body></tmx>", encoding="utf-8")
    return Source("tmx", str(folder / "t.tmx"), None)


@pytest.mark.parametrize(
    "write", [table, excel_table, compressed_table, compressed_bitext, labelled_bitext, records, memory]
)
def test_a_text_is_not_held_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Source]
) -> None:
    for limit in ("MAX_BYTES_IN_MEMORY", "_BYTES_PER_BLOCK"):
        monkeypatch.setattr(sentences_module, limit, 1 << 18)
    blocks = ((sentences_module, "_ROWS_PER_BLOCK"), (tables, "_ROWS_AT_ONCE"), (jsonl, "_ROWS_AT_ONCE"))
    for module, limit in (*blocks, (tmx, "_UNITS_AT_ONCE")):
        monkeypatch.setattr(module, limit, 1_000)
    source = write(tmp_path)
    find_language("en")  # reads its table, which is no part of the text
    tracemalloc.start()
    try:
        text = read_source(source, ("en", "fr"))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    marked = [f'{sentence} "x"' for sentence in ENGLISH] if write is excel_table else ENGLISH
    assert text.sentences["en"] == marked and text.sentences["fr"] == FRENCH
    assert most < 0.5 * NUM_BYTES, f"{most / NUM_BYTES:.2f} of the text"
