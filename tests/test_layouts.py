"""Public data sets in the layouts that they are published in, and several files in one source."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.data.readers import find_place, read_parts
from langsearch.space.problems import InputError
from langsearch.space.settings import Source
from tests.format_fixtures import PAIRS, column, gz, hub_records, refusal, rows_of, text_of, write

EN, SW = column(0), column(1)


def test_moses_files_lie_beside_each_other(tmp_path: Path) -> None:
    write(tmp_path, {"train.en-sw.en": EN, "train.en-sw.sw": SW, "dev.en-sw.en": "x\n", "dev.en-sw.sw": "y\n"})
    assert rows_of(text_of("moses", tmp_path / "train.en-sw")) == list(PAIRS)
    assert rows_of(text_of("moses", tmp_path / "train.en-sw.sw")) == list(PAIRS)
    source = Source("moses", str(tmp_path / "train.en-sw"), None)
    assert find_place([source], ("en", "sw"), "sw", 1) == f"{tmp_path}/train.en-sw.sw:2"


def test_an_unpacked_archive_of_opus_is_a_folder(tmp_path: Path) -> None:
    names = ("GlobalVoices.en-sw.en", "GlobalVoices.en-sw.sw", "GlobalVoices.en-sw.xml", "README", "LICENSE")
    write(tmp_path / "o", dict(zip(names, (EN, SW, "<x/>", "r", "l"), strict=True)))
    assert rows_of(text_of("moses", tmp_path / "o")) == list(PAIRS)
    (line,) = read_parts([Source("moses", str(tmp_path / "o"), None)], ("en", "sw")).lines
    assert line == f"moses in {tmp_path}/o: 1 file, 2 rows"


def test_sides_called_src_and_tgt_are_named_by_the_space(tmp_path: Path) -> None:
    write(tmp_path, {"train.src": EN, "train.tgt": SW})
    with pytest.raises(InputError, match=r"say which is which: `columns: \{en: src, sw: tgt\}`"):
        text_of("moses", tmp_path / "train")
    assert rows_of(text_of("moses", tmp_path / "train", columns=(("en", "src"), ("sw", "tgt")))) == list(PAIRS)


def test_a_folder_with_parts_of_the_same_languages_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", {"train.en": EN, "train.sw": SW, "test.en": EN, "test.sw": SW})
    assert refusal("moses", tmp_path / "d") == (
        "d: a folder must hold one bitext of the same languages, but has test, train. Name those that are meant, such "
        "as d/test"
    )


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (
            "d/trian",
            "trian: a bitext must be files such as trian.en and trian.sw, but there are none. Did you mean train?",
        ),
        ("e", "e: a folder of bitexts must hold files such as a.en and a.sw, but there are none"),
        ("d/q*", "q*: a pattern must find files, but finds none. Relative paths count from"),
    ],
)
def test_a_bitext_that_is_not_there_is_named(tmp_path: Path, path: str, problem: str) -> None:
    write(tmp_path, {"d/train.en": EN, "d/train.sw": SW, "e/one.en": EN})
    assert refusal("moses", tmp_path / path).startswith(problem)


def test_moses_files_with_unequal_lines_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {"train.en": EN, "train.sw": SW + "x\n"})
    problem = refusal("moses", tmp_path / "train")
    assert problem.endswith(
        "line n must be the same sentence in every file, but train.en has 2 lines and train.sw has 3"
    )


def test_the_tatoeba_challenge_says_the_languages_of_each_line(tmp_path: Path) -> None:
    ids = "OPUS-a\teng\tswh\nOPUS-b\teng\tswc\nOPUS-c\teng\tswh\n"
    write(tmp_path, {"train.src.gz": gz("a\nb\nc\n"), "train.trg.gz": gz("A\nB\nC\n"), "train.id.gz": gz(ids)})
    source = Source("moses", str(tmp_path / "train"), None)
    assert rows_of(read_parts([source], ("en", "sw")).text) == [("a", "A"), ("b", None), ("c", "C")]
    assert find_place([source], ("en", "sw"), "sw", 2) == f"{tmp_path}/train.trg.gz:3"
    write(tmp_path, {"dev.src": "a\n", "dev.trg": "A\n", "dev.id": "eng\tswh_Latn\n"})
    assert rows_of(text_of("moses", tmp_path / "dev")) == [("a", "A")]
    write(tmp_path, {"dev.id": "eng\n"})
    assert refusal("moses", tmp_path / "dev") == (
        "dev.id:1: a line must end with the languages of both sides, but got ['eng']"
    )


def test_opus100_is_parquet_by_pair_and_split(tmp_path: Path) -> None:
    for pair in ("en-sw", "en-fr"):
        src, _, tgt = pair.partition("-")
        (tmp_path / pair).mkdir()
        for part in range(2):
            table = pa.table({"translation": [{src: f"{pair}{part}", tgt: "x"}]})
            pq.write_table(table, tmp_path / pair / f"train-0000{part}-of-00002.parquet")
    text = text_of("parquet", f"{tmp_path}/*/train-*.parquet", "en", "fr", "sw")
    assert rows_of(text) == [("en-fr0", "x", None), ("en-fr1", "x", None), ("en-sw0", None, "x"), ("en-sw1", None, "x")]


def test_flores200_is_read_as_published_and_compressed(tmp_path: Path) -> None:
    write(tmp_path, {"dev/eng_Latn.dev": EN, "dev/swh_Latn.dev.gz": gz(SW)})
    assert rows_of(text_of("flores200", tmp_path, split="dev")) == list(PAIRS)
    assert rows_of(text_of("files", f"{tmp_path}/dev/*.dev*")) == list(PAIRS)


def test_ntrex_has_the_code_inside_its_names(tmp_path: Path) -> None:
    names = ("newstest2019-src.eng.txt", "newstest2019-ref.swa.txt", "newstest2019-ref.snd-Arab.txt", "x.fra-CA.txt")
    write(tmp_path, dict(zip(names, (EN, SW, EN, EN), strict=True)))
    text = text_of("files", f"{tmp_path}/newstest2019-*.txt", "en", "sw", "sd")
    assert [row[:2] for row in rows_of(text)] == list(PAIRS)
    write(tmp_path, {"newstest2019-ref.eng.txt": EN})
    with pytest.raises(
        InputError, match=r"each language must have one file, but eng has newstest2019-ref\.eng\.txt and"
    ):
        text_of("files", f"{tmp_path}/newstest2019-*.txt", "en", "sw")


def test_nllb_seed_names_its_files_by_the_code_alone(tmp_path: Path) -> None:
    write(
        tmp_path, {"eng_Latn-swh_Latn/eng_Latn": EN, "eng_Latn-swh_Latn/swh_Latn": SW, "eng_Latn-fur_Latn/LICENSE": "x"}
    )
    write(tmp_path, {"eng_Latn-fur_Latn/eng_Latn": "a\n", "eng_Latn-fur_Latn/fur_Latn": "b\n"})
    assert rows_of(text_of("files", tmp_path / "eng_Latn-swh_Latn")) == list(PAIRS)
    text = text_of("files", f"{tmp_path}/eng_Latn-*", "en", "sw", "fur")
    assert rows_of(text) == [("a", None, "b"), *[(en, sw, None) for en, sw in PAIRS]]


def test_mafand_is_records_in_a_file_called_json(tmp_path: Path) -> None:
    write(tmp_path, {"en-swa/train.json": hub_records(), "en-swa/test.json": "{}\n"})
    assert rows_of(text_of("jsonl", f"{tmp_path}/en-*/train.json")) == list(PAIRS)


def test_masakhane_tables_have_the_quotes_of_pandas(tmp_path: Path) -> None:
    rows = 'eng\tswa\nThe boat is late.\tMashua imechelewa.\n"She said ""no""."\t"Alisema ""hapana""."\n'
    assert rows_of(text_of("tsv", write(tmp_path, {"test.tsv": rows}) / "test.tsv")) == list(PAIRS)


def test_files_of_a_list_are_shards_or_sides(tmp_path: Path) -> None:
    write(tmp_path, {"a.tsv": "en\tsw\na\tb\n", "b.tsv": "sw\ten\nd\tc\n", "en.txt": EN, "k/sw.txt": SW, "sw.txt": SW})
    shards = Source("tsv", str(tmp_path / "a.tsv"), None, (str(tmp_path / "b.tsv"),))
    read = read_parts([shards], ("en", "sw"))
    assert rows_of(read.text) == [("a", "b"), ("c", "d")]
    assert read.lines == (f"tsv in {tmp_path}/a.tsv, {tmp_path}/b.tsv: 2 files, 2 rows",)
    assert find_place([shards], ("en", "sw"), "en", 1) == f"{tmp_path}/b.tsv:2: column en"
    sides = Source("files", str(tmp_path / "en.txt"), None, (str(tmp_path / "sw.txt"),))
    assert rows_of(read_parts([sides], ("en", "sw")).text) == list(PAIRS)


def test_what_a_pattern_finds_without_two_of_the_languages_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, {"a.tsv": "en\tsw\na\tb\n", "b.tsv": "en\tfr\na\tb\n"})
    read = read_parts([Source("tsv", f"{tmp_path}/*.tsv", None)], ("en", "sw"))
    assert read.lines == (f"tsv in {tmp_path}/*.tsv: 1 of 2 files, 1 row",)
    with pytest.raises(InputError, match=r"b\.tsv: a column for sw must exist") as caught:
        read_parts([Source("tsv", f"{tmp_path}/a.tsv", None, (f"{tmp_path}/b.tsv",))], ("en", "sw"))
    assert len(caught.value.problems) == 1
    with pytest.raises(
        InputError, match=r"\*\.tsv: a source must have two of the languages or more, but no file of it"
    ):
        read_parts([Source("tsv", f"{tmp_path}/*.tsv", None)], ("de", "nl"))


def test_all_problems_of_all_files_come_at_once(tmp_path: Path) -> None:
    write(tmp_path, {"a.tsv": "en\tsw\na\t\n", "b.tsv": "en\tsw\na\tb\tc\n", "c.tsv": b"en\tsw\n\xff\tb\n"})
    with pytest.raises(InputError, match=r".") as caught:
        text_of("tsv", f"{tmp_path}/*.tsv")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [f"{tmp_path}/c.tsv:2"]
    (tmp_path / "c.tsv").unlink()
    with pytest.raises(InputError, match=r".") as caught:
        text_of("tsv", f"{tmp_path}/*.tsv")
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        f"{tmp_path}/a.tsv:2",
        f"{tmp_path}/b.tsv:2",
    ]


def test_a_table_that_starts_with_sentences_is_asked_for_its_header_once(tmp_path: Path) -> None:
    write(tmp_path, {"train.en-de.tsv": "Nobody saw the old dog.\tNiemand sah den alten Hund.\na b c\td e f\n"})
    path = tmp_path / "train.en-de.tsv"
    for columns in ((), (("en", "english"), ("de", "german"))):
        with pytest.raises(InputError) as caught:
            read_parts([Source("tsv", str(path), None, columns=columns)], ("sw", "de", "en", "cy"))
        (problem,) = caught.value.problems
        assert problem == (
            f"{path}: the first row must name the columns, but looks like sentences: 'Nobody saw the old dog.'. "
            "Without such a row say beside the file what they are, in their order: `header: [en, de]`"
        )
    read = read_parts([Source("tsv", str(path), None, header=("en", "de"))], ("en", "de"))
    assert len(read.text) == 2
