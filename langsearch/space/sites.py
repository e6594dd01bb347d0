"""The linear layers of an M2M-100 model that can carry adapters, and their sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Stack = Literal["encoder", "decoder"]
Side = Literal["src", "tgt"]

MODULES: Mapping[str, tuple[str, ...]] = {
    "encoder": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
    "decoder": (
        *("q_proj", "k_proj", "v_proj", "out_proj"),
        *("cross_q_proj", "cross_k_proj", "cross_v_proj", "cross_out_proj"),
        *("fc1", "fc2"),
    ),
}
"""The linear layers of one layer that can carry an adapter, by stack, in the order of the forward pass."""


@dataclass(frozen=True, kw_only=True)
class BaseShape:
    """The sizes of a base that an architecture depends on; read from its configuration, no weights needed."""

    encoder_layers: int
    decoder_layers: int
    d_model: int
    encoder_ffn_dim: int
    decoder_ffn_dim: int
    num_parameters: int

    def num_layers(self, stack: Stack) -> int:
        """Returns the number of layers of a stack."""
        return self.encoder_layers if stack == "encoder" else self.decoder_layers

    def features(self, stack: Stack, module: str, ffn_slice: int | None = None) -> tuple[int, int]:
        """Returns (in, out) features that an adapter at this module sees.

        Args:
            stack: "encoder" or "decoder".
            module: A name of `MODULES[stack]`.
            ffn_slice: Only the first so many hidden units of the feed-forward block are adapted: fc1 adds to
                them, fc2 reads them (the published code: 1,024 of 4,096). None: all.
        """
        ffn_dim = self.encoder_ffn_dim if stack == "encoder" else self.decoder_ffn_dim
        hidden = ffn_dim if ffn_slice is None else min(ffn_slice, ffn_dim)
        if module == "fc1":
            return self.d_model, hidden
        if module == "fc2":
            return hidden, self.d_model
        return self.d_model, self.d_model


@dataclass(frozen=True)
class Site:
    """One linear layer of the base: `encoder.3.fc1`, `decoder.0.cross_q_proj`. Layers count from 0."""

    stack: Stack
    layer: int
    module: str

    def __str__(self) -> str:
        return f"{self.stack}.{self.layer}.{self.module}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """Reads the form that `str` writes.

        Raises:
            ValueError: If the text does not name a stack, a layer and a module.
        """
        parts = text.split(".")
        if len(parts) != 3 or parts[0] not in MODULES or not parts[1].isdigit() or parts[2] not in MODULES[parts[0]]:
            raise ValueError(f"A site must read STACK.LAYER.MODULE, such as encoder.3.fc1, but got {text!r}")
        return cls("encoder" if parts[0] == "encoder" else "decoder", int(parts[1]), parts[2])

    @property
    def order(self) -> tuple[bool, int, int]:
        """Sorts sites in the order of the forward pass."""
        return self.stack == "decoder", self.layer, MODULES[self.stack].index(self.module)
