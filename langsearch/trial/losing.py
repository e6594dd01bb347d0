"""A trial beside the pretrained base: the base's scores of the same kind, and what is said where they are no lower."""

from langsearch.experiment.folder import ExperimentFolder, read_json
from langsearch.study.results import TrialResult
from langsearch.study.rows import PRETRAINED, TrialRow


def pretrained_result(folder: ExperimentFolder, row: TrialRow) -> TrialResult | None:
    """Returns the pretrained base's scores, where they are of the same sentences as a trial's."""
    file = folder.trial(PRETRAINED).result
    if row.result is None or not file.exists():
        return None
    found = TrialResult(**read_json(file))
    return found if found.is_scored_as(row.result) else None


def losing_words(folder: ExperimentFolder, row: TrialRow) -> str:
    """Returns a warning where a trial is no better than the pretrained base; "" where it is better.

    On test where both were compared there, else on validation; "" also where nothing tells.
    """
    if "pretrained" in row.differences:
        split, change = "test", row.differences["pretrained"].value
    else:
        base = pretrained_result(folder, row)
        if base is None or row.result is None:
            return ""
        split, change = "validation", row.result.spbleu - base.spbleu
    if change > 0:
        return ""
    return f"These adapters do not beat the pretrained base: {change:+.2f} spBLEU to it on {split}."
