"""spBLEU: BLEU over SentencePiece pieces, by sacreBLEU, with its signature and interval.

Goyal et al. 2022 (FLORES-101, arXiv 2106.03193, section 5). Every score is sacreBLEU's; here pieces are made,
statistics gathered by sentence, as sacreBLEU would, and directions averaged.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import sentencepiece
from sacrebleu.metrics import BLEU
from sacrebleu.utils import SACREBLEU_DIR

from langsearch.data.directions import Direction, class_pair
from langsearch.evaluate.ngrams import Ids, match_statistics, scores_of
from langsearch.space.problems import InputError

NUM_BOOTSTRAP = 500
"""Resamples of an interval."""

_MODEL_FILES = {"flores101": "sacrebleu_tokenizer_spm.model", "flores200": "flores200sacrebleuspm"}
"""Where sacreBLEU keeps its models: $SACREBLEU/models/FILE."""


@dataclass(frozen=True)
class ScoreTokenizer:
    """What splits text into pieces for a score: sacreBLEU's own, or a SentencePiece file as a stand-in.

    Build it with `find_tokenizer`.
    """

    name: str
    """"flores101", "flores200", or "spm:NAME" for a file."""

    model: bytes = field(repr=False)
    """The SentencePiece model's file; it travels to workers that do not have the file."""

    sha256: str
    """Of the model's file."""

    @property
    def is_stand_in(self) -> bool:
        """Whether scores are comparable only among themselves, not with published spBLEU."""
        return self.name not in _MODEL_FILES


@dataclass(frozen=True)
class DirectionScore:
    """spBLEU of one direction."""

    direction: Direction
    spbleu: float
    num_sentences: int


@dataclass(frozen=True)
class Difference:
    """How much better one system is than another, in spBLEU, with its 95 % interval; `differences.compare` makes it.

    What has a default was not recorded by older versions.
    """

    value: float
    low: float
    high: float
    p: float | None = None
    """Two-sided."""

    holm_p: float | None = None
    """Adjusted for all members of the front that are compared with the same baseline. None: not one of several."""

    num_seeds: int = 1
    """Trainings of each of the two at least, of those that are trained. Of 2 or more, the interval holds sentences and
    seeds; else sentences alone, by the paired bootstrap."""

    sentences_sd: float | None = None
    """The part of the standard deviation that is due to the sentences."""


@dataclass(frozen=True)
class Resamples:
    """A system's mean over directions, and the same on each resample of the sentences."""

    value: float
    means: np.ndarray
    """(resamples,)."""

    def minus(self, other: "Resamples") -> Difference:
        """Returns how much better this system is than another that was scored on the same sentences.

        The interval is that of the paired bootstrap: what makes a sentence hard for both cancels out (Koehn 2004,
        W04-3250, section 4).
        """
        low, high = np.percentile(self.means - other.means, [2.5, 97.5])
        return Difference(self.value - other.value, float(low), float(high))


@dataclass(frozen=True)
class Scores:
    """spBLEU of a set of directions over the same sentences."""

    by_direction: tuple[DirectionScore, ...]
    spbleu: float
    """Mean over directions."""
    spbleu_low: float
    """Lower end of the 95 % interval, paired bootstrap over sentences."""
    spbleu_high: float
    """Upper end."""
    num_sentences: int
    signature: str

    def by_class_pair(self, classes: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], float]:
        """Returns the mean over the directions of each (source class, target class) that has any."""
        groups: dict[tuple[str, str], list[float]] = {}
        for score in self.by_direction:
            groups.setdefault(class_pair(score.direction, classes), []).append(score.spbleu)
        return {pair: float(np.mean(values)) for pair, values in groups.items()}

    def worst_class(self, classes: Mapping[str, Sequence[str]]) -> float:
        """Returns the lowest, over the classes, of the mean over the directions from or into one of its languages.

        A class without any scored direction does not count; without classes it is the mean over all directions.
        """
        means = []
        for languages in classes.values():
            scores = [
                score.spbleu
                for score in self.by_direction
                if score.direction.src in languages or score.direction.tgt in languages
            ]
            if scores:
                means.append(float(np.mean(scores)))
        return min(means, default=self.spbleu)


def find_tokenizer(spec: str, base_spm: Path) -> ScoreTokenizer:
    """Returns the tokenizer of a space's `evaluation.spbleu`, fetched once if needed and seen to work.

    Args:
        spec: "flores101", "flores200", "spm:FILE", or "base" for the base's own SentencePiece model.
        base_spm: The base's model.

    Raises:
        InputError: If a file is missing or is no SentencePiece model, or a model cannot be fetched.
    """
    if spec in _MODEL_FILES:
        path = Path(SACREBLEU_DIR) / "models" / _MODEL_FILES[spec]
        if not path.exists() or path.stat().st_size == 0:
            _fetch(spec, path)
        name = spec
    elif spec == "base" or spec.startswith("spm:"):
        path = base_spm if spec == "base" else Path(spec.removeprefix("spm:"))
        name = "spm:base" if spec == "base" else f"spm:{path.stem}"
    else:
        raise InputError(f"`evaluation.spbleu` must be flores101, flores200, base or spm:FILE, but got {spec!r}.")
    if not path.is_file():
        raise InputError(f"`evaluation.spbleu` must name a SentencePiece file, but {path} does not exist.")
    model = path.read_bytes()
    try:
        # Without a file's content nothing is loaded, and nothing said before the first use.
        sentencepiece.SentencePieceProcessor(model_proto=model).encode("")
    except (RuntimeError, OSError) as error:
        way_out = " Delete it; it is fetched again." if name in _MODEL_FILES else ""
        raise InputError(f"{path} must be a SentencePiece model, but cannot be read as one.{way_out}") from error
    return ScoreTokenizer(name, model, hashlib.sha256(model).hexdigest())


