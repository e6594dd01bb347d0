"""The decoder of a base one token at a time, for sentences that come and go: what transformers' decoder gives, cheaper.

Shapes: rows = sentences in flight; beams = hypotheses of each, 1 where decoding is greedy; d = d_model; nodes = tokens
that are kept of a row's hypotheses. A sentence's hypotheses go through every layer together, (rows, beams, d), so that
adapters and the keys and values of the encoder stand once for a sentence, not once for a hypothesis.

A row's hypotheses are a tree: each new token is one more node, whose keys and values are written once and never move
with the beams. Which nodes a hypothesis has come by is a mask, and that alone follows the beams. Attention does not
care for the order of the nodes, since positions are in what they say; nodes that no hypothesis has come by any more
are thrown away now and then.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.adapters.prepared import PreparedLinear
from langsearch.data.batches import BatchVocabulary
from langsearch.evaluate.rows import KeysAndValues, RowsInFlight
from langsearch.evaluate.sources import Encoded, SourceEncoder, Sources
from langsearch.model.layers import padding_bias


class IncrementalDecoder:
    """Sentences in flight, what the decoder has read of them, and one more token of each hypothesis at a time.

    The weights of adapters are read when rows are routed, so they must not change while this lives.

    Args:
        learner: The model, in evaluation mode.
        vocabulary: The special ids.
        beams: Hypotheses of a sentence.
    """

    def __init__(self, learner: Learner, vocabulary: BatchVocabulary, beams: int) -> None:
        self._learner, self._beams = learner, beams
        self._model: Any = learner.model
        self._decoder = self._model.model.decoder
        self._encoder = SourceEncoder(learner)
        self._layers = [_Layer.of(layer) for layer in self._decoder.layers]
        self._padding_id = vocabulary.pad_id
        # M2M-100's sines are a buffer, mBART's positions an embedding; both begin two rows behind the table's start.
        positions = self._decoder.embed_positions
        self._is_learned = hasattr(positions, "weight")
        self._positions: Tensor = positions.weight if self._is_learned else positions.weights
        first = positions.offset if self._is_learned else self._padding_id + 1
        self._first_position = int(first)
        self._num_heads = int(self._decoder.layers[0].self_attn.num_heads)
        self._is_eager = self._model.config._attn_implementation == "eager"
        self._rows: RowsInFlight | None = None

    @property
    def vocab(self) -> int:
        """Logits of a hypothesis."""
        return int(self._model.lm_head.weight.shape[0])

    def add(self, sources: Sources) -> Tensor:
        """Encodes sentences and puts them behind those in flight; returns the states of their last start, (rows, d)."""
        encoded = self._encoder.encode(sources)
        num_rows, num_starts = sources.starts.shape
        with self._learner.route(sources.src_lang, sources.tgt_lang):
            self._prepare(num_rows)
            new = self._with_sources(sources, encoded)
            new.make_room(num_starts)
            # The first tokens are given, and all hypotheses have them: they are read at once, and once.
            ahead = torch.ones(num_starts, num_starts, device=encoded.states.device).triu(1) > 0
            seen = encoded.states.new_zeros(ahead.shape).masked_fill(ahead, -torch.inf)[None, None]
            places = torch.arange(num_starts, device=ahead.device).expand(num_rows, -1)
            hidden = self._read(new, sources.starts, places, seen if num_starts > 1 else None)
        new.took(num_starts)
        self._rows = new if self._rows is None else self._rows.with_more(new)
        return hidden[:, -1]

    def keep(self, rows: Tensor) -> None:
        """Lets all rows go but these, (kept,); what only they needed is given back."""
        self._rows = self._in_flight.select(rows) if len(rows) else None

    def follow(self, beams: Tensor) -> None:
        """Has each row's hypotheses go on from those of these numbers, (rows, beams)."""
        self._in_flight.follow(beams)

    @contextmanager
    def routed(self) -> Iterator[None]:
        """Gives a context in which the rows in flight have their languages; they must not change within it."""
        with self._learner.route(self._in_flight.src_lang, self._in_flight.tgt_lang):
            self._prepare(len(self._in_flight.src_lang))
            yield

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token of each hypothesis, (rows, beams); returns the last hidden states, (rows, beams, d).

        To be called within `routed`.
        """
        rows = self._in_flight
        rows.make_room(self._beams)
        rows.take_in()
        hidden = self._read(rows, tokens, rows.lengths[:, None], rows.seen(self._beams))
        rows.took(self._beams, 1)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of hidden states in fp32, (…, d) -> (…, vocab)."""
        logits: Tensor = self._model.lm_head(hidden)
        if (bias := getattr(self._model, "final_logits_bias", None)) is not None:
            logits = logits + bias
        return logits.float()

    @property
    def _in_flight(self) -> RowsInFlight:
        assert self._rows is not None, "sentences must have been added"
        return self._rows

    def _prepare(self, num_rows: int) -> None:
        for layer in self._layers:
            for linear in layer.linears:
                linear.route(num_rows)

    def _with_sources(self, sources: Sources, encoded: Encoded) -> RowsInFlight:
        d, num_rows = encoded.states.shape[-1], len(sources.ids)
        cross = []
        for layer in self._layers:
            both = layer.cross(encoded.states, encoded.source_of)
            cross.append((both[..., :d], both[..., d:]))
        none = encoded.states.new_zeros(num_rows, 0, d)
        return RowsInFlight(
            src_lang=sources.src_lang,
            tgt_lang=sources.tgt_lang,
            src_mask=sources.mask > 0,
            src_bias=padding_bias(sources.mask, encoded.states.dtype),
            lengths=torch.zeros(num_rows, dtype=torch.long, device=none.device),
            cross=cross,
            own=[(none, none) for _ in self._layers],
            apart=none.new_full((self._beams, self._beams), -torch.inf).fill_diagonal_(0.0),
            hidden=none.new_zeros(num_rows, self._beams, 0),
            used=0,
            is_even=self._beams == 1,
        )

    def _read(self, rows: RowsInFlight, tokens: Tensor, places: Tensor, seen: Tensor | None) -> Tensor:
        """Reads tokens, (rows, n), behind the nodes that rows have.

        Args:
            rows: Rows with room for n more nodes.
            tokens: (rows, n).
            places: Their positions, (rows, n) or (rows, 1), counted from 0.
            seen: What attention adds to nodes, (rows, 1, n, nodes), or None where each sees all.
        """
        decoder, end = self._decoder, rows.used + tokens.shape[1]
        hidden = decoder.embed_tokens(tokens) + self._position(tokens, places)
        if hasattr(decoder, "layernorm_embedding"):
            hidden = decoder.layernorm_embedding(hidden)
        for layer, (keys, values), cross in zip(self._layers, rows.own, rows.cross, strict=True):
            query, key, value = layer.own(layer.own_norm(hidden)).chunk(3, dim=-1)
            keys[:, rows.used : end], values[:, rows.used : end] = key, value
            hidden = hidden + layer.own_out(self._attention(query, (keys[:, :end], values[:, :end]), seen))
            query = layer.cross_query(layer.cross_norm(hidden))
            hidden = hidden + layer.cross_out(self._attention(query, cross, rows.src_bias))
            hidden = hidden + layer.fc2(layer.activation(layer.fc1(layer.fc_norm(hidden))))
        out: Tensor = decoder.layer_norm(hidden)
        return out

    def _position(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Returns what is added to tokens at places counted from 0, (rows, n, d) or (rows, 1, d)."""
        # A row that has ended and waits for others to leave goes on, beyond the last position if need be.
        places = (places + self._first_position).clamp_max(len(self._positions) - 1)
        if not self._is_learned:  # M2M-100 gives padding the row of its id, which is zero
            places = torch.where(tokens == self._padding_id, self._padding_id, places)
        return F.embedding(places, self._positions)

    def _attention(self, query: Tensor, known: KeysAndValues, bias: Tensor | None) -> Tensor:
        """(rows, n, d) by keys and values (rows, m, d) and what is added to the scores -> (rows, n, d)."""
        query, keys, values = (
            states.view(*states.shape[:2], self._num_heads, -1).transpose(1, 2) for states in (query, *known)
        )
        if self._is_eager:
            scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
            found = (scores if bias is None else scores + bias).softmax(dim=-1) @ values
        else:
            found = F.scaled_dot_product_attention(query, keys, values, attn_mask=bias)
        joined: Tensor = found.transpose(1, 2).flatten(2)
        return joined


@dataclass(frozen=True)
class _Layer:
    """A decoder layer's parts; linear layers that read the same input are one."""

    own_norm: Any
    own: PreparedLinear
    own_out: PreparedLinear
    cross_norm: Any
    cross: PreparedLinear
    cross_query: PreparedLinear
    cross_out: PreparedLinear
    fc_norm: Any
    fc1: PreparedLinear
    fc2: PreparedLinear
    activation: Any

    @classmethod
    def of(cls, layer: Any) -> "_Layer":
        """Takes a layer of transformers' apart, with whatever is mounted there."""
        own, cross = layer.self_attn, layer.encoder_attn
        return cls(
            own_norm=layer.self_attn_layer_norm,
            own=PreparedLinear([own.q_proj, own.k_proj, own.v_proj]),
            own_out=PreparedLinear([own.out_proj]),
            cross_norm=layer.encoder_attn_layer_norm,
            cross=PreparedLinear([cross.k_proj, cross.v_proj]),
            cross_query=PreparedLinear([cross.q_proj]),
            cross_out=PreparedLinear([cross.out_proj]),
            fc_norm=layer.final_layer_norm,
            fc1=PreparedLinear([layer.fc1]),
            fc2=PreparedLinear([layer.fc2]),
            activation=layer.activation_fn,
        )

    @property
    def linears(self) -> tuple[PreparedLinear, ...]:
        """All of them."""
        return self.own, self.own_out, self.cross, self.cross_query, self.cross_out, self.fc1, self.fc2
