"""The weights that a trial keeps: those of the epoch that counts, and while it runs those its checkpoints refer to."""

import json
import shutil

from safetensors import SafetensorError

from langsearch.experiment.folder import TrialFolder
from langsearch.train.checkpoint import read_checkpoint, read_newest_checkpoint


def tidy(folder: TrialFolder) -> None:
    """Drops what a complete trial does not need. The checkpoints go last: they say which weights are kept."""
    if not folder.checkpoint.exists():
        return
    checkpoint = read_newest_checkpoint(folder.checkpoint)
    if checkpoint is not None and checkpoint.state.get("kept_updates") is not None:
        remove_weights(folder, {checkpoint.state["kept_updates"]})
    folder.remove_checkpoints()


def remove_weights(folder: TrialFolder, in_use: set[int]) -> None:
    """Removes a trial's weights but those of these updates."""
    if folder.weights.is_dir():
        for path in folder.weights.iterdir():
            if path.name.isdigit() and int(path.name) not in in_use:
                shutil.rmtree(path, ignore_errors=True)


def weights_in_use(folder: TrialFolder) -> set[int]:
    """Returns the kept weights that the trial's checkpoints refer to."""
    found = set()
    for path in folder.checkpoint.glob("[0-9]*/state.json"):
        try:
            updates = json.loads(path.read_text(encoding="utf-8")).get("kept_updates")
        except (OSError, ValueError, AttributeError):  # a torn checkpoint refers to nothing
            continue
        if updates is not None:
            found.add(int(updates))
    return found


def is_whole(folder: TrialFolder, kept_updates: int) -> bool:
    """Returns whether the weights of an update are there and can be read."""
    try:
        read_checkpoint(folder.weights / f"{kept_updates:09d}")
    except (OSError, ValueError, SafetensorError):
        return False
    return True
