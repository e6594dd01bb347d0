"""A space as plain data: a YAML 1.2 file whose keys remember their lines, or a mapping; with single values on top."""

import os
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from langsearch.space.problems import InputError

KeyPath = tuple[str | int, ...]

Overrides = Sequence[str] | Mapping[str, Any]
"""`key.path=value` each, the value as YAML; or the values by their key paths."""

MAX_VALUES = 20_000
"""Aliases are followed, so a few lines can stand for billions of values; nobody writes a space this large."""

_OF_PYTHON = "the space"
"""What a mapping that was written in Python is called in messages."""

_PASSWORD = re.compile(r"(?<=:)[^:/@]*(?=@)|(?<=[?&]password=)[^&]*", flags=re.IGNORECASE)
"""A password in a URL. Messages repeat an override, and are kept in logs."""


@dataclass(frozen=True)
class Document:
    """A mapping read from YAML, or written in Python.

    Args:
        name: The file as the user wrote it, for messages.
        data: Dictionaries with text keys, lists and scalars.
        origins: Where each key path was written: FILE:LINE, or the `--set` that gave it.
        has_lines: Whether it was read from a file.
    """

    name: str
    data: dict[str, Any]
    origins: Mapping[KeyPath, str]
    has_lines: bool = True

    def where(self, path: KeyPath) -> str:
        """Returns where a key was written; for a missing key, where the nearest one around it was."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                return self.origins[path[:length]]
        return f"{self.name}:1" if self.has_lines else self.name

    def problem(self, path: KeyPath, text: str) -> str:
        """Returns the sentence of a problem at a key: FILE:LINE: `key.path` text."""
        return f"{self.where(path)}: `{show_path(path)}` {text}"


def show_path(path: KeyPath) -> str:
    """Returns a.b[0].c for ("a", "b", 0, "c")."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_document(path: Path, overrides: Overrides = ()) -> Document:
    """Reads a YAML mapping.

    Args:
        path: The file, UTF-8.
        overrides: Applied in order. Mappings on the way that are not there are made; an item of a list is named by
            its number, from 0.

    Raises:
        InputError: If the file cannot be read, is not YAML, repeats a key, is not a mapping, or an override
            is not of that form or leads through a value that is no mapping. All that can be seen at once.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        line = e.object[: e.start].count(b"\n") + 1
        raise InputError(
            f"{name}:{line}: The file must be UTF-8, but byte {e.start} is {e.object[e.start]:#04x}"
        ) from e
    except OSError as e:
        raise InputError(f"{name}: The file must be readable, but got: {e.strerror}") from e
    walk = _Walk()
    data = walk.read(text, name)
    if not walk.problems and not isinstance(data, dict):
        walk.problems.append(f"{name}:1: The file must hold a mapping, but got {show(data)}")
    origins = {key: f"{name}:{line}" for key, line in walk.lines.items()}
    problems = list(walk.problems)
    if isinstance(data, dict):
        problems += _apply_all(overrides, data, origins)
    if problems:
        raise InputError(problems)
    return Document(name, data, origins)


def document_of(data: Mapping[str, Any], overrides: Overrides = ()) -> Document:
    """Returns the document of a mapping that was written in Python; tuples, paths and numbers of NumPy are taken too.

    Args:
        data: As YAML would give it.
        overrides: As `read_document` takes them.

    Raises:
        InputError: If YAML could not say a value, or an override leads nowhere.
    """
    problems: list[str] = []
    origins: dict[KeyPath, str] = {}
    plain = _plain(data, (), _OF_PYTHON, problems)
    problems += _apply_all(overrides, plain, origins)
    if problems:
        raise InputError(problems)
    return Document(_OF_PYTHON, plain, origins, has_lines=False)


def overridden(document: Document, overrides: Overrides) -> Document:
    """Returns a document with other values; see `read_document`."""
    data, origins = deepcopy(document.data), dict(document.origins)
    if problems := _apply_all(overrides, data, origins):
        raise InputError(problems)
    return replace(document, data=data, origins=origins)


def show(value: object) -> str:
    """Returns a value for a message, shortened to one readable line."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def dump(data: Mapping[str, Any]) -> str:
    """Returns data as YAML text in the order of its keys."""
    yaml = _yaml()
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.default_flow_style = None
    yaml.width = 120
    stream = StringIO()
    yaml.dump(dict(data), stream)
    return stream.getvalue()


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)


