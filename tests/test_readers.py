import re
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.data.embedded import PARTS, part_rows, read_embedded
from langsearch.data.lines import MAX_CHARACTERS, read_lines
from langsearch.data.readers import (
    ParallelText,
    available_languages,
    concatenate,
    read_source,
    read_sources,
)
from langsearch.space.problems import InputError
from langsearch.space.settings import Source, SourceKind


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def files_source(folder: Path) -> Source:
    return Source(kind="files", path=str(folder), split=None)


def problems_of(source: Source, *languages: str) -> tuple[str, ...]:
    with pytest.raises(InputError, match=r".") as caught:
        read_source(source, languages)
    return caught.value.problems


# Lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\ntwo", ["one", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"\xef\xbb\xbfone\n", ["one"]),
        ("a\u2028b\x0cc\x85d\n".encode(), ["a\u2028b\x0cc\x85d"]),
        ("e\u0301 \u00e9\n".encode(), ["e\u0301 \u00e9"]),
        (b"one\n\n", ["one", ""]),
    ],
    ids=["plain", "no_last_line_end", "crlf", "byte_order_mark", "unicode_separators", "not_normalized", "empty_last"],
)
def test_only_line_feeds_end_a_line_and_text_stays_as_it_is(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    assert read_lines(write(tmp_path, {"x.txt": data}) / "x.txt") == lines


def test_broken_utf8_is_named_by_file_line_and_byte(tmp_path: Path) -> None:
    write(tmp_path, {"en.txt": "a\nb\n", "fr.txt": b"a\nb\xe9c\n"})
    assert problems_of(files_source(tmp_path), "en", "fr") == (
        f"{tmp_path}/fr.txt:2: text must be UTF-8, but got 0xe9 at byte 2 of the line. Save the file as UTF-8",
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf16_with_a_byte_order_mark_is_read(tmp_path: Path, encoding: str) -> None:
    mark = "" if encoding == "utf-16" else "\ufeff"  # Python writes the mark with the first alone
    path = write(tmp_path, {"en.txt": f"{mark}h\u00e9\r\nb\r\n".encode(encoding)}) / "en.txt"
    assert read_lines(path) == ["h\u00e9", "b"]


# One file per language


def test_files_are_read_by_row(tmp_path: Path) -> None:
    folder = write(tmp_path, {"en.txt": "one\ntwo\n", "fr.txt": "un\r\ndeux", "de.txt": "eins\n"})
    text = read_source(files_source(folder), ["fr", "en"])
    assert text.languages == ("fr", "en")
    assert dict(text.sentences) == {"fr": ("un", "deux"), "en": ("one", "two")}
    assert len(text) == 2


def test_files_named_in_another_code_family_are_found(tmp_path: Path) -> None:
    folder = write(tmp_path, {"eng_Latn.txt": "one\n", "fra.txt": "un\n"})
    text = read_source(files_source(folder), ["en", "fr"])
    assert text.sentences["en"] == ("one",)
    assert text.sentences["fr"] == ("un",)


def test_unequal_line_counts_name_both_counts(tmp_path: Path) -> None:
    write(tmp_path, {"en.txt": "a\nb\nc\n", "fr.txt": "a\nb\n", "de.txt": "a\nb\nc\n"})
    assert problems_of(files_source(tmp_path), "fr", "en", "de") == (
        f"{tmp_path}: line n must be the same sentence in every file, but en.txt has 3 lines and fr.txt has 2",
    )


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "en.txt": "a\n\nc\n",
            "fr.txt": "",
            "de.txt": "a\nb\n" + "x" * (MAX_CHARACTERS + 1) + "\n",
            "nl.txt": "a\n \u3000\nc\nd\n",
            "es.txt": b"a\n\xff\nc\n",
        },
    )
    problems = problems_of(files_source(tmp_path), "en", "fr", "de", "nl", "es", "cyy", "cy")
    assert problems == (
        f"{tmp_path}: a file for cyy must exist. Valid: de, en, es, fr, nl.",
        f"{tmp_path}: a file for cy must exist. Valid: de, en, es, fr, nl.",
        f"{tmp_path}/en.txt:2: a sentence must not be empty. Remove the row from all languages",
        f"{tmp_path}/fr.txt: the file must hold one sentence a line, but is empty",
        f"{tmp_path}/de.txt:3: a sentence must have at most 20,000 characters, but has 20,001. "
        "Is a line break missing?",
        f"{tmp_path}/nl.txt:2: a sentence must not be empty. Remove the row from all languages",
        f"{tmp_path}/es.txt:2: text must be UTF-8, but got 0xff at byte 1 of the line. Save the file as UTF-8",
        f"{tmp_path}: line n must be the same sentence in every file, but en.txt has 3 lines and nl.txt has 4",
    )


