"""How a trial's evaluation grows with its rungs, and how it pauses."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langsearch.evaluate.evaluation import Evaluation, NonFiniteScoreError, evaluate
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.folder import TrialFolder, read_json, read_rows
from langsearch.experiment.task import baseline_task
from langsearch.model.base import Base
from langsearch.space.schema import load_space
from langsearch.space.settings import DecodingSettings
from langsearch.study.results import TrialResult
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.trial.evaluating import evaluate_trial, final_result, reuse_scores
from langsearch.trial.monitor import Unwatched
from langsearch.trial.trial import run_trial, settings_at

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

RUNGS = (
    DecodingSettings(directions=1, sentences=1),
    DecodingSettings(directions=2, sentences=2),
)
SMALL = {"pairs_per_epoch": 12, "tokens_per_batch": 200}


@pytest.fixture
def growing(environment: Environment) -> Environment:
    """The first epoch is scored on 1 sentence in 1 direction, the next two on 2 in 2, then 3 in 2."""
    return replace(environment, evaluation=replace(environment.evaluation, rungs=RUNGS), rung_epochs=(1, 3))


@pytest.fixture
def score(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Gives the epochs' evaluations the scores it is called with."""

    def give(*scores: float) -> None:
        left = list(scores)

        def evaluate_as(*values: Any, **options: Any) -> Evaluation:
            evaluation = evaluate(*values, **options)
            return replace(evaluation, scores=replace(evaluation.scores, spbleu=left.pop(0)))

        monkeypatch.setattr("langsearch.trial.trial.evaluate", evaluate_as)

    return give


def same(results: list[TrialResult]) -> list[dict[str, Any]]:
    """The results without what differs between two equal runs."""
    costs = ("train_seconds", "seconds", "peak_memory_bytes", "worker")
    return [{name: value for name, value in asdict(result).items() if name not in costs} for result in results]


def weights_of(folder: TrialFolder) -> dict[str, torch.Tensor]:
    kept = read_newest_checkpoint(folder.weights)
    assert kept is not None
    return dict(kept.tensors)


