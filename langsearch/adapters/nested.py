"""Nested adapters: one wide training whose parts can be cut out of it, each as if it had been trained by itself.

In each update every slot computes with the first b columns of its pairs only, b drawn anew: DyLoRA (Valipour et al.
2023, arXiv 2210.07558, section 3.1), where b is one for the whole model. Here each slot draws its own, since a cut may
give each its own rank. Layers and modules that a cut may leave out are left out of whole updates at random, as depth is
dropped in LayerDrop (Fan et al. 2020, arXiv 1909.11556). Between updates all of it is there.
"""

from collections.abc import Sequence
from random import Random

from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.protocol import Adapters
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.nesting import Nesting


class NestedModel(AdaptedModel):
    """A frozen base with adapters in it, of which each update trains a part; between updates they are as any others.

    Args:
        base: The base; must carry no adapters.
        adapters: The adapters, built for this base.
        seed: Seed of what is drawn.
        nesting: What is drawn.
    """

    def __init__(self, base: Base, adapters: Adapters, seed: int, nesting: Nesting) -> None:
        super().__init__(base, adapters)
        self._seed, self._nesting = seed, nesting

    def before_update(self, progress: float) -> None:
        """Draws what the update trains; an update draws the same in a resumed run."""
        super().before_update(progress)
        self.adapters.use(self._nesting.draw(Random(f"{self._seed}/{progress!r}")))

    def after_update(self) -> None:
        """Brings all of the adapters back."""
        super().after_update()
        self.adapters.use(None)


def nested_model(
    base: Base, architecture: Architecture, languages: Sequence[str], seed: int, nesting: Nesting
) -> NestedModel:
    """Returns the base with new adapters of an architecture in it, of which each update trains a part.

    Args:
        base: The base; must carry no adapters.
        architecture: Which adapters it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start and of what is drawn.
        nesting: What is drawn.
    """
    return NestedModel(base, build_adapters(base, architecture, languages, seed), seed, nesting)
