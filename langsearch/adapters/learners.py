"""What a trainer trains: adapters in a frozen base, or a full copy of the base. Both answer the same calls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.language_rows import STATE_NAME, LanguageRows
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mounting import mount
from langsearch.adapters.protocol import Adapters
from langsearch.adapters.routing import TokenWeights
from langsearch.model.base import Base
from langsearch.model.families import TranslationModel
from langsearch.space.architecture import Architecture, Side
from langsearch.space.problems import InputError


class Learner(Protocol):
    """A model some of whose parameters are trained. The trainer calls it; `AdaptedModel` and `FullModel` are ones."""

    model: TranslationModel

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what is trained, by name, in an order that never changes."""

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold beside the optimizer; the tensors are not copied."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave. Raises KeyError or RuntimeError if it does not fit."""

    @property
    def slots(self) -> Mapping[str, str]:
        """The slot of each language; empty where languages own nothing."""

    def owned(self, side: Side | None = None) -> Mapping[str, Sequence[Tensor]]:
        """Returns views of what belongs to each slot; nothing is copied.

        Args:
            side: Only what a row has by its language of that side. None: all, also what no side picks.
        """

    def route(
        self, src_lang: Tensor, tgt_lang: Tensor, *, weights: TokenWeights | None = None
    ) -> AbstractContextManager[None]:
        """Returns a context in which the rows of a batch have these languages: indices, (rows,).

        Args:
            src_lang: Of the sources.
            tgt_lang: Of the targets.
            weights: How much the tokens count in means that adapters take while training.
        """

    def begin_epoch(self, epoch: int) -> None:
        """Called once before an epoch's first update, epochs counted from 1."""

    def before_update(self, progress: float) -> None:
        """Called before every update with how much of the training is done, from 0 to below 1."""

    def penalty(self) -> Tensor | None:
        """Returns what is added to the mean loss of a target token, after a forward pass; None: nothing."""

    def after_update(self) -> None:
        """Called after every update of the optimizer."""

    def num_nonzero(self) -> int:
        """Returns how many trained parameters are not pruned away."""


