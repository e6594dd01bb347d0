"""A space: the file that says what is searched, read, checked as a whole, and ready to give architectures."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from optuna.distributions import BaseDistribution

from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.architecture_checks import check_names
from langsearch.space.base_section import BaseItem, written
from langsearch.space.baseline_settings import Baseline
from langsearch.space.baseline_start import start_of, with_start
from langsearch.space.build import baseline_architecture, build_architecture, without_language
from langsearch.space.checks import Parsed, check_space
from langsearch.space.data_checks import check_shared_sources
from langsearch.space.dimensions import (
    BRIDGE,
    baseline_dimensions,
    baseline_trainer_settings,
    num_points,
    search_dimensions,
    trainer_settings,
)
from langsearch.space.document import Document, Overrides, document_of, dump, overridden, read_document, show
from langsearch.space.draft import Draft, WrongSpaceError, draft_of
from langsearch.space.language_section import LanguagesSection
from langsearch.space.loss_settings import TERMS, LossSettings
from langsearch.space.prior_section import PriorSection
from langsearch.space.prior_settings import PriorSettings
from langsearch.space.problems import near_names
from langsearch.space.run_sections import (
    BaselineItem,
    DataSection,
    EvaluationSection,
    ResourcesSection,
)
from langsearch.space.search_sections import CheckpointSection, FailureSection, SearchSection
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection, TrainerSection, fixed
from langsearch.space.settings import (
    BaseSource,
    CheckpointSettings,
    DataSettings,
    DecodingSettings,
    EvaluationSettings,
    FailureSettings,
    TrainerSettings,
)
from langsearch.space.tracking import Trackers, TrackingSettings, tracking_settings
from langsearch.space.validation import validate, validate_rest
from langsearch.space.values import pick

_SECTIONS: Mapping[str, Any] = {
    "name": Annotated[str, fixed("text")],
    "base": BaseItem,
    "languages": LanguagesSection,
    "data": DataSection,
    "architecture": ArchitectureSection,
    "trainer": SearchTrainerSection,
    "evaluation": EvaluationSection,
    "baselines": list[BaselineItem],
    "search": SearchSection,
    "resources": ResourcesSection,
    "failures": FailureSection,
    "checkpoints": CheckpointSection,
    "tracking": Trackers,
    "prior": PriorSection | None,
}
UNNAMED = "space"
"""The name of a space that is no file and has none."""

DEFAULT_BASELINES = ["pretrained", "shared_lora"]
"""What a front is compared with unless the space says otherwise: the base as it is, one adapter of all languages."""

DEFAULT_TRACKING = ["tensorboard"]
_REQUIRED = ("base", "languages", "data", "architecture")
NO_POINT: Mapping[str, Any] = MappingProxyType({})
NAME = re.compile(r"[\w-][\w.-]*")
"""What a space may be called: its experiment's folder is."""


