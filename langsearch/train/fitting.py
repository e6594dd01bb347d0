"""`tokens_per_batch: auto`: the largest batch that the device has room for.

It is found once for a trial, before its first update, and written beside it, so that a resumed trial has the same.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from langsearch.adapters.learners import AdaptedModel, Learner
from langsearch.model.memory import available_bytes, free_memory, is_out_of_memory
from langsearch.model.positions import num_positions
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData, try_microbatch
from langsearch.train.need import first_layers, training_need
from langsearch.train.stages import plan_of

MAX_TOKENS = 16_000
"""Tokens an update at most: those of the published training, which the other defaults of the trainer are of. A larger
batch would be another training; it is asked for by its number."""

_SHARE = 0.5
"""Of the memory that a CPU has available: the estimate may be wrong, and other trials may run beside this one."""

Fits = Callable[[int], bool]
"""Whether microbatches of so many tokens have room."""


def find_tokens_per_batch(
    learner: Learner, data: TrainingData, settings: TrainerSettings, fits: Fits | None = None
) -> int:
    """Returns the largest `tokens_per_batch` that fits: 16,000, or half of it, or a quarter, and so on.

    On a GPU by trying: the longest pairs, and the most, in a microbatch that goes forward and back. On a CPU, where
    the process would be killed, by `need.training_need` and the memory that is available. The longest pairs have room
    always: where they do not fit, a trial runs out of memory and its microbatches are split.

    Args:
        learner: What will be trained; it is left as it is.
        data: Sentences and directions.
        settings: How to train.
        fits: Whether microbatches of so many tokens have room. None: as above.
    """
    most = MAX_TOKENS // settings.accumulation
    least = min(settings.max_length, num_positions(learner.model.config))
    if fits is None:
        device = next(iter(learner.parameters().values())).device
        fits = _trying(learner, data, settings) if device.type == "cuda" else _estimating(learner, settings)
    tokens = most
    while tokens > least and not fits(tokens):
        tokens //= 2
    return max(tokens, least) * settings.accumulation


def _estimating(learner: Learner, settings: TrainerSettings) -> Fits:
    parameters = learner.parameters()
    device = next(iter(parameters.values())).device
    config = learner.model.config
    room = _SHARE * available_bytes(device)

    def fits(tokens: int) -> bool:
        need = training_need(
            config,
            num_parameters=0,  # the base is there already
            num_trained=sum(parameter.numel() for parameter in parameters.values()),
            is_full=not isinstance(learner, AdaptedModel),
            bytes_per_value=learner.model.lm_head.weight.element_size(),
            tokens=tokens,
            longest=min(settings.max_length, num_positions(config)),
            dropout=settings.dropout,
            layers=first_layers(learner.architecture if isinstance(learner, AdaptedModel) else None, config),
        )
        return need.total - need.trained <= room

    return fits


def _trying(learner: Learner, data: TrainingData, settings: TrainerSettings) -> Fits:
    def fits(tokens: int) -> bool:
        # What is tried has all that is trained in it, whose turn it may be.
        tried = replace(settings, tokens_per_batch=tokens * settings.accumulation, modular_bridge=None)
        for rows in _worst(learner, data, tried):
            try:
                try_microbatch(learner, data, tried, rows)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                has_room = False
            else:
                has_room = True
            free_memory()
            if not has_room:
                return False
        return True

    return fits


def _worst(learner: Learner, data: TrainingData, settings: TrainerSettings) -> list[NDArray[np.int32]]:
    """Returns the microbatch of the longest pairs, and the one of the most."""
    plan = plan_of(
        settings,
        data.store,
        data.directions,
        epoch=0,
        max_length=num_positions(learner.model.config),
        weights=data.weights,
    )

    def longest(rows: NDArray[np.int32]) -> int:
        sides = ((data.directions[index], row) for index, row in rows.tolist())
        return max(max(len(data.store.tokens(d.src, row)), len(data.store.tokens(d.tgt, row))) for d, row in sides)

    return [max(plan.microbatches, key=lambda rows: (longest(rows), len(rows))), max(plan.microbatches, key=len)]
