"""The decoder of a base one token at a time, for sentences that come and go: what transformers' decoder gives, cheaper.

Shapes: rows = sentences in flight; beams = hypotheses of each, 1 where decoding is greedy; d = d_model; len = tokens of
the longest hypothesis so far. A sentence's hypotheses go through every linear layer together, (rows, beams, d), so that
adapters and the keys and values of the encoder stand once for a sentence, not once for a hypothesis. Only
self-attention sees hypotheses apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.batches import BatchVocabulary

_FIRST_LENGTH = 16
"""Tokens that the cache of hypotheses has room for at first; it grows by half."""


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


class IncrementalDecoder:
    """Sentences in flight, what the decoder has read of them, and one more token of each hypothesis at a time.

    It calls the modules of the model's layers, so that whatever is mounted there, such as adapters, is called too.

    Args:
        learner: The model, in evaluation mode.
        vocabulary: The special ids.
        beams: Hypotheses of a sentence.
    """

    def __init__(self, learner: Learner, vocabulary: BatchVocabulary, beams: int) -> None:
        self._learner, self._beams = learner, beams
        self._model: Any = learner.model
        self._decoder = self._model.model.decoder
        self._padding_id = vocabulary.pad_id
        # M2M-100's sines are a buffer, mBART's positions an embedding; both begin two rows behind the table's start.
        positions = self._decoder.embed_positions
        self._is_learned = hasattr(positions, "weight")
        self._positions: Tensor = positions.weight if self._is_learned else positions.weights
        first = positions.offset if self._is_learned else self._padding_id + 1
        self._first_position = int(first)
        attention = self._decoder.layers[0].self_attn
        self._num_heads = int(attention.num_heads)
        self._is_eager = self._model.config._attn_implementation == "eager"
        self._rows: _Rows | None = None

    @property
    def lengths(self) -> Tensor:
        """Tokens that the decoder has read of each row, (rows,)."""
        return self._in_flight.lengths

    @property
    def _in_flight(self) -> "_Rows":
        assert self._rows is not None, "sentences must have been added"
        return self._rows

    def add(self, sources: Sources) -> None:
        """Encodes sentences and puts them behind those in flight."""
        with self._learner.route(sources.src_lang, sources.tgt_lang):
            encoded = self._model.model.encoder(input_ids=sources.ids, attention_mask=sources.mask).last_hidden_state
            cross = [
                (self._heads(layer.encoder_attn.k_proj(encoded)), self._heads(layer.encoder_attn.v_proj(encoded)))
                for layer in self._decoder.layers
            ]
        num_rows = len(sources.ids)
        shape = num_rows, self._beams, self._num_heads, _FIRST_LENGTH, encoded.shape[-1] // self._num_heads
        new = _Rows(
            src_lang=sources.src_lang,
            tgt_lang=sources.tgt_lang,
            src_mask=sources.mask[:, None, None, :] > 0,
            lengths=torch.zeros(num_rows, dtype=torch.long, device=encoded.device),
            cross=cross,
            own=[(encoded.new_zeros(shape), encoded.new_zeros(shape)) for _ in self._decoder.layers],
            longest=0,
            is_even=True,
        )
        self._rows = new if self._rows is None else self._rows.with_more(new)

    def keep(self, rows: Tensor) -> None:
        """Lets all rows go but these, (kept,); what only they needed is given back."""
        self._rows = self._in_flight.select(rows) if len(rows) else None

    def follow(self, beams: Tensor) -> None:
        """Has each row's hypotheses go on from those of these numbers, (rows, beams)."""
        rows = self._in_flight
        if bool((beams == torch.arange(self._beams, device=beams.device)).all()):
            return
        flat = (beams + self._beams * torch.arange(len(beams), device=beams.device)[:, None]).flatten()
        for index, (keys, values) in enumerate(rows.own):
            rows.own[index] = self._reordered(keys, flat), self._reordered(values, flat)

    def _reordered(self, cached: Tensor, flat: Tensor) -> Tensor:
        # Only what is read yet is copied; the room behind it is not.
        longest = self._in_flight.longest
        shown = cached.flatten(0, 1)
        shown[:, :, :longest] = shown[:, :, :longest].index_select(0, flat)
        return cached

    def routed(self) -> Any:
        """Returns a context in which the rows in flight have their languages; they must not change within it."""
        return self._learner.route(self._in_flight.src_lang, self._in_flight.tgt_lang)

    def step(self, tokens: Tensor) -> Tensor:
        """Reads one more token of each hypothesis, (rows, beams); returns the last hidden states, (rows, beams, d).

        To be called within `routed`.
        """
        rows, decoder = self._in_flight, self._decoder
        rows.make_room()
        hidden = decoder.embed_tokens(tokens) + self._position(tokens)
        if hasattr(decoder, "layernorm_embedding"):
            hidden = decoder.layernorm_embedding(hidden)
        seen = None
        if not rows.is_even:
            places = torch.arange(rows.longest + 1, device=tokens.device)
            seen = (places <= rows.lengths[:, None])[:, None, None, :].repeat_interleave(self._beams, dim=0)
        for index, layer in enumerate(decoder.layers):
            normed = layer.self_attn_layer_norm(hidden)
            hidden = hidden + self._attend_to_own(layer.self_attn, normed, rows, index, seen)
            normed = layer.encoder_attn_layer_norm(hidden)
            hidden = hidden + self._attend_to_source(layer.encoder_attn, normed, rows, index)
            normed = layer.final_layer_norm(hidden)
            hidden = hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))
        rows.lengths = rows.lengths + 1
        rows.longest += 1
        out: Tensor = decoder.layer_norm(hidden)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Returns the logits of hidden states in fp32, (…, d) -> (…, vocab)."""
        logits: Tensor = self._model.lm_head(hidden)
        if (bias := getattr(self._model, "final_logits_bias", None)) is not None:
            logits = logits + bias
        return logits.float()

    def _position(self, tokens: Tensor) -> Tensor:
        """Returns the position of each hypothesis' next token, (rows, beams, d) or (rows, 1, d)."""
        # A row that has ended and waits for others to leave goes on, beyond the last position if need be.
        places = (self._in_flight.lengths + self._first_position).clamp_max(len(self._positions) - 1)[:, None]
        if not self._is_learned:  # M2M-100 gives padding the row of its id, which is zero
            places = torch.where(tokens == self._padding_id, self._padding_id, places)
        return F.embedding(places, self._positions)

    def _heads(self, states: Tensor) -> Tensor:
        """(rows, len, d) -> (rows, heads, len, d / heads)."""
        return states.view(*states.shape[:2], self._num_heads, -1).transpose(1, 2)

    def _attend_to_own(self, attention: Any, hidden: Tensor, rows: "_Rows", index: int, seen: Tensor | None) -> Tensor:
        query, key, value = attention.q_proj(hidden), attention.k_proj(hidden), attention.v_proj(hidden)
        keys, values = rows.own[index]
        for cached, new in ((keys, key), (values, value)):
            split = new.view(*new.shape[:2], self._num_heads, -1)
            if rows.is_even:
                cached[:, :, :, rows.longest] = split
            else:
                every = torch.arange(len(new), device=new.device)
                cached[every, :, :, rows.lengths] = split
        length = rows.longest + 1
        found = self._attention(
            query.view(query.shape[0] * self._beams, self._num_heads, 1, -1),
            keys.flatten(0, 1)[:, :, :length],
            values.flatten(0, 1)[:, :, :length],
            seen,
        )
        out: Tensor = attention.out_proj(found.reshape(hidden.shape))
        return out

    def _attend_to_source(self, attention: Any, hidden: Tensor, rows: "_Rows", index: int) -> Tensor:
        keys, values = rows.cross[index]
        found = self._attention(self._heads(attention.q_proj(hidden)), keys, values, rows.src_mask)
        out: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
        return out

    def _attention(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if not self._is_eager:
            mixed: Tensor = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
            return mixed
        scores = query @ keys.transpose(-1, -2) * query.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        summed: Tensor = scores.softmax(dim=-1) @ values
        return summed


@dataclass
class _Rows:
    """What is kept of the rows in flight; keys and values are pairs, one for each layer."""

    src_lang: Tensor
    tgt_lang: Tensor
    src_mask: Tensor
    """(rows, 1, 1, src len), True at tokens."""

    lengths: Tensor
    """(rows,) tokens that were read."""

    cross: list[tuple[Tensor, Tensor]]
    """Of the source, (rows, heads, src len, d / heads)."""

    own: list[tuple[Tensor, Tensor]]
    """Of the hypotheses, (rows, beams, heads, room, d / heads)."""

    longest: int
    is_even: bool
    """Whether all rows are equally long, so that nothing of the cache is hidden."""

    def make_room(self) -> None:
        """Sees to it that one more token fits."""
        room = self.own[0][0].shape[3]
        if self.longest < room:
            return
        more = max(_FIRST_LENGTH, room // 2)
        for index, pair in enumerate(self.own):
            self.own[index] = _padded(pair[0], 3, room + more), _padded(pair[1], 3, room + more)

    def select(self, rows: Tensor) -> "_Rows":
        """Returns these rows alone, (kept,)."""
        lengths, mask = self.lengths[rows], self.src_mask[rows]
        width = int(mask.sum(dim=-1).max())
        longest = int(lengths.max())
        return _Rows(
            src_lang=self.src_lang[rows],
            tgt_lang=self.tgt_lang[rows],
            src_mask=mask[..., :width],
            lengths=lengths,
            cross=[(keys[rows, :, :width], values[rows, :, :width]) for keys, values in self.cross],
            own=[(keys[rows], values[rows]) for keys, values in self.own],
            longest=longest,
            is_even=self.is_even or bool((lengths == longest).all()),
        )

    def with_more(self, new: "_Rows") -> "_Rows":
        """Returns these rows and more."""
        width = max(self.src_mask.shape[-1], new.src_mask.shape[-1])
        room = max(self.own[0][0].shape[3], new.own[0][0].shape[3])
        return _Rows(
            src_lang=torch.cat([self.src_lang, new.src_lang]),
            tgt_lang=torch.cat([self.tgt_lang, new.tgt_lang]),
            src_mask=torch.cat([_padded(rows.src_mask, 3, width) for rows in (self, new)]),
            lengths=torch.cat([self.lengths, new.lengths]),
            cross=_joined(self.cross, new.cross, 2, width),
            own=_joined(self.own, new.own, 3, room),
            longest=self.longest,
            is_even=self.is_even and self.longest == 0,
        )


def _joined(
    first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]], dim: int, size: int
) -> list[tuple[Tensor, Tensor]]:
    def pairs() -> Iterator[tuple[Tensor, Tensor]]:
        for one, other in zip(first, second, strict=True):
            keys, values = ((_padded(one[side], dim, size), _padded(other[side], dim, size)) for side in (0, 1))
            yield torch.cat(keys), torch.cat(values)

    return list(pairs())


def _padded(tensor: Tensor, dim: int, size: int) -> Tensor:
    """Returns a tensor with zeros behind the end of a dimension, since what is hidden still meets a weight of 0."""
    if tensor.shape[dim] == size:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = size - tensor.shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim=dim)
