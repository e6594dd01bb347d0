"""Greedy search over sentences in flight: the likeliest token each time.

Shapes: rows = sentences in flight.
"""

import torch
from torch import Tensor

from langsearch.evaluate.incremental import IncrementalDecoder
from langsearch.evaluate.vocabulary import most_likely


class Greedy:
    """What greedy search knows of each row in flight.

    Args:
        eos_id: The id that ends a hypothesis.
    """

    def __init__(self, eos_id: int) -> None:
        self._eos_id = eos_id
        self._tokens = torch.empty(0, 0, dtype=torch.long)
        self._limits = torch.empty(0, dtype=torch.long)
        self._lengths = torch.empty(0, dtype=torch.long)

    def add(
        self, decoder: IncrementalDecoder, hidden: Tensor, limits: Tensor, marks: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Takes more rows behind those in flight and chooses their first tokens.

        Args:
            decoder: Gives the logits.
            hidden: (more, d) the states of what they begin with.
            limits: (more,) the most tokens of each, its language and end included; the last one is the end.
            marks: (more,) the token that each begins with. None: the model's choice.

        Returns:
            (more, 1) the next tokens, and (more,) True where a row has ended with it.
        """
        more = Greedy(self._eos_id)
        more._tokens = limits.new_full((len(limits), int(limits.max())), self._eos_id)
        more._limits, more._lengths = limits, torch.zeros_like(limits)
        if marks is not None:
            more._tokens[:, 0] = marks
            more._lengths = more._lengths + 1
        first = more.choose(decoder, hidden[:, None])
        if len(self._limits):
            width = max(self._tokens.shape[1], more._tokens.shape[1])
            both = [
                torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]), value=self._eos_id)
                for tokens in (self._tokens, more._tokens)
            ]
            more._tokens = torch.cat(both)
            more._limits = torch.cat([self._limits, more._limits])
            more._lengths = torch.cat([self._lengths, more._lengths])
        self._tokens, self._limits, self._lengths = more._tokens, more._limits, more._lengths
        return first

    def choose(self, decoder: IncrementalDecoder, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Chooses each row's next token.

        Args:
            decoder: Gives the logits.
            hidden: (rows, 1, d) the last hidden states.

        Returns:
            (rows, 1) the next tokens, and (rows,) True where a row has ended with it.
        """
        chosen = most_likely(decoder.logits, hidden[:, 0], decoder.vocab)
        chosen = chosen.masked_fill(self._lengths + 1 >= self._limits, self._eos_id)
        # A row that has ended and waits for others to leave goes on in its last place.
        places = torch.minimum(self._lengths, self._limits - 1)
        self._tokens.scatter_(1, places[:, None], chosen[:, None])
        self._lengths = places + 1
        return chosen[:, None], (chosen == self._eos_id) | (self._lengths >= self._limits)

    def found(self, rows: Tensor) -> list[list[int]]:
        """Returns the tokens of rows, (ended,), from the language, if the base has one there, to the end."""
        lengths = self._lengths[rows].tolist()
        return [row[:length] for row, length in zip(self._tokens[rows].tolist(), lengths, strict=True)]

    def keep(self, rows: Tensor) -> None:
        """Lets all rows go but these, (kept,)."""
        self._tokens, self._limits, self._lengths = self._tokens[rows], self._limits[rows], self._lengths[rows]
