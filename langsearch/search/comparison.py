"""Paired comparisons of tested systems, from the translations in their folders."""

from collections.abc import Sequence

from langsearch.data.directions import Direction
from langsearch.evaluate.spbleu import Difference, SpBleu
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder, TrialFolder, read_rows
from langsearch.search.table import TrialTable

COMPARED_WITH = ("pretrained", "full_finetuning")
"""The baselines that every tested system is compared with."""

_Texts = dict[Direction, list[str]]


def compare_tested(folder: ExperimentFolder, table: TrialTable, environment: Environment) -> None:
    """Records how much better each tested system is than the pretrained base and than full fine-tuning.

    Comparisons that the table has already are not made again.
    """
    spbleu = SpBleu(environment.tokenizer)
    rows = [row for row in table.rows() if row.test is not None]
    tested = {row.name for row in rows}
    for row in rows:
        missing = [name for name in COMPARED_WITH if name in tested - {row.name} and name not in row.differences]
        found = {name: compare_trials(spbleu, folder.trial(row.name), folder.trial(name)) for name in missing}
        if found:
            table.record_differences(row.name, {**row.differences, **found})


def compare_trials(spbleu: SpBleu, trial: TrialFolder, other: TrialFolder) -> Difference:
    """Returns how much better a trial is than another on the test set."""
    hypotheses, references = _texts(trial)
    others, _ = _texts(other)
    common = [direction for direction in hypotheses if direction in others]
    return spbleu.difference(_pick(hypotheses, common), _pick(others, common), _pick(references, common))


def _texts(trial: TrialFolder) -> tuple[_Texts, _Texts]:
    """Returns hypotheses and references of each direction, sentences in the set's order."""
    hypotheses: _Texts = {}
    references: _Texts = {}
    rows = [row for row in read_rows(trial.translations) if row["split"] == "test"]
    for row in sorted(rows, key=lambda row: (row["src"], row["tgt"], row["row"])):
        direction = Direction(row["src"], row["tgt"])
        hypotheses.setdefault(direction, []).append(row["hypothesis"])
        references.setdefault(direction, []).append(row["reference"])
    return hypotheses, references


def _pick(texts: _Texts, directions: Sequence[Direction]) -> _Texts:
    return {direction: texts[direction] for direction in directions}
