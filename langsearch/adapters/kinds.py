"""The kinds of adapters that there are; what is listed here is held to `protocol.Adapters` by the conformance tests."""

from collections.abc import Callable, Mapping, Sequence

from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.adapters.protocol import Adapters
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture

KINDS: Mapping[str, Callable[[Base, Architecture, Sequence[str], int], Adapters]] = {
    "lora": LanguageLoRA,
    "mixed_sides": MixedSides,
}
"""What builds the adapters of a kind: of the base, the architecture, the languages and the seed."""