def test_results_hold_the_worst_class_and_what_the_search_asks_for(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    plain = TrialFolder(tmp_path / "plain")
    (result,) = run_trial(base, environment, make_task(epochs=1, **SMALL), plain)
    assert (result.chrf, result.direction_spbleu, result.beams, result.note) == (None, None, 1, "")
    assert result.worker.rpartition("/")[2].isdigit()
    (row, *_) = read_rows(plain.scores)
    assert (row["chrf"], row["chrf_signature"]) == (None, None)

    asking = replace(environment, with_chrf=True, with_directions=True)
    folder = TrialFolder(tmp_path / "asking")
    (result,) = run_trial(base, asking, make_task(epochs=1, **SMALL), folder)
    rows = read_rows(folder.scores)
    assert result.direction_spbleu == tuple((f"{row['src']}-{row['tgt']}", row["spbleu"]) for row in rows)
    assert result.chrf == pytest.approx(sum(row["chrf"] for row in rows) / len(rows))
    assert rows[0]["chrf_signature"].startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")
    means = []
    for languages in environment.classes.values():
        touching = [row["spbleu"] for row in rows if row["src"] in languages or row["tgt"] in languages]
        means += [sum(touching) / len(touching)] if touching else []
    assert result.worst_class_spbleu == pytest.approx(min(means))
    assert TrialResult(**read_json(folder.result)) == result, "JSON's lists become tuples again"


def test_what_the_space_asks_for_reaches_the_workers(space_file: Path, base: Base, tmp_path: Path) -> None:
    def environment_of(*overrides: str) -> Environment:
        return build_environment(check_space(load_space(space_file, list(overrides))), base, tmp_path)

    plain = environment_of()
    assert (plain.with_chrf, plain.with_directions, plain.rung_epochs) == (False, False, ())
    assert environment_of("search.objectives=[chrf]").with_chrf
    assert environment_of("search.constraints=[chrf >= 1]").with_chrf
    assert environment_of("search.constraints=[worst_loss.high <= 0.5]").with_directions
    rungs = ("trainer.epochs=9", "evaluation.rungs=[{sentences: 1}, {sentences: 2}]")
    assert environment_of(*rungs, "search.scheduler=asha").rung_epochs == (1, 3)
    assert environment_of("trainer.epochs=9", "search.scheduler=asha").rung_epochs == ()


def test_evaluation_grows_with_the_rungs_for_searched_trials_alone(
    growing: Environment, checked: CheckedSpace, make_task: "TaskMaker"
) -> None:
    search = growing.evaluation.search
    task = make_task(epochs=5)
    assert [settings_at(growing, task, epoch) for epoch in range(1, 6)] == [RUNGS[0], *[RUNGS[1]] * 2, search, search]
    baseline = baseline_task(checked.space, checked.shape, "shared_lora")
    assert {settings_at(growing, baseline, epoch) for epoch in range(5)} == {search}
    short = make_task(epochs=2)  # fewer than the space's: its last epoch is its last, whatever rung it is at
    assert [settings_at(growing, short, epoch) for epoch in (1, 2)] == [RUNGS[0], search]
    fewer = replace(growing, evaluation=replace(growing.evaluation, rungs=RUNGS[:1]))
    assert [settings_at(fewer, task, epoch) for epoch in (1, 2, 3)] == [RUNGS[0], search, search]


def test_scores_of_different_fidelity_are_never_compared(
    base: Base, growing: Environment, make_task: "TaskMaker", tmp_path: Path, score: Callable[..., None]
) -> None:
    score(90.0, 30.0, 20.0, 5.0, 4.0)
    folder = TrialFolder(tmp_path)
    results = list(run_trial(base, growing, make_task(epochs=5, **SMALL), folder))
    assert [(r.epoch, r.kept_epoch, r.spbleu, r.num_directions, r.num_sentences) for r in results] == [
        (1, 1, 90.0, 1, 1),
        (2, 2, 30.0, 2, 2),
        (3, 2, 30.0, 2, 2),
        (4, 4, 5.0, 2, 3),
        (5, 4, 5.0, 2, 3),
    ]
    curve = read_rows(folder.curve)
    assert [(row["num_directions"], row["num_sentences"], row["beams"]) for row in curve] == [
        (1, 1, 1),
        (2, 2, 1),
        (2, 2, 1),
        (2, 3, 1),
        (2, 3, 1),
    ]
    kept = read_newest_checkpoint(folder.weights)
    assert kept is not None and kept.state["epoch"] == 4
    assert [path.name for path in folder.weights.iterdir()] == [f"{kept.state['updates']:09d}"]
    assert len(read_rows(folder.scores)) == 2


def test_a_trial_with_rungs_stopped_after_any_epoch_resumes_to_the_undisturbed_result(
    base: Base, growing: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(epochs=4, pairs_per_epoch=6, tokens_per_batch=200)
    undisturbed = list(run_trial(base, growing, task, TrialFolder(tmp_path / "undisturbed")))
    for num_epochs in (1, 2, 3):
        folder = TrialFolder(tmp_path / str(num_epochs))
        run = run_trial(base, growing, task, folder)
        first = [next(run) for _ in range(num_epochs)]
        run.close()
        again, *rest = run_trial(base, growing, task, folder)
        assert again == first[-1]
        assert same(first + rest) == same(undisturbed)
        wanted, found = weights_of(TrialFolder(tmp_path / "undisturbed")), weights_of(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


class PauseAfter(Unwatched):
    """Asks for a pause after so many updates."""

    def __init__(self, num_updates: int) -> None:
        self.left, self.num_progress = num_updates, 0

    def progressed(self) -> None:
        self.num_progress += 1

    def should_pause(self) -> bool:
        self.left -= 1
        return self.left <= 0


@pytest.mark.parametrize("target", [0.0, 0.5], ids=["unpruned", "pruned"])
def test_a_trial_paused_after_any_update_resumes_bitwise_equal(
    target: float, base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(target=target, dropout=0.1, pairs_per_epoch=12, tokens_per_batch=120)
    whole = TrialFolder(tmp_path / "whole")
    undisturbed = list(run_trial(base, environment, task, whole))
    num_updates = undisturbed[-1].updates
    assert undisturbed[0].updates >= 3
    paused_at = set()
    for num_before in range(1, num_updates + 1):  # it is asked once more at the end of an epoch
        folder = TrialFolder(tmp_path / str(num_before))
        first = list(run_trial(base, environment, task, folder, monitor=PauseAfter(num_before)))
        assert not any(result.finished for result in first)
        checkpoint = read_newest_checkpoint(folder.checkpoint)
        assert checkpoint is not None
        paused_at.add(checkpoint.state["updates"])
        torch.manual_seed(99)
        rest = list(run_trial(base, environment, task, folder))
        again, rest = rest[: len(first)], rest[len(first) :]
        assert again == first, "what was reported last is reported again, if there was anything"
        assert same(first + rest) == same(undisturbed)
        found = weights_of(folder)
        assert all(torch.equal(found[name], tensor) for name, tensor in weights_of(whole).items())
        assert rest[-1].seconds > rest[-1].train_seconds > 0
    assert paused_at == set(range(1, num_updates))


def test_a_trial_paused_again_and_again_gets_through(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(**SMALL)
    undisturbed = list(run_trial(base, environment, task, TrialFolder(tmp_path / "whole")))
    found: dict[int, TrialResult] = {}
    folder, num_runs = TrialFolder(tmp_path / "paused"), 0
    while not folder.result.exists():
        found |= {result.epoch: result for result in run_trial(base, environment, task, folder, monitor=PauseAfter(1))}
        num_runs += 1
    assert num_runs >= undisturbed[-1].updates
    assert same(list(found.values())) == same(undisturbed)


def test_every_update_and_every_decoded_batch_is_progress(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    monitor = PauseAfter(1000)
    evaluation = replace(environment.evaluation, search=DecodingSettings(directions=2, sentences=4, rows_per_batch=2))
    fine = replace(environment, evaluation=evaluation)
    *_, last = run_trial(base, fine, make_task(epochs=1, **SMALL), TrialFolder(tmp_path), monitor=monitor)
    assert monitor.num_progress >= last.updates + 2 * 4 // 2


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_not_finite_ends_the_trial_and_is_never_kept(
    value: float,
    base: Base,
    environment: Environment,
    make_task: "TaskMaker",
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, folder = make_task(**SMALL), TrialFolder(tmp_path)
    run = run_trial(base, environment, task, folder)
    next(run)
    with monkeypatch.context() as patch:
        patch.setattr("langsearch.evaluate.spbleu.SpBleu.from_statistics", lambda *_: value)
        with pytest.raises(NonFiniteScoreError, match=r"A score must be finite, but .* are \["):
            next(run)
    again, last = run_trial(base, environment, task, folder)
    assert (again.epoch, last.epoch, last.finished) == (1, 2, True)


def test_the_full_evaluation_stands_beside_the_scores_that_selected(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    folder = TrialFolder(tmp_path)
    make_task(epochs=1, **SMALL).write(folder)
    list(run_trial(base, environment, make_task(epochs=1, **SMALL), folder))
    selected = read_rows(folder.scores)
    asking = replace(environment, with_chrf=True)
    assert reuse_scores(base, environment, folder) is None, "final decodes more sentences"
    final = DecodingSettings(beams=2, sentences=5)
    found = final_result(evaluate_trial(base, asking, folder, "full", final))
    rows = read_rows(folder.scores)
    assert rows[: len(selected)] == selected
    assert [(row["split"], row["num_sentences"]) for row in rows[len(selected) :]] == [("full", 5)] * 6
    assert (found.full_num_directions, found.full_num_sentences) == (6, 5)
    assert found.full_spbleu_low <= found.full_spbleu <= found.full_spbleu_high
    assert found.full_worst_class_spbleu <= found.full_spbleu + 1e-9
    assert found.full_chrf is not None
    assert not folder.translations.exists()


def test_scores_are_reused_where_the_final_evaluation_would_give_the_same(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrialFolder(tmp_path)
    make_task(epochs=1, **SMALL).write(folder)
    search = DecodingSettings(directions=2, sentences=52, rows_per_batch=7)
    final = DecodingSettings(directions=2)
    equal = replace(environment, evaluation=replace(environment.evaluation, search=search, final=final))
    (result,) = run_trial(base, equal, make_task(epochs=1, **SMALL), folder)
    evaluated = final_result(evaluate_trial(base, equal, folder, "full", final))
    monkeypatch.setattr("langsearch.trial.evaluating.evaluate", None)
    assert reuse_scores(base, equal, folder) == evaluated
    assert evaluated.full_spbleu == result.spbleu
    splits = [row["split"] for row in read_rows(folder.scores)]
    assert splits == ["validation"] * 2 + ["full"] * 2
    for other in (replace(final, beams=2), replace(final, max_length_factor=1.5), replace(final, sentences=51)):
        changed = replace(equal, evaluation=replace(equal.evaluation, final=other))
        assert reuse_scores(base, changed, folder) is None
    assert reuse_scores(base, replace(equal, with_chrf=True), folder) is None, "chrF was not computed"