def test_many_problems_of_one_file_are_counted(tmp_path: Path) -> None:
    write(tmp_path, {"en.txt": "\n" * 1200, "fr.txt": "a\n" * 1200})
    problems = problems_of(files_source(tmp_path), "en", "fr")
    assert len(problems) == 5
    assert problems[-1].endswith("en.txt:5: a sentence must not be empty. Remove the row from all languages "
                                 "(and 1,195 more like this)")  # fmt: skip


def test_a_missing_file_names_near_ones(tmp_path: Path) -> None:
    write(tmp_path, {"eng.txt": "a\n", "fra.txt": "a\n"})
    with pytest.raises(InputError, match=r"a file for enx must exist\. Did you mean eng\?"):
        read_source(files_source(tmp_path), ["enx", "fra"])


def test_a_missing_folder_names_near_ones(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    with pytest.raises(InputError, match=r"corpsu: the folder must exist, but does not\. Did you mean corpus\?"):
        read_source(files_source(tmp_path / "corpsu"), ["en"])


# FLORES


@pytest.mark.parametrize("kind", ["flores101", "flores200"])
@pytest.mark.parametrize(
    "names",
    [
        ("eng.dev", "zho_simpl.dev", "nob.dev"),
        ("eng_Latn.dev", "zho_Hans.dev", "nob_Latn.dev"),
        ("eng.txt", "zho_simpl.txt", "nob.txt"),
        ("en.txt", "zh.txt", "no.txt"),
    ],
    ids=["official_101", "official_200", "plain", "named_by_the_space"],
)
def test_every_flores_layout_is_read(tmp_path: Path, kind: SourceKind, names: tuple[str, ...]) -> None:
    write(tmp_path / "dev", {name: f"{number}\n" for number, name in enumerate(names)})
    source = Source(kind=kind, path=str(tmp_path), split="dev")
    text = read_source(source, ["en", "zh", "no"])
    assert dict(text.sentences) == {"en": ("0",), "zh": ("1",), "no": ("2",)}


def test_flores_prefers_the_official_layout_of_its_kind(tmp_path: Path) -> None:
    write(tmp_path / "devtest", {"eng.devtest": "101\n", "eng_Latn.devtest": "200\n", "eng.txt": "plain\n"})
    kinds: dict[SourceKind, str] = {"flores101": "101", "flores200": "200"}
    for kind, expected in kinds.items():
        source = Source(kind=kind, path=str(tmp_path), split="devtest")
        assert read_source(source, ["en"]).sentences["en"] == (expected,)


def test_flores_problems_name_what_was_tried(tmp_path: Path) -> None:
    write(tmp_path / "dev", {"eng.dev": "a\n", "fra.dev": "a\n"})
    source = Source(kind="flores101", path=str(tmp_path), split="dev")
    assert problems_of(source, "en", "wo", "klingon") == (
        f"{tmp_path}/dev: a file for wo must exist, but none is named wol.dev, wol_Latn.dev, wo.dev, wol.txt, "
        "wol_Latn.txt, wo.txt. Valid: eng, fra.",
        f"{tmp_path}/dev: a file for klingon must exist, but none is named klingon.dev, klingon.txt. Valid: eng, fra.",
    )
    with pytest.raises(InputError, match=r"devtst: the folder must exist, but does not\. Did you mean dev\?"):
        read_source(Source(kind="flores101", path=str(tmp_path), split="devtst"), ["en"])


@pytest.mark.shared
@pytest.mark.parametrize(("split", "num_sentences"), [("dev", 997), ("devtest", 1012)])
def test_real_flores_has_its_published_sizes(shared_folder: Path, split: str, num_sentences: int) -> None:
    # 997 and 1,012: Goyal et al. 2021 (arXiv 2106.03193), section 3.
    source = Source(kind="flores101", path=str(shared_folder / "data/flores101"), split=split)
    twelve = ["en", "fr", "it", "de", "nl", "zh", "ja", "ko", "oc", "or", "sd", "wo"]
    text = read_source(source, twelve)
    assert len(text) == num_sentences
    assert text.languages == tuple(twelve)
    if split == "dev":
        assert (text.sentences["en"][0] or "").startswith("On Monday, scientists from the Stanford University")


# TSV


def tsv_source(tmp_path: Path, content: str) -> Source:
    return Source(kind="tsv", path=str(write(tmp_path, {"x.tsv": content}) / "x.tsv"), split=None)


def test_tsv_takes_quotes_as_plain_text(tmp_path: Path) -> None:
    source = tsv_source(tmp_path, '\ufeffen\tfr\r\n"Hi", he said.\t"Salut\r\n\'a\'\t""b""\r\n')
    text = read_source(source, ["en", "fr"])
    assert dict(text.sentences) == {"en": ('"Hi", he said.', "'a'"), "fr": ('"Salut', '""b""')}


def test_tsv_rows_of_unequal_width_are_named_by_line(tmp_path: Path) -> None:
    source = tsv_source(tmp_path, "en\tfr\na\tb\na\na\tb\tc\n")
    assert problems_of(source, "en", "fr") == (
        f"{tmp_path}/x.tsv:3: a row must have 2 columns like the header, but has 1",
        f"{tmp_path}/x.tsv:4: a row must have 2 columns like the header, but has 3",
    )


def test_tsv_empty_cells_matter_only_in_the_languages_asked_for(tmp_path: Path) -> None:
    source = tsv_source(tmp_path, "en\tfr\tde\na\tb\t\nc\t\td\n")
    assert problems_of(source, "en", "fr") == (
        f"{tmp_path}/x.tsv:3: column fr: a sentence must not be empty. Remove the row from all languages",
    )
    assert read_source(source, ["en"]).sentences["en"] == ("a", "c")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en\tfr\n", "the table must have rows below its header, but has none"),
        ("en\ten\na\tb\n", "column names must differ, but got en more than once"),
        ("en\t\na\tb\n", "every column must have a name in the header"),
        ("en\tfrr\na\tb\n", r"a column for fra must exist\. Did you mean frr\?"),
        ("", "the file must hold one sentence a line, but is empty"),
    ],
)
def test_tsv_headers_are_checked(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_source(tsv_source(tmp_path, content), ["en", "fra" if "frr" in content else "en"])


# Parquet


def parquet_source(tmp_path: Path, table: pa.Table) -> Source:
    pq.write_table(table, tmp_path / "x.parquet")
    return Source(kind="parquet", path=str(tmp_path / "x.parquet"), split=None)


def test_parquet_nulls_are_missing_sentences(tmp_path: Path) -> None:
    french = pa.array(["un", None]).dictionary_encode()
    source = parquet_source(tmp_path, pa.table({"eng": ["one", "two"], "fr": french, "source": ["x", "y"]}))
    text = read_source(source, ["en", "fr"])
    assert dict(text.sentences) == {"en": ("one", "two"), "fr": ("un", None)}


def test_parquet_problems_come_at_once(tmp_path: Path) -> None:
    source = parquet_source(tmp_path, pa.table({"en": ["a", ""], "fr": [1, 2], "de": ["a\nb", "c"]}))
    path = tmp_path / "x.parquet"
    assert problems_of(source, "en", "fr", "de", "nl") == (
        f"{path}: a column for nl must exist. Valid: en, fr, de.",
        f"{path}: column en, row 1 (from 0): a sentence must not be empty. Remove the row from all languages",
        f"{path}: column fr: a language must be a column of text, but got int64",
        f"{path}: column de, row 0 (from 0): a sentence must be one line, but holds a line break",
    )


def test_parquet_with_broken_utf8_is_refused(tmp_path: Path) -> None:
    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0")
    broken = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(b"\xff")])
    source = parquet_source(tmp_path, pa.table({"en": broken}))
    with pytest.raises(InputError, match=r"column en: text must be UTF-8, but got: .*0xff"):
        read_source(source, ["en"])


