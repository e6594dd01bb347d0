import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langsearch.evaluate.spbleu import Difference
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.results_parquet import RESULTS, ResultsFile, row_values, write_results
from langsearch.experiment.task import searched_task
from langsearch.study.results import FinalResult, TestResult
from langsearch.study.rows import State, TrialRow

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TaskMaker

pytest_plugins = ["search_fixtures"]

FINAL = FinalResult(
    full_spbleu=11.5,
    full_spbleu_low=11.0,
    full_spbleu_high=12.0,
    full_worst_class_spbleu=7.0,
    full_chrf=None,
    full_num_sentences=52,
    full_num_directions=6,
)
TEST = TestResult(
    test_spbleu=9.0, test_spbleu_low=8.0, test_spbleu_high=10.0, test_num_sentences=4, test_num_directions=2
)


@dataclass
class Rows:
    """As much of a trial table as its results need."""

    all: list[TrialRow]
    on_front: list[TrialRow] = field(default_factory=list)

    def rows(self) -> Sequence[TrialRow]:
        return list(self.all)

    def front(self) -> Sequence[TrialRow]:
        return self.on_front

    def final_violations(self) -> dict[str, dict[str, float]]:
        return {}


def read(folder: ExperimentFolder) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in read_rows(folder.results)}


def make_rows(number: int, make_result: "ResultMaker") -> list[TrialRow]:
    return [
        TrialRow(
            name=f"{index:05d}",
            kind="searched",
            state=State.COMPLETE,
            params={f"rank.{name}": index for name in "abcdefgh"},
            fingerprint=f"{index:016x}",
            result=make_result(spbleu=index / 10),
        )
        for index in range(number)
    ]


def test_results_have_the_documented_columns_of_every_kind_of_trial(
    tmp_path: Path, checked: CheckedSpace, make_result: "ResultMaker"
) -> None:
    space = checked.space
    folder = start_experiment(tmp_path / "tiny", space, resume=False)
    table = open_table(folder, space, base_parameters=checked.shape.num_parameters)
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(epoch=0, spbleu=5.0, trainable_parameters=0, train_loss=None))
    for _ in range(5):
        number, point = table.next_point(space.dimensions()) or (0, {})
        task = searched_task(space, checked.shape, number, point)
        task.write(folder.trial(task.name))
        table.add(number, point, fingerprint=task.fingerprint)
    given = {
        "worst_class_spbleu": 4.0,
        "beams": 2,
        "worker": "node/7",
        "note": "out of memory in epoch 2",
        "chrf": 30.0,
    }
    table.complete("00000", make_result(spbleu=12.0, trainable_parameters=24_273, **given))
    table.record_test("00000", TEST)
    table.prune("00001", make_result(epoch=1))
    table.fail("00002", "disk full: no space")
    table.share("00003", table.row("00000"))
    table.add(5, dict(table.row("00002").params), retry_of="00002")
    write_results(folder, table, checked.shape.num_parameters)
    rows = read(folder)
    assert list(rows) == ["pretrained", "00000", "00001", "00002", "00003", "00004", "00005"]
    assert all(list(row) == RESULTS.names for row in rows.values())
    states = [(row["kind"], row["state"], row["epochs"], row["is_front"]) for row in rows.values()]
    assert states == [
        ("baseline", "complete", 0, False),
        ("searched", "complete", 3, True),
        ("searched", "pruned", 1, False),
        ("searched", "failed", None, False),
        ("searched", "complete", 3, False),
        ("searched", "running", None, False),
        ("searched", "running", None, False),
    ]
    first = rows["00000"]
    assert first["trainable_percent"] == pytest.approx(100 * 24_273 / 2_427_264)
    assert (first["test_spbleu"], first["test_num_sentences"], first["max_epochs"]) == (9.0, 4, 2)
    assert {name: first[name] for name in given} == given
    assert set(json.loads(first["params"])) == set(space.dimensions())
    assert first["summary"].startswith("rank ")
    assert first["fingerprint"] == table.row("00000").fingerprint
    assert (rows["00002"]["cause"], rows["00002"]["retried_as"]) == ("disk full: no space", "00005")
    assert (rows["00005"]["retry_of"], rows["00005"]["space_version"]) == ("00002", 1)
    assert rows["00003"]["same_as"] == "00000"
    assert rows["pretrained"]["train_loss"] is None


def test_what_constraints_say_is_in_the_results(tmp_path: Path, make_result: "ResultMaker") -> None:
    (kept, broken, unknown) = make_rows(3, make_result)
    kept = replace(kept, violations={"spbleu >= 2": -0.5, "train_seconds <= 9": 0.0})
    broken = replace(broken, violations={"spbleu >= 2": 0.25})
    folder = ExperimentFolder(tmp_path)
    write_results(folder, Rows([kept, broken, unknown]), 1000)  # type: ignore[arg-type]
    rows = read(folder)
    assert [row["is_feasible"] for row in rows.values()] == [True, False, None]
    assert json.loads(rows["00000"]["violations"]) == {"spbleu >= 2": -0.5, "train_seconds <= 9": 0.0}
    assert rows["00002"]["violations"] is None


