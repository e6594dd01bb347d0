"""How much better one base translates than another: `python -m tests.benchmarks.tiny_base.compare base/`.

Greedy, all 56 directions, with both bases' sentences the same: 100 rows of the embedded sentences, and of FLORES-101's
devtest where it lies beside the project. spBLEU by the base's own SentencePiece model, which is a stand-in.
"""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from langsearch.adapters.learners import FullModel
from langsearch.data.directions import Direction, all_directions
from langsearch.data.embedded import embedded_file
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.data.tables import read_tsv
from langsearch.evaluate.evaluation import evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu, find_tokenizer
from langsearch.model.base import load_base
from langsearch.model.finding import EMBEDDED_FOLDER
from langsearch.space.settings import DecodingSettings
from tests.benchmarks.tiny_base.pairs import LANGUAGES, SHARED

FLORES_CODES = {
    "en": "eng", "fr": "fra", "de": "deu", "es": "spa", "nl": "nld", "id": "ind", "sw": "swh", "cy": "cym"
}  # fmt: skip
SENTENCES = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table: for both bases the mean spBLEU from English, into it, and between the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bases", nargs="+", help="folders or embedded names; each is compared with the embedded one")
    given = parser.parse_args(arguments)
    table = Table("text", "base", "from English", "into English", "other 42", "all 56")
    for name, text in _texts().items():
        for base in dict.fromkeys(["tiny-m2m", *given.bases]):
            spbleu = _spbleu(base, text)
            table.add_row(name, base, *(f"{value:.2f}" for value in _means(spbleu)))
            for direction, score in spbleu.items():
                print(name, base, direction, f"{score:.2f}", flush=True)
    Console(width=100).print(table)


def _texts() -> dict[str, ParallelText]:
    lines = read_tsv(embedded_file("quickstart"), {code: code for code in LANGUAGES})
    texts = {"quickstart": ParallelText(LANGUAGES, {code: tuple(lines[code]) for code in LANGUAGES}, "quickstart")}
    flores = SHARED / "data" / "flores101" / "devtest"
    if flores.is_dir():
        published = {
            code: tuple((flores / f"{FLORES_CODES[code]}.txt").read_text(encoding="utf-8").splitlines())
            for code in LANGUAGES
        }
        texts["FLORES-101 devtest"] = ParallelText(LANGUAGES, published, "FLORES-101 devtest")
    return texts


def _spbleu(name: str, text: ParallelText) -> Mapping[Direction, float]:
    base = load_base(name)
    vocabulary, directions = base.vocabulary(LANGUAGES), all_directions(LANGUAGES)
    with tempfile.TemporaryDirectory() as folder:
        rows = text.select(range(SENTENCES))
        store = TokenStore.build(rows, base.tokenizer.encode, base.tokenizer.fingerprint, Path(folder))
        settings = DecodingSettings()
        data = evaluation_set(store, directions, settings, {"all": LANGUAGES}, vocabulary)
        scorer = SpBleu(find_tokenizer("base", EMBEDDED_FOLDER / "tiny-m2m" / "sentencepiece.bpe.model"))
        scores = evaluate(FullModel(base), data, settings, base.tokenizer, scorer).scores
    return {score.direction: score.spbleu for score in scores.by_direction}


def _means(spbleu: Mapping[Direction, float]) -> tuple[float, float, float, float]:
    out = [score for direction, score in spbleu.items() if direction.src == "en"]
    into = [score for direction, score in spbleu.items() if direction.tgt == "en"]
    others = [score for direction, score in spbleu.items() if "en" not in (direction.src, direction.tgt)]
    return tuple(float(np.mean(scores)) for scores in (out, into, others, list(spbleu.values())))  # type: ignore[return-value]


if __name__ == "__main__":
    main()
