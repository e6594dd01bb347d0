"""The forward pass of a training step, up to the states that the loss terms need.

Adapted layers are cheapest where the rows of a language stand together (`adapters.joint`). So the rows of a batch are
sorted by their target, as the decoder's adapters want them, and while the encoder runs by their source, unless most of
its adapters are picked by the target too. The order of rows changes nothing but rounding.
"""

from collections import Counter
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from langsearch.adapters.learners import Learner
from langsearch.data.batches import IGNORED_LABEL, Batch
from langsearch.train.term import Need, States


def by_target(batch: Batch) -> Batch:
    """Returns a batch with its rows sorted by target language, those of one target by source language.

    On a GPU, which would have to be waited for, it stays as it is.
    """
    if batch.tgt_lang.is_cuda:
        return batch
    order = _order(batch.tgt_lang * (int(batch.src_lang.max()) + 1) + batch.src_lang)
    if order is None:
        return batch
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    moved: dict[str, Any] = {name: value[order] for name, value in values.items() if isinstance(value, Tensor)}
    return replace(batch, **moved)


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
    if not needs & {"encoder", "decoder"}:
        return States(None, None, None)
    model: Any = learner.model.model
    with autocast:
        encoded = _encoded(learner, batch)
        if "decoder" not in needs:
            return States(encoded, None, None)
        with learner.route(batch.src_lang, batch.tgt_lang):
            output = model(
                encoder_outputs=(encoded,),
                attention_mask=batch.src_mask,
                decoder_input_ids=batch.decoder_input_ids,
                use_cache=False,
            )
    counts = batch.labels != IGNORED_LABEL
    return States(
        encoder=encoded if "encoder" in needs else None,
        # Autocast's last layer norm gives fp32, with which the largest product of all would be made in fp32 too.
        decoder=output.last_hidden_state[counts].to(precision),
        labels=batch.labels[counts],
    )


def _encoded(learner: Learner, batch: Batch) -> Tensor:
    """Returns what the encoder says, (rows, src_len, d)."""
    encoder: Any = learner.model.model.encoder
    ids, mask, src, tgt = batch.src_ids, batch.src_mask, batch.src_lang, batch.tgt_lang
    order = _order(src) if _picked_by(encoder) == "src" else None
    if order is not None:
        ids, mask, src, tgt = ids[order], mask[order], src[order], tgt[order]
    with learner.route(src, tgt):
        encoded: Tensor = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    return encoded if order is None else encoded.index_select(0, order.argsort())


def _picked_by(stack: Any) -> str | None:
    """Returns the side that picks most of a stack's adapters. None: it has none."""
    sides = Counter(side for module in stack.modules() for side in getattr(module, "sides", ()))
    return max(sides, key=sides.__getitem__) if sides else None


def _order(keys: Tensor) -> Tensor | None:
    """Returns what sorts rows by their keys, (rows,), those of one key as they stand; None if they are sorted."""
    if keys.is_cuda:
        return None
    order = keys.argsort(stable=True)
    return None if bool((order[1:] > order[:-1]).all()) else order
