"""The forward pass of a training step, up to the states that the loss terms need.

Adapted layers are cheapest where the rows of a language stand together (`adapters.joint`). So the rows of a batch are
sorted by their target, as the decoder's adapters want them, and while the encoder runs by their source, unless most of
its adapters are picked by the target too. The order of rows changes nothing but rounding.

Where a batch says which rows have the same source, each source goes once through the encoder's lowest layers, up to the
first that looks at the target, and is spread over its rows from there on. Without dropout that changes nothing but
rounding either. With dropout the rows of a source share what is dropped of it in those layers, as if the sentence had
been drawn once with several targets; from there on each row has its own.
"""

from collections import Counter
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import Learner
from langsearch.adapters.routing import TokenWeights
from langsearch.data.batches import IGNORED_LABEL, Batch
from langsearch.model.layers import decoded, embedded, layers_of, num_by_source, padding_bias, run_layers
from langsearch.train.term import Need, States

_PLACES = ("first_rows", "counted")
"""Of a batch: where something stands in it, which other rows have elsewhere."""


@dataclass(frozen=True)
class EncoderSides:
    """Whose languages the adapters of an encoder look at; it is so for all batches."""

    most: str | None
    """The side that picks most of the adapters. None: there are none."""

    num_by_source: int
    """Lowest layers that look at no target."""

    most_above: str | None
    """The side that picks most of the adapters above those."""

    @classmethod
    def of(cls, learner: Learner) -> "EncoderSides":
        """Looks through all modules of a model's encoder."""
        encoder: Any = learner.model.model.encoder
        num = num_by_source(encoder)
        return cls(_picked_by([encoder]), num, _picked_by(layers_of(encoder)[num:]))


_NOT_OF_ROWS = {"first_rows", "counted", "pivot_ids", "pivot_mask"}
"""The tensors of a batch that do not move with its rows."""


def by_target(batch: Batch) -> Batch:
    """Returns a batch with its rows sorted by target language, those of one target by source language.

    Where it says which rows have the same source, it also gets a row of each. On a GPU, which would have to be waited
    for, it stays as it is.
    """
    if _is_apart(batch.tgt_lang):
        return batch
    order = _order(batch.tgt_lang * (int(batch.src_lang.max()) + 1) + batch.src_lang)
    if order is not None:
        values = {field.name: getattr(batch, field.name) for field in fields(batch)}
        of_rows = {
            name: value for name, value in values.items() if isinstance(value, Tensor) and name not in _NOT_OF_ROWS
        }
        moved: dict[str, Any] = {name: value[order] for name, value in of_rows.items()}
        batch = replace(batch, **moved | dict.fromkeys(_PLACES))
    if batch.source_of is None:
        return batch
    first_rows = np.unique(batch.source_of.numpy(), return_index=True)[1]
    is_shared = len(first_rows) < len(batch.source_of)
    return replace(batch, first_rows=torch.from_numpy(first_rows) if is_shared else None)


def ready(batch: Batch) -> Batch:
    """Returns a batch, still on the CPU, sorted by target and with all looked up that a device would be waited for."""
    batch = by_target(batch)
    return replace(batch, counted=_counted(batch.labels))


def run_forward(
    learner: Learner,
    batch: Batch,
    needs: AbstractSet[Need],
    precision: torch.dtype,
    sides: EncoderSides | None = None,
) -> States:
    """Returns the states that are needed of a batch, with gradients.

    Args:
        learner: The model, in training mode.
        batch: On its device; where that is a GPU, made by `ready`, so that it is not waited for.
        needs: What the terms need, all together. Without "decoder" the decoder is not run.
        precision: The type that products are made in: the base's own, or by autocast where that is fp32.
        sides: Those of the model's encoder. None: they are looked up.
    """
    if not needs & {"encoder", "decoder", "by_source"}:
        return States(None, None, None)
    model: Any = learner.model.model
    with _autocast(learner, precision):
        encoded, by_source = _encoded(learner, batch, sides or EncoderSides.of(learner), "by_source" in needs)
        if "decoder" not in needs:
            return States(encoded if "encoder" in needs else None, None, None, by_source)
        with learner.route(batch.src_lang, batch.tgt_lang, weights=TokenWeights(batch.src_mask, batch.labels)):
            if _is_apart(encoded):
                states = decoded(model.decoder, batch.decoder_input_ids, encoded, _mask(learner, batch))
            else:
                states = model(
                    encoder_outputs=(encoded,),
                    attention_mask=batch.src_mask,
                    decoder_input_ids=batch.decoder_input_ids,
                    use_cache=False,
                ).last_hidden_state
    counted = _counted(batch.labels) if batch.counted is None else batch.counted
    return States(
        encoder=encoded if "encoder" in needs else None,
        # Autocast's last layer norm gives fp32, with which the largest product of all would be made in fp32 too.
        decoder=states.flatten(0, 1).index_select(0, counted).to(precision),
        labels=batch.labels.flatten().index_select(0, counted),
        by_source=by_source,
    )