class SpBleu:
    """Scores hypotheses with one tokenizer.

    Args:
        tokenizer: From `find_tokenizer`.
    """

    def __init__(self, tokenizer: ScoreTokenizer) -> None:
        self.tokenizer = tokenizer
        # The pieces are made here for every tokenizer alike, from the same model file that sacreBLEU would use:
        # with them joined by spaces, sacreBLEU's "none" gives what its own tokenizer gives (shown by a test).
        self._bleu = BLEU(tokenize="none", force=True)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        self._numbers: dict[str, int] = {}
        self._ids = lru_cache(maxsize=1 << 17)(self._split)

    @property
    def signature(self) -> str:
        """SacreBLEU's signature; a stand-in names its file and the start of its SHA-256."""
        self._bleu.corpus_score(["a"], [["a"]])  # a signature knows the number of references only after a score
        name = self.tokenizer.name
        if self.tokenizer.is_stand_in:
            name += f"-{self.tokenizer.sha256[:8]}"
        return str(self._bleu.get_signature().format()).replace("tok:none", f"tok:{name}")

    def statistics(self, hypotheses: Sequence[str], references: Sequence[str]) -> np.ndarray:
        """Returns BLEU's sufficient statistics, (sentences, 10): lengths, then matches and totals of 1- to 4-grams."""
        return match_statistics(*([self._ids(text) for text in texts] for texts in (hypotheses, references)))

    def from_statistics(self, total: np.ndarray) -> float:
        """Returns spBLEU, 0 to 100, from statistics summed over sentences, (10,)."""
        return float(self._bleu._compute_score_from_stats(total.tolist()).score)

    def score(
        self, hypotheses: Mapping[Direction, Sequence[str]], references: Mapping[Direction, Sequence[str]]
    ) -> Scores:
        """Scores several directions over the same sentences.

        The interval resamples sentences, the same ones in every direction, since line n of a multi-parallel set
        is one sentence: Koehn 2004 (W04-3250), section 3, applied to the mean over directions.

        Args:
            hypotheses: Texts of each direction, in the same order of sentences.
            references: Likewise.
        """
        directions = list(hypotheses)
        statistics = [self.statistics(hypotheses[direction], references[direction]) for direction in directions]
        scores = tuple(
            DirectionScore(direction, self.from_statistics(rows.sum(axis=0)), len(rows))
            for direction, rows in zip(directions, statistics, strict=True)
        )
        low, high = self._interval(statistics)
        return Scores(
            by_direction=scores,
            spbleu=float(np.mean([score.spbleu for score in scores])),
            spbleu_low=low,
            spbleu_high=high,
            num_sentences=max(score.num_sentences for score in scores),
            signature=self.signature,
        )

    def resample(
        self, hypotheses: Mapping[Direction, Sequence[str]], references: Mapping[Direction, Sequence[str]]
    ) -> Resamples:
        """Returns a system's mean over directions, as it is and on resampled sentences, to compare it with others.

        The same sentences are drawn for every system that is scored on equally many.
        """
        statistics = [self.statistics(hypotheses[direction], references[direction]) for direction in hypotheses]
        value = float(np.mean([self.from_statistics(rows.sum(axis=0)) for rows in statistics]))
        return Resamples(value, self._resampled_means(statistics))

    def _interval(self, statistics: Sequence[np.ndarray]) -> tuple[float, float]:
        low, high = np.percentile(self._resampled_means(statistics), [2.5, 97.5])
        return float(low), float(high)

    def _resampled_means(self, statistics: Sequence[np.ndarray]) -> np.ndarray:
        """Returns the mean over directions of each resample, (resamples,): the same sentences in each direction."""
        rng = np.random.default_rng(12345)
        sizes = sorted({len(rows) for rows in statistics})
        drawn = {size: rng.multinomial(size, np.full(size, 1 / size), size=NUM_BOOTSTRAP) for size in sizes}
        means = np.zeros(NUM_BOOTSTRAP)
        for rows in statistics:
            means += scores_of(drawn[len(rows)] @ rows)
        return means / len(statistics)

    def _split(self, text: str) -> Ids:
        # As sacreBLEU's "none" does with the pieces joined by spaces: what a piece holds of spaces ends it.
        pieces = " ".join(self._processor.encode(text, out_type=str)).split()
        known = self._numbers
        return np.fromiter((known.setdefault(piece, len(known)) for piece in pieces), np.int32, len(pieces))


def _fetch(name: str, path: Path) -> None:
    try:
        BLEU(tokenize=name)  # sacreBLEU fetches its model on first use
    except (Exception, SystemExit) as error:  # sacreBLEU exits the process where a certificate is wrong
        if path.exists() and path.stat().st_size == 0:
            path.unlink()
        raise InputError(
            f"spBLEU with the {name} tokenizer needs sacreBLEU's model, and it could not be fetched "
            f"({type(error).__name__}). Where there is a network, run `sacrebleu --tok {name}` once and copy "
            f"~/.sacrebleu/models/{path.name} to {path}, or set SACREBLEU to a folder that has it (now "
            f"{os.environ.get('SACREBLEU', 'not set')}), or use a stand-in: `evaluation.spbleu: spm:FILE` or `base`."
        ) from error