def test_a_torn_parquet_file_is_refused(tmp_path: Path) -> None:
    source = parquet_source(tmp_path, pa.table({"en": ["a"] * 100}))
    path = tmp_path / "x.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"x\.parquet: the file must be readable Parquet"):
        read_source(source, ["en"])


@pytest.mark.shared
def test_real_parquet_corpora_are_read(shared_folder: Path) -> None:
    path = shared_folder / "data/corpora/eng-wol.parquet"
    text = read_source(Source(kind="parquet", path=str(path), split=None), ["en", "wo"])
    assert len(text) == pq.read_metadata(path).num_rows


# Embedded


def test_embedded_parts_have_their_fixed_sizes_and_share_no_row() -> None:
    rows = {part: part_rows(part, 520) for part in PARTS}
    assert {part: len(found) for part, found in rows.items()} == {"train": 364, "validation": 52, "test": 104}
    assert sorted(row for found in rows.values() for row in found) == list(range(520))
    assert rows["test"][:3] == [4, 9, 14]
    assert rows["validation"][:3] == [0, 10, 20]


def test_embedded_quickstart_is_whole() -> None:
    languages = ["en", "fr", "de", "es", "nl", "id", "sw", "cy"]
    parts = {part: read_embedded("quickstart", part, languages) for part in PARTS}
    assert {part: len(text) for part, text in parts.items()} == {"train": 364, "validation": 52, "test": 104}
    assert parts["validation"].sentences["en"][0] == "The queue reached all the way to the entrance."
    assert parts["train"].sentences["cy"][0] == "Pam mae cerflun o geffyl yn y parc?"
    for language in languages:
        train, test = (set(parts[part].sentences[language]) for part in ("train", "test"))
        assert len(train & test) <= 1, language


