from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.evaluation import Evaluation, evaluate
from langsearch.experiment.environment import CheckedSpace, Environment
from langsearch.experiment.folder import TrialFolder, read_json, read_rows
from langsearch.experiment.task import TrialTask, baseline_task
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Site, uniform_ranks
from langsearch.study.results import TrialResult
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.trial.curve import CURVE
from langsearch.trial.evaluating import evaluate_trial
from langsearch.trial.scores import SCORES, TRANSLATIONS
from langsearch.trial.trial import load_trained, run_trial

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]


def without_costs(results: list[TrialResult]) -> list[TrialResult]:
    """The results without what differs between two equal runs."""
    return [replace(result, train_seconds=0.0, seconds=0.0, peak_memory_bytes=0) for result in results]


@pytest.fixture(autouse=True)
def left_as_it_was(base: Base) -> Iterator[None]:
    """Every trial leaves the base without adapters and its weights untouched."""
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    yield
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def run_all(base: Base, environment: Environment, task: TrialTask, path: Path) -> list[TrialResult]:
    folder = TrialFolder(path)
    task.write(folder)
    return list(run_trial(base, environment, task, folder))


def scores_of(path: Path) -> list[Any]:
    return read_rows(TrialFolder(path).scores)


@pytest.mark.parametrize("target", [0.0, 0.5], ids=["unpruned", "pruned"])
def test_a_trial_stopped_after_any_epoch_resumes_to_the_undisturbed_result(
    target: float, base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(target=target, epochs=3)
    undisturbed = run_all(base, environment, task, tmp_path / "undisturbed")
    assert [result.epoch for result in undisturbed] == [1, 2, 3]
    for num_epochs in (1, 2):
        path = tmp_path / f"stopped after {num_epochs}"
        task.write(TrialFolder(path))
        run = run_trial(base, environment, task, TrialFolder(path))
        first = [next(run) for _ in range(num_epochs)]
        run.close()
        torch.manual_seed(99)  # another process has other random numbers
        again, *rest = run_trial(base, environment, task, TrialFolder(path))
        assert again == first[-1], "the driver may not have heard of it"
        assert [result.epoch for result in first + rest] == [1, 2, 3]
        assert without_costs(first + rest) == without_costs(undisturbed)
        assert [row["train_loss"] for row in read_rows(TrialFolder(path).curve)] == [
            row["train_loss"] for row in read_rows(TrialFolder(tmp_path / "undisturbed").curve)
        ]
        assert rest[-1].seconds > first[-1].seconds, "seconds count over all resumes"
        assert scores_of(path) == scores_of(tmp_path / "undisturbed")
        kept = [read_newest_checkpoint(TrialFolder(folder).weights) for folder in (path, tmp_path / "undisturbed")]
        assert kept[0] is not None and kept[1] is not None
        assert all(torch.equal(kept[0].tensors[name], tensor) for name, tensor in kept[1].tensors.items())


def test_full_fine_tuning_resumes_to_the_undisturbed_result(
    base: Base, environment: Environment, checked: CheckedSpace, tmp_path: Path
) -> None:
    task = baseline_task(checked.space, checked.shape, "full_finetuning")
    undisturbed = run_all(base, environment, task, tmp_path / "undisturbed")
    task.write(TrialFolder(tmp_path / "stopped"))
    run = run_trial(base, environment, task, TrialFolder(tmp_path / "stopped"))
    first = next(run)
    run.close()
    again, last = run_trial(base, environment, task, TrialFolder(tmp_path / "stopped"))
    assert again == first
    assert without_costs([first, last]) == without_costs(undisturbed)
    assert last.trainable_parameters == last.nonzero_parameters == checked.shape.num_parameters


def test_a_finished_trial_is_read_not_trained(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    *_, last = run_all(base, environment, make_task(), tmp_path)
    assert last.finished
    assert read_json(TrialFolder(tmp_path).result) == asdict(last)
    assert not TrialFolder(tmp_path).checkpoint.exists()
    assert list(run_trial(base, environment, make_task(), TrialFolder(tmp_path))) == [last]


def test_a_trial_that_died_before_its_result_was_written_is_not_trained_again(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrialFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("langsearch.trial.trial._Run._close", lambda self, result: result)
        *_, last = run_all(base, environment, make_task(), tmp_path)
    assert folder.checkpoint.exists() and not folder.result.exists()
    monkeypatch.setattr("langsearch.trial.trial.train", None)
    assert list(run_trial(base, environment, make_task(), folder)) == [last]
    assert folder.result.exists() and not folder.checkpoint.exists()


def score_as(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Gives the epochs' evaluations these scores."""
    left = list(scores)

    def evaluate_as(*values: Any, **options: Any) -> Evaluation:
        evaluation = evaluate(*values, **options)
        by_direction = tuple(replace(score, spbleu=left[0]) for score in evaluation.scores.by_direction)
        scores = replace(evaluation.scores, by_direction=by_direction, spbleu=left.pop(0))
        return replace(evaluation, scores=scores)

    monkeypatch.setattr("langsearch.trial.trial.evaluate", evaluate_as)


def test_the_best_epoch_is_kept(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(monkeypatch, 3.0, 9.0, 5.0)
    results = run_all(base, environment, make_task(epochs=3), tmp_path)
    assert [(result.epoch, result.kept_epoch, result.spbleu) for result in results] == [
        (1, 1, 3.0),
        (2, 2, 9.0),
        (3, 2, 9.0),
    ]
    assert [result.epoch_spbleu for result in results] == [3.0, 9.0, 5.0]
    assert [row["spbleu"] for row in read_rows(TrialFolder(tmp_path).curve)] == [3.0, 9.0, 5.0]
    kept = read_newest_checkpoint(TrialFolder(tmp_path).weights)
    assert kept is not None
    assert kept.state["epoch"] == 2


def test_of_equal_epochs_the_first_is_kept(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(monkeypatch, 4.0, 4.0)
    assert [result.kept_epoch for result in run_all(base, environment, make_task(), tmp_path)] == [1, 1]


def test_with_pruning_the_last_epoch_is_kept_since_only_it_is_pruned_to_the_target(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_as(monkeypatch, 9.0, 3.0)
    results = run_all(base, environment, make_task(target=0.5), tmp_path)
    assert [(result.kept_epoch, result.spbleu) for result in results] == [(1, 9.0), (2, 3.0)]
    assert results[-1].nonzero_parameters < results[-1].trainable_parameters


def test_training_changes_what_the_weights_say(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    run_all(base, environment, make_task(), tmp_path)
    learner = load_trained(base, environment, TrialFolder(tmp_path))
    assert isinstance(learner, AdaptedModel)
    assert all(bool(tensor.abs().max() > 0) for tensor in learner.state().values())
    learner.remove()


@pytest.mark.parametrize("kind", ["pretrained", "empty"])
def test_without_anything_to_train_the_base_is_scored_at_once(
    kind: str,
    base: Base,
    environment: Environment,
    checked: CheckedSpace,
    make_task: "TaskMaker",
    tmp_path: Path,
) -> None:
    task = baseline_task(checked.space, checked.shape, kind) if kind == "pretrained" else make_task(rank=0)
    (result,) = run_all(base, environment, task, tmp_path)
    assert (result.epoch, result.finished, result.trainable_parameters, result.train_loss) == (0, True, 0, None)
    assert result.num_directions == 2
    assert result.spbleu_low <= result.spbleu <= result.spbleu_high
    evaluation = evaluate_trial(base, environment, TrialFolder(tmp_path), "full", environment.evaluation.search)
    assert evaluation.scores.spbleu == result.spbleu


def test_scores_hold_both_splits_and_translations_only_the_test(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    folder = TrialFolder(tmp_path)
    run_all(base, environment, make_task(epochs=1), tmp_path)
    assert {row["split"] for row in read_rows(folder.scores)} == {"validation"}
    assert not folder.translations.exists()
    for _ in range(2):  # a second time replaces the first
        evaluation = evaluate_trial(base, environment, folder, "test", environment.evaluation.final)
    scores, translations = read_rows(folder.scores), read_rows(folder.translations)
    assert [row["split"] for row in scores] == ["validation"] * 2 + ["test"] * 2
    assert {tuple(row) for row in scores} == {tuple(SCORES.names)}
    assert {tuple(row) for row in translations} == {tuple(TRANSLATIONS.names)}
    assert [row["num_sentences"] for row in scores] == [3, 3, 4, 4]
    assert len(translations) == 2 * 4
    assert {row["split"] for row in translations} == {"test"}
    first = translations[0]
    assert first["source"] == environment.test.text(first["src"], first["row"])
    assert first["reference"] == environment.test.text(first["tgt"], first["row"])
    hypotheses = [text for texts in evaluation.hypotheses.values() for text in texts]
    assert [row["hypothesis"] for row in translations] == hypotheses
    curve = read_rows(folder.curve)
    assert [list(row) for row in curve] == [CURVE.names]


def test_weights_that_are_not_there_are_an_error_and_leave_no_adapters(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    make_task().write(TrialFolder(tmp_path))
    with pytest.raises(OSError, match=r"must have weights, but .*weights holds none"):
        load_trained(base, environment, TrialFolder(tmp_path))


def test_a_failure_in_the_middle_leaves_no_adapters_and_the_last_checkpoint(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, folder = make_task(), TrialFolder(tmp_path)
    run = run_trial(base, environment, task, folder)
    next(run)
    with monkeypatch.context() as patch:

        def full_disk(*values: Any, **options: Any) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("langsearch.trial.trial.write_checkpoint", full_disk)
        with pytest.raises(OSError, match="No space left"):
            next(run)
    assert [result.epoch for result in run_trial(base, environment, task, folder)] == [1, 2]


def test_a_trial_starts_from_adapters_cut_to_its_ranks(
    base: Base, environment: Environment, adapters: Path, make_task: "TaskMaker", tmp_path: Path
) -> None:
    sites = uniform_ranks([(Site("encoder", 0, "q_proj"), "src")], {"en": 2, "sw": 2})
    architecture = Architecture(slots=tuple((name, name) for name in ("en", "fr", "sw")), adapters=sites)
    still = {"epochs": 1, "lr": 1e-12}
    task = replace(make_task(init_from=str(adapters), **still), architecture=architecture)
    run_all(base, environment, task, tmp_path)
    learner = load_trained(base, environment, TrialFolder(tmp_path))
    assert isinstance(learner, AdaptedModel)
    learner.remove()
    a, b = learner.lora.layers[Site("encoder", 0, "q_proj")].pair("sw")
    stored = load_file(adapters / "src-sw" / "adapter_model.safetensors")
    path = "base_model.model.model.encoder.layers.0.self_attn.q_proj"
    u, values, v = torch.linalg.svd(stored[f"{path}.lora_B.weight"] @ stored[f"{path}.lora_A.weight"])
    assert values[2] > 1e-3, "rank 4 was stored"
    assert torch.allclose(b @ a, u[:, :2] * values[:2] @ v[:2], atol=1e-5)
