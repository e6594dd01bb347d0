"""Gradual magnitude pruning of the adapters' B matrices."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from langsearch.model.lora import LanguageLoRALinear
from langsearch.space.architecture import Pruning, Site


def pruned_share(epoch: int, target: float, start: int, duration: int) -> float:
    """Returns the share of entries that are pruned in an epoch, by the cubic law.

    Zhu & Gupta 2017 (arXiv 1710.01878, section 3, equation 1) with an initial sparsity of 0.

    Args:
        epoch: Counted from 1.
        target: The share in the end, in [0, 1].
        start: The first epoch of pruning; its own share is still 0.
        duration: Epochs from the start to the target.
    """
    if epoch < start:
        return 0.0
    if epoch > start + duration:
        return target
    return target - target * (1 - (epoch - start) / duration) ** 3


class PruningMasks:
    """Which entries of B still live. Set at the start of an epoch, they hold until the next.

    Args:
        layers: The adapted layers by site.
        pruning: Targets, schedule and scope.
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
            magnitudes = torch.cat([torch.where(alive, b.abs(), -1.0).flatten() for b, alive in views])
            num_pruned = round(share * magnitudes.numel())
            if num_pruned == 0:
                continue
            lives = torch.ones_like(magnitudes, dtype=torch.bool)
            # Stable, so that entries of equal magnitude are pruned in the same order on every run.
            lives[torch.argsort(magnitudes, stable=True)[:num_pruned]] = False
            start = 0
            for b, alive in views:
                alive &= lives[start : start + b.numel()].view(b.shape)
                start += b.numel()
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Zeroes what is pruned. Called after every update, so that momentum brings nothing back."""
        for site, layer in self._layers.items():
            layer.B.mul_(self.alive[site])

    def _ranked_sets(self) -> Iterable[tuple[float, list[tuple[Tensor, Tensor]]]]:
        """Yields (target, [(view of B, view of its mask)]) for each set of entries that is ranked together."""
        targets = dict(self._pruning.targets)
        by_key: dict[object, list[tuple[Tensor, Tensor]]] = {}
        for site, layer in self._layers.items():
            for index, (slot, rank) in enumerate(zip(layer.slots, layer.ranks, strict=True)):
                if slot not in targets:
                    continue
                key = slot if self._pruning.scope == "language" else (site.stack, site.layer)
                view = (layer.B.data[index, :, :rank], self.alive[site][index, :, :rank])
                by_key.setdefault(key, []).append(view)
        common = next(iter(targets.values()))
        return [(targets[key] if isinstance(key, str) else common, views) for key, views in by_key.items()]
