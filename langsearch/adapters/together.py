"""Adapters of several kinds in one base: what stands at its linear layers, its norms and between its stacks.

A kind that comes later stands over what earlier ones have put in the same place, and is merged into what these have
merged.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from langsearch.adapters.protocol import NOTHING_BELOW, Adapters, Below, PeftAdapter, Pieces
from langsearch.data.directions import Direction
from langsearch.space.architecture import Side
from langsearch.space.nesting import Drawn


class Together:
    """Adapters of several kinds, of one architecture and with one routing; answers as one of them.

    Args:
        parts: The adapters, at least one, in the order in which they stand over one another.
    """

    def __init__(self, parts: Sequence[Adapters]) -> None:
        self.parts = tuple(parts)
        self.architecture = parts[0].architecture
        self.languages = parts[0].languages
        self.routing = parts[0].routing
        assert all(part.routing is self.routing for part in parts), "the kinds must share the rows' languages"

    def modules(self) -> dict[str, nn.Module]:
        """Returns what takes the place of the base's modules; of two in one place the later holds the earlier."""
        found: dict[str, nn.Module] = {}
        for part in self.parts:
            for path, module in part.modules().items():
                if path in found:
                    module.base = found[path]
                found[path] = module
        return found

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns those of all parts."""
        return {name: value for part in self.parts for name, value in part.parameters().items()}

    def state(self) -> dict[str, Tensor]:
        """Returns that of all parts."""
        return {name: value for part in self.parts for name, value in part.state().items()}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns each slot's in all parts."""
        found: dict[str, list[Tensor]] = {}
        for part in self.parts:
            for slot, views in part.owned(side).items():
                found.setdefault(slot, []).extend(views)
        return found

    def num_parameters(self) -> int:
        """Returns the sum over the parts."""
        return sum(part.num_parameters() for part in self.parts)

    def num_nonzero(self) -> int:
        """Returns the sum over the parts."""
        return sum(part.num_nonzero() for part in self.parts)

    def begin_epoch(self, epoch: int) -> None:
        """Tells all parts."""
        for part in self.parts:
            part.begin_epoch(epoch)

    def before_update(self, progress: float) -> None:
        """Tells all parts."""
        for part in self.parts:
            part.before_update(progress)

    def penalty(self) -> Tensor | None:
        """Returns the sum over the parts that have one."""
        found = [penalty for part in self.parts if (penalty := part.penalty()) is not None]
        return sum(found[1:], found[0]) if found else None

    def after_update(self) -> None:
        """Tells all parts."""
        for part in self.parts:
            part.after_update()

    def use(self, drawn: Drawn | None) -> None:
        """Tells all parts."""
        for part in self.parts:
            part.use(drawn)

    def pieces(self) -> Pieces:
        """Returns what all parts consist of."""
        found = [part.pieces() for part in self.parts]
        return Pieces(
            pairs={key: layer for one in found for key, layer in one.pairs.items()},
            of_slots={name: value for one in found for name, value in one.of_slots.items()},
            of_languages={name: value for one in found for name, value in one.of_languages.items()},
            common={name: value for one in found for name, value in one.common.items()},
        )

    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns what all parts merge into, each into what those before it have."""
        found = dict(below)
        for part in self.parts:
            found |= part.merged(direction, found)
        return found

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns the adapters that hold all parts. Raises InputError where PEFT cannot hold one of them."""
        found = list(below)
        for part in self.parts:
            found = list(part.to_peft(found))
        return found
