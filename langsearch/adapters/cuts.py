"""Smaller adapters cut out of wide ones that are trained: fewer columns, fewer sites.

What adapters have beside low-rank pairs, such as scales or a bridge, a cut has as its donor has it, and norms in some
of its stacks. Of a pair of
all languages and each language's own under it, either is cut by itself.

Of a pair's product s B A the best one of rank r, in the sum of squares, is that of its r largest singular values
(Eckart and Young 1936). B = Qb Rb and A^T = Qa Ra by QR, and Rb Ra^T, which is as small as the rank, is what is
decomposed: the product itself, of the layer's size, is never made.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from langsearch.adapters.protocol import Adapters, Role
from langsearch.space.architecture import Architecture, Site
from langsearch.space.nesting import SHARED

CutMethod = Literal["columns", "svd"]
"""svd: the best of its rank. columns: the first ones, which nested training has trained to stand alone."""

Pair = tuple[Tensor, Tensor]
"""A (rank, in) and B (out, rank)."""


@dataclass(frozen=True)
class Factors:
    """A pair's product B A, decomposed: left * values @ right."""

    left: Tensor
    """(out, rank), orthonormal columns."""

    values: Tensor
    """(rank,), the largest first."""

    right: Tensor
    """(rank, in), orthonormal rows."""

    size: float
    """The mean norm of A's rows, which a cut's rows have as well: then training goes on as it was."""

    @classmethod
    def of(cls, a: Tensor, b: Tensor) -> "Factors":
        """Returns those of A (rank, in) and B (out, rank), in fp32, computed in float64."""
        left, left_small = torch.linalg.qr(b.double())
        right, right_small = torch.linalg.qr(a.double().T)
        inner, values, inner_right = torch.linalg.svd(left_small @ right_small.T, full_matrices=False)
        return cls(
            (left @ inner).float(), values.float(), (inner_right @ right.T).float(), float(a.norm(dim=1).mean()) or 1.0
        )

    def pair(self, rank: int) -> Pair:
        """Returns the best pair of a rank, up to the whole one."""
        return self.right[:rank] * self.size, self.left[:, :rank] * (self.values[:rank] / self.size)


