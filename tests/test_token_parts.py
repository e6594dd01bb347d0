"""A large store is built by several processes, in parts, and goes on where a build was killed."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from langsearch.data import store as store_module
from langsearch.data import token_parts
from langsearch.data.encoding import Encoder
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.data.token_parts import held
from langsearch.model.base import Base
from langsearch.model.splitter import Splitter

ROWS: tuple[str | None, ...] = tuple(None if row % 7 == 3 else f"sentence {row} о" for row in range(250))
TEXT = ParallelText(("en", "fr"), {"en": ROWS, "fr": tuple("x" for _ in ROWS)}, "made")


def byte_tokens(sentences: Sequence[str]) -> list[list[int]]:
    return [[byte + 10 for byte in sentence.encode()] for sentence in sentences]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MIN_FOR_PARTS", 10)
    monkeypatch.setattr(token_parts, "_ROWS_PER_BLOCK", 20)
    monkeypatch.setattr(token_parts, "_BLOCKS_PER_COMMIT", 2)


def same(one: TokenStore, other: TokenStore) -> bool:
    for language in ("en", "fr"):
        if one.lengths(language).tolist() != other.lengths(language).tolist():
            return False
        for row, sentence in enumerate(TEXT.sentences[language]):
            if sentence is not None and (
                one.text(language, row) != sentence
                or one.tokens(language, row).tolist() != other.tokens(language, row).tolist()
            ):
                return False
    return True


def test_a_store_in_parts_is_the_store_written_at_one_go(tmp_path: Path, small_parts: None) -> None:
    told: list[tuple[int, int]] = []
    parts = TokenStore.build(TEXT, byte_tokens, "f", tmp_path / "a", tell=lambda *now: told.append(now))
    assert told[0] == (0, 500) and told[-1] == (500, 500) and told == sorted(told)
    store_module.MIN_FOR_PARTS = 1000
    whole = TokenStore.build(TEXT, byte_tokens, "f", tmp_path / "b")
    assert same(parts, whole)
    assert [path.name for path in parts.files.values()] == [path.name for path in whole.files.values()]
    assert {path.name for path in (tmp_path / "a").iterdir()} == {path.name for path in parts.files.values()}
    with pytest.raises(ValueError, match="row 3 is missing in en"):
        parts.tokens("en", 3)


def test_blocks_come_back_in_order_from_several_processes() -> None:
    blocks = [[f"{number} {row}" for row in range(3)] + [None] for number in range(20)]
    with Encoder(byte_tokens, 2) as encoder:
        found = list(encoder.encode(blocks))
    assert [list(block) for block, _ in found] == blocks
    assert [ids for _, ids in found] == [byte_tokens([row for row in block if row is not None]) for block in blocks]


ORPHANS = """
import sys, time
from langsearch.data.encoding import Encoder
from tests.test_token_parts import byte_tokens
if __name__ == "__main__":
    with Encoder(byte_tokens, 2) as encoder:
        blocks = encoder.encode([str(number)] for number in range(10**9))
        next(blocks)
        print(*encoder._pool._processes, flush=True)
        time.sleep(60)
"""


def test_processes_end_with_the_one_that_they_work_for(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) >= 1
    deadline = time.monotonic() + 30
    while [number for number in children if _is_alive(number)]:
        assert time.monotonic() < deadline, "they wait for ever"
        time.sleep(0.05)


def _is_alive(number: int) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_another_process_splits_as_the_base_does(embedded_base: Base) -> None:
    splitter = pickle.loads(pickle.dumps(Splitter(embedded_base.tokenizer)))  # noqa: S301
    sentences = ["The house is old.", "Nyumba ni kubwa."]
    assert splitter(sentences) == embedded_base.tokenizer.encode(sentences)


KILLED = """
import os, signal, sys
from pathlib import Path
from langsearch.data import store, token_parts
from tests.test_token_parts import TEXT, byte_tokens
store.MIN_FOR_PARTS, token_parts._ROWS_PER_BLOCK, token_parts._BLOCKS_PER_COMMIT = 10, 20, 2
def tokenize(sentences):
    if "sentence 130 о" in sentences:
        os.kill(os.getpid(), signal.SIGKILL)
    return byte_tokens(sentences)
store.TokenStore.build(TEXT, tokenize, "f", Path(sys.argv[1]))
"""


def test_a_build_that_was_killed_goes_on_where_it_stopped(tmp_path: Path, small_parts: None) -> None:
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "a")], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    (left,) = (tmp_path / "a").glob(".en-*.parts")
    with (left / "ids").open("ab") as torn:
        torn.write(b"torn")
    seen: list[str] = []

    def tokenize(sentences: Sequence[str]) -> list[list[int]]:
        seen.extend(sentences)
        return byte_tokens(sentences)

    store = TokenStore.build(TEXT, tokenize, "f", tmp_path / "a")
    assert seen[0] == "sentence 120 о", "six blocks of twenty were whole"
    assert same(store, TokenStore.build(TEXT, byte_tokens, "f", tmp_path / "b"))
    assert not list((tmp_path / "a").glob(".*"))


def test_parts_that_nobody_has_gone_on_with_for_a_week_are_removed_unless_held(
    tmp_path: Path, small_parts: None
) -> None:
    now = time.time()
    days_by_name = {".en-1.arrow.parts": 8, ".en-2.arrow.parts": 6, ".en-3.arrow.parts": 8}
    for name, days in days_by_name.items():
        with held(tmp_path / name):
            (tmp_path / name / "ids").write_bytes(b"torn")
        for path in (*(tmp_path / name).iterdir(), tmp_path / name):
            os.utime(path, (now - days * 86400,) * 2)
    for name, days in ((f".en-4.arrow.{32 * '0'}", 8), (f".en-5.arrow.{32 * '0'}", 6), ("en-6.arrow", 8)):
        (tmp_path / name).write_bytes(b"torn")
        os.utime(tmp_path / name, (now - days * 86400,) * 2)
    with held(tmp_path / ".en-3.arrow.parts"):
        files = TokenStore.build(TEXT, byte_tokens, "f", tmp_path).files.values()
    left = {path.name for path in tmp_path.iterdir()} - {path.name for path in files}
    assert left == {".en-2.arrow.parts", ".en-3.arrow.parts", f".en-5.arrow.{32 * '0'}", "en-6.arrow"}
    TokenStore.build(TEXT, byte_tokens, "f", tmp_path)
    assert not (tmp_path / ".en-3.arrow.parts").exists(), "held no longer"
