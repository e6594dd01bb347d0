"""Greedy search over sentences in flight: each has one hypothesis, which goes on with its likeliest token.

The tokens are those of transformers' `generate` (shown by a test).
"""

import torch
from torch import Tensor

from langsearch.evaluate.incremental import IncrementalDecoder


class Greedy:
    """What greedy search knows of each row in flight.

    Args:
        eos_id: The id that ends a hypothesis.
    """

    beams = 1

    def __init__(self, eos_id: int) -> None:
        self._eos_id = eos_id
        self._tokens = torch.empty(0, 0, dtype=torch.long)
        self._limits = torch.empty(0, dtype=torch.long)
        self._lengths = torch.empty(0, dtype=torch.long)

    def add(self, limits: Tensor) -> None:
        """Takes more rows.

        Args:
            limits: (rows,) the most tokens of each, its language and end included; the last one is the end.
        """
        width = max(self._tokens.shape[1], int(limits.max()))
        more = limits.new_full((len(limits), width), self._eos_id)
        if len(self._limits) == 0:
            self._tokens, self._limits, self._lengths = more, limits, torch.zeros_like(limits)
            return
        held = torch.nn.functional.pad(self._tokens, (0, width - self._tokens.shape[1]), value=self._eos_id)
        self._tokens = torch.cat([held, more])
        self._limits = torch.cat([self._limits, limits])
        self._lengths = torch.cat([self._lengths, torch.zeros_like(limits)])

    def choose(self, decoder: IncrementalDecoder, hidden: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        """Chooses each row's next token.

        Args:
            decoder: Gives the logits.
            hidden: (rows, 1, d) the last hidden states.
            forced: (rows,) the token that a row begins with; counts where it has none yet. None: the model's choice.

        Returns:
            (rows, 1) the next tokens, and (rows,) True where a row has ended with it.
        """
        is_first = self._lengths == 0
        if forced is not None and bool(is_first.all()):
            chosen = forced
        else:
            chosen = decoder.logits(hidden[:, 0]).argmax(dim=-1)
            chosen = chosen.masked_fill(self._lengths + 1 >= self._limits, self._eos_id)
            if forced is not None:
                chosen = torch.where(is_first, forced, chosen)
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