@dataclass(frozen=True, kw_only=True)
class Space:
    """What one experiment searches, checked as far as it can be without the base. `load_space` makes it."""

    name: str
    """Names the experiment's folder."""

    base_source: BaseSource
    """The base, with the revision and the family that are asked for."""

    classes: Mapping[str, tuple[str, ...]]
    """The languages of each class, in the file's order."""

    new_languages: Mapping[str, str]
    """For each language that the base has no token for, the language whose token its own starts from."""

    data: DataSettings
    evaluation: EvaluationSettings
    baselines: tuple[Baseline, ...]
    search: SearchSection
    resources: ResourcesSection
    failures: FailureSettings
    checkpoints: CheckpointSettings
    prior: PriorSettings
    tracking: TrackingSettings
    text: str
    """The space as YAML with overrides and defaults filled in; loading it gives an equal space."""

    architecture_section: ArchitectureSection = field(repr=False)
    trainer_section: SearchTrainerSection = field(repr=False)
    document: Document = field(repr=False, compare=False)
    """What was read, for messages with lines."""

    draft: Draft = field(repr=False, compare=False)
    """What of it a base, files and trackers are checked against."""

    @property
    def base(self) -> str:
        """A hub id, a folder, or an embedded name."""
        return self.base_source.id

    @property
    def languages(self) -> tuple[str, ...]:
        """All languages, class after class."""
        return tuple(language for members in self.classes.values() for language in members)

    def dimensions(self) -> dict[str, BaseDistribution]:
        """Returns the Optuna distribution of each searched value by its flat name; see `dimensions`."""
        return search_dimensions(self.architecture_section, self.trainer_section)

    def architecture(self, point: Mapping[str, Any], shape: BaseShape) -> Architecture:
        """Returns the architecture at a point.

        Args:
            point: The value of each dimension.
            shape: The base's sizes; `check` must have found nothing.

        Raises:
            ValueError: If the point lacks a dimension or has one that the space has not.
            InputError: If a layer lies outside the base.
        """
        self._check_point(point)
        architecture = build_architecture(self.architecture_section, self.classes, point, shape)
        modular = self.trainer_section.modular
        if modular is not None and (bridge := pick(modular.bridge, BRIDGE, point)) is not None:
            architecture = without_language(architecture, bridge)
        return replace(architecture, new_languages=tuple(self.new_languages.items()))

    def trainer(self, point: Mapping[str, Any]) -> TrainerSettings:
        """Returns the trainer's settings at a point. Raises ValueError as `architecture` does."""
        self._check_point(point)
        return trainer_settings(self.trainer_section, point, self.classes)

    def baseline_architecture(self, name: str, shape: BaseShape) -> Architecture | None:
        """Returns a baseline's architecture; see `build.baseline_architecture`.

        For full_finetuning it is None, or one that has no adapters but the languages that are new to the base.

        Raises:
            ValueError: If the space does not list the baseline.
        """
        found = baseline_architecture(self._baseline(name), self.classes, shape)
        if not self.new_languages:
            return found
        bare = Architecture(slots=tuple((language, language) for language in self.languages), adapters=())
        return replace(found or bare, new_languages=tuple(self.new_languages.items()))

    def baseline_trainer(self, name: str, point: Mapping[str, Any] = NO_POINT) -> TrainerSettings:
        """Returns a baseline's trainer settings, or those of one of its tries.

        Args:
            name: The baseline's.
            point: The value of each of `baseline_dimensions`, of a try. Empty: as `baseline_trainer_settings` says.

        Raises:
            ValueError: If the space does not list the baseline.
        """
        own = baseline_trainer_settings(self.trainer_section, self._baseline(name))
        return replace(own, **{key.removeprefix("trainer."): value for key, value in point.items()})

    def baseline_dimensions(self, name: str) -> dict[str, BaseDistribution]:
        """Returns what a baseline's tries are searched in. Raises ValueError as `baseline_trainer` does."""
        return baseline_dimensions(self.trainer_section, self._baseline(name))

    def num_tries(self, name: str) -> int:
        """Returns how many tries a baseline has, none if it is not tuned; no more than there are different ones."""
        tune, num = self._baseline(name).tune, num_points(self.baseline_dimensions(name))
        return 0 if tune is None else tune.trials if num is None else min(tune.trials, num)

    def check(self, shape: BaseShape) -> list[str]:
        """Returns the problems that depend on the base: layers, ranks and widths that it does not have."""
        return self.draft.check(shape)

    def _baseline(self, name: str) -> Baseline:
        for baseline in self.baselines:
            if baseline.name == name:
                return baseline
        raise ValueError(f"A baseline must be one of {[item.name for item in self.baselines]}, but got {name!r}")

    def _check_point(self, point: Mapping[str, Any]) -> None:
        names = set(self.dimensions())
        if names != set(point):
            missing, unknown = sorted(names - set(point)), sorted(set(point) - names)
            raise ValueError(f"A point must have the space's dimensions, but lacks {missing} and adds {unknown}")