class AdaptedModel:
    """A frozen base with adapters in it.

    The base's own module objects are used, not copied: `remove` takes the adapters out and leaves it as it was. So
    does a failure while they are put in. With the adapters of any kind come the embedding rows of the languages that
    are new to the base.

    Args:
        base: The base; must carry no adapters.
        adapters: The adapters, built for this base.
    """

    def __init__(self, base: Base, adapters: Adapters) -> None:
        self.base = base
        self.model = base.model
        self.adapters = adapters
        self.rows = _make_rows(base, base.model)
        new = dict(adapters.architecture.new_languages)
        assert set(new) == {language.code for language in base.new_languages}, f"the base must know {sorted(new)} alone"
        rows = self.rows.modules() if self.rows else {}
        self._own = {**adapters.modules(), **rows}
        self._originals = mount(self.model, self._own)

    @property
    def architecture(self) -> Architecture:
        """Which adapters it has."""
        return self.adapters.architecture

    @property
    def languages(self) -> tuple[str, ...]:
        """The order that the rows' language indices refer to."""
        return self.adapters.languages

    @property
    def lora(self) -> LanguageLoRA:
        """The adapters of a model of language-specific LoRA alone; what is done only with these asks for them.

        Raises:
            InputError: If they are of another kind.
        """
        if not isinstance(self.adapters, LanguageLoRA):
            raise InputError(
                "This needs language-specific LoRA and no other adapters, but the architecture has "
                f"{self.architecture.word}{' over a shared one' if self.architecture.shared_rank else ''}."
            )
        return self.adapters

    def remove(self) -> None:
        """Takes the adapters out of the base."""
        mount(self.model, self._originals)

    def put_back(self) -> None:
        """Puts the adapters into the base again after `remove`."""
        mount(self.model, self._own)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the adapters' parameters and the rows of new languages."""
        rows = {STATE_NAME: self.rows.weight} if self.rows else {}
        return {**self.adapters.parameters(), **rows}

    def state(self) -> dict[str, Tensor]:
        """Returns all of the adapters that a checkpoint must hold, and the rows of new languages."""
        rows = {STATE_NAME: self.rows.weight.data} if self.rows else {}
        return {**self.adapters.state(), **rows}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        _copy_all(self.state(), state)

    @property
    def slots(self) -> Mapping[str, str]:
        """The slot of each language."""
        return dict(self.architecture.slots)

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns what the adapters have of each slot, and the rows of its new languages, which are of both sides."""
        found = {slot: list(views) for slot, views in self.adapters.owned(side).items()}
        if self.rows is not None and side is None:
            for language, row in zip(self.rows.languages, self.rows.weight.data, strict=True):
                found.setdefault(self.slots[language.code], []).append(row)
        return found

    def route(
        self, src_lang: Tensor, tgt_lang: Tensor, *, weights: TokenWeights | None = None
    ) -> AbstractContextManager[None]:
        """Routes the rows of a batch: language indices, (rows,)."""
        return self.adapters.routing.languages(src_lang, tgt_lang, weights=weights)

    def begin_epoch(self, epoch: int) -> None:
        """Tells the adapters that an epoch begins."""
        self.adapters.begin_epoch(epoch)

    def before_update(self, progress: float) -> None:
        """Tells the adapters how much of the training is done."""
        self.adapters.before_update(progress)

    def penalty(self) -> Tensor | None:
        """Returns what the adapters add to the mean loss."""
        return self.adapters.penalty()

    def after_update(self) -> None:
        """Tells the adapters that the optimizer has changed them."""
        self.adapters.after_update()

    def num_nonzero(self) -> int:
        """Returns the stored parameters that are not pruned away; padding does not count, and rows are never pruned."""
        return self.adapters.num_nonzero() + (self.rows.weight.numel() if self.rows else 0)


def adapt(base: Base, architecture: Architecture, languages: Sequence[str], seed: int = 0) -> AdaptedModel:
    """Returns the base with new adapters of an architecture in it.

    Args:
        base: The base; must carry no adapters.
        architecture: Which adapters it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start.
    """
    return AdaptedModel(base, build_adapters(base, architecture, languages, seed))


class FullModel:
    """A copy of the base, all of whose parameters are trained, and with them the rows of languages new to the base.

    Args:
        base: The base; it is copied, since its weights may be memory that others read.
    """

    def __init__(self, base: Base) -> None:
        self.model = deepcopy(base.model)
        if rows := _make_rows(base, self.model):
            mount(self.model, rows.modules())
        for parameter in self.model.parameters():
            parameter.data = parameter.data.clone()
        self.model.requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns the base's parameters; tied ones once."""
        return dict(self.model.named_parameters())

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters."""
        return {name: parameter.data for name, parameter in self.parameters().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        _copy_all(self.state(), state)

    @property
    def slots(self) -> Mapping[str, str]:
        """None: no language owns anything."""
        return {}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns nothing."""
        return {}

    @contextmanager
    def route(self, src_lang: Tensor, tgt_lang: Tensor, *, weights: TokenWeights | None = None) -> Iterator[None]:
        """Does nothing: all languages share all parameters."""
        yield

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing."""

    def before_update(self, progress: float) -> None:
        """Does nothing."""

    def penalty(self) -> Tensor | None:
        """Returns nothing."""
        return None

    def after_update(self) -> None:
        """Does nothing."""

    def num_nonzero(self) -> int:
        """Returns the number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters().values())


def _make_rows(base: Base, model: TranslationModel) -> LanguageRows | None:
    return LanguageRows(model, base.new_languages) if base.new_languages else None


@torch.no_grad()
def _copy_all(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        # `copy_` alone would stretch a smaller tensor to fit.
        if state[name].shape != target.shape:
            shapes = f"the shape {tuple(target.shape)}, but has {tuple(state[name].shape)}"
            raise RuntimeError(f"The state's {name} must have {shapes}")
        target.copy_(state[name])
