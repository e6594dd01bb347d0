"""The kinds of adapters that there are; what is listed here is held to `protocol.Adapters` by the conformance tests."""

from collections.abc import Callable, Mapping, Sequence

from langsearch.adapters.bridge import LanguageBridge
from langsearch.adapters.encoder_znorm import EncoderZNorm
from langsearch.adapters.factorized import Factorized
from langsearch.adapters.gated import GatedLoRA
from langsearch.adapters.layer_norm import LanguageLayerNorms
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.adapters.pool import PooledLoRA
from langsearch.adapters.protocol import Adapters
from langsearch.adapters.routing import Routing
from langsearch.adapters.shared_lora import SharedLoRA
from langsearch.adapters.together import Together
from langsearch.adapters.two_sided import TwoSided
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture

KINDS: Mapping[str, Callable[[Base, Architecture, Sequence[str], int], Adapters]] = {
    "lora": LanguageLoRA,
    "shared_lora": SharedLoRA,
    "pool": PooledLoRA,
    "gated": GatedLoRA,
    "factorized": Factorized,
    "two_sided": TwoSided,
    "layer_norm": LanguageLayerNorms,
    "bridge": LanguageBridge,
    "mixed_sides": MixedSides,
}
"""What builds the adapters of a kind: of the base, the architecture, the languages and the seed."""


def build_adapters(base: Base, architecture: Architecture, languages: Sequence[str], seed: int = 0) -> Adapters:
    """Returns the adapters that an architecture has, of one kind or of several together, built but not mounted.

    Args:
        base: The base; must carry no adapters.
        architecture: Which adapters it gets.
        languages: The order that the rows' language indices refer to.
        seed: Seed of the adapters' start.
    """
    routing = Routing()
    parts: list[Adapters] = []
    if architecture.kind == "factorized":
        parts.append(Factorized(base, architecture, languages, seed, routing=routing))
    elif architecture.kind == "two_sided":
        parts.append(TwoSided(base, architecture, languages, seed, routing=routing))
    elif architecture.gate:
        parts.append(GatedLoRA(base, architecture, languages, seed, routing=routing))
    elif architecture.pool:
        parts.append(PooledLoRA(base, architecture, languages, seed, routing=routing))
    elif architecture.shared_rank:
        parts.append(SharedLoRA(base, architecture, languages, seed, routing=routing))
    elif architecture.adapters or not architecture.has_any:
        parts.append(LanguageLoRA(base, architecture, languages, seed, routing=routing))
    if architecture.layer_norm:
        parts.append(LanguageLayerNorms(base, architecture, languages, seed, routing=routing))
    if architecture.encoder_znorm:
        # Over a language's own norms and under the bridge, which reads what the decoder would.
        parts.append(EncoderZNorm(base, architecture, languages, routing=routing))
    if architecture.bridge:
        parts.append(LanguageBridge(base, architecture, languages, seed, routing=routing))
    return parts[0] if len(parts) == 1 else Together(parts)
