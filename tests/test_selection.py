"""What is said while the front is scored again and tested."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import IntDistribution

from langsearch.search import selection
from langsearch.space.settings import DecodingSettings

if TYPE_CHECKING:
    from langsearch.study.table import TrialTable
    from langsearch.trial.scores import FinalSplit
    from tests.search_fixtures import ResultMaker, TableMaker

pytest_plugins = ["search_fixtures"]


def _search(said: list[str], table: "TrialTable", final: DecodingSettings) -> Any:
    """As much of a search as its selection says something of."""
    checked = SimpleNamespace(num_validation_sentences=52, directions=range(56))
    return SimpleNamespace(
        table=table,
        checked=checked,
        space=SimpleNamespace(evaluation=SimpleNamespace(final=final)),
        display=SimpleNamespace(message=said.append),
        folder=None,
        environment=None,
    )


@pytest.fixture
def table(make_table: "TableMaker", make_result: "ResultMaker", request: pytest.FixtureRequest) -> "TrialTable":
    """A table with as many complete trials on its front as the test asks for."""
    table = make_table()
    for number in range(request.param):
        table.propose({"rank": IntDistribution(1, 8)}, fingerprint=None)
        table.complete(f"{number:05d}", make_result(spbleu=number, trainable_parameters=1000 * (1 + number)))
    return table


def _run(search: Any, evaluations: list[tuple[str, "FinalSplit"]]) -> None:
    final = search.space.evaluation.final
    names = ("spbleu", "spbleu_low", "spbleu_high")
    full = {f"full_{name}": 1.0 for name in (*names, "worst_class_spbleu", "chrf")}
    full |= {"full_num_sentences": final.sentences or 52, "full_num_directions": 56}
    test = {f"test_{name}": 2.0 for name in names} | {"test_num_sentences": 60, "test_num_directions": 56}
    for name, split in evaluations:
        selection._record(search, name, split, full if split == "full" else test)


@pytest.mark.parametrize(
    ("table", "sentences", "candidates", "part"),
    [
        (1, 20, "the front's candidate", "20 of 52 validation sentences in all directions, greedy"),
        (2, None, "the front's 2 candidates", "all of validation, greedy"),
    ],
    indirect=["table"],
)
def test_what_the_front_is_scored_on_again_is_said_as_it_is(
    table: "TrialTable", sentences: int | None, candidates: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    names = sorted((row.name for row in table.candidates()), reverse=True)  # the larger one first
    monkeypatch.setattr(selection, "_run", _run)
    assert selection.evaluate_candidates(_search(said, table, DecodingSettings(sentences=sentences)))
    assert said[0] == f"Scoring {candidates} again, on {part} …"
    results = [table.row(name).result for name in names]
    assert said[1:] == [
        f"{name:<15} spBLEU  1.00 on {part}; while searching {result.spbleu:.2f}, greedy"
        for name, result in zip(names, results, strict=True)
        if result is not None
    ]


@pytest.mark.parametrize("table", [1], indirect=True)
def test_a_score_has_the_difference_to_the_base_s_of_the_same_kind_beside_it(
    table: "TrialTable", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(spbleu=0.5, trainable_parameters=0))
    said: list[str] = []
    search = _search(said, table, DecodingSettings(beams=5))
    for split in ("test", "full"):
        _run(search, [("00000", split)])
        assert "1.00 on" in said[-1] or said[-1].endswith(" 2.00"), "there is none yet"
        _run(search, [("pretrained", split), ("00000", split)])
        assert "(+0.00)" in said[-1] and "(" not in said[-2]
    assert said[-1] == (
        "00000           spBLEU  1.00 (+0.00) on all of validation, beam 5; while searching 0.00 (-0.50), greedy"
    )


@pytest.mark.parametrize(("table", "systems"), [(1, "1 system"), (2, "2 systems")], indirect=["table"])
def test_systems_that_are_tested_are_counted_as_one_counts(
    table: "TrialTable", systems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(selection, "_run", lambda *values: None)
    monkeypatch.setattr(selection, "compare_tested", lambda *values: None)
    selection.test_front(_search(said, table, DecodingSettings()))
    assert said == [f"Testing {systems} on the test set: {', '.join(row.name for row in table.untested())} …"]


@pytest.mark.parametrize("table", [1], indirect=True)
def test_workers_that_the_candidates_leave_free_test_the_baselines_once(
    table: "TrialTable", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(spbleu=0, trainable_parameters=0))
    asked: list[tuple[str, str]] = []

    def run(search: Any, evaluations: list[tuple[str, "FinalSplit"]]) -> None:
        asked.extend(evaluations)
        _run(search, evaluations)

    monkeypatch.setattr(selection, "_run", run)
    monkeypatch.setattr(selection, "compare_tested", lambda *values: None)
    search = _search([], table, DecodingSettings())
    assert selection.evaluate_candidates(search)
    assert asked == [("00000", "full"), ("pretrained", "test")], "what selects begins first"
    assert selection.test_front(search)
    assert asked[2:] == [("00000", "test")]


@pytest.mark.parametrize("table", [2], indirect=True)
def test_what_takes_longest_is_tested_first_and_what_has_no_adapters_last(
    table: "TrialTable", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {"pretrained": 0, "full_finetuning": 9_000_000, "shared_lora": 1500}
    for name, size in sizes.items():
        table.add_baseline(name)
        table.complete(name, make_result(spbleu=0, trainable_parameters=size))
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(selection, "_run", lambda search, evaluations: asked.extend(evaluations))
    monkeypatch.setattr(selection, "compare_tested", lambda *values: None)
    search = _search([], table, DecodingSettings())
    selection.test_front(search)
    names = ["00001", "shared_lora", "00000", "pretrained", "full_finetuning"]
    assert asked == [(name, "test") for name in names]
