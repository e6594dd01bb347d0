import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from langsearch.space.settings import Constraint
from langsearch.study.candidates import best_member
from langsearch.study.front import Objective
from langsearch.study.results import FullResult, TestResult
from langsearch.study.rows import State
from langsearch.study.table import TrialTable

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures"]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """SQLite without waiting for the disk: no test pulls the plug."""

    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "connect", hurry)
    yield
    sqlalchemy.event.remove(sqlalchemy.engine.Engine, "connect", hurry)


DIMENSIONS: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((0, 2, 4, 8)),
    "lr": FloatDistribution(1e-4, 1e-2, log=True),
}
TEST = TestResult(
    test_spbleu=9.0, test_spbleu_low=8.0, test_spbleu_high=10.0, test_num_sentences=4, test_num_directions=2
)


def propose(table: TrialTable, num: int = 1) -> list[str]:
    return [f"{table.propose(DIMENSIONS)[0]:05d}" for _ in range(num)]


def row(table: TrialTable, name: str) -> Any:
    (found,) = [found for found in table.rows() if found.name == name]
    return found


def study(path: Path, name: str = "small") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{path}")


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


def test_the_front_has_the_complete_trials_that_none_dominates(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table()
    names = propose(table, 7)
    scores = [(10.0, 500), (12.0, 900), (9.0, 700), (12.0, 900), (8.0, 100)]
    for name, (spbleu, size) in zip(names, scores, strict=False):
        table.complete(name, make_result(spbleu=spbleu, trainable_parameters=size))
    table.prune(names[5], make_result(epoch=1, spbleu=50.0, trainable_parameters=1))
    table.fail(names[6], "lost")
    # 2 is dominated by 0; 1 and 3 are equal and dominate nothing of each other.
    assert [found.name for found in table.front()] == ["00004", "00000", "00001", "00003"]


def test_a_trial_that_shares_a_result_is_not_on_the_front(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table()
    first, second = propose(table, 2)
    table.complete(first, make_result())
    table.share(second, row(table, first))
    assert row(table, second).same_as == first
    assert row(table, second).result == row(table, first).result
    assert [found.name for found in table.front()] == [first]


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


def test_reopening_gives_equal_rows_and_equal_proposals(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db", num_trials=4)
    table.add_baseline("pretrained")
    for index in range(6):
        name = f"{table.propose(DIMENSIONS, fingerprint=f'fingerprint {index}')[0]:05d}"
        if index < 5:
            table.complete(name, make_result(spbleu=float(index), trainable_parameters=index * 10))
    table.record_test("00004", TEST)
    before = table.rows()
    copies = [tmp_path / "one.db", tmp_path / "two.db"]
    for copy in copies:
        copy.write_bytes((tmp_path / "study.db").read_bytes())
    assert make_table(copies[0], num_trials=4).rows() == before
    # The model is fitted by now (4 random trials first), and a table that stayed open proposes the same.
    proposals = [make_table(copy, num_trials=4).propose(DIMENSIONS) for copy in copies]
    assert table.propose(DIMENSIONS) == proposals[0] == proposals[1]


def test_the_seed_decides_the_proposals(make_table: "TableMaker") -> None:
    points = [make_table(seed=seed).propose(DIMENSIONS) for seed in (0, 0, 1)]
    assert points[0] == points[1] != points[2]


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "gp"])
def test_every_sampler_proposes_points_of_the_space_after_every_kind_of_trial(
    sampler: str, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(sampler=sampler, num_trials=4)
    for index, name in enumerate(propose(table, 7)):
        if index < 5:
            table.complete(name, make_result(spbleu=float(index)))
        elif index == 5:
            table.prune(name, make_result(epoch=1))
        else:
            table.fail(name, "lost")
    _, point = table.propose(DIMENSIONS)
    assert point["rank"] in (0, 2, 4, 8)
    assert 1e-4 <= point["lr"] <= 1e-2


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


def test_asking_twice_for_the_next_point_gives_the_same(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table(num_trials=4)
    for name in propose(table, 5):
        table.complete(name, make_result(spbleu=float(name)))
    assert table.next_point(DIMENSIONS) == table.next_point(DIMENSIONS) == table.propose(DIMENSIONS)


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


WRITES = (
    "create_new_trial",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "set_trial_intermediate_value",
    "set_trial_state_values",
    "set_study_user_attr",
    "set_study_system_attr",
)


class KilledError(BaseException):
    pass


def count_writes(monkeypatch: pytest.MonkeyPatch, last: int | None = None, is_written: bool = True) -> list[str]:
    """Notes every write to the database; the process "dies" at the last, before or after it."""
    writes: list[str] = []

    def replace(name: str, do: Any) -> None:
        def write(*given: Any, **more: Any) -> Any:
            writes.append(name)
            if len(writes) != last:
                return do(*given, **more)
            if is_written:
                do(*given, **more)
            raise KilledError

        monkeypatch.setattr(optuna.storages.RDBStorage, name, write)

    for name in WRITES:
        replace(name, getattr(optuna.storages.RDBStorage, name))
    return writes


GRID: dict[str, BaseDistribution] = {
    "rank": CategoricalDistribution((0, 2, 4, 8)),
    "layers": IntDistribution(1, 3),
    "dropout": FloatDistribution(0.0, 0.4, step=0.2),
}


def search(table: TrialTable, dimensions: Mapping[str, BaseDistribution], num: int, make_result: Any) -> None:
    """Goes on with a search of one trial at a time, as a driver does; every fourth is pruned, one fails."""
    while True:
        running = [found for found in table.rows() if found.state is State.RUNNING]
        if not running:
            if table.num_searched == num:
                return
            found = table.next_point(dimensions)
            assert found is not None
            table.add(*found, fingerprint=str(found[0]))
            continue
        (current,) = running
        number, point = int(current.name), current.params
        result = make_result(spbleu=float(point["rank"]) + number / 100, trainable_parameters=1 + point["rank"] ** 2)
        if number == 2:
            table.fail(current.name, "lost")
        elif number % 4 == 3:
            table.prune(current.name, dataclasses.replace(result, epoch=1, finished=False))
        else:
            table.report(current.name, dataclasses.replace(result, epoch=1, finished=False))
            table.complete(current.name, result)


def found(table: TrialTable) -> list[Any]:
    return [dataclasses.replace(row, started=None, finished=None) for row in table.rows()]


@pytest.mark.parametrize(
    ("sampler", "objectives", "num"),
    [("tpe", 1, 9), ("tpe", 2, 9), ("gp", 2, 7), ("nsga2", 2, 11), ("random", 2, 5), ("grid", 2, 5)],
)
def test_a_driver_that_is_restarted_between_any_two_proposals_makes_the_same_ones(
    sampler: str, objectives: int, num: int, tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    given: dict[str, Any] = {"sampler": sampler, "num_trials": 8, "constraints": [LARGE]}
    given["objectives"] = (Objective("spbleu", True), Objective("trainable_parameters", False))[:objectives]
    dimensions = GRID if sampler == "grid" else GRID | DIMENSIONS
    undisturbed = make_table(**given)
    search(undisturbed, dimensions, num, make_result)
    for ended in range(1, num + 1):
        search(make_table(tmp_path / "study.db", **given), dimensions, ended, make_result)
    assert found(make_table(tmp_path / "study.db", **given)) == found(undisturbed)


@pytest.mark.parametrize(
    ("sampler", "num", "step"), [("random", 4, 1), ("tpe", 7, 7), ("gp", 6, 15), ("nsga2", 9, 9), ("grid", 4, 4)]
)
def test_a_driver_that_is_killed_at_a_write_is_gone_on_with_as_if_it_was_not(
    sampler: str, num: int, step: int, tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    given: dict[str, Any] = {"sampler": sampler, "num_trials": 4, "constraints": [LARGE]}
    empty = tmp_path / "empty.db"
    make_table(empty, **given)
    undisturbed = make_table(**given)
    with pytest.MonkeyPatch.context() as monkeypatch:
        writes = count_writes(monkeypatch)
        search(undisturbed, GRID, num, make_result)
    # One sampler is killed at every write, before or after it by turns; the others, for the time it takes, at some.
    for last in range(1, len(writes) + 1, step):
        copy = tmp_path / f"{last}.db"
        copy.write_bytes(empty.read_bytes())
        with pytest.MonkeyPatch.context() as monkeypatch:
            table = make_table(copy, **given)
            count_writes(monkeypatch, last, is_written=last % 2 == 0)
            with pytest.raises(KilledError, match=r"^$"):
                search(table, GRID, num, make_result)
        table = make_table(copy, **given)
        search(table, GRID, num, make_result)
        assert found(table) == found(undisturbed)


LARGE = Constraint(metric="trainable_parameters", is_upper=True, bound=20.0)


def test_what_a_trial_violates_is_a_share_of_the_bound_and_optuna_knows_it(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    percent = Constraint(metric="nonzero_parameters", is_upper=True, bound=2.0, is_percent=True)
    least = Constraint(metric="spbleu", is_upper=False, bound=8.0)
    memory = Constraint(metric="peak_memory", is_upper=True, bound=6.0)
    given: dict[str, Any] = {"constraints": [percent, least, memory], "base_parameters": 50_000}
    table = make_table(tmp_path / "study.db", **given)
    good, bad = propose(table, 2)
    table.complete(good, make_result(spbleu=8.0, trainable_parameters=900, nonzero_parameters=500))
    table.complete(bad, make_result(spbleu=10.0, trainable_parameters=900, nonzero_parameters=1500))
    expected = {"nonzero_parameters <= 2 %": 0.5, "spbleu >= 8": -0.25, "peak_memory <= 6": -0.5}
    assert table.row(bad).violations == pytest.approx(expected)
    assert (table.row(good).is_feasible, table.row(bad).is_feasible) == (True, False)
    assert [row.name for row in table.front()] == [good], "the better one breaks a constraint"
    assert study(tmp_path / "study.db").trials[1].constraints == pytest.approx(expected)
    assert make_table(tmp_path / "study.db", **given).rows() == table.rows()


def test_what_other_bounds_of_the_constraints_would_bring_to_the_front_is_known(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    memory = Constraint(metric="peak_memory", is_upper=True, bound=6.0)
    table = make_table(constraints=[memory])
    small, best, cheap, worse, _ = propose(table, 5)
    table.complete(small, make_result(spbleu=5.0, trainable_parameters=100, peak_memory_bytes=5))
    table.complete(best, make_result(spbleu=9.0, trainable_parameters=100, peak_memory_bytes=9))
    table.complete(cheap, make_result(spbleu=4.0, trainable_parameters=100, peak_memory_bytes=3))
    table.complete(worse, make_result(spbleu=8.0, trainable_parameters=100, peak_memory_bytes=9))
    assert [row.name for row in table.candidates()] == [small]
    assert table.returning() == [small, best, cheap], "with bounds of 9 and 3 bytes; the last is worse in everything"
    assert make_table().returning() == []


def test_a_running_trial_violates_nothing_that_is_known(make_table: "TableMaker", make_result: "ResultMaker") -> None:
    table = make_table(constraints=[LARGE])
    (name,) = propose(table)
    table.report(name, make_result(epoch=1))
    assert (table.row(name).violations, table.row(name).is_feasible) == (None, None)


def test_a_loss_is_of_directions_within_the_class_against_the_pretrained_base(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    texts = {"worst_loss.high <= 0.5": 1.0, "worst_loss.all <= 0.5": 5.0, "worst_loss.low <= 0.5": 1.0}
    constraints = [Constraint(metric=text.split()[0], is_upper=True, bound=0.5) for text in texts]
    table = make_table(constraints=constraints, classes={"high": ("en", "fr", "de"), "low": ("sw",)})
    table.add_baseline("pretrained")
    (name,) = propose(table)
    before = (("en-fr", 20.0), ("fr-en", 30.0), ("en-sw", 5.0))
    after = (("en-fr", 19.0), ("fr-en", 35.0), ("en-sw", 2.0), ("de-en", 0.0))
    result = make_result(direction_spbleu=after)
    assert table.violations(result) is None, "nothing to compare with yet"
    table.complete("pretrained", make_result(trainable_parameters=0, direction_spbleu=before))
    assert table.violations(result) == pytest.approx(texts)
    table.complete(name, result)
    assert table.row(name).is_feasible is False
    unknown = table.violations(make_result())
    assert unknown == dict.fromkeys(texts, 1.0), "what has no such scores is not known to keep its losses"


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
    assert not table.row(name).is_stopped
    table.record_rung(name, 3, [4.0, 100.0], False, order=5)
    assert table.row(name).is_stopped
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


def full(spbleu: float, directions: dict[str, float] | None = None) -> FullResult:
    return FullResult(
        full_spbleu=spbleu,
        full_spbleu_low=spbleu - 1,
        full_spbleu_high=spbleu + 1,
        full_worst_class_spbleu=spbleu,
        full_chrf=None,
        full_num_sentences=9,
        full_num_directions=4,
        full_direction_spbleu=None if directions is None else tuple(directions.items()),
    )


def test_the_front_is_of_full_scores_once_all_candidates_have_them(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db")
    names = propose(table, 3)
    for name, spbleu, size in zip(names, (10.0, 11.0, 12.0), (100, 200, 300), strict=True):
        table.complete(name, make_result(spbleu=spbleu, trainable_parameters=size))
    for name, spbleu in zip(names, (10.5, 9.0, 12.0), strict=True):
        assert [row.name for row in table.front()] == names, "not all have full scores"
        table.record_full(name, full(spbleu))
    assert [row.name for row in table.front()] == [names[0], names[2]]
    assert [row.name for row in table.candidates()] == names
    assert table.row(names[0]).full == full(10.5)
    assert make_table(tmp_path / "study.db").rows() == table.rows()


def test_members_keep_the_constraints_by_their_full_scores_too(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    loss = Constraint(metric="worst_loss.all", is_upper=True, bound=0.5)
    score = Constraint(metric="spbleu", is_upper=False, bound=8.0)
    values: dict[str, Any] = {"constraints": [loss, score], "classes": {"high": ("en", "fr")}}
    table = make_table(tmp_path / "study.db", **values)
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(trainable_parameters=0, direction_spbleu=(("en-fr", 10.0),)))
    names = small, middle, large = propose(table, 3)
    for name, spbleu, size in zip(names, (10.0, 11.0, 12.0), (100, 200, 300), strict=True):
        table.complete(name, make_result(spbleu=spbleu, trainable_parameters=size, direction_spbleu=(("en-fr", 10.0),)))
    assert [row.name for row in table.unscored()] == [*names, "pretrained"]
    # By full scores the first one dominates the second, but loses 3 in a direction that the search did not score.
    table.record_full(small, full(12.0, {"en-fr": 10.0, "fr-en": 5.0}))
    table.record_full(middle, full(11.0, {"en-fr": 9.8, "fr-en": 8.0}))
    table.record_full(large, full(7.0, {"en-fr": 10.0, "fr-en": 9.0}))
    assert [row.name for row in table.front()] == list(names), "the base has no full scores yet"
    assert table.violated_in_full() == {}
    table.record_full("pretrained", full(9.0, {"en-fr": 10.0, "fr-en": 8.0}))
    assert table.unscored() == []
    assert [row.name for row in table.front()] == [middle]
    assert table.violated_in_full() == {small: ["worst_loss.all <= 0.5"], large: ["spbleu >= 8"]}
    again = make_table(tmp_path / "study.db", **values)
    assert (again.rows(), again.front()) == (table.rows(), table.front())
    table.record_full(middle, full(11.0))
    assert [row.name for row in table.unscored()] == [middle], "scored before directions were asked for"


def test_without_constraints_on_losses_the_pretrained_base_is_not_scored_again(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(constraints=[Constraint(metric="spbleu", is_upper=False, bound=99.0)])
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(trainable_parameters=0))
    (name,) = propose(table)
    table.complete(name, make_result())
    assert (table.candidates(), table.unscored(), table.front()) == ([], [], []), "nothing keeps the constraint"


def test_the_best_member_is_chosen_by_full_scores_once_all_members_have_them(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table()
    small, large = propose(table, 2)
    assert best_member(table.front()) is None
    for name, spbleu, size in ((small, 10.0, 100), (large, 11.0, 200)):
        table.complete(name, make_result(spbleu=spbleu, trainable_parameters=size))
    rows = [table.row(name) for name in (small, large)]
    assert best_member(rows) == rows[1]
    rows[0] = dataclasses.replace(rows[0], full=full(12.0))
    assert best_member(rows) == rows[1], "the other one's full score is not known"
    rows[1] = dataclasses.replace(rows[1], full=full(11.5))
    assert best_member(rows) == rows[0]


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


def test_a_changed_space_goes_on_in_the_same_study_with_what_lies_in_both(
    tmp_path: Path, make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = make_table(tmp_path / "study.db", num_trials=4)
    for name in propose(table, 5):
        table.complete(name, make_result(spbleu=float(table.row(name).params["rank"])))
    wider = DIMENSIONS | {"rank": CategoricalDistribution((0, 2, 4, 8, 16))}
    changed = make_table(tmp_path / "study.db", num_trials=4, space_version=2)
    number, point = changed.propose(wider)
    assert number == 5
    assert point["rank"] in (0, 2, 4, 8, 16)
    assert [row.space_version for row in changed.rows()] == [1] * 5 + [2]
    other: dict[str, BaseDistribution] = {"rank": CategoricalDistribution((1, 3))}
    assert changed.propose(other)[1]["rank"] in (1, 3)
    again = make_table(tmp_path / "study.db", num_trials=4, space_version=2)
    assert again.rows() == changed.rows()
    assert all(row.params.keys() <= DIMENSIONS.keys() for row in again.rows())
    assert again.propose(wider) == changed.propose(wider), "the version that was left is taken up again"


def test_what_optunas_own_ask_left_half_done_is_passed_over(tmp_path: Path, make_table: "TableMaker") -> None:
    make_table(tmp_path / "study.db")
    study(tmp_path / "study.db").enqueue_trial({"rank": 4})
    study(tmp_path / "study.db", "small/baselines").ask()
    table = make_table(tmp_path / "study.db")
    assert table.rows() == []
    assert propose(table) == ["00001"]
