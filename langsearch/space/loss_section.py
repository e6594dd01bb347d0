"""The section `trainer.loss` as pydantic models: type, range and default of every key, one by one."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
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
    LargerTeacher,
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
    """Returns a teacher, or a choice of some, in words: adapters:FOLDER, top16:BASE."""
    if isinstance(raw, dict) and set(raw) == {"choice"} and isinstance(raw["choice"], list):
        found = _TEACHERS({"choice": [_in_words(item) for item in raw["choice"]]})
    else:
        found = _TEACHERS(_in_words(raw))
    for word in options(found):
        is_known = word in (BASE, OWN_BEST) or str(word).startswith(ADAPTERS) or LargerTeacher.parse(str(word))
        if not is_known:
            raise ValueError(f"must be {_TEACHERS}, but got {show(word)}")
        if word == ADAPTERS:
            raise ValueError(f"must name a folder behind {ADAPTERS}, but names none.")
    return found


def _in_words(raw: object) -> object:
    """Returns {adapters: FOLDER} and {base: BASE, top_k: 16} as text, all else as it is."""
    if not isinstance(raw, dict):
        return raw
    if set(raw) == {"adapters"} and isinstance(raw["adapters"], str):
        return f"{ADAPTERS}{raw['adapters']}"
    if "base" in raw and set(raw) <= {"base", "top_k"}:
        base, top_k = raw["base"], raw.get("top_k", LargerTeacher.top_k)
        if not isinstance(base, str) or not base:
            raise ValueError(f"must name a hub id or a folder as `base`, but got {show(base)}.")
        if not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1:
            raise ValueError(f"must have a whole number of at least 1 as `top_k`, but got {show(top_k)}.")
        return str(LargerTeacher(base=base, top_k=top_k))
    return raw


_TEACHERS = Rule(kind="text", form=f"{BASE}, {OWN_BEST}, {ADAPTERS}FOLDER or {{base: ID_OR_FOLDER, top_k: 16}}")


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

    @property
    def larger(self) -> tuple[LargerTeacher, ...]:
        """The teachers that are other bases."""
        found = [LargerTeacher.parse(str(word)) for word in options(self.teacher)]
        return tuple(teacher for teacher in found if teacher is not None)


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

    @property
    def larger(self) -> tuple[LargerTeacher, ...]:
        """The teachers that are other bases."""
        return () if self.distill is None else self.distill.larger

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
            if "teacher" in term:
                term["teacher"] = _absolute(term["teacher"])
        return LossSettings.of(found)


def _absolute(teacher: str) -> str:
    """Returns a teacher whose folder is named from the root: workers have other current folders than the driver."""
    if teacher.startswith(ADAPTERS):
        return f"{ADAPTERS}{Path(teacher.removeprefix(ADAPTERS)).absolute()}"
    larger = LargerTeacher.parse(teacher)
    if larger is not None and Path(larger.base).is_dir():
        return str(replace(larger, base=str(Path(larger.base).absolute())))
    return teacher
