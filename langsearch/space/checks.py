"""What must hold between the keys of a space, and between a space and its base. Types and ranges are in `sections`.

Every check yields (key path, text) and goes on, so that all problems are told at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from langsearch.space.architecture import BaseShape
from langsearch.space.architecture_checks import check_architecture
from langsearch.space.base_section import BaseSection
from langsearch.space.baseline_settings import Baseline
from langsearch.space.build import PUBLISHED_PRUNING_DURATION, PUBLISHED_PRUNING_START
from langsearch.space.data_checks import check_data, has_direction
from langsearch.space.document import KeyPath, show
from langsearch.space.language_section import Languages, LanguagesSection, Problem, check_languages
from langsearch.space.loss_checks import check_losses
from langsearch.space.modular_checks import check_modular
from langsearch.space.one_shot_checks import check_one_shot
from langsearch.space.prior_section import PriorSection, check_prior
from langsearch.space.problems import near_names
from langsearch.space.run_sections import (
    BaselineSection,
    DataSection,
    EvaluationSection,
    ResourcesSection,
)
from langsearch.space.search_checks import check_search
from langsearch.space.search_sections import CheckpointSection, FailureSection, SearchSection
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection, TrainerSection
from langsearch.space.tracking import TrackerSection
from langsearch.space.values import Searched, extremes, options

_OWN_RESOURCES = ("cpu", "gpu", "memory", "object_store_memory")


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """The sections of a space; None for one that is wrong by itself."""

    name: str | None
    base: BaseSection | None
    languages: LanguagesSection | None
    data: DataSection | None
    architecture: ArchitectureSection | None
    trainer: SearchTrainerSection | None
    evaluation: EvaluationSection | None
    baselines: list[BaselineSection] | None
    search: SearchSection | None
    resources: ResourcesSection | None
    failures: FailureSection | None
    checkpoints: CheckpointSection | None
    tracking: list[TrackerSection] | None
    prior: PriorSection | None
    """None also where the space has none."""


def check_space(parsed: Parsed) -> list[Problem]:
    """Returns the problems between the keys of a space, as far as its sections are right by themselves."""
    problems: list[Problem] = []
    classes: Languages | None = None
    if parsed.languages is not None:
        classes = parsed.languages.classes
        problems += check_languages(parsed.languages)
    if parsed.data is not None:
        problems += check_data(parsed.data, classes)
    if parsed.architecture is not None:
        problems += check_architecture(parsed.architecture, classes, parsed.trainer)
    if parsed.trainer is not None and parsed.trainer.two_stage is not None:
        problems += _check_stages(parsed.trainer, classes, parsed.data, parsed.architecture)
    if parsed.trainer is not None and parsed.trainer.back_translation is not None:
        problems += _check_back_translation(parsed.trainer, classes)
    if parsed.trainer is not None and parsed.trainer.modular is not None:
        problems += check_modular(parsed.trainer, parsed.languages, parsed.data, parsed.architecture)
    if parsed.trainer is not None:
        problems += check_losses(parsed.trainer, parsed.languages)
    if parsed.baselines is not None:
        problems += _check_baselines(parsed.baselines, parsed.trainer)
    if parsed.search is not None:
        problems += check_search(
            parsed.search,
            classes=classes,
            data=parsed.data,
            architecture=parsed.architecture,
            trainer=parsed.trainer,
            evaluation=parsed.evaluation,
            baselines=parsed.baselines,
        )
        problems += check_one_shot(parsed.search, parsed.architecture, parsed.trainer, parsed.languages)
    if parsed.resources is not None:
        problems += _check_resources(parsed.resources)
    if parsed.prior is not None:
        problems += check_prior(parsed.prior, parsed.architecture, parsed.trainer)
    return problems


def _check_stages(
    trainer: SearchTrainerSection,
    classes: Languages | None,
    data: DataSection | None,
    architecture: ArchitectureSection | None,
) -> Iterator[Problem]:
    """Yields the problems of training in two stages."""
    stages, path = trainer.two_stage, ("trainer", "two_stage")
    assert stages is not None
    if trainer.epochs < 2:
        yield path, f"needs two epochs at least, one for each stage, but trainer.epochs is {trainer.epochs}."
    if not stages.first:
        yield (*path, "first"), "must name a class, but is empty."
    if stages.freeze_first and architecture is not None and {"all", "pool"} & set(options(architecture.sharing)):
        text = "touches nothing where sharing can be all or pool: nothing is the first languages' own. Leave it out."
        yield (*path, "freeze_first"), text
    if classes is None:
        return
    for index, name in enumerate(stages.first):
        if name not in classes:
            yield (*path, "first", index), f"must name a class, but {show(name)} is none.{near_names(name, classes)}"
    first = {language for name in stages.first for language in classes.get(name, ())}
    everybody = {language for members in classes.values() for language in members}
    if first == everybody:
        yield (*path, "first"), "must leave a class for the second stage, but names all."
    if data is not None and first and not has_direction(data, first):
        yield (
            (*path, "first"),
            f"must have a direction between its languages, but {', '.join(sorted(first))} have none.",
        )


def _check_back_translation(trainer: SearchTrainerSection, classes: Languages | None) -> Iterator[Problem]:
    """Yields the problems of training on the model's own translations."""
    section, path = trainer.back_translation, ("trainer", "back_translation")
    assert section is not None
    if extremes(section.from_epoch)[1] > trainer.epochs:
        text = f"must be one of the {trainer.epochs} epochs, but can be {extremes(section.from_epoch)[1]:g}"
        yield (*path, "from_epoch"), text
    if section.languages == []:
        yield (*path, "languages"), "must name a language, but is empty. Leave it out for all."
    known = [language for members in (classes or {}).values() for language in members]
    for index, language in enumerate(section.languages or ()):
        if classes is not None and language not in known:
            hint = near_names(language, known)
            yield (*path, "languages", index), f"must name one of the languages, but {show(language)} is none.{hint}"


