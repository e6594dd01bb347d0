import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from langsearch.data.readers import ParallelText
from langsearch.data.store import TokenStore
from langsearch.space.problems import InputError

TEXT = ParallelText(
    ("en", "sd"),
    {"en": ("one", "two words", "", "four"), "sd": ("هڪ", None, "ٽي", "one")},
    "made",
)


def byte_tokens(sentences: Sequence[str]) -> list[list[int]]:
    """UTF-8 bytes, moved up by 10 to leave room for special tokens."""
    return [[byte + 10 for byte in sentence.encode()] for sentence in sentences]


def refuse(_: Sequence[str]) -> list[list[int]]:
    raise AssertionError("tokenized again")


def build(folder: Path, text: ParallelText = TEXT, fingerprint: str = "bytes") -> TokenStore:
    return TokenStore.build(text, byte_tokens, fingerprint, folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tokens_and_text_come_back(tmp_path: Path) -> None:
    store = build(tmp_path)
    assert store.languages == ("en", "sd")
    assert store.num_sentences == 4
    assert store.tokens("en", 1).tolist() == [byte + 10 for byte in b"two words"]
    assert store.tokens("en", 1).dtype == np.int32
    assert store.text("sd", 2) == "ٽي"
    assert store.lengths("en").tolist() == [3, 9, 0, 4]
    assert store.lengths("sd").tolist() == [4, -1, 4, 3]
    assert store.lengths("sd").dtype == np.int32


def test_a_missing_sentence_is_not_read_as_an_empty_one(tmp_path: Path) -> None:
    store = build(tmp_path)
    assert store.tokens("en", 2).tolist() == []
    with pytest.raises(ValueError, match="row 1 is missing in sd"):
        store.tokens("sd", 1)
    with pytest.raises(ValueError, match="row 1 is missing in sd"):
        store.text("sd", 1)


def test_mapped_tokens_cannot_be_written(tmp_path: Path) -> None:
    store = build(tmp_path)
    with pytest.raises(ValueError, match="read-only"):
        store.tokens("en", 0)[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        store.lengths("en")[0] = 1


def test_each_sentence_is_stored_once_per_language(tmp_path: Path) -> None:
    seen: list[str] = []

    def count(sentences: Sequence[str]) -> list[list[int]]:
        seen.extend(sentences)
        return byte_tokens(sentences)

    languages = ("en", "fr", "de", "nl")
    text = ParallelText(languages, {name: tuple(f"{name}{row}" for row in range(50)) for name in languages}, "made")
    store = TokenStore.build(text, count, "bytes", tmp_path)
    # Twelve directions use these sentences, but there are 4 x 50 of them.
    assert len(seen) == len(set(seen)) == 200
    assert len(store.files) == len(list(tmp_path.iterdir())) == 4
    with pa.ipc.open_file(pa.memory_map(str(store.files["en"]))) as file:
        batch = file.get_batch(0)
        assert batch.column("text").to_pylist() == [f"en{row}" for row in range(50)]
        assert len(batch.column("tokens").values) == sum(len(f"en{row}") for row in range(50))


def test_two_builds_give_the_same_files(tmp_path: Path) -> None:
    build(tmp_path / "a")
    build(tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_whole_file_is_reused(tmp_path: Path) -> None:
    first = build(tmp_path)
    second = TokenStore.build(TEXT, refuse, "bytes", tmp_path)
    assert second.files == first.files


@pytest.mark.parametrize("change", ["text", "order", "missing", "tokenizer"])
def test_another_text_or_tokenizer_is_another_file(tmp_path: Path, change: str) -> None:
    english = {
        "text": ("one", "two words", "", "five"),
        "order": ("two words", "one", "", "four"),
        "missing": ("one", "two words", None, "four"),
        "tokenizer": TEXT.sentences["en"],
    }[change]
    before = build(tmp_path)
    changed = ParallelText(("en",), {"en": english}, "made")
    after = build(tmp_path, changed, "other" if change == "tokenizer" else "bytes")
    assert after.files["en"] != before.files["en"]


def test_languages_with_the_same_text_do_not_share_a_file(tmp_path: Path) -> None:
    text = ParallelText(("en", "../x"), {"en": ("a",), "../x": ("a",)}, "made")
    store = build(tmp_path / "store", text)
    assert {path.parent for path in store.files.values()} == {tmp_path / "store"}
    assert len(set(store.files.values())) == 2


@pytest.mark.parametrize("damage", ["empty", "torn", "foreign", "flipped", "other_arrow", "zero_tail"])
def test_a_damaged_file_is_built_anew(tmp_path: Path, damage: str) -> None:
    path = build(tmp_path).files["en"]
    whole = path.read_bytes()
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "torn":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "foreign":
        path.write_bytes(b"not an Arrow file" * 100)
    elif damage == "flipped":
        position = whole.index(b"two words")
        path.write_bytes(whole[:position] + b"X" + whole[position + 1 :])
    elif damage == "zero_tail":
        path.write_bytes(whole[:-300] + bytes(300))
    else:
        other = pa.record_batch({"x": [1]})
        with path.open("wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
            writer.write_batch(other)
    store = build(tmp_path)
    assert path.read_bytes() == whole
    assert store.tokens("en", 0).tolist() == [byte + 10 for byte in b"one"]


def test_every_torn_length_is_seen(tmp_path: Path) -> None:
    path = build(tmp_path).files["sd"]
    whole = path.read_bytes()
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        build(tmp_path)
        assert path.read_bytes() == whole, length


@pytest.mark.parametrize("damage", ["absent", "torn", "other_arrow"])
def test_open_refuses_a_damaged_file(tmp_path: Path, damage: str) -> None:
    files = build(tmp_path).files
    if damage == "absent":
        files["sd"].unlink()
    elif damage == "torn":
        files["sd"].write_bytes(files["sd"].read_bytes()[:500])
    else:
        other = pa.record_batch({"x": [1]})
        with files["sd"].open("wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
            writer.write_batch(other)
    with pytest.raises(InputError, match=r"sd-.*\.arrow: the file must be a whole token file, but got") as caught:
        TokenStore.open(files)
    assert len(caught.value.problems) == 1


def test_open_refuses_files_of_different_texts(tmp_path: Path) -> None:
    longer = ParallelText(("fr",), {"fr": ("a",) * 9}, "made")
    files = {"en": build(tmp_path).files["en"], "fr": build(tmp_path, longer).files["fr"]}
    with pytest.raises(InputError, match="must have equally many sentences"):
        TokenStore.open(files)


def test_a_build_that_dies_leaves_nothing_behind(tmp_path: Path) -> None:
    def die_in_the_second_language(sentences: Sequence[str]) -> list[list[int]]:
        if "هڪ" in sentences:
            raise KeyboardInterrupt
        return byte_tokens(sentences)

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        TokenStore.build(TEXT, die_in_the_second_language, "bytes", tmp_path)
    assert [path.name.split("-")[0] for path in tmp_path.iterdir()] == ["en"]
    assert build(tmp_path).num_sentences == 4


def test_a_write_that_fails_leaves_no_file_under_the_final_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: int) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("langsearch.data.arrow_file.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_build_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    die_before_the_rename = f"""
import os
from pathlib import Path
from langsearch.data.readers import ParallelText
from langsearch.data.store import TokenStore
os.fsync = lambda _: os.kill(os.getpid(), 9)
text = ParallelText(("en",), {{"en": {TEXT.sentences["en"]!r}}}, "made")
TokenStore.build(text, lambda rows: [[1] for _ in rows], "bytes", Path({str(tmp_path)!r}))
"""
    project = Path(__file__).parents[1]
    process = subprocess.run([sys.executable, "-c", die_before_the_rename], cwd=project, check=False)
    assert process.returncode == -9
    assert list(tmp_path.glob("*.arrow")) == []
    assert build(tmp_path).text("en", 1) == "two words"


def test_a_tokenizer_that_loses_a_sentence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a list for each of 4 sentences, but got 3"):
        TokenStore.build(TEXT, lambda sentences: byte_tokens(sentences)[1:], "bytes", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_store_crosses_processes_as_its_file_names(tmp_path: Path) -> None:
    text = ParallelText(("en",), {"en": ("word " * 100,) * 1000}, "made")
    store = build(tmp_path, text)
    data = pickle.dumps(store)
    assert len(data) < 1000
    copy = pickle.loads(data)  # noqa: S301
    assert copy.text("en", 999) == store.text("en", 999)
    assert np.array_equal(copy.tokens("en", 999), store.tokens("en", 999))


def test_a_text_without_sentences_of_a_language_can_be_stored(tmp_path: Path) -> None:
    text = ParallelText(("en", "fr"), {"en": ("a", "b"), "fr": (None, None)}, "made")
    assert build(tmp_path, text).lengths("fr").tolist() == [-1, -1]
