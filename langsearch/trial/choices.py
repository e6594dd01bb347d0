"""What a trial's kept adapters have chosen, as a file beside its scores."""

from collections.abc import Iterator

import numpy as np

from langsearch.adapters.choices import gate_shares, pool_shares
from langsearch.adapters.learners import Learner
from langsearch.data.batches import Batch, collate
from langsearch.data.presence import even_rows
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, write_json
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture

_SENTENCES_A_DIRECTION = 8
"""Of the validation part, evenly spaced: some 20,000 tokens for twelve languages."""

_ROWS = 32


def write_choices(
    folder: TrialFolder, learner: Learner, architecture: Architecture | None, base: Base, environment: Environment
) -> None:
    """Writes which members of a pool languages have, and where gates are open; nothing where there is neither.

    Args:
        folder: The trial.
        learner: Its model with the weights that are kept.
        architecture: What it is of. None: all parameters are trained.
        base: The base.
        environment: The validation part and its directions.
    """
    if architecture is None or not (architecture.pool or architecture.gate):
        return
    write_json(
        folder.choices,
        {
            "pool": pool_shares(learner),  # type: ignore[arg-type]
            "gates": gate_shares(learner, _batches(base, environment)),  # type: ignore[arg-type]
        },
    )


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
