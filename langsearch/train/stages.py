"""Training in two stages: first the pairs of some languages alone, then all of them.

HLT-MT (arXiv 2207.04906, section 3.2) trains pairs of high-resource languages first. What an epoch draws, trains and
leaves alone depends on its number alone, so that a resumed run goes on as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.directions import Direction
from langsearch.space.settings import TrainerSettings


@dataclass(frozen=True)
class Stages:
    """Which directions and which slots an epoch trains.

    Args:
        first: The languages of the first stage; empty where there is one stage.
        num_first: Epochs of the first stage.
        freeze_first: Whether the second stage leaves what is the first languages' own alone.
        only: The languages that are trained in either; empty: all.
    """

    first: frozenset[str]
    num_first: int
    freeze_first: bool
    only: frozenset[str] = frozenset()

    @classmethod
    def of(cls, settings: TrainerSettings) -> "Stages":
        """Returns the stages of a training; the first has one epoch at least and leaves one."""
        num_first = min(max(round(settings.first_share * settings.epochs), 1), settings.epochs - 1)
        num_first = num_first if settings.first_stage else 0
        return cls(frozenset(settings.first_stage), num_first, settings.freeze_first, frozenset(settings.train_only))

    def directions(self, epoch: int, all_directions: Sequence[Direction]) -> Sequence[Direction]:
        """Returns the directions of an epoch, counted from 1."""
        if epoch > self.num_first:
            return all_directions
        return [one for one in all_directions if {one.src, one.tgt} <= self.first]

    def starts_anew(self, epoch: int) -> bool:
        """Returns whether the optimizer forgets at the start of an epoch what it knows of the first stage."""
        return 0 < self.num_first == epoch - 1

    def frozen(self, epoch: int, learner: Learner) -> "Frozen":
        """Returns what an epoch must leave as it is: what none of its languages has, or the first's own."""
        if not self.first and not self.only:
            return Frozen(())
        languages: dict[str, set[str]] = {}
        for language, slot in learner.slots.items():
            languages.setdefault(slot, set()).add(language)
        owned = learner.owned()
        slots: list[str] = []
        if epoch <= self.num_first:
            slots = [slot for slot, members in languages.items() if not members & self.first]
        elif self.freeze_first:
            slots = [slot for slot, members in languages.items() if members <= self.first]
        if self.only:
            slots += [slot for slot, members in languages.items() if not members & self.only and slot not in slots]
        return Frozen([view for slot in slots for view in owned.get(slot, ())])


class Frozen:
    """Parts of parameters that an optimizer must not move: momentum and weight decay would.

    Args:
        views: The parts, views of the parameters' own memory.
    """

    def __init__(self, views: Sequence[Tensor]) -> None:
        self._kept = [(view, view.clone()) for view in views]

    @torch.no_grad()
    def hold(self) -> None:
        """Sets them back."""
        for view, kept in self._kept:
            view.copy_(kept)
