"""Which directions an epoch trains: in two stages the pairs of some languages first, then all; or those of a bridge.

HLT-MT (arXiv 2207.04906, section 3.2) trains pairs of high-resource languages first. What an epoch draws, trains and
leaves alone depends on its number alone, so that a resumed run goes on as it was. Completely modular fine-tuning has
pairs with one language on one side alone; see `modular`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.directions import Direction
from langsearch.data.epochs import EpochPlan, SourceWeights, plan_apart, plan_epoch
from langsearch.data.store import TokenStore
from langsearch.space.settings import TrainerSettings


@dataclass(frozen=True)
class Stages:
    """Which directions and which slots an epoch trains.

    Args:
        first: The languages of the first stage; empty where there is one stage.
        num_first: Epochs of the first stage.
        freeze_first: Whether the second stage leaves what is the first languages' own alone.
        only: The languages that are trained in either; empty: all.
        bridge: The language that all pairs have on one side. None: pairs are of any two.
    """

    first: frozenset[str]
    num_first: int
    freeze_first: bool
    only: frozenset[str] = frozenset()
    bridge: str | None = None

    @classmethod
    def of(cls, settings: TrainerSettings) -> "Stages":
        """Returns the stages of a training; the first has one epoch at least and leaves one."""
        num_first = min(max(round(settings.first_share * settings.epochs), 1), settings.epochs - 1)
        num_first = num_first if settings.first_stage else 0
        first, only = frozenset(settings.first_stage), frozenset(settings.train_only)
        return cls(first, num_first, settings.freeze_first, only, settings.modular_bridge)

    def directions(self, epoch: int, all_directions: Sequence[Direction]) -> Sequence[Direction]:
        """Returns the directions of an epoch, counted from 1."""
        if self.bridge is not None:
            return [
                one
                for one in all_directions
                if self.bridge in (one.src, one.tgt) and (not self.only or self.only & {one.src, one.tgt})
            ]
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


def cut_apart(settings: TrainerSettings) -> tuple[TrainerSettings, int]:
    """Returns the settings by which epochs are planned, and into how many parts each of their microbatches is split.

    Where every adapter learns alone a microbatch is an update, since one has a single adapter's pairs.
    """
    if settings.modular_bridge is None:
        return settings, 1
    return replace(settings, accumulation=1), settings.accumulation


def plan_of(
    settings: TrainerSettings,
    store: TokenStore,
    directions: Sequence[Direction],
    *,
    epoch: int,
    max_length: int,
    weights: SourceWeights | None,
) -> EpochPlan:
    """Returns the microbatches of an epoch.

    Args:
        settings: Of `cut_apart`; `tokens_per_batch` must be a number.
        store: The tokens.
        directions: Those of the epoch.
        epoch: Which epoch, from 0.
        max_length: Longest side, in tokens.
        weights: How often sentences are drawn, by source.

    Raises:
        InputError: If nothing can be drawn.
    """
    assert settings.tokens_per_batch is not None
    plan = plan_epoch if settings.modular_bridge is None else plan_apart
    return plan(
        store,
        directions,
        epoch=epoch,
        seed=settings.seed,
        temperature=settings.temperature,
        max_tokens=max(settings.tokens_per_batch // settings.accumulation, 1),
        pairs_per_epoch=settings.pairs_per_epoch,
        max_length=min(settings.max_length, max_length),
        weights=weights,
        by_source=settings.encode_once,
    )


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