def load_space(
    source: Path | str | Mapping[str, Any], overrides: Overrides = (), *, is_recorded: bool = False
) -> Space:
    """Reads and checks a space.

    Args:
        source: The YAML file, or what it would say as a mapping.
        overrides: `key.path=value` each, as `--set` gives them, or a mapping of `key.path` to values.
        is_recorded: The file is an experiment's own. What it leaves out has the meaning that it had when that was all
            there was; the text of a space says all that has got another meaning since.

    Raises:
        InputError: With every problem of the file: its line, its key, the rule, the value and the way out.
    """
    if isinstance(source, Mapping):
        document, name = document_of(source, overrides), UNNAMED
    else:
        document, name = read_document(Path(source), overrides), Path(source).stem
    data = {"name": name} | document.data
    return space_of(replace(document, data=_as_recorded(data) if is_recorded else data))


def with_overrides(space: Space, overrides: Overrides) -> Space:
    """Returns a space with other values. Raises InputError as `load_space` does."""
    return space_of(overridden(space.document, overrides)) if overrides else space


def _as_recorded(data: dict[str, Any]) -> dict[str, Any]:
    """Returns a recorded space with what its version took for granted.

    There was no baseline that was not named, and a holdout was the last rows of train. For a time every `align` was
    recorded with its scale. A shared LoRA that says nothing of its start began as PEFT does.
    """
    data = {"baselines": []} | data
    data["baselines"] = with_start(data["baselines"], "peft")
    trainer = data.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("loss"), dict):
        _without_idle_scale(trainer["loss"])
    text = data.get("data")
    validation = text.get("validation") if isinstance(text, dict) else None
    if isinstance(validation, list) and len(validation) == 1:
        (validation,) = validation
    if not isinstance(text, dict) or not isinstance(validation, dict) or "holdout" not in validation:
        return data
    return data | {"data": text | {"validation": {"rows": "last"} | validation}}


def space_of(document: Document) -> Space:
    """Returns the space of a document that has a name. Raises InputError as `load_space` does."""
    data = document.data
    parsed, problems = _parse(data, document)
    between = check_space(Parsed(**parsed))
    wrong = {str(key[0]) for key, _ in between}
    if parsed["data"] is not None and "data" not in wrong:
        between += check_shared_sources(parsed["data"])
    if parsed["architecture"] is None and parsed["languages"] is not None and "architecture" in data:
        rest = validate_rest(_SECTIONS["architecture"], data["architecture"])
        between += check_names(rest, parsed["languages"].classes) if rest is not None else []
    problems += [document.problem(key, text) for key, text in between]
    draft = draft_of(document, parsed, wrong)
    if problems:
        raise WrongSpaceError(problems, draft)
    return Space(
        name=data["name"],
        base_source=parsed["base"].settings(),
        classes={name: tuple(languages) for name, languages in parsed["languages"].classes.items()},
        new_languages=parsed["languages"].likes,
        data=parsed["data"].settings(),
        evaluation=parsed["evaluation"].settings(),
        baselines=tuple(item.settings(start_of(parsed["architecture"])) for item in parsed["baselines"]),
        search=parsed["search"],
        resources=parsed["resources"],
        failures=parsed["failures"].settings(),
        checkpoints=parsed["checkpoints"].settings(),
        prior=parsed["prior"].settings() if parsed["prior"] is not None else PriorSettings(),
        tracking=tracking_settings(parsed["tracking"]),
        text=dump(_resolve(data, parsed)),
        architecture_section=parsed["architecture"],
        trainer_section=parsed["trainer"],
        document=document,
        draft=draft,
    )


def _parse(data: Mapping[str, Any], document: Document) -> tuple[dict[str, Any], list[str]]:
    """Returns the sections that are right by themselves, the others as None, and the problems."""
    problems = []
    for key in data:
        if key not in _SECTIONS:
            owners = [f"`{name}`" for name, kind in _SECTIONS.items() if key in getattr(kind, "model_fields", ())]
            hint = f" It belongs to {' or '.join(owners)}." if owners else near_names(key, _SECTIONS)
            problems.append(document.problem((key,), f"must be a section of a space, but is none.{hint}"))
    parsed: dict[str, Any] = {}
    for key, kind in _SECTIONS.items():
        if key in _REQUIRED and key not in data:
            problems.append(document.problem((key,), "must be given, but is missing."))
            parsed[key] = None
            continue
        empty: object = {"baselines": DEFAULT_BASELINES, "tracking": DEFAULT_TRACKING, "prior": None}.get(key, {})
        value, found = validate(kind, data.get(key, empty), (key,), document)
        parsed[key] = value
        problems += found
    name = parsed["name"]
    if name is not None and not NAME.fullmatch(name):
        problems.append(document.problem(("name",), f"must be letters, digits, ., _ and -, but got {show(name)}"))
    return parsed, problems


