"""Which trials of a table are on the front, by the search's scores and by those of `evaluation.final`."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langsearch.space.settings import Constraint
from langsearch.study.candidates import best_member
from langsearch.study.results import FinalResult
from tests.table_fixtures import LARGE, propose, study

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures", "table_fixtures"]
pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")


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
    table.share(second, table.row(first))
    assert table.row(second).same_as == first
    assert table.row(second).result == table.row(first).result
    assert [found.name for found in table.front()] == [first]


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


def final(spbleu: float, directions: dict[str, float] | None = None) -> FinalResult:
    return FinalResult(
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
        assert [row.name for row in table.front()] == names, "not all have final scores"
        table.record_final(name, final(spbleu))
    assert [row.name for row in table.front()] == [names[0], names[2]]
    assert [row.name for row in table.candidates()] == names
    assert table.row(names[0]).final == final(10.5)
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
    # By final scores the first one dominates the second, but loses 3 in a direction that the search did not score.
    table.record_final(small, final(12.0, {"en-fr": 10.0, "fr-en": 5.0}))
    table.record_final(middle, final(11.0, {"en-fr": 9.8, "fr-en": 8.0}))
    table.record_final(large, final(7.0, {"en-fr": 10.0, "fr-en": 9.0}))
    assert [row.name for row in table.front()] == list(names), "the base has no final scores yet"
    assert table.final_violations() == {}
    table.record_final("pretrained", final(9.0, {"en-fr": 10.0, "fr-en": 8.0}))
    assert table.unscored() == []
    assert [row.name for row in table.front()] == [middle]
    found = table.final_violations()
    violated = {name: [text for text, amount in found[name].items() if amount > 0] for name in names}
    assert violated == {small: ["worst_loss.all <= 0.5"], middle: [], large: ["spbleu >= 8"]}
    again = make_table(tmp_path / "study.db", **values)
    assert (again.rows(), again.front()) == (table.rows(), table.front())
    table.record_final(middle, final(11.0))
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
    rows[0] = dataclasses.replace(rows[0], final=final(12.0))
    assert best_member(rows) == rows[1], "the other one's final score is not known"
    rows[1] = dataclasses.replace(rows[1], final=final(11.5))
    assert best_member(rows) == rows[0]
