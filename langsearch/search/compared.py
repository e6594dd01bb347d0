"""How tested systems compare on the test set: each with every baseline, over sentences and seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from langsearch.data.directions import Direction
from langsearch.evaluate.differences import Trainings, compare
from langsearch.evaluate.seed_statistics import holm
from langsearch.evaluate.spbleu import Difference, Resamples, SpBleu
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder, TrialFolder, read_rows
from langsearch.study.beside_names import original_of
from langsearch.study.rows import TrialRow
from langsearch.study.seeds import is_trained
from langsearch.study.table import TrialTable

Differences = dict[str, dict[str, Difference]]
"""By the system's name, then by the baseline's."""


def compare_tested(folder: ExperimentFolder, table: TrialTable, environment: Environment) -> None:
    """Records how much better each tested system is than each tested baseline.

    Comparisons that the table has already, of as many seeds, are not made again, but for Holm's correction: that
    depends on how many are made in all.
    """
    rows = [row for row in table.rows() if row.test is not None]
    groups: dict[str, list[TrialRow]] = {}
    for row in rows:
        groups.setdefault(original_of(row.name), []).append(row)
    systems = [row for row in rows if row.kind in ("searched", "baseline")]
    baselines = [row.name for row in systems if row.kind == "baseline"]
    spbleu = SpBleu(environment.tokenizer)
    known: dict[str, Trainings] = {}

    def of(name: str) -> Trainings:
        if name not in known:
            resamples = [resample_trial(spbleu, folder.trial(row.name)) for row in groups[name]]
            known[name] = Trainings(resamples, is_trained(groups[name][0]))
        return known[name]

    found: Differences = {row.name: dict(row.differences) for row in systems}
    for row in systems:
        for other in baselines:
            if other != row.name and not _is_known(row, other, groups):
                found[row.name][other] = compare(of(row.name), of(other))
    _correct([row.name for row in systems if row.kind == "searched"], found)
    for row in systems:
        if found[row.name] != row.differences:
            table.record_differences(row.name, found[row.name])


def _is_known(row: TrialRow, other: str, groups: Mapping[str, Sequence[TrialRow]]) -> bool:
    """Returns whether a row has the difference to a baseline, of all seeds that there are.

    Of two with unequal numbers the record says only the smaller: it is made again, which costs a second.
    """
    if other not in row.differences or row.differences[other].p is None:
        return False
    nums = {len(groups[name]) for name in (row.name, other) if is_trained(groups[name][0])}
    return nums <= {row.differences[other].num_seeds}


def _correct(members: Sequence[str], found: Differences) -> None:
    """Adjusts the p values of the members by Holm's rule, for each baseline over all members that were tested."""
    for other in {other for name in members for other in found[name]}:
        known = {name: found[name][other].p for name in members if other in found[name]}
        adjusted = holm({name: p for name, p in known.items() if p is not None})
        for name, p in adjusted.items():
            found[name][other] = replace(found[name][other], holm_p=p)


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
