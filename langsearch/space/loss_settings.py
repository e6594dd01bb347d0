"""Plain settings of the loss terms that a training may have beside its cross-entropy, and their defaults."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

BASE, OWN_BEST, ADAPTERS = "base", "own_best", "adapters:"
"""The teachers: the last one is followed by a folder."""

_LARGER = re.compile(r"top(?P<top_k>[1-9]\d*):(?P<base>.+?)(?:@(?P<identity>[0-9a-f]{7,64}))?")


@dataclass(frozen=True, kw_only=True)
class LargerTeacher:
    """Another base of the same vocabulary, of whose next tokens the most likely ones are kept."""

    base: str
    """A hub id, a folder or an embedded name."""

    top_k: int = 16
    """How many of its next tokens are kept at each place."""

    identity: str | None = None
    """Its commit, or what tells its weights from others. None: that is not looked up yet."""

    def __str__(self) -> str:
        return f"top{self.top_k}:{self.base}{f'@{self.identity}' if self.identity else ''}"

    @classmethod
    def parse(cls, word: str) -> "LargerTeacher | None":
        """Returns the teacher that `str` has written; None if a word names another kind."""
        found = _LARGER.fullmatch(word)
        if found is None:
            return None
        return cls(base=found["base"], top_k=int(found["top_k"]), identity=found["identity"])


@dataclass(frozen=True, kw_only=True)
class DistillSettings:
    """A teacher's distributions beside the labels: (1 - weight) cross-entropy + weight temperature^2 divergence.

    From oneself: Sun et al. 2020 (arXiv 2004.10171) and Huang et al. 2022 (arXiv 2205.01620). KL or JS: Ferraz et al.
    2023 (arXiv 2311.01070).
    """

    weight: float = 0.5
    """From 0 to 1. 0: as without the term."""

    teacher: str = BASE
    """base: the base without adapters. own_best: the training's own best epoch by validation, while it is more than
    one epoch old. adapters:FOLDER: exported adapters of the same base, for the languages that they have.
    top16:BASE: another base of the same vocabulary, see `LargerTeacher`."""

    kind: Literal["kl", "js"] = "kl"
    """kl: KL(teacher || student). js: the Jensen-Shannon divergence, which is at most log 2 and so teaches less."""

    temperature: float = 1.0
    """Divides the logits of both."""

    @property
    def folder(self) -> Path | None:
        """The folder of a teacher that is exported adapters."""
        return Path(self.teacher.removeprefix(ADAPTERS)) if self.teacher.startswith(ADAPTERS) else None

    @property
    def larger(self) -> LargerTeacher | None:
        """A teacher that is another base."""
        return LargerTeacher.parse(self.teacher)


@dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """A sentence's encoding and that of the same line in a pivot language: weight x distance (arXiv 2305.03510)."""

    weight: float = 0.1
    """0: as without the term."""

    kind: Literal["mse", "contrastive"] = "mse"
    """mse: the squared error over the variance of the pivot's sentences. contrastive: which line of a batch it is."""

    pivot: str | None = None
    """The pivot language. None: English, or the first language where there is none."""

    scale: float = 20.0
    """contrastive: of the cosines."""

    warmup: float = 0.1
    """The share of the training over which the weight grows from 0."""

    def pivot_of(self, languages: Sequence[str]) -> str:
        """Returns the pivot language among those of a space."""
        return self.pivot or next((language for language in languages if language in _ENGLISH), languages[0])


@dataclass(frozen=True, kw_only=True)
class LanguageAdversarySettings:
    """A classifier of the source language, whose gradient the encoder gets reversed (arXiv 2104.07554)."""

    weight: float = 0.33
    """0: as without the term."""

    gamma: float = 10.0
    """How fast the reversal sets in: 2 / (1 + exp(-gamma p)) - 1 of it after the share p of the training."""

    lr_factor: float = 3.0
    """How many times faster than the adapters the classifier learns, at a width of 100: less in proportion in a wider
    base, whose logits move more. One that is too slow is outrun, not deceived."""


_ENGLISH = ("en", "eng", "eng_Latn", "en_XX")


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The loss terms beside the cross-entropy. None: there is no such term."""

    distill: DistillSettings | None = None
    align: AlignSettings | None = None
    language_adversary: LanguageAdversarySettings | None = None

    @property
    def larger(self) -> LargerTeacher | None:
        """The teacher, where that is another base."""
        return None if self.distill is None else self.distill.larger

    def written(self) -> dict[str, Any]:
        """Returns the terms that there are as a space and a task have them; `of` reads it."""
        terms = {name: term for name, term in asdict(self).items() if term is not None}
        return {name: {key: value for key, value in term.items() if value is not None} for name, term in terms.items()}

    @classmethod
    def of(cls, written: Mapping[str, Mapping[str, Any]]) -> "LossSettings":
        """Returns the terms of plain values. One of weight 0 is none."""
        found = {name: TERMS[name](**term) for name, term in written.items()}
        return cls(**{name: term for name, term in found.items() if term.weight > 0})


TERMS: Mapping[str, Any] = {
    "distill": DistillSettings,
    "align": AlignSettings,
    "language_adversary": LanguageAdversarySettings,
}
"""The settings of each term, by its name."""

NO_TERMS = LossSettings()
"""The cross-entropy alone."""