def lower_states(learner: Learner, ids: Tensor, mask: Tensor, num_layers: int, precision: torch.dtype) -> Tensor:
    """Returns what an encoder's lowest layers say of sentences, (rows, len) -> (rows, len, d).

    Args:
        learner: The model; the rows' languages must be routed where those layers have adapters.
        ids: (rows, len).
        mask: (rows, len), 0 at padding.
        num_layers: How many, as `layers_of` has them.
        precision: The type that products are made in.
    """
    encoder: Any = learner.model.model.encoder
    with _autocast(learner, precision):
        hidden = embedded(encoder, ids)
        bias = padding_bias(mask, hidden.dtype, is_padded=True if _is_apart(mask) else None)
        return run_layers(encoder, 0, num_layers, hidden, bias)


def _autocast(learner: Learner, precision: torch.dtype) -> AbstractContextManager[Any]:
    weight = learner.model.lm_head.weight
    return nullcontext() if precision is weight.dtype else torch.autocast(weight.device.type, dtype=precision)


def _encoded(learner: Learner, batch: Batch, sides: EncoderSides, with_by_source: bool) -> tuple[Tensor, Tensor | None]:
    """Returns what the encoder says, (rows, src_len, d), and what it says before it looks at the target if asked."""
    encoder: Any = learner.model.model.encoder
    is_cut = with_by_source and sides.num_by_source < len(layers_of(encoder))
    if is_cut or (batch.first_rows is not None and sides.num_by_source > 0):
        return _encoded_once(learner, batch, sides, with_by_source)
    ids, mask, src, tgt = batch.src_ids, _mask(learner, batch), batch.src_lang, batch.tgt_lang
    weights = batch.src_mask
    order = _order(src) if sides.most == "src" else None
    if order is not None:
        ids, mask, src, tgt = ids[order], None if mask is None else mask[order], src[order], tgt[order]
        weights = weights[order]
    with learner.route(src, tgt, weights=TokenWeights(weights, None)):
        encoded: Tensor = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
    encoded = encoded if order is None else encoded.index_select(0, order.argsort())
    return encoded, encoded if with_by_source else None


def _encoded_once(
    learner: Learner, batch: Batch, sides: EncoderSides, with_by_source: bool
) -> tuple[Tensor, Tensor | None]:
    """Returns the same, each source read once as far as it can be."""
    encoder: Any = learner.model.model.encoder
    first, source_of = batch.first_rows, batch.source_of
    if first is None or source_of is None:
        order = _order(batch.src_lang)
        first = torch.arange(len(batch.src_lang), device=batch.src_lang.device) if order is None else order
        source_of = first.argsort()
    # Sources are numbered by their language, so that each language's stand together.
    num_rows = torch.bincount(source_of, minlength=len(first))
    weights = TokenWeights(batch.src_mask[first] * num_rows[:, None], None)
    with learner.route(batch.src_lang[first], batch.tgt_lang[first], weights=weights):
        hidden = embedded(encoder, batch.src_ids[first])
        is_padded = batch.is_src_padded if _is_apart(hidden) else None
        bias = padding_bias(batch.src_mask[first], hidden.dtype, is_padded=is_padded)
        hidden = run_layers(encoder, 0, sides.num_by_source, hidden, bias)
    num_layers = len(layers_of(encoder))
    by_source = hidden.index_select(0, source_of) if with_by_source else None
    if sides.num_by_source == num_layers:
        encoded = hidden.index_select(0, source_of) if by_source is None else by_source
        return encoded, by_source
    mask, src, tgt = batch.src_mask, batch.src_lang, batch.tgt_lang
    order = _order(src) if sides.most_above == "src" else None
    if order is not None:
        source_of, mask, src, tgt = source_of[order], mask[order], src[order], tgt[order]
    hidden = hidden.index_select(0, source_of)
    bias = padding_bias(mask, hidden.dtype, is_padded=is_padded)
    with learner.route(src, tgt, weights=TokenWeights(mask, None)):
        encoded = run_layers(encoder, sides.num_by_source, num_layers, hidden, bias)
    return encoded if order is None else encoded.index_select(0, order.argsort()), by_source


def _picked_by(parts: Iterable[nn.Module]) -> str | None:
    """Returns the side that picks most adapters of some modules. None: they have none."""
    sides = Counter(side for part in parts for module in part.modules() for side in getattr(module, "sides", ()))
    return max(sides, key=sides.__getitem__) if sides else None


def _mask(learner: Learner, batch: Batch) -> Tensor | None:
    """Returns the mask of the sources: what the base's own code takes apart, or where that has to wait, as it is used.

    Transformers look whether anything is padded, unless they are given what attention adds.
    """
    if not _is_apart(batch.src_mask):
        return batch.src_mask
    return padding_bias(batch.src_mask, learner.model.lm_head.weight.dtype, is_padded=batch.is_src_padded)


def _counted(labels: Tensor) -> Tensor:
    """Returns where labels count, in the order of the flattened labels."""
    return (labels != IGNORED_LABEL).flatten().nonzero().squeeze(1)


def _is_apart(tensor: Tensor) -> bool:
    """Returns whether a tensor is on a device that the host would have to wait for to look at it."""
    return tensor.is_cuda


def _order(keys: Tensor) -> Tensor | None:
    """Returns what sorts rows by their keys, (rows,), those of one key as they stand; None if they are sorted."""
    if _is_apart(keys):
        return None
    order = keys.argsort(stable=True)
    return None if bool((order[1:] > order[:-1]).all()) else order
