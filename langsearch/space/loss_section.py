"""The section `trainer.loss` as pydantic models: type, range and default of every key, one by one."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator

from langsearch.space.document import show
from langsearch.space.loss_settings import (
    ADAPTERS,
    BASE,
    OWN_BEST,
    AlignSettings,
    DistillSettings,
    LanguageAdversarySettings,
    LossSettings,
)
from langsearch.space.values import Rule, Value, options, pick

_DISTILL = DistillSettings()
_ALIGN = AlignSettings()
_ADVERSARY = LanguageAdversarySettings()
_ZERO_OR_MORE = Rule(kind="float", low=0)
_SHARE = Rule(kind="float", low=0, high=1)
_POSITIVE = Rule(kind="float", low=0, is_low_open=True)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _given(raw: object) -> object:
    if raw is None:
        raise ValueError("must be a mapping, such as {weight: 0.1}; {} stands for the defaults. Or leave it out.")
    return raw


def _teacher(raw: object) -> Value:
    """Returns a teacher, or a choice of some: {adapters: FOLDER} is written as adapters:FOLDER."""
    if isinstance(raw, dict) and set(raw) == {"choice"} and isinstance(raw["choice"], list):
        found = _TEACHERS({"choice": [_in_words(item) for item in raw["choice"]]})
    else:
        found = _TEACHERS(_in_words(raw))
    for word in options(found):
        if word not in (BASE, OWN_BEST) and not str(word).removeprefix(ADAPTERS) != word:
            raise ValueError(f"must be {_TEACHERS}, but got {show(word)}")
        if word == ADAPTERS:
            raise ValueError(f"must name a folder behind {ADAPTERS}, but names none.")
    return found


def _in_words(raw: object) -> object:
    is_folder = isinstance(raw, dict) and set(raw) == {"adapters"} and isinstance(raw["adapters"], str)
    return f"{ADAPTERS}{raw['adapters']}" if is_folder and isinstance(raw, dict) else raw


_TEACHERS = Rule(kind="text", form=f"{BASE}, {OWN_BEST} or {ADAPTERS}FOLDER")


class DistillSection(_Section):
    """`trainer.loss.distill`; see `loss_settings.DistillSettings`."""

    weight: Annotated[Value, PlainValidator(_SHARE)] = _DISTILL.weight
    teacher: Annotated[Value, PlainValidator(_teacher)] = _DISTILL.teacher
    kind: Annotated[Value, PlainValidator(Rule(kind="text", names=("kl", "js")))] = _DISTILL.kind
    temperature: Annotated[Value, PlainValidator(_POSITIVE)] = _DISTILL.temperature

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of teachers that are exported adapters."""
        words = [str(word) for word in options(self.teacher)]
        return tuple(Path(word.removeprefix(ADAPTERS)) for word in words if word.startswith(ADAPTERS))


class AlignSection(_Section):
    """`trainer.loss.align`; see `loss_settings.AlignSettings`."""

    weight: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _ALIGN.weight
    kind: Annotated[Value, PlainValidator(Rule(kind="text", names=("mse", "contrastive")))] = _ALIGN.kind
    pivot: Annotated[Value, PlainValidator(Rule(kind="text", words={"auto": None}))] = _ALIGN.pivot
    scale: Annotated[Value, PlainValidator(_POSITIVE)] = _ALIGN.scale
    warmup: Annotated[Value, PlainValidator(_SHARE)] = _ALIGN.warmup


class LanguageAdversarySection(_Section):
    """`trainer.loss.language_adversary`; see `loss_settings.LanguageAdversarySettings`."""

    weight: Annotated[Value, PlainValidator(_ZERO_OR_MORE)] = _ADVERSARY.weight
    gamma: Annotated[Value, PlainValidator(_POSITIVE)] = _ADVERSARY.gamma
    lr_factor: Annotated[Value, PlainValidator(_POSITIVE)] = _ADVERSARY.lr_factor


class LossSection(_Section):
    """`trainer.loss`; a term that is not named does not exist."""

    distill: Annotated[DistillSection | None, BeforeValidator(_given)] = None
    align: Annotated[AlignSection | None, BeforeValidator(_given)] = None
    language_adversary: Annotated[LanguageAdversarySection | None, BeforeValidator(_given)] = None

    @property
    def terms(self) -> Mapping[str, _Section]:
        """The terms that are named."""
        return {name: getattr(self, name) for name in LossSection.model_fields if getattr(self, name) is not None}

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders of adapters that teach."""
        return () if self.distill is None else self.distill.folders

    def values(self) -> Iterator[tuple[str, Value]]:
        """Yields every value of the terms, by its name below `trainer.loss`."""
        for name, term in self.terms.items():
            for key in type(term).model_fields:
                yield f"{name}.{key}", getattr(term, key)

    def settings(self, point: Mapping[str, Any]) -> LossSettings:
        """Returns the terms at a point; a relative folder of a teacher is one of the current folder.

        Raises:
            ValueError: If the point lacks a searched value.
        """
        found: dict[str, dict[str, Any]] = {name: {} for name in self.terms}
        for path, value in self.values():
            name, key = path.split(".")
            found[name][key] = pick(value, f"trainer.loss.{path}", point)
        for term in found.values():
            if str(term.get("teacher", "")).startswith(ADAPTERS):
                # Workers have other current folders than the driver.
                term["teacher"] = f"{ADAPTERS}{Path(term['teacher'].removeprefix(ADAPTERS)).absolute()}"
        return LossSettings.of(found)
