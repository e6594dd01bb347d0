"""Beam search over sentences in flight, row by row as transformers' `generate` does it, and the same tokens.

What a row's hypotheses are, when one is finished, and when nothing can improve any more, is transformers' own rule
(`GenerationMixin._beam_search`, with `length_penalty` and `early_stopping`), each row by itself: one that is done
leaves the batch, where `generate` goes on until all are.

Shapes: rows = sentences in flight; beams = hypotheses of each; len = tokens of the longest.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.evaluate.incremental import IncrementalDecoder

_NEVER = -1.0e9
"""The score of what does not exist, as transformers has it."""

_CHUNK = 64
"""Of the vocabulary: the best of each chunk are found first, which reads the logits once."""


@dataclass(frozen=True)
class BeamSettings:
    """How hypotheses are compared and when a row ends; as in a `GenerationConfig`."""

    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False


@dataclass
class _State:
    """Of the rows in flight."""

    limits: Tensor
    """(rows,) the most tokens of each."""

    lengths: Tensor
    """(rows,) tokens so far."""

    tokens: Tensor
    """(rows, beams, len) the hypotheses that go on."""

    scores: Tensor
    """(rows, beams) their log-probabilities, fp32."""

    ended: Tensor
    """(rows, beams, len) the best that have ended."""

    ended_scores: Tensor
    """(rows, beams) theirs, by the length penalty."""

    ended_lengths: Tensor
    """(rows, beams)."""

    has_ended: Tensor
    """(rows, beams) whether there is one."""


class Beams:
    """What beam search knows of each row in flight.

    Args:
        settings: Hypotheses, length penalty and early stopping.
        eos_id: The id that ends a hypothesis.
    """

    def __init__(self, settings: BeamSettings, eos_id: int) -> None:
        self._settings, self._eos_id = settings, eos_id
        self._state: _State | None = None

    @property
    def beams(self) -> int:
        """Hypotheses of a row."""
        return self._settings.beams

    def add(self, limits: Tensor) -> None:
        """Takes more rows.

        Args:
            limits: (rows,) the most tokens of each, its language and end included; the last one is the end.
        """
        num_rows, beams, device = len(limits), self.beams, limits.device
        width = int(limits.max())
        scores = torch.full((num_rows, beams), _NEVER, device=device)
        ended_scores = scores.clone()
        scores[:, 0] = 0.0  # else all hypotheses would begin alike
        tokens = limits.new_full((num_rows, beams, width), self._eos_id)
        new = _State(
            limits=limits,
            lengths=torch.zeros_like(limits),
            tokens=tokens,
            scores=scores,
            ended=tokens.clone(),
            ended_scores=ended_scores,
            ended_lengths=limits.new_ones(num_rows, beams),
            has_ended=torch.zeros(num_rows, beams, dtype=torch.bool, device=device),
        )
        self._state = new if self._state is None else self._joined(self._state, new)

    def choose(self, decoder: IncrementalDecoder, hidden: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        """Chooses the hypotheses of each row that go on.

        Args:
            decoder: Gives the logits; its caches follow the choice.
            hidden: (rows, beams, d) the last hidden states.
            forced: (rows,) the token that a row begins with; counts where it has none yet. None: the model's choice.

        Returns:
            (rows, beams) the next tokens, and (rows,) True where a row is done.
        """
        state = self._rows
        is_first = state.lengths == 0
        if forced is not None and bool(is_first.all()):
            return self._begin(forced), is_first & False
        log_probs, ids = self._continuations(decoder.logits(hidden), state)
        if forced is not None:
            log_probs, ids = _with_one_left(log_probs, ids, is_first[:, None, None], forced[:, None, None])
        candidates = (state.scores[:, :, None] + log_probs).flatten(1)
        scores, places = candidates.topk(2 * self.beams)
        origin, tokens = places // ids.shape[2], ids.flatten(1).gather(1, places)
        longer = _taken(state.tokens, origin)
        # A row that is done and waits for others to leave goes on in its last place.
        here = torch.minimum(state.lengths, state.limits - 1)
        longer.scatter_(2, here[:, None, None].expand(-1, longer.shape[1], 1), tokens[:, :, None])
        is_end = tokens == self._eos_id
        state.lengths = here + 1
        is_open = self._end(state, longer, scores, is_end)
        going, chosen = (scores + is_end.float() * _NEVER).topk(self.beams)
        state.tokens, state.scores = _taken(longer, chosen), going
        decoder.follow(origin.gather(1, chosen))
        is_done = ~is_open | ~self._can_improve(state) | is_end.all(dim=1)
        return tokens.gather(1, chosen), is_done

    def found(self, rows: Tensor) -> list[list[int]]:
        """Returns the best hypothesis of rows, (ended,), from the language, if the base has one there, to the end."""
        state = self._rows
        lengths = state.ended_lengths[rows, 0].tolist()
        return [row[:length] for row, length in zip(state.ended[rows, 0].tolist(), lengths, strict=True)]

    def keep(self, rows: Tensor) -> None:
        """Lets all rows go but these, (kept,)."""
        state = self._rows
        kept = {field.name: getattr(state, field.name)[rows] for field in fields(_State)}
        self._state = _State(**kept) if len(rows) else None

    @property
    def _rows(self) -> _State:
        assert self._state is not None, "rows must have been added"
        return self._state

    def _joined(self, first: _State, second: _State) -> _State:
        width = max(first.tokens.shape[2], second.tokens.shape[2])

        def wide(tensor: Tensor) -> Tensor:
            return F.pad(tensor, (0, width - tensor.shape[2]), value=self._eos_id) if tensor.dim() == 3 else tensor

        pairs = {field.name: (getattr(first, field.name), getattr(second, field.name)) for field in fields(_State)}
        return _State(**{name: torch.cat([wide(one), wide(other)]) for name, (one, other) in pairs.items()})

    def _begin(self, forced: Tensor) -> Tensor:
        state = self._rows
        state.tokens[:, :, 0] = forced[:, None]
        state.lengths = state.lengths + 1
        return forced[:, None].expand(-1, self.beams)

    def _continuations(self, logits: Tensor, state: _State) -> tuple[Tensor, Tensor]:
        """Returns the likeliest continuations of each hypothesis: log-probabilities and ids, (rows, beams, 2 beams)."""
        num = min(2 * self.beams, logits.shape[-1])
        best, ids = top_of_vocabulary(logits, num)
        log_probs = best - logits.logsumexp(dim=-1, keepdim=True)
        # Where a row has but one token left, it is the end.
        is_last = (state.lengths + 1 >= state.limits)[:, None, None]
        return _with_one_left(log_probs, ids, is_last, ids.new_tensor(self._eos_id))

    def _end(self, state: _State, longer: Tensor, scores: Tensor, is_end: Tensor) -> Tensor:
        """Takes the hypotheses that end here among the best that have; returns whether a row had room for them."""
        beams = self.beams
        is_open = torch.ones_like(state.has_ended[:, 0])
        if self._settings.early_stopping is True:
            is_open = ~state.has_ended.all(dim=1)
        ends = is_end & (torch.arange(2 * beams, device=is_end.device) < beams)
        penalised = scores / (state.lengths.float() ** self._settings.length_penalty)[:, None]
        penalised = penalised + (~is_open)[:, None].float() * _NEVER + (~ends).float() * _NEVER
        merged, places = torch.cat([state.ended_scores, penalised], dim=1).topk(beams)
        lengths = state.lengths[:, None].expand_as(ends)
        state.ended = _taken(torch.cat([state.ended, longer], dim=1), places)
        state.ended_lengths = torch.cat([state.ended_lengths, lengths], dim=1).gather(1, places)
        state.has_ended = torch.cat([state.has_ended, ends], dim=1).gather(1, places)
        state.ended_scores = merged
        if self._settings.early_stopping is True:
            return ~state.has_ended.all(dim=1)
        return is_open

    def _can_improve(self, state: _State) -> Tensor:
        """Returns whether a hypothesis that goes on may still beat the worst of those that have ended, (rows,)."""
        penalty = self._settings.length_penalty
        is_never = self._settings.early_stopping == "never" and penalty > 0
        length = (state.limits if is_never else state.lengths).float()
        best = state.scores[:, 0] / length**penalty
        worst = torch.where(state.has_ended, state.ended_scores.amin(dim=1, keepdim=True), _NEVER)
        return (best[:, None] > worst).any(dim=1)


def _with_one_left(log_probs: Tensor, ids: Tensor, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Returns continuations, (rows, beams, n) each, with one alone for some rows: a token, which is certain there."""
    only = torch.full_like(log_probs, -torch.inf)
    only[:, :, 0] = 0.0
    return torch.where(rows, only, log_probs), torch.where(rows, tokens, ids)


