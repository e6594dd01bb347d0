"""What transformers' own `generate` needs to be compared with: each row in its own language, up to its own limit."""

import torch
from torch import Tensor


class ForceLanguageAndEnd:
    """A logits processor that makes each row start with its own language and end at its own longest length.

    Exact for greedy and beams; a list given as `forced_bos_token_id` is silently wrong, and language tokens in
    `decoder_input_ids` change the beams' lengths. Without language ids rows start with their text. The length limit
    is a row's own, so that a translation does not depend on the other rows of its batch.
    """

    def __init__(self, language_ids: Tensor | None, max_lengths: Tensor, eos_id: int) -> None:
        self._language_ids, self._max_lengths, self._eos_id = language_ids, max_lengths, eos_id
        self._first_end = int(max_lengths.min())
        self._num_ids = 0 if language_ids is None else int(language_ids.max()) + 1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Called by `generate` before each token; (rows * beams, length), (rows * beams, vocab) -> (…, ids)."""
        length = input_ids.shape[1]
        num_beams = scores.shape[0] // self._max_lengths.shape[0]
        if length == 1 and self._language_ids is not None:
            forced = self._language_ids.repeat_interleave(num_beams)
            # Languages that are new to the base have ids behind its own, for this step alone.
            size = scores.shape[0], max(scores.shape[1], self._num_ids)
            return scores.new_full(size, -torch.inf).scatter_(1, forced[:, None], 0.0)
        if length < self._first_end:
            return scores
        ends = (self._max_lengths <= length).repeat_interleave(num_beams)
        scores = scores.masked_fill(ends[:, None], -torch.inf)
        scores[:, self._eos_id] = scores[:, self._eos_id].masked_fill(ends, 0.0)
        return scores
