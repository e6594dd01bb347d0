import json
import math
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from langsearch.study.front import Objective
from langsearch.study.rows import State, read_row
from tests.table_fixtures import DIMENSIONS, LARGE, TEST, count_writes, propose, row, study

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures", "table_fixtures"]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


def test_only_running_is_not_finished() -> None:
    assert [state for state in State if not state.is_finished] == [State.RUNNING]


def test_a_trial_is_running_until_it_ends_and_a_report_moves_its_result(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table()
    (name,) = propose(table)
    assert row(table, name).state is State.RUNNING
    assert row(table, name).result is None
    table.report(name, make_result(epoch=1))
    assert row(table, name).result == make_result(epoch=1)
    table.complete(name, make_result())
    assert row(table, name).state is State.COMPLETE
    assert row(table, name).result == make_result()
    assert row(table, name).finished >= row(table, name).started


@pytest.fixture
def set_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Moves this machine to another time zone."""

    def set_to(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    yield set_to
    monkeypatch.undo()
    time.tzset()


def test_times_are_in_utc_wherever_the_driver_runs_before_and_after_a_resume(
    make_table: "TableMaker", make_result: "ResultMaker", set_zone: Callable[[str], None], tmp_path: Path
) -> None:
    set_zone("XXX-9")  # nine hours ahead of UTC; this form needs no zone database
    table = make_table(tmp_path / "study.db")
    (name,) = propose(table)
    table.add_baseline("pretrained")
    table.complete(name, make_result())
    set_zone("YYY8")
    for read in (table, make_table(tmp_path / "study.db")):
        found, baseline = row(read, name), row(read, "pretrained")
        for moment in (found.started, found.finished, baseline.started):
            assert moment.utcoffset() == timedelta(0)
            assert abs(moment - datetime.now(UTC)) < timedelta(minutes=5)
        assert baseline.finished is None


def test_times_of_older_experiments_are_taken_by_this_machines_zone(
    make_table: "TableMaker", make_result: "ResultMaker", set_zone: Callable[[str], None], tmp_path: Path
) -> None:
    set_zone("XXX-9")
    table = make_table(tmp_path / "study.db")
    (name,) = propose(table)
    table.complete(name, make_result())
    (trial,) = study(tmp_path / "study.db").trials
    old = FrozenTrial(
        number=0,
        trial_id=0,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=datetime(2026, 1, 1, 9, 30),
        datetime_complete=datetime(2026, 1, 1, 10, 0),
        params=trial.params,
        distributions=trial.distributions,
        user_attrs={key: value for key, value in trial.user_attrs.items() if key not in ("started", "finished")},
        system_attrs=trial.system_attrs,
        intermediate_values={},
    )
    found = read_row(old, "searched", {})
    assert (found.started, found.finished) == (
        datetime(2026, 1, 1, 0, 30, tzinfo=UTC),
        datetime(2026, 1, 1, 1, 0, tzinfo=UTC),
    )


def test_a_pruned_trial_keeps_its_epoch_and_is_pruned_in_optuna(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db")
    complete, pruned = propose(table, 2)
    table.complete(complete, make_result())
    table.prune(pruned, make_result(epoch=1))
    assert row(table, pruned).state is State.PRUNED
    assert row(table, pruned).result.epoch == 1
    assert [trial.state for trial in study(tmp_path / "study.db").trials] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_a_failed_trial_keeps_its_cause(make_table: "TableMaker") -> None:
    table = make_table()
    (name,) = propose(table)
    table.fail(name, "non-finite loss: nan at update 3")
    assert row(table, name).state is State.FAILED
    assert row(table, name).cause == "non-finite loss: nan at update 3"


def test_with_one_objective_reports_are_optunas_intermediate_values(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db", objectives=(Objective("spbleu", True),))
    (name,) = propose(table)
    table.report(name, make_result(epoch=1, spbleu=7.0))
    table.prune(name, make_result(epoch=2, spbleu=8.0))
    (trial,) = study(tmp_path / "study.db").trials
    assert trial.intermediate_values == {1: 7.0, 2: 8.0}
    assert trial.state is TrialState.PRUNED


def test_baselines_live_in_a_study_of_their_own(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db")
    table.add_baseline("pretrained")
    table.add_baseline("pretrained")
    (name,) = propose(table)
    table.complete("pretrained", make_result(spbleu=99.0, trainable_parameters=0))
    table.complete(name, make_result())
    assert [(found.name, found.kind) for found in table.rows()] == [("pretrained", "baseline"), ("00000", "searched")]
    assert len(study(tmp_path / "study.db").trials) == 1
    assert len(study(tmp_path / "study.db", "small/baselines").trials) == 1
    assert [found.name for found in table.front()] == [name], "a baseline is never on the front"


def test_a_failed_baseline_is_tried_again_under_one_row(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table()
    table.add_baseline("published")
    table.fail("published", "out of memory")
    assert row(table, "published").state is State.FAILED
    table.add_baseline("published")
    assert row(table, "published").state is State.RUNNING
    table.complete("published", make_result())
    assert row(table, "published").state is State.COMPLETE
    assert row(table, "published").cause is None


@pytest.mark.parametrize("end", ["complete", "prune", "fail"])
def test_a_shared_result_has_the_state_of_the_trained_one(
    end: str, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table()
    (first,) = propose(table)
    number, point = table.next_point(DIMENSIONS) or (0, {})
    second = table.add(number, point, same_as=first).name
    assert (row(table, second).state, row(table, second).same_as) == (State.RUNNING, first)
    getattr(table, end)(first, "disk full" if end == "fail" else make_result(epoch=2))
    table.share(second, row(table, first))
    assert row(table, second).state is row(table, first).state
    assert row(table, second).cause == row(table, first).cause


def test_two_experiments_in_one_database_share_no_trial(tmp_path: Path, make_table: "TableMaker") -> None:
    first, second = (make_table(tmp_path / "all.db", name=name) for name in ("first", "second"))
    first.add_baseline("pretrained")
    propose(first, 2)
    propose(second, 1)
    assert [found.name for found in first.rows()] == ["pretrained", "00000", "00001"]
    assert [found.name for found in second.rows()] == ["00000"]


def test_a_finished_trial_takes_its_test_scores(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table()
    table.add_baseline("pretrained")
    (name,) = propose(table)
    for finished in (name, "pretrained"):
        table.complete(finished, make_result())
        assert row(table, finished).test is None
        table.record_test(finished, TEST)
        assert row(table, finished).test == TEST


def test_values_are_in_the_order_of_the_objectives(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    assert make_table().values(make_result(spbleu=4.5, trainable_parameters=7)) == [4.5, 7.0]


def test_optunas_own_tools_show_the_objectives_names(tmp_path: Path, make_table: "TableMaker") -> None:
    make_table(tmp_path / "study.db")
    assert study(tmp_path / "study.db").metric_names == ["spbleu", "trainable_parameters"]


def test_attributes_are_json_not_pickles(tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table(tmp_path / "study.db")
    (name,) = propose(table)
    table.report(name, make_result(epoch=1, train_loss=math.pi))
    (trial,) = study(tmp_path / "study.db").trials
    assert json.loads(trial.user_attrs["result"])["train_loss"] == math.pi


def test_a_new_trial_is_written_in_one_step_and_looking_at_it_writes_nothing(
    tmp_path: Path, make_table: "TableMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path / "study.db")
    writes = count_writes(monkeypatch)
    number, point = table.next_point(DIMENSIONS) or (-1, {})
    assert writes == []
    table.add(number, point, fingerprint="abc", same_as=None)
    assert writes == ["create_new_trial"]
    (trial,) = study(tmp_path / "study.db").trials
    assert (trial.state, trial.params) == (TrialState.RUNNING, point)
    assert trial.datetime_start is not None


def test_nothing_is_read_again_while_trials_come_and_go(
    make_table: "TableMaker", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table()
    reads: list[str] = []
    for name in ("get_all_trials", "get_study_user_attrs", "get_study_system_attrs"):
        monkeypatch.setattr(optuna.storages.RDBStorage, name, lambda *_, name=name, **__: reads.append(name))
    for name in propose(table, 6):
        table.report(name, make_result(epoch=1))
        table.complete(name, make_result())
        table.record_test(name, TEST)
    assert len(table.rows()) == 6
    assert table.front()
    assert reads == []


def test_a_rejected_trial_is_pruned_without_a_result_and_counts_as_none(
    tmp_path: Path, make_table: "TableMaker"
) -> None:
    table = make_table(tmp_path / "study.db", constraints=[LARGE])
    (name,) = propose(table)
    table.reject(name, {str(LARGE): 4.0})
    row = table.row(name)
    assert (row.state, row.result, row.cause) == (State.PRUNED, None, "violates trainable_parameters <= 20")
    assert (row.is_rejected, row.counts, row.is_feasible) == (True, False, False)
    (trial,) = study(tmp_path / "study.db").trials
    assert (trial.state, trial.constraints) == (TrialState.PRUNED, {"trainable_parameters <= 20": 4.0})
    assert make_table(tmp_path / "study.db", constraints=[LARGE]).rows() == table.rows()


def test_rungs_are_kept_with_what_was_decided(tmp_path: Path, make_table: "TableMaker") -> None:
    table = make_table(tmp_path / "study.db")
    (name,) = propose(table)
    table.record_rung(name, 1, [3.0, 100.0], True, order=0)
    assert not table.row(name).is_pruned_at_rung
    table.record_rung(name, 3, [4.0, 100.0], False, order=5)
    assert table.row(name).is_pruned_at_rung
    assert [(rung.epoch, rung.values, rung.goes_on, rung.order) for rung in table.row(name).rungs] == [
        (1, (3.0, 100.0), True, 0),
        (3, (4.0, 100.0), False, 5),
    ]
    assert make_table(tmp_path / "study.db").rows() == table.rows()


def test_a_result_that_comes_again_is_not_written_again(
    make_table: "TableMaker", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(objectives=(Objective("spbleu", True),))
    (name,) = propose(table)
    table.report(name, make_result(epoch=1))
    writes = count_writes(monkeypatch)
    table.report(name, make_result(epoch=1))
    assert writes == []


def test_a_retry_has_the_same_point_and_takes_the_place_of_the_failed_one(
    tmp_path: Path, make_table: "TableMaker"
) -> None:
    table = make_table(tmp_path / "study.db")
    (failed,) = propose(table)
    table.fail(failed, "out of memory: no")
    again = table.add(1, table.row(failed).params, retry_of=failed)
    assert (again.retry_of, again.params) == (failed, table.row(failed).params)
    assert (table.row(failed).retried_as, table.row(failed).counts) == ("00001", False)
    assert propose(make_table(tmp_path / "study.db")) == ["00002"]
    assert make_table(tmp_path / "study.db").rows()[:2] == table.rows()


def test_four_objectives_have_their_names_directions_and_values(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    names = ("worst_class_spbleu", "chrf", "train_seconds", "peak_memory")
    objectives = tuple(Objective(name, index < 2) for index, name in enumerate(names))
    table = make_table(tmp_path / "study.db", objectives=objectives)
    (name,) = propose(table)
    table.complete(name, make_result(chrf=40.0))
    (trial,) = study(tmp_path / "study.db").trials
    assert trial.values == [10.0, 40.0, 1.0, 3.0]
    assert table.costs(table.row(name).result) == [-10.0, -40.0, 1.0, 3.0]  # type: ignore[arg-type]
    for experiment in ("small", "small/baselines"):
        assert study(tmp_path / "study.db", experiment).metric_names == list(names)
