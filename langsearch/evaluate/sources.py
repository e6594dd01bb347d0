"""Sentences to translate, and the encoder that reads each of them once for all its targets.

The lower encoder layers whose adapters are picked by the source alone say the same of a sentence whatever it is
translated into: they are run once for it. From the first layer that looks at the target on, each row is by itself.

Shapes: rows = sentences to translate, each into one language; sources = those that differ; d = d_model.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.model.layers import embedded, layers_of, num_by_source, padding_bias, run_layers


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
        self._num_shared = num_by_source(self._encoder)
        self._num_layers = len(layers_of(self._encoder))

    def encode(self, sources: Sources) -> Encoded:
        """Reads sentences, each once up to the first layer that looks at the target."""
        encoder, first = self._encoder, sources.first_rows
        is_shared = len(first) < len(sources.ids) and self._num_shared > 0
        ids, mask, src, tgt = sources.ids, sources.mask, sources.src_lang, sources.tgt_lang
        if is_shared:
            ids, mask, src, tgt = ids[first], mask[first], src[first], tgt[first]
        hidden = embedded(encoder, ids)
        hidden_places = padding_bias(mask, hidden.dtype)
        num_before = self._num_shared if is_shared else 0
        with self._learner.route(src, tgt):
            hidden = run_layers(encoder, 0, num_before, hidden, hidden_places)
        source_of = sources.source_of if is_shared else None
        if num_before < self._num_layers:
            if is_shared:
                hidden, source_of = hidden.index_select(0, sources.source_of), None
                hidden_places = padding_bias(sources.mask, hidden.dtype)
            with self._learner.route(sources.src_lang, sources.tgt_lang):
                hidden = run_layers(encoder, num_before, self._num_layers, hidden, hidden_places)
        return Encoded(hidden, source_of)
