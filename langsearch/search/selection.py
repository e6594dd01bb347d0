"""What follows the trials: the front once more by `evaluation.final`, then, once, on the test set."""

import logging
from collections.abc import Sequence
from typing import Any

import ray

from langsearch.experiment.environment import portable
from langsearch.search.compared import compare_tested
from langsearch.search.ray_tasks import as_they_end
from langsearch.search.search import Search
from langsearch.search.tasks import evaluate_on_worker
from langsearch.study.beside_names import original_of
from langsearch.study.results import FinalResult, TestResult, beam_words, final_part
from langsearch.study.rows import PRETRAINED
from langsearch.study.table import TrialTable
from langsearch.trial.scores import FinalSplit

logger = logging.getLogger(__name__)

_WITHOUT_ADAPTERS = (PRETRAINED, "full_finetuning")
"""Baselines that translate without the cost of adapters."""


def evaluate_candidates(search: Search) -> bool:
    """Scores the candidates on validation again, by `evaluation.final`, each one once over all resumes.

    Workers that these leave free test the baselines meanwhile: those are tested whatever the front will be.

    Returns:
        Whether all candidates have such scores; without them none may be tested, since nothing is selected.
    """
    table = search.table
    names = [row.name for row in table.unscored()]
    if names:
        num = sum(table.row(name).kind == "searched" for name in names)
        candidates = "the front's candidate" if num == 1 else f"the front's {num} candidates"
        if num < len(names):
            candidates += " and the pretrained base"
        final = search.space.evaluation.final
        part = _part(search, names[0], final.sentences, final.directions)
        search.display.message(f"Scoring {candidates} again, on {part} …")
        # Both of one trial would write to its scores at once.
        baselines = [row.name for row in table.untested() if row.kind == "baseline" and row.name not in names]
        names, baselines = _longest_first(table, names), _longest_first(table, baselines)
        _run(search, [*((name, "full") for name in names), *((name, "test") for name in baselines)])
    for name, found in table.final_violations().items():
        if texts := [text for text, amount in found.items() if amount > 0]:
            search.display.message(f"{name:<15} leaves the front: by these scores it violates {', '.join(texts)}")
    if table.constraints.all and not table.front():
        nearest = table.nearest()
        words = "" if nearest is None else f" {nearest.words}"
        search.display.message(f"No trial keeps all constraints, so nothing is on the front.{words}")
    return not table.unscored()


def test_front(search: Search) -> bool:
    """Scores the front and the baselines on the test set, each one once over all resumes, and compares them.

    Returns:
        Whether all of them have been tested.
    """
    table = search.table
    names = [row.name for row in table.untested()]
    if names:
        systems = "1 system" if len(names) == 1 else f"{len(names)} systems"
        search.display.message(f"Testing {systems} on the test set: {', '.join(names)} …")
        _run(search, [(name, "test") for name in _longest_first(table, names)])
    compare_tested(search.folder, table, search.environment)
    return not table.untested()


def _longest_first(table: TrialTable, names: Sequence[str]) -> list[str]:
    """Returns trials so that those whose evaluation takes longest come first: then all workers end about together.

    All translate the same sentences; what differs is how much their adapters take.
    """

    def cost(name: str) -> int:
        result = table.row(name).result
        return 0 if original_of(name) in _WITHOUT_ADAPTERS or result is None else result.trainable_parameters

    return sorted(names, key=cost, reverse=True)


def _record(search: Search, name: str, split: FinalSplit, values: dict[str, Any]) -> None:
    """Puts a trial's scores into the table, and says them."""
    if split == "test":
        tested = TestResult(**values)
        search.table.record_test(name, tested)
        other = search.table.row(PRETRAINED).test if _has_base(search, name) else None
        to_base = "" if other is None else f" ({tested.test_spbleu - other.test_spbleu:+.2f})"
        search.display.message(f"{name:<15} test spBLEU {tested.test_spbleu:5.2f}{to_base}")
        return
    result = FinalResult(**values)
    search.table.record_final(name, result)
    part = _part(search, name, result.full_num_sentences, result.full_num_directions)
    before = search.table.row(name).result
    base = search.table.row(PRETRAINED) if _has_base(search, name) else None
    to_base = earlier = ""
    if base is not None and base.final is not None:
        to_base = f" ({result.full_spbleu - base.final.full_spbleu:+.2f})"
    if before is not None:
        change = ""
        if base is not None and base.result is not None and base.result.beams == before.beams:
            change = f" ({before.spbleu - base.result.spbleu:+.2f})"
        earlier = f"; while searching {before.spbleu:.2f}{change}, {beam_words(before.beams)}"
    search.display.message(f"{name:<15} spBLEU {result.full_spbleu:5.2f}{to_base} on {part}{earlier}")


test_front.__test__ = False  # type: ignore[attr-defined]


def _has_base(search: Search, name: str) -> bool:
    """Returns whether there is a pretrained base that a trial is another system than."""
    return name != PRETRAINED and any(row.name == PRETRAINED for row in search.table.rows())


def _part(search: Search, name: str, num_sentences: int | None, num_directions: int | None) -> str:
    """Returns what the final score of a trial is of; the trial has one of the search."""
    checked, before = search.checked, search.table.row(name).result
    searched = (None, None) if before is None else (before.num_sentences, before.num_directions)
    whole = checked.num_validation_sentences, len(checked.directions)
    return final_part(num_sentences, num_directions, *whole, searched, search.space.evaluation.final.beams)


def _run(search: Search, evaluations: Sequence[tuple[str, FinalSplit]]) -> None:
    """Evaluates several trials as Ray tasks; one that fails is named, and tried again on resume.

    Args:
        search: The search.
        evaluations: The trials and on what, in the order in which they are to begin.
    """
    environment = ray.put(portable(search.environment, search.copy))
    shared = (search.base, environment, search.folder.path)
    asked = {(name, split): (*shared, name, split, search.num_threads, search.copy) for name, split in evaluations}
    for (name, split), values, error in as_they_end(search, evaluate_on_worker, asked):
        if error is not None:
            logger.debug("The evaluation of %s failed", name, exc_info=error)
            cause = str(error).strip().splitlines()[-1]
            search.display.message(f"{name:<15} could not be evaluated: {cause}. --resume tries it again.")
            continue
        _record(search, name, split, values)
        if search.copy is not None:
            search.copy.pull(name)
        if search.uploads is not None:
            search.uploads.look()
