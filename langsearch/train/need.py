"""What a training needs in memory, estimated before anything is started.

Symbols: d = d_model, f = feed-forward units, heads, n = tokens of a side in a microbatch (so many on either side at
most), len = the longest sentence. Autograd keeps for the backward pass, of each token and layer (read in
`transformers/models/m2m_100/modeling_m2m_100.py` and PyTorch's `derivatives.yaml`, counted by saved-tensor hooks):

| what | elements | by |
|---|---|---|
| the residual stream before each layer norm | d | layer norm keeps its input |
| the output of each norm | d | adapted layers keep their input, once for q, k and v; plain frozen layers keep none |
| q, k, v and the attention's output | 4 d | scaled dot products; out_proj if it is adapted |
| the feed-forward's activation | f | ReLU, and an adapted fc2, the same tensor |
| where a dropout let through | d | dropout: the factor on a CPU (4 bytes), a bit mask on a GPU (1 byte) |
| what all slots' A say of the input | in / 4 of an adapted module | at most, on a GPU: `joint_rows.masked_lora` |
| attention's probabilities | 3 heads len | only where dropout falls on them and no fused kernel does it: on a CPU |

An encoder layer has two norms, one attention and one feed-forward, so 8 d + f; a decoder layer three norms and two
attentions, so 14 d + f. Layers below the lowest adapted one keep nothing: no gradient goes there. Full fine-tuning
keeps the same, since what it adds (the inputs of plain layers) is kept for attention or the norms already.

Then come the loss (states and their gradient, 2 d of each target token, and the logits in flight), what the backward
pass makes and drops (as much as its widest layer), and the optimizer: Adam has two moments of every trained parameter,
beside its gradient.
"""

from dataclasses import dataclass
from typing import Any

from langsearch.space.architecture import MODULES, Architecture
from langsearch.train.cross_entropy import tokens_in_flight

_FLOAT = 4
_IN_FLIGHT = 3
"""Copies of a chunk's logits, and of the widest layer's activations in the backward pass."""

_HOLES = 1.25
"""What an allocator keeps beyond what is in use: peaks measured on a CPU are 1.2 to 1.4 times the sum of the terms."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeed:
    """Bytes on the device."""

    base: int
    """The frozen weights."""

    trained: int
    """Adapters, on a GPU with a copy in the type of products, or the copy of the base that full fine-tuning trains."""

    gradients: int
    optimizer: int
    activations: int
    """Of a microbatch, with the loss and what the backward pass makes."""

    @property
    def fixed(self) -> int:
        """What does not depend on the microbatch."""
        return self.base + self.trained + self.gradients + self.optimizer

    @property
    def total(self) -> int:
        """All of it."""
        return self.fixed + self.activations


def training_need(
    config: Any,
    *,
    num_parameters: int,
    num_trained: int,
    is_full: bool,
    tokens: int,
    longest: int,
    dropout: float,
    is_cuda: bool = False,
    layers: tuple[int, int] = (0, 0),
    bytes_per_value: int = _FLOAT,
) -> MemoryNeed:
    """Returns what a training needs at most.

    Args:
        config: The base's configuration.
        num_parameters: Of the base.
        num_trained: Trained parameters.
        is_full: Whether all parameters are trained, in a copy of the base.
        tokens: Of a microbatch, on the longer side with its padding.
        longest: The longest sentence, in tokens.
        dropout: While training.
        is_cuda: Whether the device is a GPU.
        layers: As `first_layers` has them.
        bytes_per_value: Of the frozen base's weights and of what is kept for the backward pass: 2 where the base is
            resident in bf16 or fp16, else 4. Adapters, their gradients and the optimizer have 4.
    """
    gradients = num_trained * _FLOAT
    logits = tokens_in_flight(config.vocab_size, is_cuda=is_cuda) * config.vocab_size
    is_masked = is_cuda and not is_full
    per_token = _bytes_per_token(config, min(longest, tokens), dropout, is_cuda, layers, bytes_per_value, is_masked)
    return MemoryNeed(
        base=num_parameters * bytes_per_value,
        trained=num_trained * (_FLOAT + (bytes_per_value if is_masked else 0)),
        gradients=gradients + (_FLOAT * config.vocab_size * config.d_model if is_full else 0),
        optimizer=2 * num_trained * _FLOAT,
        activations=int(_HOLES * (tokens * per_token + _IN_FLIGHT * _FLOAT * logits)),
    )


def first_layers(architecture: Architecture | None, config: Any) -> tuple[int, int]:
    """Returns the lowest encoder and decoder layer that gradients go to.

    Args:
        architecture: The adapters. None: all parameters are trained.
        config: The base's configuration.
    """
    if architecture is None:
        return 0, 0
    layers = {stack: [e.site.layer for e in architecture.adapters if e.site.stack == stack] for stack in MODULES}
    if architecture.layer_norm:
        for stack in architecture.layer_norm.stacks:
            layers[stack].append(0)
    if layers["encoder"]:
        return min(layers["encoder"]), 0  # what the encoder says, every decoder layer looks at
    if architecture.bridge:
        return int(config.encoder_layers), 0
    return int(config.encoder_layers), min(layers["decoder"], default=int(config.decoder_layers))


def _bytes_per_token(
    config: Any, longest: int, dropout: float, is_cuda: bool, layers: tuple[int, int], size: int, is_masked: bool
) -> int:
    d, attention_dropout = config.d_model, min(dropout, config.attention_dropout)
    mask = (1 if is_cuda else size) * d if dropout > 0 else 0
    probabilities = 0
    if attention_dropout > 0 and not is_cuda:
        probabilities = 3 * size * longest
    encoder = size * (8 * d + config.encoder_ffn_dim) + 2 * mask + probabilities * config.encoder_attention_heads
    decoder = size * (14 * d + config.decoder_ffn_dim) + 3 * mask + 2 * probabilities * config.decoder_attention_heads
    if is_masked:  # of its modules the last, fc2, reads the feed-forward's units
        encoder += size * ((len(MODULES["encoder"]) - 1) * d + config.encoder_ffn_dim) // 4
        decoder += size * ((len(MODULES["decoder"]) - 1) * d + config.decoder_ffn_dim) // 4
    widest = max(config.encoder_ffn_dim, config.decoder_ffn_dim, d)
    return int(
        (config.encoder_layers - layers[0]) * encoder
        + (config.decoder_layers - layers[1]) * decoder
        + _FLOAT * 2 * d
        + _IN_FLIGHT * size * widest
    )
