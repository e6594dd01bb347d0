from typing import TYPE_CHECKING

import pytest
from ray.tune.search import Searcher

from langsearch.search.fuse import Fuse
from langsearch.space.settings import FailureSettings
from langsearch.study.rows import State
from langsearch.trial.failures import FAILED
from tests.searcher_fixtures import SearcherMaker, reported, states

if TYPE_CHECKING:
    from langsearch.study.table import TrialTable
    from tests.search_fixtures import ResultMaker

pytest_plugins = ["search_fixtures", "searcher_fixtures"]


def test_failures_in_a_row_stop_the_run_and_their_trials_can_be_retried(
    make_searcher: SearcherMaker, table: "TrialTable", make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(20, failures=FailureSettings(in_a_row=3))
    for number in range(3):
        given = searcher.suggest(f"t{number}")
        searcher.on_trial_complete(f"t{number}", {FAILED: "RuntimeError: no such\nlibrary", "name": given["name"]})
    assert (
        searcher.stopped_by
        == "3 trials in a row failed before one had ended an epoch, the last by RuntimeError: no such"
    )
    assert searcher.suggest("t3") == Searcher.FINISHED
    assert set(states(table).values()) == {State.FAILED}
    again = make_searcher(20, retry=["00000", "00001", "00002"])
    assert again.stopped_by is None
    assert table.row(again.suggest("r0")["name"]).retry_of == "00000"


def test_an_epoch_between_failures_keeps_the_run_going(
    make_searcher: SearcherMaker, make_result: "ResultMaker"
) -> None:
    searcher = make_searcher(20, failures=FailureSettings(in_a_row=2))
    for number in range(6):
        given = searcher.suggest(f"t{number}")
        if number % 2:
            searcher.on_trial_result(f"t{number}", {**reported(make_result()), "name": given["name"]})
            searcher.on_trial_complete(f"t{number}", reported(make_result()))
        else:
            searcher.on_trial_complete(f"t{number}", {FAILED: "RuntimeError: now and then", "name": given["name"]})
    assert searcher.stopped_by is None


@pytest.mark.parametrize("cause", ["out of memory: CUDA", "non-finite loss: nan in epoch 1", "non-finite score: nan"])
def test_what_a_trial_brings_about_itself_never_blows_it(cause: str) -> None:
    fuse = Fuse(2)
    assert [fuse.failed(cause, "10.0.0.1") for _ in range(9)] == [None] * 9


def test_one_bad_node_blows_it_though_the_others_go_on() -> None:
    fuse = Fuse(3)
    told = []
    for _ in range(3):
        told.append(fuse.failed("CUDA error: uncorrectable ECC", "10.0.0.2"))
        fuse.went_on("10.0.0.1")
    assert told == [
        None,
        None,
        "3 trials in a row failed on node 10.0.0.2 alone, the last by CUDA error: uncorrectable ECC",
    ]


def test_a_node_that_recovers_begins_anew() -> None:
    fuse = Fuse(2)
    for _ in range(4):
        assert fuse.failed("stalled: for 30 min", "10.0.0.2") is None
        fuse.went_on("10.0.0.2")


def test_lost_workers_whose_node_nobody_knows_count_too() -> None:
    fuse = Fuse(2)
    assert fuse.failed("worker lost: killed", None) is None
    assert fuse.failed("node lost: gone", None) == (
        "2 trials in a row failed before one had ended an epoch, the last by node lost: gone"
    )


def test_none_switches_it_off() -> None:
    fuse = Fuse(None)
    assert [fuse.failed("RuntimeError: x", "10.0.0.1") for _ in range(99)] == [None] * 99
