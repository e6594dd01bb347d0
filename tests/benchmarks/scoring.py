"""What spBLEU of many directions costs, with its intervals; run it by `python -m tests.benchmarks.scoring`.

A multi-parallel set of so many languages and sentences: sentences of the quickstart's, put together at random to about
25 words, and hypotheses that lack a fifth of the words. Directions are scored as an evaluation does it, all in one call
on one thread, and a few of them by sacreBLEU's `corpus_score` on the same pieces, with its bootstrap of as many
resamples, for the ratio. CPU seconds; making the sentences is not counted.
"""

import argparse
import json
import random
import time
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
from sacrebleu.metrics import BLEU

from langsearch.data.directions import all_directions
from langsearch.data.embedded import read_embedded
from langsearch.evaluate.spbleu import NUM_BOOTSTRAP, SpBleu, find_tokenizer
from langsearch.model.finding import EMBEDDED_FOLDER

_EMBEDDED = ("cy", "de", "en", "es", "fr", "id", "nl", "sw")
_WORDS = 25
_SPM = EMBEDDED_FOLDER / "tiny-m2m" / "sentencepiece.bpe.model"


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--languages", type=int, default=30, help="all directions between so many")
    parser.add_argument("--sentences", type=int, default=1_012)
    parser.add_argument("--peer-directions", type=int, default=3, help="directions that sacreBLEU scores too")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    names = [f"l{index:02}" for index in range(arguments.languages)]
    text = {name: _sentences(index, arguments.sentences) for index, name in enumerate(names)}
    directions = all_directions(names)
    hypotheses = {direction: _spoiled(text[direction.tgt], str(direction)) for direction in directions}
    references = {direction: text[direction.tgt] for direction in directions}
    some = directions[:: max(len(directions) // arguments.peer_directions, 1)][: arguments.peer_directions]

    spbleu = SpBleu(find_tokenizer("base", _SPM))
    began = time.process_time()
    scores = spbleu.score(hypotheses, references)
    ours = time.process_time() - began
    began = time.process_time()
    theirs = [_by_sacrebleu(hypotheses[direction], references[direction]) for direction in some]
    peer = (time.process_time() - began) / len(some)
    by_direction = {score.direction: score.spbleu for score in scores.by_direction}
    assert all(abs(by_direction[one] - value) < 1e-6 for one, value in zip(some, theirs, strict=True))
    each = ours / len(directions)
    print(
        f"{len(directions)} directions of {arguments.sentences:,} sentences: {ours:.1f} CPU s, {1e3 * each:.0f} ms each"
    )
    print(f"sacreBLEU on the same pieces: {1e3 * peer:.0f} ms each, {peer / each:.1f} x as long")
    if arguments.json:
        figures = {"directions": len(directions), "seconds": ours, "sacrebleu_seconds_each": peer}
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _sentences(seed: int, num: int) -> list[str]:
    code = _EMBEDDED[seed % len(_EMBEDDED)]
    words = " ".join(filter(None, read_embedded("quickstart", "train", (code, "en")).sentences[code])).split()
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(_WORDS // 2, 3 * _WORDS // 2))) for _ in range(num)]


def _spoiled(sentences: Sequence[str], seed: str) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(word for word in sentence.split() if rng.random() > 0.2) or sentence for sentence in sentences]


def _by_sacrebleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(_SPM))
    pieces = [[" ".join(processor.encode(text, out_type=str)) for text in side] for side in (hypotheses, references)]
    return float(
        BLEU(tokenize="none", force=True).corpus_score(pieces[0], [pieces[1]], n_bootstrap=NUM_BOOTSTRAP).score
    )


if __name__ == "__main__":
    main()