Change = Callable[[TrialRow], TrialRow]


@pytest.mark.parametrize(
    ("change", "name", "value"),
    [
        (lambda row: replace(row, final=FINAL), "full_spbleu", 11.5),
        (lambda row: replace(row, test=TEST), "test_spbleu", 9.0),
        (
            lambda row: replace(row, differences={"full_finetuning": Difference(1.0, 0.5, 1.5)}),
            "test_to_full_high",
            1.5,
        ),
        (lambda row: replace(row, violations={"spbleu >= 2": 0.25}), "is_feasible", False),
        (lambda row: replace(row, state=State.FAILED, retried_as="00009"), "retried_as", "00009"),
    ],
)
def test_what_comes_after_a_trial_has_ended_is_written_too(
    change: Change, name: str, value: object, tmp_path: Path, make_result: "ResultMaker"
) -> None:
    rows = Rows(make_rows(300, make_result))
    file = ResultsFile(folder := ExperimentFolder(tmp_path), 1000)
    file.write(rows)  # type: ignore[arg-type]
    assert read(folder)["00150"][name] is None
    rows.all[150] = change(rows.all[150])
    file.write(rows)  # type: ignore[arg-type]
    again = read(folder)
    assert again["00150"][name] == value
    write_results(folder, rows, 1000)  # type: ignore[arg-type]
    assert read(folder) == again


def test_the_front_of_now_is_written_each_time(tmp_path: Path, make_result: "ResultMaker") -> None:
    rows = Rows(make_rows(200, make_result))
    file = ResultsFile(folder := ExperimentFolder(tmp_path), 1000)
    for front in ([3, 190], [4], [3, 4, 199]):
        rows.on_front = [rows.all[index] for index in front]
        file.write(rows)  # type: ignore[arg-type]
        assert [int(name) for name, row in read(folder).items() if row["is_front"]] == front


def test_more_trials_and_baselines_before_them_are_written(tmp_path: Path, make_result: "ResultMaker") -> None:
    searched = make_rows(300, make_result)
    file = ResultsFile(folder := ExperimentFolder(tmp_path), 1000)
    for rows in (searched[:100], searched[:129], [replace(searched[0], name="pretrained"), *searched], searched[:2]):
        file.write(Rows(rows))  # type: ignore[arg-type]
        assert list(read(folder)) == [row.name for row in rows]


def test_a_task_that_is_written_later_is_read_then(
    tmp_path: Path, make_result: "ResultMaker", make_task: "TaskMaker"
) -> None:
    rows = Rows([replace(make_rows(1, make_result)[0], state=State.RUNNING)])
    file = ResultsFile(folder := ExperimentFolder(tmp_path), 1000)
    file.write(rows)  # type: ignore[arg-type]
    assert read(folder)["00000"]["max_epochs"] is None
    make_task().write(folder.trial("00000"))
    file.write(rows)  # type: ignore[arg-type]
    assert read(folder)["00000"]["max_epochs"] == 2


def test_a_rewrite_does_not_cost_what_the_trials_do(tmp_path: Path, make_result: "ResultMaker") -> None:
    rows = Rows(make_rows(5000, make_result))
    file = ResultsFile(ExperimentFolder(tmp_path), 1000)
    started = time.process_time()
    file.write(rows)  # type: ignore[arg-type]
    first = time.process_time() - started
    again = []
    for index in range(3):
        rows.all[-1] = replace(rows.all[-1], cause=str(index))
        started = time.process_time()
        file.write(rows)  # type: ignore[arg-type]
        again.append(time.process_time() - started)
    # About 0.6 s and 0.03 s on one core.
    assert min(again) < first / 4


def test_the_note_warns_where_more_than_1_percent_of_translations_were_cut(make_result: "ResultMaker") -> None:
    def note(share: float | None, **values: Any) -> Any:
        result = make_result(cut_share=share, note="halved")
        row = TrialRow(
            name="00000", kind="searched", state=State.COMPLETE, params={}, fingerprint=None, result=result, **values
        )
        return row_values(row, 1000)["note"]

    assert note(None) == note(0.01) == "halved"
    assert note(0.042) == "halved; 4.2 % of the validation translations were cut at their longest length"
    assert note(0.042, final=replace(FINAL, full_cut_share=0.0)) == "halved"
    tested = replace(TEST, test_cut_share=0.5, test_num_cut_sources=3)
    words = "50.0 % of the test translations were cut at their longest length; 3 test sources were cut"
    assert note(0.0, test=tested) == f"halved; {words}"
