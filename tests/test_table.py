import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from langsearch.search.table import Objective, State, TrialTable, dominates
from langsearch.search.trial import TestResult

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures"]

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
    first, second = propose(table, 2)
    table.wait_for(second, first)
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
    for index, name in enumerate(propose(table, 6)):
        table.describe(name, f"fingerprint {index}")
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
    if sampler == "gp":
        pytest.importorskip("scipy", reason="Optuna's GP sampler needs SciPy")
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


def test_domination_needs_one_strictly_better_and_none_worse() -> None:
    assert dominates([1, 2], [1, 3])
    assert not dominates([1, 2], [1, 2])
    assert not dominates([0, 3], [1, 2])
