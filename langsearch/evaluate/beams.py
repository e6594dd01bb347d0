"""Beam search over sentences in flight, row by row as transformers' `generate` does it, and the same tokens.

What a row's hypotheses are, when one is finished, and when nothing can improve any more, is transformers' own rule
(`GenerationMixin._beam_search`, with `length_penalty` and `early_stopping`), each row by itself: one that is done
leaves the batch, where `generate` goes on until all are. So does one whose best hypothesis cannot be beaten any more,
where `generate` goes on until its worst cannot: the best alone is asked for.

Shapes: rows = sentences in flight; beams = hypotheses of each; len = tokens of the longest.
"""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from langsearch.evaluate.incremental import IncrementalDecoder
from langsearch.evaluate.vocabulary import likeliest

_NEVER = -1.0e9
"""The score of what does not exist, as transformers has it."""

_ROUNDING = 1.0e-4
"""By how much at least a score must be out of reach: sums of log-probabilities are rounded."""


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

    def add(
        self, decoder: IncrementalDecoder, hidden: Tensor, limits: Tensor, marks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Takes more rows behind those in flight and chooses their first hypotheses.

        Args:
            decoder: Gives the logits.
            hidden: (more, d) the states of what they begin with.
            limits: (more,) the most tokens of each, its language and end included; the last one is the end.
            marks: (more,) the token that each begins with. None: the model's choice.

        Returns:
            (more, beams) the next tokens, and (more,) True where a row is done.
        """
        num_rows, beams, device = len(limits), self.beams, limits.device
        scores = torch.full((num_rows, beams), _NEVER, device=device)
        tokens = limits.new_full((num_rows, beams, int(limits.max())), self._eos_id)
        lengths = torch.zeros_like(limits)
        if marks is not None:
            tokens[:, :, 0] = marks[:, None]
            lengths = lengths + 1
        new = _State(
            limits=limits,
            lengths=lengths,
            tokens=tokens,
            scores=torch.zeros_like(scores),
            ended=tokens.clone(),
            ended_scores=scores,
            ended_lengths=limits.new_ones(num_rows, beams),
            has_ended=torch.zeros(num_rows, beams, dtype=torch.bool, device=device),
        )
        # All hypotheses begin alike, so that the first alone goes on.
        first, is_done, _ = self._choose(new, decoder, hidden[:, None])
        self._state = new if self._state is None else self._joined(self._state, new)
        return first, is_done

    def choose(self, decoder: IncrementalDecoder, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses the hypotheses of each row that go on.

        Args:
            decoder: Gives the logits; its caches follow the choice.
            hidden: (rows, beams, d) the last hidden states.

        Returns:
            (rows, beams) the next tokens, and (rows,) True where a row is done.
        """
        tokens, is_done, origin = self._choose(self._rows, decoder, hidden)
        decoder.follow(origin)
        return tokens, is_done

    def _choose(self, state: _State, decoder: IncrementalDecoder, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Chooses among the continuations of as many hypotheses as have states; returns also whose those chosen are."""
        scores, origin, tokens = self._continuations(decoder, hidden, state)
        longer = _taken(state.tokens, origin)
        # A row that is done and waits for others to leave goes on in its last place.
        here = torch.minimum(state.lengths, state.limits - 1)
        longer.scatter_(2, here[:, None, None].expand(-1, longer.shape[1], 1), tokens[:, :, None])
        is_end = tokens == self._eos_id
        state.lengths = here + 1
        is_open = self._end(state, longer, scores, is_end)
        going, chosen = (scores + is_end.float() * _NEVER).topk(self.beams)
        state.tokens, state.scores = _taken(longer, chosen), going
        is_done = ~is_open | ~self._can_improve(state) | is_end.all(dim=1)
        return tokens.gather(1, chosen), is_done, origin.gather(1, chosen)

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

    def _continuations(
        self, decoder: IncrementalDecoder, hidden: Tensor, state: _State
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the likeliest continuations: scores, whose they are, and their tokens, (rows, 2 beams) each."""
        before = state.scores[:, : hidden.shape[1]]
        scores, origin, tokens = likeliest(decoder.logits, hidden, before, decoder.vocab, 2 * self.beams)
        # Where a row has but one token left, each hypothesis goes on with the end alone, which is certain.
        is_last = (state.lengths + 1 >= state.limits)[:, None]
        missing = 2 * self.beams - before.shape[1]
        ended = F.pad(before, (0, missing), value=-torch.inf)
        every = torch.arange(2 * self.beams, device=origin.device).clamp_max(before.shape[1] - 1)
        return (
            torch.where(is_last, ended, scores),
            torch.where(is_last, every, origin),
            tokens.masked_fill(is_last, self._eos_id),
        )

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
        """Returns whether the best that has ended may be beaten yet, and transformers' rule lets rows go on, (rows,).

        That rule compares the best hypothesis that goes on, at its present length, with the worst that has ended. A
        hypothesis only loses probability: whatever its length will be, up to the limit, it cannot reach more than its
        present score by the best of these lengths.
        """
        penalty = self._settings.length_penalty
        is_never = self._settings.early_stopping == "never" and penalty > 0
        limits, lengths = state.limits.float(), state.lengths.float()
        best = state.scores[:, 0] / (limits if is_never else lengths) ** penalty
        worst = torch.where(state.has_ended, state.ended_scores.amin(dim=1, keepdim=True), _NEVER)
        reachable = state.scores[:, 0] / (limits if penalty > 0 else torch.minimum(lengths + 1, limits)) ** penalty
        can_win = reachable >= state.ended_scores[:, 0] - _ROUNDING
        return (best[:, None] > worst).any(dim=1) & can_win


def _taken(tensor: Tensor, places: Tensor) -> Tensor:
    """Returns the hypotheses at places, (rows, n, len) by (rows, m) -> (rows, m, len)."""
    return tensor.gather(1, places[:, :, None].expand(-1, -1, tensor.shape[2]))
