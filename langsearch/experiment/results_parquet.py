"""The trial table as Parquet, for the report and for anyone: one row a trial, rewritten while the search runs."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pyarrow as pa

from langsearch.experiment.folder import ExperimentFolder, TrialFolder, write_table
from langsearch.experiment.task import TrialTask
from langsearch.study.beside_names import COMPARED, original_of
from langsearch.study.cut_rows import as_cuts
from langsearch.study.results import TrialResult, cut_words
from langsearch.study.rows import TrialRow
from langsearch.study.seeds import SeedScores, seed_scores
from langsearch.study.table import TrialTable

RESULTS = pa.schema(
    [
        ("name", pa.string()),
        ("kind", pa.string()),
        ("state", pa.string()),
        ("cause", pa.string()),
        ("note", pa.string()),
        ("seed_of", pa.string()),
        ("same_as", pa.string()),
        ("retry_of", pa.string()),
        ("retried_as", pa.string()),
        ("cut", pa.string()),
        ("is_from_cut", pa.bool_()),
        ("tuned_from", pa.string()),
        ("space_version", pa.int64()),
        ("epochs", pa.int64()),
        ("max_epochs", pa.int64()),
        ("kept_epoch", pa.int64()),
        ("spbleu", pa.float64()),
        ("spbleu_low", pa.float64()),
        ("spbleu_high", pa.float64()),
        ("worst_class_spbleu", pa.float64()),
        ("chrf", pa.float64()),
        ("num_sentences", pa.int64()),
        ("num_directions", pa.int64()),
        ("beams", pa.int64()),
        ("cut_share", pa.float64()),
        ("full_spbleu", pa.float64()),
        ("full_spbleu_low", pa.float64()),
        ("full_spbleu_high", pa.float64()),
        ("full_worst_class_spbleu", pa.float64()),
        ("full_chrf", pa.float64()),
        ("full_num_sentences", pa.int64()),
        ("full_num_directions", pa.int64()),
        ("full_cut_share", pa.float64()),
        ("test_spbleu", pa.float64()),
        ("test_spbleu_low", pa.float64()),
        ("test_spbleu_high", pa.float64()),
        ("test_num_sentences", pa.int64()),
        ("test_num_directions", pa.int64()),
        ("test_num_zero_shot", pa.int64()),
        ("test_zero_shot_spbleu", pa.float64()),
        ("test_cut_share", pa.float64()),
        ("test_num_seeds", pa.int64()),
        ("test_seeds_spbleu", pa.float64()),
        ("test_seeds_spbleu_sd", pa.float64()),
        ("test_seeds_spbleu_low", pa.float64()),
        ("test_seeds_spbleu_high", pa.float64()),
        *(
            (f"{name}{end}", pa.int64() if end == "_num_seeds" else pa.float64())
            for name in COMPARED.values()
            for end in ("", "_low", "_high", "_p", "_holm_p", "_num_seeds", "_sentences_sd")
        ),
        ("trainable_parameters", pa.int64()),
        ("trainable_percent", pa.float64()),
        ("nonzero_parameters", pa.int64()),
        ("train_loss", pa.float64()),
        ("train_seconds", pa.float64()),
        ("seconds", pa.float64()),
        ("peak_memory_bytes", pa.int64()),
        ("is_feasible", pa.bool_()),
        ("violations", pa.string()),
        ("is_front", pa.bool_()),
        ("fingerprint", pa.string()),
        ("signature", pa.string()),
        ("worker", pa.string()),
        ("started", pa.string()),
        ("finished", pa.string()),
        ("params", pa.string()),
        ("summary", pa.string()),
    ]
)
"""`violations` and `params` are JSON objects."""

_ROWS_PER_BLOCK = 128


@dataclass(frozen=True)
class _Block:
    """Rows as Arrow, and the rows of the table that they were made of."""

    rows: Sequence[TrialRow]
    is_settled: bool
    """Whether all of them are finished, so that nothing outside the table changes them."""
    batch: pa.RecordBatch


class ResultsFile:
    """Writes the results of one experiment again and again; what has not changed since is not built anew.

    A rewrite costs the changed rows and the writing of the file.

    Args:
        folder: The experiment.
        base_parameters: The base's size, for percentages.
    """

    def __init__(self, folder: ExperimentFolder, base_parameters: int) -> None:
        self._folder, self._base_parameters = folder, base_parameters
        self._blocks: list[_Block] = []
        self._tasks: dict[str, dict[str, Any]] = {}

    def write(self, table: TrialTable, cuts: TrialTable | None = None) -> None:
        """Writes the table as it is now, in one step, and behind it the cuts of a one-shot search.

        Raises:
            OSError: If the disk is full; the old file then stays.
        """
        rows = [*table.rows(), *(as_cuts(cuts.rows()) if cuts is not None else ())]
        front, final = {row.name for row in table.front()}, table.final_violations()
        parts = [rows[start : start + _ROWS_PER_BLOCK] for start in range(0, len(rows), _ROWS_PER_BLOCK)]
        known = self._blocks
        self._blocks = [
            known[index] if index < len(known) and _holds(known[index], part) else self._block(part)
            for index, part in enumerate(parts)
        ]
        whole = pa.Table.from_batches([block.batch for block in self._blocks], RESULTS)
        # Whether a trial is on the front, and by how much it is not, and what its other seeds score, depends on the
        # others: made each time.
        columns: dict[str, list[Any]] = {"is_front": [row.name in front for row in rows]}
        over_seeds = seed_scores(rows)
        for field in fields(SeedScores):
            columns[field.name] = [seed_values(row, over_seeds).get(field.name) for row in rows]
        if final:
            judged = [replace(row, violations=final.get(row.name, row.violations)) for row in rows]
            columns |= {"is_feasible": [row.is_feasible for row in judged], "violations": [*map(_violations, judged)]}
        for name, values in columns.items():
            column = RESULTS.field(name)
            whole = whole.set_column(RESULTS.get_field_index(name), column, pa.array(values, column.type))
        write_table(self._folder.results, whole)

    def _block(self, rows: Sequence[TrialRow]) -> _Block:
        values = [self._of_task(row.same_as or row.name) | row_values(row, self._base_parameters) for row in rows]
        batch = pa.RecordBatch.from_pylist(values, schema=RESULTS)
        return _Block(tuple(rows), all(row.state.is_finished for row in rows), batch)

    def _of_task(self, name: str) -> dict[str, Any]:
        """Returns what a trial's task says, which is written once; nothing if it is not written."""
        if name not in self._tasks:
            trial = self._folder.trial(name)
            if not trial.task.exists():
                return {}
            self._tasks[name] = task_values(trial)
        return self._tasks[name]


