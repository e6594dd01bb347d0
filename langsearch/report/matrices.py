"""What a trial does by direction, class pair, language and site: the matrices behind the report's heat maps."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment
from langsearch.report.summary import DirectionScores
from langsearch.space.architecture import Architecture, Site


@dataclass(frozen=True, kw_only=True)
class RankMatrix:
    """The ranks of one architecture: a row for each language, a column for each site."""

    ranks: tuple[tuple[int, ...], ...]
    sides: tuple[str, ...]
    """"src" or "tgt" for each site, "" where it has no adapter."""


def ordered_languages(experiment: Experiment) -> tuple[str, ...]:
    """Returns the languages class by class, then those that are in no class."""
    of_classes = [code for members in experiment.classes.values() for code in members]
    return tuple(dict.fromkeys([*of_classes, *experiment.languages]))


def class_of(experiment: Experiment, language: str) -> str:
    """Returns the class of a language, "" where it has none."""
    return next((name for name, members in experiment.classes.items() if language in members), "")


def class_by_language(experiment: Experiment) -> dict[str, str]:
    """Returns what `class_of` says of each language that has a class."""
    classes: dict[str, str] = {}
    for name, members in experiment.classes.items():
        for language in members:
            classes.setdefault(language, name)
    return classes


def score_matrix(scores: DirectionScores, languages: Sequence[str]) -> tuple[tuple[float | None, ...], ...]:
    """Returns scores with a row for each source and a column for each target, None where not measured."""
    return tuple(tuple(wording.for_script(scores.get((src, tgt))) for tgt in languages) for src in languages)


def class_pair_averages(experiment: Experiment, scores: DirectionScores) -> dict[tuple[str, str], float]:
    """Returns the mean spBLEU over the measured directions of each (source class, target class)."""
    classes = class_by_language(experiment)
    groups: dict[tuple[str, str], list[float]] = defaultdict(list)
    for (src, tgt), score in scores.items():
        groups[classes.get(src, ""), classes.get(tgt, "")].append(score)
    return {pair: sum(values) / len(values) for pair, values in groups.items()}


def adapted_sites(architectures: Mapping[str, Architecture]) -> tuple[Site, ...]:
    """Returns every site that one of the architectures adapts, in the order of the forward pass."""
    sites = {entry.site for architecture in architectures.values() for entry in architecture.adapters}
    return tuple(sorted(sites, key=lambda site: site.order))


def rank_matrix(architecture: Architecture, languages: Sequence[str], sites: Sequence[Site]) -> RankMatrix:
    """Returns the rank of every language at every site, 0 where there is no adapter."""
    slots = dict(architecture.slots)
    by_site = {entry.site: (architecture.shown_side(entry), dict(entry.ranks)) for entry in architecture.adapters}
    return RankMatrix(
        ranks=tuple(
            tuple(by_site[site][1].get(slots.get(language, ""), 0) if site in by_site else 0 for site in sites)
            for language in languages
        ),
        sides=tuple(by_site[site][0] if site in by_site else "" for site in sites),
    )
