"""Pruned adapters as the smallest dense ones: PEFT stores every entry, also those that pruning has zeroed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.lowrank import rank_for_energy, singular_factors, truncate
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Site, SiteAdapters
from langsearch.space.problems import InputError


@dataclass(frozen=True)
class Compaction:
    """What became smaller, and what it cost."""

    num_parameters_before: int
    """Stored parameters, zeros included."""
    num_parameters_after: int
    rank_before: int
    """Sum of the ranks over all sites and slots."""
    rank_after: int
    relative_error: float
    """Frobenius norm of what all products s B A together lost, over their norm. 0 where nothing was cut."""
    worst_relative_error: float
    """The same, of the adapter that lost most."""

    @property
    def summary(self) -> str:
        """What was lost, in a sentence."""
        sizes = f"{self.num_parameters_before:,} -> {self.num_parameters_after:,} stored parameters"
        ranks = f"ranks {self.rank_before:,} -> {self.rank_after:,} in all"
        if not self.relative_error:
            return f"{sizes}, {ranks}; nothing is lost"
        return (
            f"{sizes}, {ranks}; relative error of the products {self.relative_error:.2%}, "
            f"at most {self.worst_relative_error:.2%} of one"
        )


@torch.no_grad()
def compact(base: Base, learner: AdaptedModel, energy: float | None = None) -> tuple[AdaptedModel, Compaction]:
    """Returns a model with the smallest dense adapters that compute the same, or nearly so, and what it lost.

    A rank direction whose column of B or row of A is zero is dropped. Where fewer rows of B live than columns, the
    living rows of the product are stored themselves: A' = B A of these rows, B' picks them. Both are exact, but for
    the rounding of that product. Factors on the product are folded into B; nothing is pruned any more.

    Args:
        base: The base that the learner is in.
        learner: The model; it is taken out of the base, and the returned one is put in.
        energy: Keep the least rank with this share of each product's squared Frobenius norm, in (0, 1], by SVD.
            None: only the exact reductions.

    Raises:
        InputError: If the energy is out of range, or no adapter is left.
    """
    if energy is not None and not 0 < energy <= 1:
        raise InputError(f"The energy to keep must lie in (0, 1], but got {energy}.")
    small: dict[tuple[Site, str], tuple[Tensor, Tensor]] = {}
    losses, norms = [0.0], [0.0]
    for site, slot, a, b in _scaled_pairs(learner):
        exact_a, exact_b = _drop_dead(a, b)
        norms.append(float(singular_factors(exact_a, exact_b)[1].square().sum()) if len(exact_a) else 0.0)
        small[site, slot], loss = _cut(exact_a, exact_b, energy)
        losses.append(loss)
    architecture = _with_ranks(learner.architecture, {key: len(a) for key, (a, _) in small.items()})
    if not architecture.adapters:
        raise InputError("An adapter must be left to be stored, but all of them are zero.")
    learner.remove()
    compacted = adapt(base, architecture, learner.languages)
    if learner.rows and compacted.rows:
        compacted.rows.weight.copy_(learner.rows.weight)
    for site, slot, a, b in _scaled_pairs(compacted):
        a.copy_(small[site, slot][0])
        b.copy_(small[site, slot][1])
    worst = max((loss / norm for loss, norm in zip(losses, norms, strict=True) if norm), default=0.0)
    return compacted, Compaction(
        num_parameters_before=learner.architecture.num_parameters(base.shape),
        num_parameters_after=architecture.num_parameters(base.shape),
        rank_before=_total_rank(learner.architecture),
        rank_after=_total_rank(architecture),
        relative_error=(sum(losses) / max(sum(norms), 1e-300)) ** 0.5,
        worst_relative_error=worst**0.5,
    )


def _scaled_pairs(learner: AdaptedModel) -> Iterator[tuple[Site, str, Tensor, Tensor]]:
    """Yields site, slot, A (rank, in) and B (out, rank) times its factor; views where the factor is 1."""
    for entry in learner.architecture.adapters:
        for slot, rank in entry.ranks:
            a, b = learner.lora.layers[entry.site].pair(slot)
            scale = learner.architecture.scale(rank)
            yield entry.site, slot, a, b if scale == 1.0 else b * scale


def _drop_dead(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (A, B) with the same product and no more directions than B has living rows or columns."""
    alive = (b != 0).any(dim=0) & (a != 0).any(dim=1)
    a, b = a[alive], b[:, alive]
    rows = (b != 0).any(dim=1).nonzero().squeeze(1)
    if len(rows) >= len(a):
        return a, b
    picks = torch.zeros(len(b), len(rows), dtype=b.dtype, device=b.device)
    picks[rows, torch.arange(len(rows), device=b.device)] = 1.0
    return (b[rows].double() @ a.double()).to(b.dtype), picks


def _cut(a: Tensor, b: Tensor, energy: float | None) -> tuple[tuple[Tensor, Tensor], float]:
    """Returns the pair with the energy kept, and the squared norm of what the product lost."""
    if energy is None or not len(a):
        return (a, b), 0.0
    values = singular_factors(a, b)[1]
    rank = rank_for_energy(values, energy)
    if rank == len(a):
        return (a, b), 0.0
    return truncate(a, b, rank), float(values[rank:].square().sum())


def _with_ranks(architecture: Architecture, ranks: dict[tuple[Site, str], int]) -> Architecture:
    """Returns the architecture with other ranks, its factors folded away and no pruning."""
    adapters = tuple(
        SiteAdapters(entry.site, entry.side, tuple((slot, ranks[entry.site, slot]) for slot, _ in entry.ranks))
        for entry in architecture.adapters
    )
    return replace(architecture, adapters=adapters, pruning=None, scaling="none")


def _total_rank(architecture: Architecture) -> int:
    return sum(rank for entry in architecture.adapters for _, rank in entry.ranks)
