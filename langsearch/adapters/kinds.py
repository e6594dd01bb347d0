"""The kinds of adapters that there are; what is listed here is held to `kind.Adapters` by the conformance tests."""

from collections.abc import Callable, Mapping, Sequence

from langsearch.adapters.kind import Adapters
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture

KINDS: Mapping[str, Callable[[Base, Architecture, Sequence[str], int], Adapters]] = {
    "lora": LanguageLoRA,
    "mixed_sides": MixedSides,
}
"""What builds the adapters of a kind: of the base, the architecture, the languages and the seed."""
