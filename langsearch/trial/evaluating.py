"""The evaluations of a trial that is trained: on the whole validation part, and on the test part."""

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.evaluation import Evaluation, EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.space.settings import DecodingSettings
from langsearch.study.results import FinalResult, TestResult, TrialResult
from langsearch.trial.scores import FinalSplit, copy_scores, score_columns, write_scores
from langsearch.trial.trial import load_trained, settings_at


def evaluate_trial(
    base: Base,
    environment: Environment,
    folder: TrialFolder,
    split: FinalSplit,
    settings: DecodingSettings,
    num_parts: int = 1,
) -> Evaluation:
    """Evaluates a trial's kept weights and writes the scores, and the test part's translations, into its folder.

    Args:
        base: The base, without adapters; it is left so.
        environment: Sentences, directions and scores.
        folder: The trial's folder.
        split: full: the validation part; the scores that selected stay beside these. test: the test part.
        settings: What is decoded, and how.
        num_parts: Batches are so many times smaller, where memory is short.

    Raises:
        OSError: If the trial has no weights, or its folder cannot be written.
        NonFiniteScoreError: If a score is NaN or infinite.
    """
    data = evaluation_data(base, environment, split, settings)
    learner = load_trained(base, environment, folder)
    try:
        evaluation = evaluate(
            learner,
            data,
            settings,
            base.tokenizer,
            SpBleu(environment.tokenizer),
            with_chrf=environment.with_chrf,
            num_parts=num_parts,
        )
    finally:
        if isinstance(learner, AdaptedModel):
            learner.remove()
    write_scores(folder, split, evaluation, data)
    return evaluation


def test_result(evaluation: Evaluation) -> TestResult:
    """Returns an evaluation on the test set as columns of the trial table."""
    return TestResult(
        **score_columns(evaluation, "test_"),
        test_num_zero_shot=evaluation.num_zero_shot,
        test_zero_shot_spbleu=evaluation.zero_shot_spbleu,
    )


test_result.__test__ = False  # type: ignore[attr-defined]


def final_result(evaluation: Evaluation, *, with_directions: bool = False) -> FinalResult:
    """Returns an evaluation by `evaluation.final` as columns of the trial table."""
    return FinalResult(
        **score_columns(evaluation, "full_"),
        full_worst_class_spbleu=evaluation.worst_class_spbleu,
        full_chrf=evaluation.chrf.chrf if evaluation.chrf else None,
        full_direction_spbleu=evaluation.direction_spbleu if with_directions else None,
    )


def reuse_scores(base: Base, environment: Environment, folder: TrialFolder) -> FinalResult | None:
    """Returns a complete trial's own scores if they are those of `evaluation.final`, as which they are written too.

    They are where the search decodes what `evaluation.final` does, in the same way.
    """
    if not folder.result.exists():
        return None
    result, final = TrialResult(**read_json(folder.result)), environment.evaluation.final
    used = settings_at(environment, TrialTask.read(folder), result.kept_epoch)
    lengths = [(settings.beams, settings.max_length, settings.max_length_factor) for settings in (used, final)]
    if lengths[0] != lengths[1] or result.beams != final.beams or (environment.with_chrf and result.chrf is None):
        return None
    if environment.with_directions and result.direction_spbleu is None:
        return None
    one, other = (evaluation_data(base, environment, "full", settings).rows for settings in (used, final))
    if one.keys() != other.keys() or any(one[key].tolist() != other[key].tolist() for key in one):
        return None
    copy_scores(folder, "validation", "full")
    return FinalResult.of(result)


def evaluation_data(
    base: Base, environment: Environment, split: FinalSplit, settings: DecodingSettings
) -> EvaluationSet:
    """Returns the sentences and directions of a split that the settings ask for."""
    store = environment.test if split == "test" else environment.validation
    vocabulary = base.vocabulary(environment.languages)
    return evaluation_set(
        store,
        environment.directions,
        settings,
        environment.classes,
        vocabulary,
        environment.train,
        environment.zero_shot,
    )