def _resolve(data: Mapping[str, Any], parsed: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the YAML's data with the defaults of plain settings filled in, in the order of the sections."""
    evaluation = parsed["evaluation"].settings()
    filled: dict[str, Any] = {
        "trainer": TrainerSection().model_dump(),
        "search": SearchSection().model_dump(),
        "resources": ResourcesSection().model_dump(),
        "failures": asdict(FailureSettings()),
        "checkpoints": asdict(CheckpointSettings()),
        "baselines": DEFAULT_BASELINES,
        "tracking": DEFAULT_TRACKING,
    }
    for key, default in filled.items():
        filled[key] = default | (data.get(key) or {}) if isinstance(default, dict) else data.get(key, default)
    if loss := _loss(filled["trainer"].pop("loss", None)):
        filled["trainer"]["loss"] = loss
    filled["baselines"] = with_start(filled["baselines"], start_of(parsed["architecture"]))
    filled["search"] |= {"one_shot": parsed["search"].one_shot.model_dump()}
    if parsed["search"].strategy == "trials":
        for name in ("strategy", "donors", "one_shot"):  # as older spaces have it
            del filled["search"][name]
    # Each of these can be written in several ways that mean the same.
    search = parsed["search"]
    filled["data"] = _data(data["data"], parsed["data"].settings())
    filled["base"] = written(parsed["base"].settings())
    filled["search"] |= {
        "objectives": dict(search.objectives),
        "constraints": [str(constraint) for constraint in search.constraints],
        "plateau": asdict(search.plateau) if search.plateau is not None else "none",
    }
    filled["evaluation"] = {
        "spbleu": evaluation.spbleu,
        "search": _decoding(evaluation.search),
        "final": _decoding(evaluation.final) | {"seeds": evaluation.num_seeds},
        "rungs": [_decoding(rung) for rung in evaluation.rungs],
    }
    filled["data"] |= {"normalize": parsed["data"].normalize}
    sections = list(_SECTIONS)
    if parsed["prior"] is None:
        sections.remove("prior")
    else:
        filled["prior"] = {key: value for key, value in asdict(parsed["prior"].settings()).items() if value is not None}
    return {key: filled.get(key, data.get(key)) for key in sections}


def _data(written: Mapping[str, Any], settings: DataSettings) -> dict[str, Any]:
    """Returns the section `data`, with the rows of a holdout where they are not the last ones of a single source."""
    if settings.holdout is None:
        return dict(written)
    is_default = len(settings.train) == 1 and settings.holdout_rows == "last"
    rows = {} if is_default else {"rows": settings.holdout_rows}
    return {**written, "validation": {"holdout": settings.holdout} | rows}


def _loss(written: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Returns the section `trainer.loss` with the defaults of the terms that it names, as far as they mean anything."""
    filled = {
        name: {**LossSettings(**{name: TERMS[name]()}).written()[name], **term}
        for name, term in (written or {}).items()
    }
    if "scale" not in (written or {}).get("align", {}):
        _without_idle_scale(filled)
    return filled


def _without_idle_scale(terms: dict[str, Any]) -> None:
    """Takes out the scale of `align` where nothing is contrastive: a space that gives it there is refused."""
    align = terms.get("align")
    if isinstance(align, dict) and "contrastive" not in str(align.get("kind")):
        align.pop("scale", None)


def _decoding(settings: DecodingSettings) -> dict[str, Any]:
    words = {"max_length": "none", "max_length_factor": "auto", "rows_per_batch": "auto"}
    return {name: words.get(name, "all") if value is None else value for name, value in asdict(settings).items()}
