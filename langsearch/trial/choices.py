"""What a trial's kept adapters have chosen, and what its encodings are worth, as a file beside its scores."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from langsearch.adapters.choices import gate_shares, pool_shares
from langsearch.adapters.learners import AdaptedModel, Learner
from langsearch.data.batches import Batch, collate
from langsearch.data.presence import even_rows
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_json, write_json
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import LossSettings
from langsearch.trial.probing import encoding_findings

_SENTENCES_A_DIRECTION = 8
"""Of the validation part, evenly spaced: some 20,000 tokens for twelve languages."""

_ROWS = 32


def write_choices(
    folder: TrialFolder,
    learner: Learner,
    architecture: Architecture | None,
    loss: LossSettings,
    base: Base,
    environment: Environment,
) -> None:
    """Writes which members of a pool languages have, where gates are open, and what terms on encodings have come to.

    Nothing where there is none of these.

    Args:
        folder: The trial.
        learner: Its model with the weights that are kept.
        architecture: What it is of. None: all parameters are trained.
        loss: The terms that it was trained with.
        base: The base.
        environment: The validation part and its directions.
    """
    if architecture is None or not isinstance(learner, AdaptedModel):
        return
    found: dict[str, Any] = {}
    if architecture.pool or architecture.gate:
        found = {"pool": pool_shares(learner), "gates": gate_shares(learner, _batches(base, environment))}
    if loss.align or loss.language_adversary:
        earlier = read_json(folder.choices) if folder.choices.exists() else {}
        vocabulary = base.vocabulary(environment.languages)
        found |= encoding_findings(learner, environment.validation, vocabulary, loss, earlier)
    if found:
        write_json(folder.choices, found)


def _batches(base: Base, environment: Environment) -> Iterator[Batch]:
    """Yields sentences of each direction of the validation part, of several directions in a batch."""
    store, vocabulary = environment.validation, base.vocabulary(environment.languages)
    pairs = []
    for index, direction in enumerate(environment.directions):
        rows = np.flatnonzero((store.lengths(direction.src) >= 0) & (store.lengths(direction.tgt) >= 0))
        pairs += [(index, row) for row in even_rows(rows, _SENTENCES_A_DIRECTION).tolist()]
    for start in range(0, len(pairs), _ROWS):
        part = np.array(pairs[start : start + _ROWS], np.int32)
        yield collate(store, environment.directions, part, vocabulary, environment.languages)
