"""What a trainer trains: adapters in a frozen base, or a full copy of the base. Both answer the same calls."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Protocol

import torch
from torch import Tensor, nn

from langsearch.adapters.lora import LanguageLoRALinear, Routing
from langsearch.adapters.pruning import PruningMasks
from langsearch.model.base import Base
from langsearch.model.families import TranslationModel
from langsearch.space.architecture import Architecture, Site


class Learner(Protocol):
    """A model some of whose parameters are trained. The trainer calls it; `AdaptedModel` and `FullModel` are ones."""

    model: TranslationModel

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns what is trained, by name, in an order that never changes."""

    def state(self) -> dict[str, Tensor]:
        """Returns what a checkpoint must hold beside the optimizer; the tensors are not copied."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave. Raises KeyError or RuntimeError if it does not fit."""

    def route(self, src_lang: Tensor, tgt_lang: Tensor) -> AbstractContextManager[None]:
        """Returns a context in which the rows of a batch have these languages: indices, (rows,)."""

    def begin_epoch(self, epoch: int) -> None:
        """Called once before an epoch's first update, epochs counted from 1."""

    def after_update(self) -> None:
        """Called after every update of the optimizer."""

    def num_nonzero(self) -> int:
        """Returns how many trained parameters are not pruned away."""


class AdaptedModel:
    """A frozen base with language-specific adapters in it.

    The base's own module objects are used, not copied: `remove` takes the adapters out and leaves it as it was.

    Args:
        base: The base; must carry no adapters.
        architecture: Which adapters it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start.
    """

    def __init__(self, base: Base, architecture: Architecture, languages: Sequence[str], seed: int = 0) -> None:
        self.model = base.model
        self.architecture = architecture
        self.languages = tuple(languages)
        self.shape = base.shape
        self._routing = Routing()
        slots = dict(architecture.slots)
        slot_of_language = [slots[language] for language in languages]
        self.layers: dict[Site, LanguageLoRALinear] = {}
        for entry in architecture.adapters:
            site = entry.site
            in_features, out_features = base.shape.features(site.stack, site.module, architecture.ffn_slice)
            layer = LanguageLoRALinear(
                _linear(self.model, site),
                self._routing,
                entry.side,
                dict(entry.ranks),
                slot_of_language,
                in_features=in_features,
                out_features=out_features,
                scales={slot: architecture.scale(rank) for slot, rank in entry.ranks},
            )
            layer.reset(architecture.init, {slot: _generator(seed, site, slot) for slot, _ in entry.ranks})
            self.layers[site] = layer
            _replace(self.model, site, layer)
        self.masks = PruningMasks(self.layers, architecture.pruning) if architecture.pruning else None

    def remove(self) -> None:
        """Takes the adapters out of the base."""
        for site, layer in self.layers.items():
            _replace(self.model, site, layer.base)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns A and B of every site, padded to the site's largest rank."""
        return {f"{site}.{name}": getattr(layer, name) for site, layer in self.layers.items() for name in ("A", "B")}

    def state(self) -> dict[str, Tensor]:
        """Returns the adapters and, where there is pruning, the masks."""
        state: dict[str, Tensor] = {name: parameter.data for name, parameter in self.parameters().items()}
        if self.masks:
            state |= {f"{site}.alive": alive for site, alive in self.masks.alive.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what `state` gave."""
        _copy_all(self.state(), state)

    @contextmanager
    def route(self, src_lang: Tensor, tgt_lang: Tensor) -> Iterator[None]:
        """Routes the rows of a batch: language indices, (rows,)."""
        self._routing.src, self._routing.tgt = src_lang, tgt_lang
        try:
            yield
        finally:
            self._routing.src = self._routing.tgt = None

    def begin_epoch(self, epoch: int) -> None:
        """Sets the pruning masks of the epoch."""
        if self.masks:
            self.masks.begin_epoch(epoch)

    def after_update(self) -> None:
        """Keeps pruned entries at zero."""
        if self.masks:
            self.masks.hold()

    def num_nonzero(self) -> int:
        """Returns the stored parameters that no mask has pruned; padding does not count."""
        count = self.architecture.num_parameters(self.shape)
        if self.masks:
            count -= sum(int((~alive).sum()) for alive in self.masks.alive.values())
        return count


class FullModel:
    """A copy of the base, all of whose parameters are trained.

    Args:
        base: The base; it is copied, since its weights may be memory that others read.
    """

    def __init__(self, base: Base) -> None:
        self.model = deepcopy(base.model)
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

    @contextmanager
    def route(self, src_lang: Tensor, tgt_lang: Tensor) -> Iterator[None]:
        """Does nothing: all languages share all parameters."""
        yield

    def begin_epoch(self, epoch: int) -> None:
        """Does nothing."""

    def after_update(self) -> None:
        """Does nothing."""

    def num_nonzero(self) -> int:
        """Returns the number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters().values())


def module_path(site: Site) -> str:
    """Returns where a site's linear layer lives in a model of any family."""
    if site.module.startswith("cross_"):
        name = f"encoder_attn.{site.module.removeprefix('cross_')}"
    elif site.module.startswith("fc"):
        name = site.module
    else:
        name = f"self_attn.{site.module}"
    return f"model.{site.stack}.layers.{site.layer}.{name}"


@torch.no_grad()
def _copy_all(targets: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    for name, target in targets.items():
        # `copy_` alone would stretch a smaller tensor to fit.
        if state[name].shape != target.shape:
            shapes = f"the shape {tuple(target.shape)}, but has {tuple(state[name].shape)}"
            raise RuntimeError(f"The state's {name} must have {shapes}")
        target.copy_(state[name])


def _linear(model: nn.Module, site: Site) -> nn.Linear:
    layer = model.get_submodule(module_path(site))
    assert isinstance(layer, nn.Linear), f"{site} carries an adapter already"
    return layer


def _replace(model: nn.Module, site: Site, layer: nn.Module) -> None:
    parent, _, name = module_path(site).rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def _generator(seed: int, site: Site, slot: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}/{site}/{slot}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
