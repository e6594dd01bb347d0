"""A base's encoder layer by layer, so that a sentence can be read once for several targets.

The lower layers whose adapters are picked by the source alone say the same of a sentence whatever it is translated
into. From the first layer that looks at the target on, each row is by itself.

Shapes: rows = sentences that are read; d = d_model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def embed_source(encoder: Any, ids: Tensor) -> Tensor:
    """Returns what an encoder's first layer reads, (rows, len) -> (rows, len, d); with dropout in training mode."""
    hidden = encoder.embed_tokens(ids)
    # M2M-100's sines count the tokens before each; mBART's positions want a shape alone.
    is_learned = isinstance(encoder.embed_positions, nn.Embedding)
    hidden = hidden + (encoder.embed_positions(ids) if is_learned else encoder.embed_positions(ids, hidden))
    if hasattr(encoder, "layernorm_embedding"):
        hidden = encoder.layernorm_embedding(hidden)
    return F.dropout(hidden, encoder.dropout, encoder.training)


def layers_of(encoder: Any) -> list[nn.Module]:
    """Returns an encoder's layers from the lowest on; the norm behind the last is one more."""
    return [*encoder.layers, encoder.layer_norm]


def num_by_source(encoder: Any) -> int:
    """Returns how many of an encoder's lowest layers, as `layers_of` has them, look at no target."""
    layers = layers_of(encoder)
    by_target = [index for index, layer in enumerate(layers) if "tgt" in sides_of(layer)]
    return min(by_target, default=len(layers))


def run_layers(encoder: Any, first: int, end: int, hidden: Tensor, bias: Tensor | None) -> Tensor:
    """Runs the layers from one number up to another, as `layers_of` has them, (rows, len, d) -> (rows, len, d).

    Args:
        encoder: The encoder; the rows' languages must be routed.
        first: The first layer.
        end: The layer to stop before.
        hidden: What the first one reads.
        bias: As `padding_bias` has it.
    """
    for layer in layers_of(encoder)[first:end]:
        hidden = layer(hidden) if layer is encoder.layer_norm else layer(hidden, bias)
    return hidden


def sides_of(layer: nn.Module) -> frozenset[str]:
    """Returns whose languages the modules of a layer look at: "src", "tgt", both or none.

    What is neither of PyTorch nor of transformers and does not say its `sides` is taken to look at both.
    """
    found: set[str] = set()
    for module in layer.modules():
        if not type(module).__module__.startswith(("torch.", "transformers.")):
            found |= getattr(module, "sides", {"src", "tgt"})
    return frozenset(found)


def padding_bias(mask: Tensor, dtype: torch.dtype, *, is_padded: bool | None = None) -> Tensor | None:
    """Returns what attention adds to padding, (rows, 1, 1, len): minus infinity. None where nothing is padded.

    Args:
        mask: (rows, len), 0 at padding.
        dtype: Of the result.
        is_padded: Whether something is. None: it is looked up, for which a GPU has to be waited for.
    """
    if is_padded is False or (is_padded is None and bool(mask.all())):
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, -torch.inf)
    return bias[:, None, None, :]
