"""Tokenises the public corpora of the eight languages for pretraining: `python -m tests.benchmarks.tiny_base.pairs`.

What it writes needs neither a tokenizer nor Parquet to be read, so that a machine with a GPU needs torch alone.
"""

import argparse
import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import sentencepiece

from langsearch.data.embedded import embedded_file
from langsearch.model.finding import EMBEDDED_FOLDER

SHARED = Path(__file__).parents[4] / "shared"
CORPORA = {"fr": "fra", "de": "deu", "es": "spa", "nl": "nld", "id": "ind", "sw": "swh", "cy": "cym"}
LANGUAGES = ("en", *CORPORA)
MAX_PIECES = 120
MAX_LENGTH_RATIO = 2.5
_SPARE_PIECES = 8
"""Two short sentences may differ by as many pieces whatever their ratio."""

HELD_OUT_SHARE = 0.01


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the corpora, drops what is no translation or is tested on, and writes ids and pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("to", type=Path, help="the file to write, about 30 MB: pairs.npz")
    parser.add_argument("--corpora", type=Path, default=SHARED / "data" / "corpora")
    given = parser.parse_args(arguments)
    pieces = _Pieces(EMBEDDED_FOLDER / "tiny-m2m")
    seen = {_key(line) for line in _test_sentences()}
    sentences: dict[str, dict[str, int]] = {language: {} for language in LANGUAGES}
    rows, dropped = [], {"tested on": 0, "equal sides": 0, "lengths": 0, "twice": 0}
    sources: dict[str, int] = {}
    for language, code in CORPORA.items():
        for english, other, source in _rows(given.corpora / f"eng-{code}.parquet", code):
            if _key(english) in seen or _key(other) in seen:
                dropped["tested on"] += 1
            elif _key(english) == _key(other):
                dropped["equal sides"] += 1
            elif not _fit(len(pieces.ids(english)), len(pieces.ids(other))):
                dropped["lengths"] += 1
            else:
                numbers = [sentences["en"], sentences[language]]
                indices = [
                    known.setdefault(text, len(known)) for known, text in zip(numbers, (english, other), strict=True)
                ]
                rows.append((LANGUAGES.index(language), *indices, sources.setdefault(source, len(sources))))
    unique = sorted(set(rows))
    dropped["twice"] = len(rows) - len(unique)
    pairs = np.array(unique, dtype=np.int32)
    held_out = np.array([_is_held_out(text) for text in sentences["en"]])
    arrays: dict[str, np.ndarray] = {"pairs": pairs, "held_out": held_out[pairs[:, 1]]}
    for language in LANGUAGES:
        ids = [pieces.ids(text) for text in sentences[language]]
        arrays[f"ids_{language}"] = np.array([index for row in ids for index in row], dtype=np.uint16)
        arrays[f"lengths_{language}"] = np.array([len(row) for row in ids], dtype=np.uint16)
    about = {"languages": LANGUAGES, "sources": list(sources), "tokens": pieces.language_ids()}
    np.savez_compressed(given.to, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]
    print(f"{len(pairs)} pairs, {int(arrays['held_out'].sum())} of them held out; dropped: {dropped}")


def _rows(path: Path, code: str) -> Iterator[tuple[str, str, str]]:
    columns = pq.read_table(path, columns=["eng", code, "source"]).to_pydict()
    for english, other, source in zip(columns["eng"], columns[code], columns["source"], strict=True):
        yield unicodedata.normalize("NFC", english).strip(), unicodedata.normalize("NFC", other).strip(), source


def _test_sentences() -> Iterator[str]:
    for line in embedded_file("quickstart").read_text(encoding="utf-8").splitlines()[1:]:
        yield from line.split("\t")
    flores = SHARED / "data" / "flores101"
    for path in sorted(flores.glob("dev*/*.txt")):
        yield from path.read_text(encoding="utf-8").splitlines()


def _key(text: str) -> str:
    """Returns a sentence without case, marks of punctuation and spaces."""
    return "".join(letter for letter in unicodedata.normalize("NFKC", text).casefold() if letter.isalnum())


def _fit(first: int, second: int) -> bool:
    short, long = sorted((first, second))
    return short > 0 and long <= MAX_PIECES and long <= MAX_LENGTH_RATIO * short + _SPARE_PIECES


def _is_held_out(english: str) -> bool:
    digest = blake2b(_key(english).encode(), digest_size=4).digest()
    return int.from_bytes(digest) < HELD_OUT_SHARE * 2**32


class _Pieces:
    """The base's SentencePiece model, with the ids of its vocab.json."""

    def __init__(self, folder: Path) -> None:
        self._model = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
        self._ids: Mapping[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        self._known: dict[str, tuple[int, ...]] = {}
        self._folder = folder

    def ids(self, text: str) -> tuple[int, ...]:
        """Returns the ids of a sentence's pieces, without language and end."""
        if text not in self._known:
            pieces = self._model.encode(text, out_type=str)
            self._known[text] = tuple(self._ids.get(piece, self._ids["<unk>"]) for piece in pieces)
        return self._known[text]

    def language_ids(self) -> dict[str, int]:
        """Returns the id of each language's token."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self._folder)
        return {language: int(tokenizer.get_lang_id(language)) for language in LANGUAGES}


if __name__ == "__main__":
    main()