def _check_resources(resources: ResourcesSection) -> Iterator[Problem]:
    gpu, shared = resources.gpu, resources.trials_per_gpu
    if shared > 1 and gpu == 0:
        yield ("resources", "trials_per_gpu"), f"needs resources.gpu above 0, but got {shared} with no GPU"
    if gpu > 1:
        text = "must be at most 1, since a trial trains on one GPU; further GPUs run further trials at once"
        yield ("resources", "gpu"), f"{text}; but got {gpu:g}"
    for name in resources.custom:
        if name.lower() in _OWN_RESOURCES:
            rule = "must not be one of Ray's own resources: use resources.cpu and resources.gpu"
            yield ("resources", "custom", name), f"{rule}, but got {show(name)}"


def _check_baselines(items: list[BaselineSection], trainer: TrainerSection | None) -> Iterator[Problem]:
    seen = set()
    for index, item in enumerate(items):
        path: KeyPath = ("baselines", index)
        if len(item.names) != 1:
            yield path, f"must name one baseline, but got {item.names}"
            continue
        (name,) = item.names
        if name in seen:
            yield path, f"must list each baseline once, but {name} stands twice."
        seen.add(name)
        section = getattr(item, name)
        for key in sorted(section.model_fields_set):
            if isinstance(getattr(section, key), Searched):
                yield (*path, name, key), "must be a plain value: what is searched of a baseline is in its `tune`."
        baseline = item.settings()
        epochs = dict(baseline.trainer).get("epochs", trainer.epochs if trainer is not None else None)
        if baseline.tune is not None and baseline.tune.epochs is not None:
            epochs = int(min(extremes(baseline.tune.epochs)[0], epochs if isinstance(epochs, int) else math.inf))
        last = PUBLISHED_PRUNING_START + PUBLISHED_PRUNING_DURATION
        if baseline.is_pruned and isinstance(epochs, int) and epochs < last:
            yield (
                (*path, name, "pruning"),
                f"needs at least {last} epochs, but got {epochs}. Give it epochs of its own.",
            )


def check_baseline_shape(baselines: tuple[Baseline, ...], shape: BaseShape) -> list[Problem]:
    """Returns the problems of the baselines with a base's sizes."""
    return [
        (("baselines", index, "shared_lora", "rank"), f"must be at most the width {shape.d_model}, but got {item.rank}")
        for index, item in enumerate(baselines)
        if item.name == "shared_lora" and item.rank > shape.d_model
    ]
