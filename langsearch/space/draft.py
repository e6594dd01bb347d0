"""What is right of a space: of a wrong one too, so that what does not depend on its faults is checked with them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langsearch.space.architecture import BaseShape
from langsearch.space.architecture_checks import check_shape
from langsearch.space.baseline_settings import Baseline
from langsearch.space.checks import check_baseline_shape
from langsearch.space.document import Document, KeyPath
from langsearch.space.loss_checks import check_loss_shape
from langsearch.space.loss_section import LossSection
from langsearch.space.prior_section import check_prior_shape
from langsearch.space.prior_settings import PriorSettings
from langsearch.space.problems import InputError
from langsearch.space.sections import ArchitectureSection
from langsearch.space.settings import BaseSource, DataSettings
from langsearch.space.tracking import TrackingSettings, tracking_settings


@dataclass(frozen=True, kw_only=True)
class Draft:
    """The settings that a base, files and trackers are checked against; None: they are wrong, or not written."""

    document: Document
    name: str
    base_source: BaseSource | None
    classes: Mapping[str, tuple[str, ...]] | None
    """The languages of each class."""

    new_languages: Mapping[str, str]
    data: DataSettings | None
    """None also where the languages are wrong, which say what to read."""

    score_tokenizer: str | None
    init_from: str | None
    loss: LossSection | None
    tracking: TrackingSettings | None
    architecture_section: ArchitectureSection | None
    baselines: tuple[Baseline, ...]
    prior: PriorSettings

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages, class after class."""
        return tuple(language for members in (self.classes or {}).values() for language in members)

    @property
    def has_more_to_check(self) -> bool:
        """Whether anything of it can be checked that a space's file alone does not show."""
        return self.base_source is not None or self.data is not None

    def where_part(self, part: str, source: int | None = None) -> str:
        """Returns where a part of the data was written, or one of its sources: FILE:LINE."""
        return self.document.where(self.part_path(part, source))

    def part_path(self, part: str, source: int | None = None) -> KeyPath:
        """Returns the key of a part of the data, or of one of its sources, counted from 0."""
        written = (self.document.data.get("data") or {}).get(part)
        # One that stands alone has no number.
        return ("data", part) if source is None or not isinstance(written, list) else ("data", part, source)

    def check(self, shape: BaseShape) -> list[str]:
        """Returns the problems that depend on the base's sizes: layers, ranks and widths that it does not have."""
        problems = check_baseline_shape(self.baselines, shape)
        if self.architecture_section is not None and self.classes is not None:
            problems += check_shape(self.architecture_section, self.classes, shape)
            problems += check_prior_shape(self.prior, self.architecture_section, shape)
            if self.loss is not None:
                problems += check_loss_shape(self.loss, self.architecture_section, shape)
        return [self.document.problem(path, text) for path, text in problems]


class WrongSpaceError(InputError):
    """A space that is wrong by itself.

    Args:
        problems: What is wrong with it.
        draft: What is right.
    """

    def __init__(self, problems: Sequence[str], draft: Draft) -> None:
        super().__init__(problems)
        self.draft = draft


def draft_of(document: Document, parsed: Mapping[str, Any], wrong: set[str]) -> Draft:
    """Returns what is right of a space.

    Args:
        document: What was read.
        parsed: Its sections; None for one that is wrong by itself.
        wrong: The sections that are wrong beside others.
    """
    right = {name: None if name in wrong else section for name, section in parsed.items()}
    languages, data, prior = right["languages"], right["data"], right["prior"]
    evaluation, trainer, tracking = right["evaluation"], right["trainer"], right["tracking"]
    return Draft(
        document=document,
        name=str(document.data.get("name")),
        base_source=None if right["base"] is None else right["base"].settings(),
        classes=None if languages is None else {name: tuple(each) for name, each in languages.classes.items()},
        new_languages={} if languages is None else languages.likes,
        data=None if data is None or languages is None else data.settings(),
        score_tokenizer=None if evaluation is None else evaluation.settings().spbleu,
        init_from=None if trainer is None else trainer.init_from,
        loss=None if trainer is None else trainer.loss,
        tracking=None if tracking is None else tracking_settings(tracking),
        architecture_section=right["architecture"],
        baselines=tuple(item.settings() for item in right["baselines"] or ()),
        prior=PriorSettings() if prior is None else prior.settings(),
    )
