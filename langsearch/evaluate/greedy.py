"""Greedy decoding that drops a row from the batch as soon as it has ended.

`generate` goes on with all rows until the last one ends. Rows of mixed directions end at very different lengths, and
a weak model has a few rows that run to their limit: most of the work would be done for padding. The tokens are those
of `generate` (shown by a test).
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache

from langsearch.adapters.learners import Learner
from langsearch.data.batches import BatchVocabulary

_MIN_SHARE_DROPPED = 0.25
"""Rows are dropped when so many have ended: dropping copies the cache, which has its price."""


def greedy_search(
    learner: Learner,
    src_ids: Tensor,
    src_mask: Tensor,
    src_lang: Tensor,
    tgt_lang: Tensor,
    forced_ids: Tensor | None,
    max_lengths: Tensor,
    vocabulary: BatchVocabulary,
) -> list[list[int]]:
    """Returns each row's tokens, from its language token, if the base has one there, to its end token.

    Args:
        learner: The model, in evaluation mode.
        src_ids: (rows, src_len) source ids.
        src_mask: (rows, src_len) 1 at tokens.
        src_lang: (rows,) language indices.
        tgt_lang: (rows,) likewise.
        forced_ids: (rows,) the token that each row starts with; None: the model's choice.
        max_lengths: (rows,) the most tokens of each row, language and end included; the last one is the end.
        vocabulary: The special ids.
    """
    model: Any = learner.model
    num_rows, longest = src_ids.shape[0], int(max_lengths.max())
    tokens = torch.full((num_rows, longest), vocabulary.eos_id, dtype=torch.long, device=src_ids.device)
    lengths = max_lengths.clone()
    alive = torch.arange(num_rows, device=src_ids.device)
    with learner.route(src_lang, tgt_lang):
        encoded = model.model.encoder(input_ids=src_ids, attention_mask=src_mask).last_hidden_state
    cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    last = torch.full((num_rows, 1), vocabulary.decoder_start_id, dtype=torch.long, device=src_ids.device)
    for step in range(longest):
        with learner.route(src_lang[alive], tgt_lang[alive]):
            hidden = model.model.decoder(
                input_ids=last,
                encoder_hidden_states=encoded,
                encoder_attention_mask=src_mask,
                past_key_values=cache,
                use_cache=True,
            ).last_hidden_state
        if step == 0 and forced_ids is not None:
            chosen = forced_ids
        else:
            chosen = model.lm_head(hidden[:, -1]).float().argmax(dim=-1)
            chosen = chosen.masked_fill(max_lengths[alive] == step + 1, vocabulary.eos_id)
        tokens[alive, step] = chosen
        ended = chosen == vocabulary.eos_id
        lengths[alive[ended & (lengths[alive] > step + 1)]] = step + 1
        going = step + 1 < lengths[alive]
        num_going = int(going.sum())
        if num_going == 0:
            break
        last = chosen[:, None]
        if num_going <= (1 - _MIN_SHARE_DROPPED) * len(alive):
            kept = going.nonzero().squeeze(1)
            alive, last, encoded, src_mask = alive[kept], last[kept], encoded[kept], src_mask[kept]
            cache.batch_select_indices(kept)
    return [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
