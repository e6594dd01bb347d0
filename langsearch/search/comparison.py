"""Paired comparisons of tested systems, from the translations in their folders."""

from langsearch.data.directions import Direction
from langsearch.evaluate.spbleu import Resamples, SpBleu
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder, TrialFolder, read_rows
from langsearch.search.table import TrialTable

COMPARED_WITH = ("pretrained", "full_finetuning")
"""The baselines that every tested system is compared with."""


def compare_tested(folder: ExperimentFolder, table: TrialTable, environment: Environment) -> None:
    """Records how much better each tested system is than the pretrained base and than full fine-tuning.

    Comparisons that the table has already are not made again.
    """
    spbleu = SpBleu(environment.tokenizer)
    rows = {row.name: row for row in table.rows() if row.test is not None}
    resamples: dict[str, Resamples] = {}

    def of(name: str) -> Resamples:
        if name not in resamples:
            resamples[name] = resample_trial(spbleu, folder.trial(name))
        return resamples[name]

    for name, row in rows.items():
        missing = [other for other in COMPARED_WITH if other in rows and other != name and other not in row.differences]
        if missing:
            found = {other: of(name).minus(of(other)) for other in missing}
            table.record_differences(name, {**row.differences, **found})


def resample_trial(spbleu: SpBleu, trial: TrialFolder) -> Resamples:
    """Returns a tested trial's resampled scores on the test set."""
    hypotheses: dict[Direction, list[str]] = {}
    references: dict[Direction, list[str]] = {}
    rows = [row for row in read_rows(trial.translations) if row["split"] == "test"]
    for row in sorted(rows, key=lambda row: (row["src"], row["tgt"], row["row"])):
        direction = Direction(row["src"], row["tgt"])
        hypotheses.setdefault(direction, []).append(row["hypothesis"])
        references.setdefault(direction, []).append(row["reference"])
    return spbleu.resample(hypotheses, references)
