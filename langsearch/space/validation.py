"""Runs a pydantic model over a part of a document and says its errors as the project does: rule, value, way out."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from langsearch.space.cut_recipe import cut_recipe_of
from langsearch.space.document import Document, KeyPath, show, show_path
from langsearch.space.problems import near_names

_NO_TEST = " It is scored once, in the end: rows of their own, that nothing is trained on or chosen by."


def validate(kind: Any, raw: object, path: KeyPath, document: Document) -> tuple[Any, list[str]]:
    """Returns (value, problems); the value is None where there is a problem.

    Args:
        kind: A pydantic model, or any type that pydantic can check.
        raw: The part of the document.
        path: Where it stands in the document.
        document: For the lines.
    """
    try:
        return TypeAdapter(kind).validate_python(raw), []
    except ValidationError as e:
        return None, [_problem(error, kind, raw, path, document) for error in e.errors(include_url=False)]


def validate_rest(kind: Any, raw: object) -> Any:
    """Returns the value of what is left of a part of a document without its wrong keys; None if that is wrong too."""
    rest = deepcopy(raw)
    try:
        return TypeAdapter(kind).validate_python(raw)
    except ValidationError as e:
        for error in e.errors(include_url=False):
            _drop(rest, _written(error["loc"], raw, is_missing=False))
    try:
        return TypeAdapter(kind).validate_python(rest)
    except ValidationError:
        return None


def _drop(rest: Any, path: KeyPath) -> None:
    """Takes a key out of mappings in place; what stands in a list stays, which others are counted by."""
    for part in path[:-1]:
        try:
            rest = rest[part]
        except (KeyError, IndexError, TypeError):
            return
    if path and isinstance(rest, dict):
        rest.pop(path[-1], None)


def _problem(error: ErrorDetails, kind: Any, raw: object, path: KeyPath, document: Document) -> str:
    location = _written(error["loc"], raw, is_missing=error["type"] == "missing")
    inner: KeyPath = (*path, *location)
    if error["type"] == "extra_forbidden":
        parent = show_path(inner[:-1])
        hint = near_names(str(inner[-1]), _keys(kind, location[:-1]))
        return document.problem(inner, f"must be a key of `{parent}`, but is none.{hint}")
    hint = ""
    if error["type"] == "missing" and inner == ("data", "test") and isinstance(raw, Mapping):
        hint = _NO_TEST + cut_recipe_of(raw.get("train"))
    return document.problem(inner, _rule(error) + hint)


def _rule(error: ErrorDetails) -> str:
    value = show(error["input"])
    match error["type"]:
        case "value_error":
            return str(error["ctx"]["error"])
        case "missing":
            return "must be given, but is missing."
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"must be a mapping, but got {value}"
        case "list_type":
            return f"must be a list, but got {value}"
        case "too_short":
            return "must not be empty."
        case "string_type":
            return f"must be text, but got {value}. Write it in quotes if it is meant."
        case "bool_type":
            return f"must be true or false, but got {value}"
        case _:
            return f"must be right, but got {value}: {error['msg']}"


def _written(location: tuple[int | str, ...], raw: object, *, is_missing: bool) -> KeyPath:
    """Returns an error's location without the steps that the document does not have.

    A single value that stands for a list of one, or for every class, adds such a step.
    """
    path: list[int | str] = []
    current: Any = raw
    for position, part in enumerate(location):
        in_mapping = isinstance(current, Mapping) and part in current
        in_list = isinstance(current, list) and isinstance(part, int) and part < len(current)
        if in_mapping or in_list:
            current = current[part]
            path.append(part)
        elif is_missing and position == len(location) - 1:
            path.append(part)
    return tuple(path)


def _keys(kind: Any, location: KeyPath) -> list[str]:
    """Returns the keys of the model at a location."""
    model = _model(kind)
    for part in location:
        if isinstance(part, str) and model is not None and part in model.model_fields:
            model = _model(model.model_fields[part].annotation)
    return list(model.model_fields) if model is not None else []


def _model(kind: Any) -> type[BaseModel] | None:
    """Returns the model inside a type such as list[Model] or Model | None."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind
    found = (_model(argument) for argument in get_args(kind))
    return next((model for model in found if model is not None), None)