class Donor:
    """Trained adapters that others are cut out of; what is decomposed is kept.

    Args:
        adapters: They need not be in a base, and must not change any more.

    Raises:
        InputError: If they are of a kind that cannot be cut.
    """

    def __init__(self, adapters: Adapters) -> None:
        self.adapters = adapters
        self.architecture = adapters.architecture
        self.pieces = adapters.pieces()
        self._ranks = {entry.site: dict(entry.ranks) for entry in self.architecture.adapters}
        self._sides = {entry.site: entry.side for entry in self.architecture.adapters}
        self._factors: dict[tuple[Role, Site, str], Factors] = {}

    def why_not(self, architecture: Architecture) -> str | None:
        """Returns in a line why an architecture cannot be cut out of it, None if it can."""
        own, slots = self.architecture, self.slots_of(architecture)
        names = ["new_languages", "encoder_znorm", "bridge"]
        names += ["kind", "pruning"] if architecture.adapters else []
        names += ["scaling", "alpha"] if architecture.has_pairs else []
        names += ["ffn_slice"] if any(entry.site.module in ("fc1", "fc2") for entry in architecture.adapters) else []
        for name in names:
            if getattr(own, name) != getattr(architecture, name):
                return f"its {name} is another"
        norms, wanted = own.layer_norm, architecture.layer_norm
        if norms != wanted and (norms is None or wanted is None or norms != replace(wanted, stacks=norms.stacks)):
            return "its layer_norm is another"
        if norms is not None and wanted is not None and (more := set(wanted.stacks) - set(norms.stacks)):
            return f"the {more.pop()} has no norms of its own"
        if architecture.shared_rank > own.shared_rank:
            return f"all languages have rank {own.shared_rank}, less than {architecture.shared_rank}"
        for entry in architecture.adapters:
            if entry.site not in self._ranks:
                return f"{entry.site} is not adapted"
            if self._sides[entry.site] != entry.side:
                return f"{entry.site} is indexed by the other side"
            for slot, rank in entry.ranks:
                if slot not in slots:
                    return f"{slot} is shared by other languages"
                if rank > (most := self._ranks[entry.site].get(slots[slot], 0)):
                    return f"{slot} has rank {most} at {entry.site}, less than {rank}"
        return None

    def slots_of(self, architecture: Architecture) -> dict[str, str]:
        """Returns the own slot that the same languages share, of each slot of an architecture."""
        own, theirs = _members(self.architecture), _members(architecture)
        names = {languages: slot for slot, languages in own.items()}
        return {slot: names[languages] for slot, languages in theirs.items() if languages in names}

    @torch.no_grad()
    def pair(self, site: Site, slot: str, rank: int, method: CutMethod = "columns", role: Role = "own") -> Pair:
        """Returns a slot's pair at a site, cut to a rank; of its own rank it is as it is, to the bit.

        The factor of the smaller rank is divided out of B, so that s B A is what was cut.

        Args:
            site: The place.
            slot: The donor's; of a pair of all languages `SHARED`.
            rank: What it is cut to, that of the low-rank pair alone.
            method: How.
            role: Which of a site's pairs.
        """
        a, b = self.pieces.pairs[role, site].pair(slot)
        full = len(a)
        if rank == full:
            return a, b
        if method == "columns":
            a, b = a[:rank], b[:, :rank]
        else:
            if (role, site, slot) not in self._factors:
                self._factors[role, site, slot] = Factors.of(a, b)
            a, b = self._factors[role, site, slot].pair(rank)
        return a, b * (self.architecture.scale(full) / self.architecture.scale(rank))

    def sum_of_pairs(self, site: Site, slot: str, own: int, shared: int, method: CutMethod) -> Pair:
        """Returns as one pair what a language's own, cut to a rank, and that of all languages add, the factors in B."""
        pairs = [self.pair(site, slot, own, method)] if own else []
        pairs += [self.pair(site, SHARED, shared, method, "shared")] if shared else []
        scaled = [b * self.architecture.scale(len(a)) for a, b in pairs]
        return torch.cat([a for a, _ in pairs]), torch.cat(scaled, dim=1)


@torch.no_grad()
def fill(
    adapters: Adapters,
    donor: Donor,
    slots: Mapping[str, str],
    method: CutMethod = "columns",
    languages: Mapping[str, str] | None = None,
) -> None:
    """Makes adapters what is cut out of a donor, each pair at its own rank.

    Args:
        adapters: Of the donor's kind, or with nothing where the donor has something; they are written.
        donor: What they are cut out of; `Donor.why_not` must have found nothing.
        slots: The donor's slot of each of theirs.
        method: How.
        languages: The donor's language that each of theirs stands for. None: itself.
    """
    pieces = adapters.pieces()
    for (role, site), layer in pieces.pairs.items():
        for slot, rank in zip(layer.slots, layer.ranks, strict=True):
            of = SHARED if role == "shared" else slots[slot]
            for own, cut in zip(layer.pair(slot), donor.pair(site, of, rank, method, role), strict=True):
                own.copy_(cut)
    fill_beside(adapters, donor, slots, languages)


@torch.no_grad()
def fill_beside(
    adapters: Adapters, donor: Donor, slots: Mapping[str, str], languages: Mapping[str, str] | None = None
) -> None:
    """Makes what adapters have beside their pairs what their donor has; arguments as in `fill`."""
    pieces = adapters.pieces()
    for name, of_slots in pieces.of_slots.items():
        for slot, value in of_slots.items():
            value.copy_(donor.pieces.of_slots[name][slots[slot]])
    for name, of_languages in pieces.of_languages.items():
        for language, value in of_languages.items():
            value.copy_(donor.pieces.of_languages[name][language if languages is None else languages[language]])
    for name, value in pieces.common.items():
        value.copy_(donor.pieces.common[name])


def _members(architecture: Architecture) -> dict[str, tuple[str, ...]]:
    """Returns the languages of each slot, sorted."""
    found: dict[str, list[str]] = {}
    for language, slot in architecture.slots:
        found.setdefault(slot, []).append(language)
    return {slot: tuple(sorted(languages)) for slot, languages in found.items()}
