"""`langsearch evaluate`: score a trial or exported adapters again, on either set."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.adapters.learners import Learner, adapt
from langsearch.adapters.peft_export import load_export, read_export
from langsearch.data.directions import Direction
from langsearch.evaluate.evaluation import Evaluation, evaluate
from langsearch.evaluate.spbleu import Scores, SpBleu
from langsearch.experiment.description import recorded_precision
from langsearch.experiment.earlier import load_begun_space
from langsearch.experiment.environment import Environment, build_environment, check_space, computing_in
from langsearch.experiment.folder import STORE_FOLDER, ExperimentFolder
from langsearch.experiment.printable import Unpadded
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base, load_base
from langsearch.model.device import settle
from langsearch.model.memory import in_parts
from langsearch.model.new_languages import with_new_languages
from langsearch.space.plan import show_new
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.study.results import CUT_WAY_OUT, beam_words, cut_words
from langsearch.trial.evaluating import evaluation_data
from langsearch.trial.export import choose_row, missing_weights, open_experiment
from langsearch.trial.trial import Split, load_trained, resident

_SPLITS: dict[str, Split] = {"validation": "validation", "dev": "validation", "test": "test", "devtest": "test"}


def print_evaluation(
    console: Console, target: Path, split: str, trial: str | None, space_file: Path | None, beams: int | None
) -> Scores:
    """Scores what `target` names with the space's final settings and prints the scores; writes nothing.

    Args:
        console: Where to print.
        target: An experiment, or adapters that `langsearch export` wrote.
        split: validation (dev) or test (devtest).
        trial: Which trial of an experiment. None: the best on validation.
        space_file: The space whose data is used. None: that of the experiment which the adapters lie in.
        beams: In place of the space's.

    Raises:
        InputError: If the target, the split, the trial or the space is wrong.
    """
    if split not in _SPLITS:
        raise InputError(f"--split must be one of {', '.join(_SPLITS)}, but got {split!r}.")
    with TemporaryDirectory(prefix="langsearch-store-") as temporary:
        if (target / FORMAT_FILE).exists():
            label, base, environment, learner = _open_adapters(console, target, space_file, Path(temporary))
        else:
            label, base, environment, learner = _open_trial(target, trial)
        settings = environment.evaluation.final
        if beams is not None:
            settings = replace(settings, beams=beams)
        data = evaluation_data(base, environment, "test" if _SPLITS[split] == "test" else "full", settings)

        num_sentences = sum(map(len, data.rows.values()))
        console.print(f"Translating {num_sentences:,} sentences in {len(data.rows):,} directions …")

        def score(num_parts: int) -> Evaluation:
            scorer = SpBleu(environment.tokenizer)
            return evaluate(learner, data, settings, base.tokenizer, scorer, num_parts=num_parts)

        def tell(num_parts: int) -> None:
            console.print(f"Memory ran out: once more with 1/{num_parts} of a batch at once.")

        evaluation = in_parts(score, tell)
    _print(console, label, _SPLITS[split], settings.beams, evaluation, environment)
    return evaluation.scores


def _open_adapters(
    console: Console, target: Path, space_file: Path | None, store_folder: Path
) -> tuple[str, Base, Environment, Learner]:
    exported = read_export(target)
    is_own = space_file is None
    if space_file is None:
        # front/NAME of a search, adapters of a training
        places = [place / "space.yaml" for place in target.resolve().parents[:2]]
        space_file = next((place for place in places if place.exists()), None)
        if space_file is None:
            raise InputError(f"Scoring needs data: name a space with --space for the adapters in {target}.")
        store_folder = space_file.parents[1] / STORE_FOLDER  # where the search has its tokens
    space = load_begun_space(space_file) if is_own else load_space(space_file)
    is_open = space.base == exported.source.id and space.base_source.revision is None
    source = replace(space.base_source, revision=exported.source.revision) if is_open else None
    checked = check_space(space, source, is_begun=True)
    if set(checked.space.languages) != set(exported.languages):
        raise InputError(
            f"The space must have the adapters' languages {', '.join(exported.languages)}, "
            f"but has {', '.join(checked.space.languages)}."
        )
    own, theirs = show_new(checked.space.new_languages), show_new(dict(exported.architecture.new_languages))
    if own != theirs:
        raise InputError(f"The space must have the adapters' new languages {theirs}, but has {own}.")
    base = with_new_languages(load_base(checked.base), space.new_languages)
    environment = build_environment(checked, base, store_folder, console)
    if is_own:
        environment = computing_in(environment, recorded_precision(ExperimentFolder(space_file.parent)))
    base = settle(base, environment.compute.resident(space.trainer_section.precision))
    learner = adapt(base, exported.architecture, environment.languages)
    load_export(learner, target)
    return str(target), base, environment, learner


def _open_trial(target: Path, trial: str | None) -> tuple[str, Base, Environment, Learner]:
    folder, base, environment, table = open_experiment(target)
    row = choose_row(folder, base, environment, table, trial)
    try:
        scored = folder.trial(row.same_as or row.name)
        base = settle(base, resident(environment, TrialTask.read(scored)))
        learner = load_trained(base, environment, scored)
    except OSError as error:
        raise InputError(missing_weights(folder, row, "A scored trial")) from error
    return f"{target.name}, trial {row.name}", base, environment, learner


def _print(
    console: Console, label: str, split: Split, beams: int, evaluation: Evaluation, environment: Environment
) -> None:
    scores = evaluation.scores
    stand_in = " (stand-in tokenizer)" if environment.tokenizer.is_stand_in else ""
    console.print(f"[bold]{escape(label)}[/], {split} set, {beam_words(beams)}", soft_wrap=True)
    matrix = Table(box=None, pad_edge=False, title="spBLEU, source down, target across", title_justify="left")
    languages = environment.languages
    matrix.add_column("")
    for language in languages:
        matrix.add_column(language, justify="right")
    by_pair = {(score.direction.src, score.direction.tgt): score.spbleu for score in scores.by_direction}
    for src in languages:
        cells = [f"{by_pair[src, tgt]:.1f}" if (src, tgt) in by_pair else "" for tgt in languages]
        marks = ["°" if Direction(src, tgt) in evaluation.zero_shot else "" for tgt in languages]
        matrix.add_row(src, *[cell and f"{cell}{mark}" for cell, mark in zip(cells, marks, strict=True)])
    console.print(Unpadded(matrix))
    for (src_class, tgt_class), value in scores.by_class_pair(environment.classes).items():
        console.print(f"{src_class} to {tgt_class}: {value:.2f}")
    console.print(
        f"mean over {len(scores.by_direction)} directions of {scores.num_sentences} sentences: "
        f"[bold]{scores.spbleu:.2f}[/] spBLEU{stand_in}, 95 % interval {scores.spbleu_low:.2f} to "
        f"{scores.spbleu_high:.2f}",
        soft_wrap=True,
    )
    if evaluation.zero_shot_spbleu is not None:
        console.print(
            f"° zero-shot, without training sentences: {evaluation.num_zero_shot} directions, mean "
            f"{evaluation.zero_shot_spbleu:.2f} spBLEU",
            soft_wrap=True,
        )
    console.print(
        f"translations cut at their longest length: {100 * evaluation.cut_share:.2g} %", soft_wrap=True, markup=False
    )
    if warning := cut_words(evaluation.cut_share, evaluation.num_cut_sources):
        console.print(f"Warning: {warning}. {CUT_WAY_OUT}", soft_wrap=True, markup=False)
    console.print(scores.signature, soft_wrap=True, markup=False)
