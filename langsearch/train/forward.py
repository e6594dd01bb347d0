"""The forward pass of training: as much of the model as the loss terms need."""

from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from langsearch.adapters.learners import Learner
from langsearch.data.batches import IGNORED_LABEL, Batch
from langsearch.train.term import Need, States


def run_forward(learner: Learner, batch: Batch, needs: AbstractSet[Need], precision: torch.dtype) -> States:
    """Returns the states that are needed of a batch, with gradients.

    Args:
        learner: The model, in training mode.
        batch: On its device.
        needs: What the terms need, all together. Without "decoder" the decoder is not run.
        precision: The type that products are made in: the base's own, or by autocast where that is fp32.
    """
    autocast: AbstractContextManager[Any] = nullcontext()
    if precision is not learner.model.lm_head.weight.dtype:
        autocast = torch.autocast(batch.src_ids.device.type, dtype=precision)
    model: Any = learner.model.model
    with learner.route(batch.src_lang, batch.tgt_lang), autocast:
        if "decoder" not in needs:
            if "encoder" not in needs:
                return States(None, None, None)
            encoded = model.encoder(input_ids=batch.src_ids, attention_mask=batch.src_mask).last_hidden_state
            return States(encoded, None, None)
        output = model(
            input_ids=batch.src_ids,
            attention_mask=batch.src_mask,
            decoder_input_ids=batch.decoder_input_ids,
            use_cache=False,
        )
    counts = batch.labels != IGNORED_LABEL
    return States(
        encoder=output.encoder_last_hidden_state if "encoder" in needs else None,
        # Autocast's last layer norm gives fp32, with which the largest product of all would be made in fp32 too.
        decoder=output.last_hidden_state[counts].to(precision),
        labels=batch.labels[counts],
    )