def top_of_vocabulary(logits: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Returns the largest logits and their ids, (…, vocab) -> (…, num) each, the largest first.

    The best of each chunk are found first: the largest of all lie in the chunks whose best are largest. Reads the
    logits once, where `topk` on a CPU sorts through all of them.
    """
    vocab = logits.shape[-1]
    num_chunks = vocab // _CHUNK
    if num_chunks <= 2 * num:
        return tuple(logits.topk(num))  # type: ignore[return-value]
    whole = logits[..., : num_chunks * _CHUNK].reshape(*logits.shape[:-1], num_chunks, _CHUNK)
    chunks = whole.amax(dim=-1).topk(num).indices
    ids = (chunks[..., None] * _CHUNK + torch.arange(_CHUNK, device=logits.device)).flatten(-2)
    rest = torch.arange(num_chunks * _CHUNK, vocab, device=logits.device)
    ids = torch.cat([ids, rest.expand(*ids.shape[:-1], -1)], dim=-1)
    best, places = logits.gather(-1, ids).topk(num)
    return best, ids.gather(-1, places)


def _taken(tensor: Tensor, places: Tensor) -> Tensor:
    """Returns the hypotheses at places, (rows, n, len) by (rows, m) -> (rows, m, len)."""
    return tensor.gather(1, places[:, :, None].expand(-1, -1, tensor.shape[2]))
