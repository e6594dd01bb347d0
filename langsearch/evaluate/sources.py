"""Sentences to translate, and the encoder that reads each of them once for all its targets.

The lower encoder layers whose adapters are picked by the source alone say the same of a sentence whatever it is
translated into: they are run once for it. From the first layer that looks at the target on, each row is by itself.

Shapes: rows = sentences to translate, each into one language; sources = those that differ; d = d_model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from langsearch.adapters.learners import Learner


@dataclass(frozen=True)
class Sources:
    """Sentences to translate."""

    ids: Tensor
    """(rows, src len), padded."""

    mask: Tensor
    """(rows, src len), 1 at tokens."""

    src_lang: Tensor
    """(rows,) language indices."""

    tgt_lang: Tensor
    """(rows,) likewise."""

    starts: Tensor
    """(rows, start len): what hypotheses begin with."""

    first_rows: Tensor
    """(sources,) the first row of each sentence; rows are of one sentence where ids and source language are equal."""

    source_of: Tensor
    """(rows,) the sentence of each row."""


@dataclass(frozen=True)
class Encoded:
    """What the encoder says."""

    states: Tensor
    """(sources, src len, d), or (rows, src len, d)."""

    source_of: Tensor | None
    """(rows,) the source of each row. None: each row has states of its own."""


class SourceEncoder:
    """The encoder of a model, layer by layer.

    Args:
        learner: The model, in evaluation mode.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._encoder: Any = learner.model.model.encoder
        # The last norm is one more layer.
        self._layers = [*self._encoder.layers, self._encoder.layer_norm]
        by_target = [index for index, layer in enumerate(self._layers) if "tgt" in sides_of(layer)]
        self._num_shared = min(by_target, default=len(self._layers))

    def encode(self, sources: Sources) -> Encoded:
        """Reads sentences, each once up to the first layer that looks at the target."""
        encoder, first = self._encoder, sources.first_rows
        is_shared = len(first) < len(sources.ids) and self._num_shared > 0
        ids, mask, src, tgt = sources.ids, sources.mask, sources.src_lang, sources.tgt_lang
        if is_shared:
            ids, mask, src, tgt = ids[first], mask[first], src[first], tgt[first]
        hidden = encoder.embed_tokens(ids)
        # M2M-100's sines count the tokens before each; mBART's positions want a shape alone.
        is_learned = isinstance(encoder.embed_positions, nn.Embedding)
        hidden = hidden + (encoder.embed_positions(ids) if is_learned else encoder.embed_positions(ids, hidden))
        if hasattr(encoder, "layernorm_embedding"):
            hidden = encoder.layernorm_embedding(hidden)
        hidden_places = padding_bias(mask, hidden.dtype)
        num_before = self._num_shared if is_shared else 0
        with self._learner.route(src, tgt):
            hidden = self._read(0, num_before, hidden, hidden_places)
        source_of = sources.source_of if is_shared else None
        if num_before < len(self._layers):
            if is_shared:
                hidden, source_of = hidden.index_select(0, sources.source_of), None
                hidden_places = padding_bias(sources.mask, hidden.dtype)
            with self._learner.route(sources.src_lang, sources.tgt_lang):
                hidden = self._read(num_before, len(self._layers), hidden, hidden_places)
        return Encoded(hidden, source_of)

    def _read(self, first: int, end: int, hidden: Tensor, places: Tensor | None) -> Tensor:
        """Runs the layers from one number to another, the last norm counted, (…, src len, d)."""
        for number, layer in enumerate(self._layers[first:end], first):
            hidden = layer(hidden) if number == len(self._encoder.layers) else layer(hidden, places)
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


def padding_bias(mask: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Returns what attention adds to padding, (rows, 1, 1, len): minus infinity. None where nothing is padded."""
    if bool(mask.all()):
        return None
    bias = torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(mask == 0, -torch.inf)
    return bias[:, None, None, :]