def write_results(folder: ExperimentFolder, table: TrialTable, base_parameters: int) -> None:
    """Writes the trial table as Parquet, once."""
    ResultsFile(folder, base_parameters).write(table)


def _holds(block: _Block, rows: Sequence[TrialRow]) -> bool:
    """Returns whether a block is that of some rows still."""
    if not block.is_settled or len(block.rows) != len(rows):
        return False
    return all(old is new or old == new for old, new in zip(block.rows, rows, strict=True))


def task_values(trial: TrialFolder) -> dict[str, Any]:
    """Returns the columns that a trial's task says. Raises OSError or ValueError if it cannot be read."""
    task = TrialTask.read(trial)
    return {"max_epochs": task.num_epochs, "summary": task.summary}


def _notes(row: TrialRow, result: TrialResult) -> Iterator[str]:
    """Yields what a trial's numbers must not be read without: what was changed to get it through, and what was cut."""
    yield result.note
    if row.final is None:
        yield cut_words(result.cut_share, result.num_cut_sources, "validation")
    else:
        yield row.final.full_note
        yield cut_words(row.final.full_cut_share, row.final.full_num_cut_sources, "validation")
    if row.test is not None:
        yield row.test.test_note
        yield cut_words(row.test.test_cut_share, row.test.test_num_cut_sources, "test")


def _violations(row: TrialRow) -> str | None:
    return None if row.violations is None else json.dumps(dict(row.violations))


def seed_values(row: TrialRow, over_seeds: Mapping[str, SeedScores]) -> dict[str, Any]:
    """Returns the columns of a row that all seeds of its system make; of one that was tested once, only their number.

    Args:
        row: A row of the trial table.
        over_seeds: As `seeds.seed_scores` gives it of all rows.
    """
    if row.kind == "seed" or row.test is None:
        return {}
    return vars(over_seeds[row.name]) if row.name in over_seeds else {"test_num_seeds": 1}


def row_values(row: TrialRow, base_parameters: int) -> dict[str, Any]:
    """Returns the columns that the trial table says, without `is_front`, which depends on the other trials."""
    values: dict[str, Any] = {}
    for part in (row.result, row.final, row.test):
        values |= vars(part) if part is not None else {}
    for other, name in COMPARED.items():
        if other in row.differences:
            found = dict(vars(row.differences[other]))
            values |= {name: found.pop("value"), **{f"{name}_{end}": value for end, value in found.items()}}
    if row.result:
        values["epochs"] = row.result.epoch
        values["trainable_percent"] = 100 * row.result.trainable_parameters / base_parameters
        values["note"] = "; ".join(dict.fromkeys(words for words in _notes(row, row.result) if words))
    values |= {
        "name": row.name,
        "kind": row.kind,
        "state": row.state.value,
        "cause": row.cause,
        "seed_of": original_of(row.name) if row.kind == "seed" else None,
        "same_as": row.same_as,
        "retry_of": row.retry_of,
        "retried_as": row.retried_as,
        "cut": row.cut,
        "is_from_cut": row.is_from_cut if row.cut is not None else None,
        "tuned_from": row.tuned_from,
        "space_version": row.space_version,
        "is_feasible": row.is_feasible,
        "violations": _violations(row),
        "fingerprint": row.fingerprint,
        "started": row.started.isoformat(timespec="seconds") if row.started else None,
        "finished": row.finished.isoformat(timespec="seconds") if row.finished else None,
        "params": json.dumps(dict(row.params)),
    }
    return {name: value for name, value in values.items() if name in RESULTS.names}
