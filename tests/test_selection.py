"""What is said while the front is scored again and tested."""

from types import SimpleNamespace
from typing import Any

import pytest

from langsearch.search import selection
from langsearch.search.table import State
from langsearch.space.settings import DecodingSettings


def _search(said: list[str], names: list[str], final: DecodingSettings) -> Any:
    rows = [SimpleNamespace(name=name, full=None, test=None, kind="searched", state=State.COMPLETE) for name in names]
    table = SimpleNamespace(
        candidates=lambda: rows, front=lambda: rows, rows=lambda: rows, record_full=lambda name, result: None
    )
    checked = SimpleNamespace(corpus=SimpleNamespace(validation=range(52)), directions=range(56))
    return SimpleNamespace(
        table=table,
        checked=checked,
        space=SimpleNamespace(evaluation=SimpleNamespace(final=final)),
        display=SimpleNamespace(message=said.append),
        folder=None,
        environment=None,
    )


def _run(search: Any, function: Any, names: list[str], record: Any) -> None:
    final = search.space.evaluation.final
    scores = {f"full_{name}": 1.0 for name in ("spbleu", "spbleu_low", "spbleu_high", "worst_class_spbleu", "chrf")}
    for name in names:
        record(name, scores | {"full_num_sentences": final.sentences or 52, "full_num_directions": 56})


@pytest.mark.parametrize(
    ("names", "sentences", "candidates", "part"),
    [
        (["00000"], 20, "the front's candidate", "20 of 52 validation sentences in all directions"),
        (["00000", "00001"], None, "the front's 2 candidates", "the whole validation part"),
    ],
)
def test_what_the_front_is_scored_on_again_is_said_as_it_is(
    names: list[str], sentences: int | None, candidates: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(selection, "_run", _run)
    selection.evaluate_candidates(_search(said, names, DecodingSettings(sentences=sentences)))
    assert said[0] == f"Scoring {candidates} again, on {part} …"
    assert said[1:] == [f"{name:<15} spBLEU  1.00 on {part}" for name in names]


@pytest.mark.parametrize(("names", "systems"), [(["00000"], "1 system"), (["00000", "00001"], "2 systems")])
def test_systems_that_are_tested_are_counted_as_one_counts(
    names: list[str], systems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(selection, "_run", lambda *values: None)
    monkeypatch.setattr(selection, "compare_tested", lambda *values: None)
    selection.test_front(_search(said, names, DecodingSettings()))
    assert said == [f"Testing {systems}, of the front and the baselines, on the test set …"]
