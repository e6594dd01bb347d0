"""The dropout of a base, in all the places where its layers drop anything."""

from typing import Any


def set_dropout(model: Any, dropout: float) -> None:
    """Sets every dropout of a base, so that 0 is none at all and a training deterministic.

    Residuals and embeddings get `dropout`. Attention and activations keep the rate that the base was trained with
    (0.1 and 0 in the published M2M-100 and NLLB), but never more than `dropout`: a base without them gets none. Layers
    are never dropped whole, which adapters would not survive.

    Args:
        model: A base of a known family; its configuration says its own rates, whatever was set in its layers before.
        dropout: 0 to below 1.
    """
    attention = min(float(model.config.attention_dropout), dropout)
    activation = min(float(model.config.activation_dropout), dropout)
    for stack in (model.model.encoder, model.model.decoder):
        stack.dropout, stack.layerdrop = dropout, 0.0
        for layer in stack.layers:
            layer.dropout, layer.activation_dropout = dropout, activation
            layer.self_attn.dropout = attention
            if hasattr(layer, "encoder_attn"):
                layer.encoder_attn.dropout = attention