def test_embedded_is_a_source_with_codes_of_any_family() -> None:
    source = Source(kind="embedded", path="quickstart", split="test")
    assert read_source(source, ["eng", "swh"]).sentences["swh"] == read_source(source, ["sw"]).sentences["sw"]


@pytest.mark.parametrize(
    ("name", "part", "language", "message"),
    [
        ("quickstrat", "train", "en", "must be one of quickstart, but got 'quickstrat'"),
        ("quickstart", "dev", "en", "must be one of train, validation, test, but got 'dev'"),
        ("quickstart", "train", "wo", "must have the language, but got 'wo'"),
    ],
)
def test_unknown_embedded_names_list_the_known(name: str, part: str, language: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_embedded(name, part, [language])


# Several sources, and the value


def test_several_sources_stand_one_below_the_other(tmp_path: Path) -> None:
    first = files_source(write(tmp_path / "a", {"en.txt": "one\n", "fr.txt": "un\n"}))
    second = files_source(write(tmp_path / "b", {"en.txt": "two\n", "de.txt": "zwei\n"}))
    text = read_sources([first, second], ["de", "en", "fr"])
    assert text.languages == ("de", "en", "fr")
    assert dict(text.sentences) == {"de": (None, "zwei"), "en": ("one", "two"), "fr": ("un", None)}
    assert available_languages(second, ["de", "en", "fr"]) == ("de", "en")


def test_a_language_in_no_source_is_a_problem(tmp_path: Path) -> None:
    first = files_source(write(tmp_path / "a", {"en.txt": "one\n", "fr.txt": "un\n"}))
    second = files_source(write(tmp_path / "b", {"en.txt": "two\n", "de.txt": "zwei\n"}))
    with pytest.raises(InputError, match=r"must be in a source, but none has nl, cy"):
        read_sources([first, second], ["de", "en", "fr", "nl", "cy"])
    with pytest.raises(InputError, match=r"b: a file for fr must exist"):
        read_sources([first, second], ["en", "fr"])


def test_select_and_concatenate_keep_rows_aligned() -> None:
    first = ParallelText(("en", "fr"), {"en": ("a", "b", "c"), "fr": ("A", None, "C")}, "x")
    assert first.select(range(1, 3)) == ParallelText(("en", "fr"), {"en": ("b", "c"), "fr": (None, "C")}, "x")
    second = ParallelText(("de",), {"de": ("D",)}, "y")
    joined = {"en": ("a", "b", "c", None), "fr": ("A", None, "C", None), "de": (None, None, None, "D")}
    assert concatenate([first, second]) == ParallelText(("en", "fr", "de"), joined, "x + y")


def test_a_text_with_unequal_columns_cannot_be_made() -> None:
    with pytest.raises(ValueError, match=re.escape("equally many rows, but got {'en': 1, 'fr': 2}")):
        ParallelText(("en", "fr"), {"en": ("a",), "fr": ("a", "b")}, "x")