class _Walk:
    """Turns YAML nodes into plain data and notes the lines and the problems on the way."""

    def __init__(self) -> None:
        self.lines: dict[KeyPath, int] = {}
        self.problems: list[str] = []
        self._num_values = 0

    def read(self, text: str, name: str) -> Any:
        """Returns the data of a YAML text; None where there is a problem.

        Args:
            text: One YAML document.
            name: The file, for messages.
        """
        self._name = name
        self._yaml = _yaml()
        try:
            node = self._yaml.compose(text)
            return None if node is None else self._value(node, (), ())
        except MarkedYAMLError as e:
            line = e.problem_mark.line + 1 if e.problem_mark else 1
            self.problems.append(f"{name}:{line}: The file must be YAML, but {e.problem or e.context}")
        except YAMLError as e:
            self.problems.append(f"{name}:1: The file must be YAML, but {e}")
        return None

    def _value(self, node: Node, path: KeyPath, parents: tuple[Node, ...]) -> Any:
        self._num_values += 1
        line = node.start_mark.line + 1
        if self._num_values > MAX_VALUES:
            raise YAMLError(f"it holds more than {MAX_VALUES} values")
        if any(node is parent for parent in parents):
            raise YAMLError(f"line {line} refers to itself")
        self.lines.setdefault(path, line)
        parents = (*parents, node)
        if isinstance(node, MappingNode):
            return self._mapping(node, path, parents)
        if isinstance(node, SequenceNode):
            return [self._value(child, (*path, index), parents) for index, child in enumerate(node.value)]
        return self._yaml.constructor.construct_object(node)

    def _mapping(self, node: MappingNode, path: KeyPath, parents: tuple[Node, ...]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self._value(key_node, (*path, "<key>"), parents)
            if not isinstance(key, str):
                self._report(line, path, f"must have text keys, but got {show(key)}. Write it in quotes.")
                continue
            if key in data:
                first = self.lines[(*path, key)]
                self._report(line, (*path, key), f"must be written once, but line {first} has it too.")
                continue
            self.lines[(*path, key)] = line
            data[key] = self._value(child, (*path, key), parents)
        self.lines.pop((*path, "<key>"), None)
        return data

    def _report(self, line: int, path: KeyPath, text: str) -> None:
        self.problems.append(f"{self._name}:{line}: `{show_path(path) or 'the file'}` {text}")


def _plain(value: Any, path: KeyPath, name: str, problems: list[str]) -> Any:
    """Returns a value of Python as YAML would give it; what it cannot give becomes a problem."""
    if hasattr(value, "tolist"):  # of NumPy
        value = value.tolist()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                where = show_path(path) or "the mapping"
                problems.append(f"{name}: `{where}` must have text keys, but got {show(key)}.")
        return {str(key): _plain(item, (*path, str(key)), name, problems) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item, (*path, index), name, problems) for index, item in enumerate(value)]
    what = "text, a number, true, false, nothing, a list or a mapping"
    problems.append(f"{name}: `{show_path(path)}` must be {what}, but got {show(value)}.")
    return None


def _apply_all(overrides: Overrides, data: dict[str, Any], origins: dict[KeyPath, str]) -> list[str]:
    """Puts overrides into the data and its origins; returns the problems."""
    problems = []
    if not isinstance(overrides, Mapping):
        for override in overrides:
            problems += _apply(override, data, origins)
        return problems
    for name, given in overrides.items():
        origin = _PASSWORD.sub("***", f"{name}={given}")
        keys = tuple(name.split("."))
        value = _plain(given, keys, origin, problems)
        problems += _put(keys, value, origin, data, origins)
    return problems


def _apply(override: str, data: dict[str, Any], origins: dict[KeyPath, str]) -> list[str]:
    """Puts one override as it is typed into the data and its origins; returns the problems."""
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    origin = f"--set {_PASSWORD.sub('***', override)}"
    if not equals or not all(keys):
        return [f"--set must read key.path=value, but got {override!r}. Example: --set trainer.epochs=3"]
    walk = _Walk()
    value = walk.read(text, origin)
    if walk.problems:
        return [problem.replace("The file must", "The value must") for problem in walk.problems]
    return _put(keys, value, origin, data, origins)


def _put(keys: Sequence[str], value: Any, origin: str, data: dict[str, Any], origins: dict[KeyPath, str]) -> list[str]:
    """Puts a value where keys lead in the data, and its origin into the origins; returns the problems."""
    inner: Any = data
    path: KeyPath = ()
    for key in keys:
        parent, step = inner, _step(inner, key)
        if step is None:
            where, kind = show_path(path), "have such an item" if isinstance(inner, list) else "be a mapping"
            return [f"{origin}: `{where}` must {kind}, but got {show(inner)}. Set `{where}` as a whole."]
        path = (*path, step)
        if len(path) < len(keys):
            inner = inner[step] if isinstance(step, int) else inner.setdefault(step, {})
    parent[path[-1]] = value
    for old in [other for other in origins if other[: len(path)] == path]:
        del origins[old]
    origins[path] = origin
    return []


def _step(inner: object, key: str) -> str | int | None:
    """Returns what a part of an override's key means in the value that it leads into; None if nothing."""
    if isinstance(inner, list):
        return int(key) if key.isdecimal() and int(key) < len(inner) else None
    return key if isinstance(inner, dict) else None
