"""Gradual pruning of the adapters' B matrices, by magnitude or by weight in the product B A."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.protocol import Unscheduled
from langsearch.space.architecture import Pruning, Site
from langsearch.space.pruned_size import pruned_share


class PruningMasks:
    """Which entries of B still live. Set at the start of an epoch, they hold until the next.

    Args:
        layers: The adapted layers by site.
        pruning: Targets, schedule, scope, and what ranks the entries.
    """

    def __init__(self, layers: Mapping[Site, LanguageLoRALinear], pruning: Pruning) -> None:
        self._layers = layers
        self._pruning = pruning
        self.alive = {site: torch.ones_like(layer.B, dtype=torch.bool) for site, layer in layers.items()}

    @torch.no_grad()
    def begin_epoch(self, epoch: int) -> None:
        """Prunes up to the epoch's share. Entries pruned before stay pruned and count."""
        for target, views in self._ranked_sets():
            share = pruned_share(epoch, target, self._pruning.start, self._pruning.duration)
            magnitudes = torch.cat([torch.where(view.alive, view.weights(), -1.0).flatten() for view in views])
            num_pruned = round(share * magnitudes.numel())
            if num_pruned == 0:
                continue
            lives = torch.ones_like(magnitudes, dtype=torch.bool)
            # Stable, so that entries of equal magnitude are pruned in the same order on every run.
            lives[torch.argsort(magnitudes, stable=True)[:num_pruned]] = False
            start = 0
            for view in views:
                view.alive.logical_and_(lives[start : start + view.b.numel()].view(view.b.shape))
                start += view.b.numel()
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Zeroes what is pruned. Called after every update, so that momentum brings nothing back."""
        for site, layer in self._layers.items():
            layer.B.mul_(self.alive[site])

    def _ranked_sets(self) -> Iterable[tuple[float, list["_View"]]]:
        """Yields (target, views) for each set of entries that is ranked together."""
        targets = dict(self._pruning.targets)
        by_key: dict[object, list[_View]] = {}
        for site, layer in self._layers.items():
            for index, (slot, rank) in enumerate(zip(layer.slots, layer.ranks, strict=True)):
                if slot not in targets:
                    continue
                key = slot if self._pruning.scope == "language" else (site.stack, site.layer)
                norms = None
                if self._pruning.over == "product":
                    norms = layer.A.data[index, :rank].norm(dim=1)
                    norms = norms if layer.scale is None else norms * layer.scale[index].squeeze()
                view = _View(layer.B.data[index, :, :rank], self.alive[site][index, :, :rank], norms)
                by_key.setdefault(key, []).append(view)
        common = next(iter(targets.values()))
        return [(targets[key] if isinstance(key, str) else common, views) for key, views in by_key.items()]


class PrunedPairs(Unscheduled):
    """The answers of a kind whose pairs may be pruned."""

    masks: PruningMasks | None
    """None: nothing is pruned."""

    def state(self) -> dict[str, Tensor]:
        """Returns the parameters and, where there is pruning, the masks."""
        state = super().state()
        if self.masks:
            state |= {f"{site}.alive": alive for site, alive in self.masks.alive.items()}
        return state

    def num_nonzero(self) -> int:
        """Returns the stored parameters that no mask has pruned."""
        pruned = sum(int((~alive).sum()) for alive in self.masks.alive.values()) if self.masks else 0
        return self.num_parameters() - pruned

    def begin_epoch(self, epoch: int) -> None:
        """Sets the pruning masks of the epoch."""
        if self.masks:
            self.masks.begin_epoch(epoch)

    def after_update(self) -> None:
        """Keeps pruned entries at zero."""
        if self.masks:
            self.masks.hold()


@dataclass(frozen=True)
class _View:
    """One slot's B at one site."""

    b: Tensor
    """(out, rank)"""
    alive: Tensor
    """(out, rank) bool; changed in place."""
    norms: Tensor | None
    """(rank,) what the magnitudes of B's columns are multiplied with: s ||A[r]||; None: 1."""

    def weights(self) -> Tensor:
        """Returns what the entries are ranked by, (out, rank).

        The product s B A is a sum of s B[o, r] A[r] in row o. Without an entry it changes by that one row, whose
        norm is s |B[o, r]| ||A[r]||. (The product's own entries cannot be pruned: they are not stored.)
        """
        return self.b.abs() if self.norms is None else self.b.abs() * self.norms
