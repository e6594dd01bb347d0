"""Every format that text is read from, and the sentence that what is not read gets."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.data.readers import find_place, read_parts
from langsearch.space.problems import InputError
from langsearch.space.settings import Source, SourceKind
from tests.format_fixtures import (
    PAIRS,
    column,
    gz,
    hub_records,
    refusal,
    rows_of,
    save_dataset,
    text_of,
    tmx,
    write,
    zstd,
)

TSV = "en\tsw\n" + "".join(f"{en}\t{sw}\n" for en, sw in PAIRS)
EXCEL = 'en\tsw\nThe boat is late.\tMashua imechelewa.\n"She said ""no""."\t"Alisema ""hapana""."\n'
UNITS = "\n".join(
    f'<tu><tuv xml:lang="en-US"><seg>{en}</seg></tuv>\n<tuv xml:lang="sw"><seg>{sw}</seg></tuv></tu>'
    for en, sw in PAIRS
)


# Compressed files and encodings


@pytest.mark.parametrize(("pack", "ending"), [(gz, "gz"), (zstd, "zst")])
@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [("tsv", "x.tsv", TSV), ("jsonl", "x.jsonl", hub_records()), ("tmx", "x.tmx", tmx(UNITS))],
)
def test_compressed_tables_are_read(
    tmp_path: Path, pack: Callable[[str], bytes], ending: str, kind: SourceKind, name: str, text: str
) -> None:
    path = write(tmp_path, {f"{name}.{ending}": pack(text)}) / f"{name}.{ending}"
    read = read_parts([Source(kind, str(path), None)], ("en", "sw"))
    assert rows_of(read.text) == list(PAIRS)
    assert read.lines == (f"{kind} in {path}: 2 rows, compressed",)


def test_compressed_files_of_a_folder_are_read_and_a_plain_one_wins(tmp_path: Path) -> None:
    write(tmp_path, {"en.txt.gz": gz(column(0)), "sw.txt.zst": zstd("x\ny\n"), "sw.txt": column(1)})
    assert rows_of(text_of("files", tmp_path)) == list(PAIRS)
    (line,) = read_parts([Source("files", str(tmp_path), None)], ("en", "sw")).lines
    assert line == f"files in {tmp_path}: 2 rows, compressed"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (gz(TSV)[:-9], "x.tsv: the file must be whole, but cannot be unpacked: Compressed file ended before"),
        (zstd(TSV)[:-2], "x.tsv: the file must be whole, but cannot be unpacked: Truncated compressed stream"),
        (
            b"PK\x03\x04xl",
            "x.tsv: a file must be plain, .gz or .zst, but this is a ZIP archive or a spreadsheet. Unpack",
        ),
        (b"BZh91AY&SYxx", "x.tsv: a file must be plain, .gz or .zst, but this is bzip2. Unpack it"),
        (TSV.encode("utf-16")[:-1], "x.tsv:3: text must be UTF-16 as its byte order mark says, but got truncated data"),
        (
            TSV.encode("utf-16-le"),
            "x.tsv: text must be UTF-8, but this looks like UTF-16 without a byte order mark. Save",
        ),
        (TSV.encode("utf-32"), "x.tsv: text must be UTF-8 or UTF-16, but this is UTF-32. Save the file as UTF-8"),
        (
            TSV.replace("\n", "\r").encode(),
            "x.tsv: lines must end in a line feed (Unix) or CR LF (Windows), but end in CR",
        ),
        (TSV.encode("cp1252").replace(b"late", b"l\xe2te"), "x.tsv:2: text must be UTF-8, but got 0xe2 at byte 14 of"),
    ],
    ids=["torn_gz", "torn_zst", "zip", "bzip2", "torn_utf16", "bare_utf16", "utf32", "old_mac", "cp1252"],
)
def test_what_is_damaged_or_encoded_otherwise_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    assert refusal("tsv", write(tmp_path, {"x.tsv": data}) / "x.tsv").startswith(problem)


def test_a_plain_file_that_is_called_compressed_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {"x.tsv.gz": TSV})
    assert refusal("tsv", tmp_path / "x.tsv.gz") == (
        "x.tsv.gz: a file that ends in .gz must be compressed so, but is not. Rename it"
    )


def test_excels_unicode_text_is_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.txt": EXCEL.replace("\n", "\r\n").encode("utf-16")}) / "x.txt"
    assert rows_of(text_of("tsv", path)) == list(PAIRS)
    (line,) = read_parts([Source("tsv", str(path), None)], ("en", "sw")).lines
    assert line == f"tsv in {path}: 2 rows, UTF-16, quotes undone, as Excel and pandas write them"


# Quotes in tables


def test_quotes_of_excel_and_pandas_are_undone(tmp_path: Path) -> None:
    assert rows_of(text_of("tsv", write(tmp_path, {"x.tsv": EXCEL}) / "x.tsv")) == list(PAIRS)


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (
            EXCEL + 'He said "yes".\tAlisema ndiyo.\n',
            "x.tsv: quotes must be written in one way, but line 3 has a cell in quotes with doubled ones "
            "inside, as Excel and pandas write it, and line 4 has quotes as plain text. Write `quotes: excel` or "
            "`quotes: plain` beside the file.",
        ),
        (
            'en\tsw\n"Yes, a boat."\t"Ndiyo, mashua."\nA boat.\tMashua.\n"No, a car."\tGari.\n',
            "x.tsv: quotes must be part of the sentences, but all 3 cells with a comma stand in quotes, and "
            "no other cell does, as Excel writes them (first in line 2). Write `quotes: excel` or `quotes: plain` "
            "beside the file.",
        ),
        (
            EXCEL + '"Two\nlines ""here""."\tMistari.\n',
            "x.tsv:4: a sentence must be one line, but a cell in quotes holds a line break",
        ),
    ],
    ids=["mixed", "commas", "line_break"],
)
def test_quotes_that_are_not_clear_are_refused(tmp_path: Path, rows: str, problem: str) -> None:
    assert refusal("tsv", write(tmp_path, {"x.tsv": rows}) / "x.tsv") == problem


def test_the_space_can_say_what_quotes_are(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.tsv": EXCEL}) / "x.tsv"
    assert text_of("tsv", path, quotes="plain").sentences["en"][1] == '"She said ""no""."'
    path.write_text('en\tsw\n"Yes, a boat."\tNdiyo.\n')
    assert text_of("tsv", path, quotes="excel").sentences["en"] == ("Yes, a boat.",)
    path.write_text('en\tsw\n"Yes" he said.\tNdiyo.\n')
    assert refusal("tsv", path, quotes="excel").startswith("x.tsv:2: quotes must be closed and doubled as Excel writes")


# Names of columns


def test_columns_by_the_names_of_languages_are_told_their_codes(tmp_path: Path) -> None:
    names = write(tmp_path, {"names.tsv": "English\tFrench\nx\ty\n"}) / "names.tsv"
    with pytest.raises(InputError, match=r".") as caught:
        text_of("tsv", names, "en", "de", "fra_Latn")
    assert caught.value.problems == (
        f"{names}: columns must be called by codes, but 'English' and 'French' are names and no codes: call them en "
        "and fra_Latn, or write `columns: {en: English, fra_Latn: French}`.",
    ), "and nothing of German, which another file may have"
    path = write(tmp_path, {"x.tsv": "English\tFrench\tsw\na\tb\tc\n"}) / "x.tsv"
    with pytest.raises(InputError, match=r".") as caught:
        text_of("tsv", path, "en", "fra_Latn", "sw")
    assert caught.value.problems == (
        f"{path}: a column for en must exist. 'English' is a name and no code: call it en, or write "
        "`columns: {en: English}`.",
        f"{path}: a column for fra_Latn must exist. 'French' is a name and no code: call it fra_Latn, or write "
        "`columns: {fra_Latn: French}`.",
    )
    columns = (("en", "English"), ("fr", "French"), ("sw", "sw"))
    assert rows_of(text_of("tsv", path, "en", "fr", "sw", columns=columns)) == [("a", "b", "c")]


def test_columns_that_are_no_codes_are_named_by_the_space(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.tsv": "source\ttarget\na\tb\n"}) / "x.tsv"
    with pytest.raises(InputError, match=r"say which is which: `columns: \{en: source, sw: target\}`"):
        text_of("tsv", path)
    assert rows_of(text_of("tsv", path, columns=(("en", "source"), ("sw", "target")))) == [("a", "b")]
    with pytest.raises(InputError, match=r"a column 'sorce' must exist, as `columns` says\. Did you mean source\?"):
        text_of("tsv", path, columns=(("en", "sorce"), ("sw", "target")))


def test_a_table_without_a_header_gets_one_from_the_space(tmp_path: Path) -> None:
    path = write(tmp_path, {"x.tsv": "0.9\ta\tb\n0.8\tc\td\n"}) / "x.tsv"
    source = Source("tsv", str(path), None, header=("score", "en", "sw"))
    assert rows_of(read_parts([source], ("en", "sw")).text) == [("a", "b"), ("c", "d")]
    assert find_place([source], ("en", "sw"), "sw", 1) == f"{path}:2: column sw"


# JSON


@pytest.mark.parametrize(
    "text",
    [
        hub_records(),
        "".join(json.dumps({"id": 7, "en": en, "swh": sw}) + "\n" for en, sw in PAIRS),
        json.dumps([{"en": en, "sw": sw} for en, sw in PAIRS], indent=1),
    ],
    ids=["hub", "named", "list"],
)
def test_records_of_json_are_read(tmp_path: Path, text: str) -> None:
    assert rows_of(text_of("jsonl", write(tmp_path, {"x.json": text}) / "x.json")) == list(PAIRS)


def test_a_field_that_a_record_lacks_is_a_missing_sentence(tmp_path: Path) -> None:
    lines = ['{"en": "a", "sw": "b"}', '{"en": "c", "fr": "d"}', '{"en": "e", "sw": null, "fr": "f"}']
    text = text_of("jsonl", write(tmp_path, {"x.jsonl": "\n".join(lines)}) / "x.jsonl", "en", "sw", "fr")
    assert rows_of(text) == [("a", "b", None), ("c", None, "d"), ("e", None, "f")]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"en": "a", "sw": "b"}\n{"en": "c"\n', "x.jsonl:2: a line must be a JSON object, but got: Expecting"),
        ('{"en": "a", "sw": "b"}\n["c"]\n', "x.jsonl:2: a line must be a JSON object, but got: list instead of"),
        ('{"en": "a", "en": "b"}\n', "x.jsonl:1: a line must be a JSON object, but got: a field stands twice"),
        ('{"en": "a", "sw": 3}\n', "x.jsonl:1: field sw: a sentence must be text, but got int"),
        ('{"en": "a", "sw": ""}\n', "x.jsonl:1: field sw: a sentence must not be empty."),
    ],
)
def test_wrong_records_are_named_by_line(tmp_path: Path, text: str, problem: str) -> None:
    assert refusal("jsonl", write(tmp_path, {"x.jsonl": text}) / "x.jsonl").startswith(problem)


# Parquet and data sets of the hub

TRANSLATION = [{"en": en, "sw": sw} for en, sw in PAIRS]


def test_parquet_of_the_hub_has_one_column_of_both_sides(tmp_path: Path) -> None:
    pq.write_table(pa.table({"translation": TRANSLATION}), tmp_path / "train-00000-of-00001.parquet")
    assert rows_of(text_of("parquet", tmp_path / "train-00000-of-00001.parquet")) == list(PAIRS)


@pytest.mark.parametrize(
    "columns", [{"translation": TRANSLATION}, dict(zip(("en", "sw"), zip(*PAIRS, strict=True), strict=True))]
)
@pytest.mark.parametrize("num_shards", [1, 2])
def test_a_saved_data_set_is_read(tmp_path: Path, columns: dict[str, list[object]], num_shards: int) -> None:
    assert rows_of(text_of("datasets", save_dataset(tmp_path / "d", columns, num_shards))) == list(PAIRS)


def test_a_saved_dict_of_data_sets_is_read_by_its_split(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save_dataset(tmp_path / "d" / split, {"translation": TRANSLATION})
    write(tmp_path / "d", {"dataset_dict.json": '{"splits": ["train", "test"]}'})
    assert rows_of(text_of("datasets", tmp_path / "d", split="test")) == list(PAIRS)
    rule = "d: the split of a DatasetDict must be named, but got"
    assert refusal("datasets", tmp_path / "d") == f"{rule} none. Write `split: train` or another of train, test."
    assert refusal("datasets", tmp_path / "d", split="tset") == f"{rule} tset. Did you mean test?"


def test_what_is_no_whole_data_set_is_refused(tmp_path: Path) -> None:
    folder = save_dataset(tmp_path / "d", {"translation": TRANSLATION}, 2)
    shard = folder / "data-00001-of-00002.arrow"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    assert "data-00001-of-00002.arrow: the file must be readable Arrow, but got:" in refusal("datasets", folder)
    shard.unlink()
    assert refusal("datasets", folder) == (
        "d: all files of a data set must be there, but data-00001-of-00002.arrow is missing"
    )
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "../secret.arrow"}]}))
    assert "`_data_files` must list files of the folder, but got [{'filename': '../secret.arrow'}]" in refusal(
        "datasets", folder
    )
    (folder / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    assert "Call `flatten_indices()` before `save_to_disk`" in refusal("datasets", folder)
    (folder / "state.json").unlink()
    assert "there is neither a state.json nor a dataset_dict.json" in refusal("datasets", folder)


# Translation memories


def test_a_translation_memory_is_read(tmp_path: Path) -> None:
    units = [
        UNITS,
        '<tu><tuv xml:lang="sw"><seg>Bonyeza <bpt i="1">&lt;b&gt;</bpt>hapa<ept i="1">&lt;/b&gt;</ept>.</seg></tuv>',
        '<tuv xml:lang="en-US"><seg>Click\n     here &amp; there.</seg></tuv>',
        '<tuv xml:lang="en-US"><seg>Press here.</seg></tuv></tu>',
        '<tu><tuv xml:lang="fr"><seg>Un bateau.</seg></tuv></tu>',
    ]
    head = '<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'
    path = write(tmp_path, {"x.tmx": tmx("\n".join(units), head)}) / "x.tmx"
    expected = [*PAIRS, ("Click here & there.", "Bonyeza hapa."), (None, None)]
    assert rows_of(text_of("tmx", path)) == expected
    source = Source("tmx", str(path), None)
    assert read_parts([source], ("en", "sw")).lines == (
        f"tmx in {path}: 4 rows, further variants of a unit in one language left out: 1",
    )
    assert find_place([source], ("en", "sw"), "sw", 2) == f"{path}:8: sw"


BOMB = '<!DOCTYPE tmx [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]>\n'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (tmx(UNITS, BOMB), "x.tmx:2: a translation memory must not declare or use entities of its own"),
        (
            tmx(UNITS, '<!DOCTYPE tmx [<!ENTITY f SYSTEM "file:///etc/passwd">]>\n'),
            "x.tmx:2: a translation memory must not",
        ),
        (
            tmx('<tu><tuv xml:lang="en"><seg>a &who; b</seg></tuv></tu>', '<!DOCTYPE tmx SYSTEM "t.dtd">\n'),
            "x.tmx:4: a tr",
        ),
        (tmx("<tu><tuv"), "x.tmx:4: a translation memory must be XML, but got: not well-formed"),
        (tmx("<tu><tuv><seg>a</seg></tuv></tu>"), "x.tmx:3: a <seg> must stand in a <tu> and a <tuv> with an xml:lang"),
        (
            tmx('<tu><tuv xml:lang="en"><seg> </seg></tuv><tuv xml:lang="sw"><seg>a</seg></tuv></tu>'),
            "x.tmx:3: en: a sent",
        ),
    ],
    ids=["bomb", "outside_file", "outside_entity", "torn", "no_language", "empty"],
)
def test_wrong_translation_memories_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    assert refusal("tmx", write(tmp_path, {"x.tmx": text}) / "x.tmx").startswith(problem)


# Wrong endings


@pytest.mark.parametrize(
    ("kind", "name", "problem"),
    [
        (
            "tsv",
            "x.xlsx",
            "x.xlsx: a tsv source must end in .tsv or .txt or .tab, also with .gz or .zst behind it, but this ends in "
            ".xlsx. Save or unpack it as one of those",
        ),
        (
            "tsv",
            "x.jsonl.gz",
            "x.jsonl.gz: a tsv source must end in .tsv or .txt or .tab, also with .gz or .zst behind it, but this ends "
            "in .jsonl. Write {jsonl: x.jsonl.gz}",
        ),
        ("parquet", "x.arrow", "x.arrow: a parquet source must end in .parquet, but this ends in .arrow. Write {data"),
        ("jsonl", "x.json.bz2", "x.json.bz2: a jsonl source must end in .jsonl or .json or .ndjson, also with .gz or"),
        ("tmx", "absent.tmx", "absent.tmx: the file must exist, but does not. Relative paths count from"),
        (
            "tsv",
            "x.csv",
            "x.csv: a tab must separate the cells, but the first line has none, and has ','. Save the table",
        ),
    ],
)
def test_a_wrong_ending_says_which_are_read(tmp_path: Path, kind: str, name: str, problem: str) -> None:
    write(tmp_path, {"x.csv": "en,sw\na,b\n"})
    assert refusal(kind, tmp_path / name).startswith(problem)


def test_a_folder_without_text_says_which_endings_are_read(tmp_path: Path) -> None:
    write(tmp_path / "d", {"en.docx": "x", "sw.docx": "x"})
    assert refusal("files", tmp_path / "d") == (
        "d: a file must be there for each language, as CODE.txt, CODE.txt.gz, CODE.txt.zst, but got en.docx, sw.docx"
    )
    pq.write_table(pa.table({"en": ["a"]}), tmp_path / "d" / "x.parquet")
    assert refusal("parquet", tmp_path / "d").startswith(
        "d: a parquet source must be a file, but this is a folder. Write"
    )
