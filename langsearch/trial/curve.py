"""The curve of a trial: what each of its epochs said."""

from typing import Any

import pyarrow as pa

from langsearch.study.results import TrialResult
from langsearch.train.loop import Progress

CURVE = pa.schema(
    [
        ("epoch", pa.int64()),
        ("updates", pa.int64()),
        ("train_loss", pa.float64()),
        ("spbleu", pa.float64()),
        ("lr", pa.float64()),
        ("seconds", pa.float64()),
        ("nonzero_parameters", pa.int64()),
        ("num_directions", pa.int64()),
        ("num_sentences", pa.int64()),
        ("beams", pa.int64()),
    ]
)


def curve_row(progress: Progress, result: TrialResult) -> dict[str, Any]:
    """Returns the row of an epoch."""
    return {
        "epoch": progress.epoch,
        "updates": progress.updates,
        "train_loss": progress.train_loss,
        "spbleu": result.spbleu,
        "lr": progress.lr,
        "seconds": result.seconds,
        "nonzero_parameters": result.nonzero_parameters,
        "num_directions": result.num_directions,
        "num_sentences": result.num_sentences,
        "beams": result.beams,
    }
