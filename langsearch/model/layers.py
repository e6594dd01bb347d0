"""A base's encoder and decoder layer by layer: a sentence is read once for several targets, and no value is looked at.

The encoder's lower layers whose adapters are picked by the source alone say the same of a sentence whatever it is
translated into. From the first layer that looks at the target on, each row is by itself.

Shapes: rows = sentences that are read; d = d_model.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def embedded(stack: Any, ids: Tensor) -> Tensor:
    """Returns what a stack's first layer reads, (rows, len) -> (rows, len, d); with dropout in training mode."""
    hidden = stack.embed_tokens(ids)
    # M2M-100's sines count the tokens before each; mBART's positions want a shape alone.
    is_learned = isinstance(stack.embed_positions, nn.Embedding)
    hidden = hidden + (stack.embed_positions(ids) if is_learned else stack.embed_positions(ids, hidden))
    if hasattr(stack, "layernorm_embedding"):
        hidden = stack.layernorm_embedding(hidden)
    return F.dropout(hidden, stack.dropout, stack.training)


def decoded(decoder: Any, ids: Tensor, encoded: Tensor, bias: Tensor | None) -> Tensor:
    """Returns a decoder's last states, (rows, tgt len, d).

    They are those of its own code, which looks at its masks, whether they hide anything: a GPU has to be waited for.

    Args:
        decoder: Of a base; its layers are never dropped.
        ids: (rows, tgt len), padded behind their ends alone, where states are of no use.
        encoded: What the encoder says, (rows, src len, d).
        bias: What attention adds to the source's padding; see `padding_bias`.
    """
    hidden = embedded(decoder, ids)
    ahead = None  # without a mask PyTorch's fused attention knows by itself what is ahead
    if decoder.config._attn_implementation == "eager":
        length = ids.shape[1]
        ahead = torch.full((length, length), -torch.inf, dtype=hidden.dtype, device=ids.device).triu(1)[None, None]
    for layer in decoder.layers:
        hidden = layer(hidden, ahead, encoded, encoder_attention_mask=bias, use_cache=False)
    states: Tensor = decoder.layer_norm(hidden)
    return states


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
