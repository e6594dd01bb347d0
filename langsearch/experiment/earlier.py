"""Defaults that have changed since an experiment was started: it goes on with those that it began with."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from langsearch.experiment.folder import ExperimentFolder
from langsearch.space.baseline_start import with_start
from langsearch.space.schema import DEFAULT_BASELINES, Space, load_space, space_of

EARLIER_DEFAULTS: Mapping[tuple[str, ...], Any] = {
    **{("evaluation", part, "max_length_factor"): 2.0 for part in ("search", "final")},
    **{("evaluation", part, "rows_per_batch"): 128 for part in ("search", "final")},
    ("search", "sampler"): "tpe",
}
"""Keys of a space, with the defaults that they had before."""

_AS_READ = {"normalize": "none"}
"""Versions that had no `data.normalize` left the sentences as they were read."""


def load_begun_space(path: Path | str, overrides: Sequence[str] = ()) -> Space:
    """Returns the space that an experiment has in its folder, as the version that began it understood it.

    Args:
        path: The YAML file.
        overrides: `key.path=value` each.

    Raises:
        InputError: As `load_space` does.
    """
    space = load_space(path, overrides, is_recorded=True)
    data = space.document.data
    if "normalize" in data["data"]:
        return space
    return space_of(replace(space.document, data=data | {"data": data["data"] | _AS_READ}))


def with_earlier_defaults(folder: ExperimentFolder, space: Space) -> Space:
    """Returns a space as the experiment that is resumed with it was started: its scores must stay comparable.

    Only what the space leaves to a default is set, where the experiment has the default of an earlier version.

    Args:
        folder: An experiment's folder; it may be missing.
        space: The space that it is resumed with.
    """
    if not folder.space.exists():
        return space
    kept = YAML(typ="safe", pure=True).load(folder.space.read_text(encoding="utf-8")) or {}
    data, is_changed = deepcopy(space.document.data), False
    for path, default in EARLIER_DEFAULTS.items():
        if _section(kept, path).get(path[-1]) == default and path[-1] not in _section(data, path):
            section = data
            for name in path[:-1]:
                section[name] = section = section.get(name) or {}
            section[path[-1]] = default
            is_changed = True
    if "normalize" not in (kept.get("data") or {}) and "normalize" not in data["data"]:
        data["data"] = data["data"] | _AS_READ
        is_changed = True
    if not kept.get("baselines") and "baselines" not in data:  # versions that had none by default
        data["baselines"] = []
        is_changed = True
    if kept.get("baselines") and _starts_as_peft(kept["baselines"]):
        data["baselines"] = with_start(data.get("baselines", DEFAULT_BASELINES), "peft")
        is_changed = True
    return space_of(replace(space.document, data=data)) if is_changed else space


def _section(data: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """Returns the section of a space that a key stands in; an empty one where there is none."""
    for name in path[:-1]:
        data = data.get(name) or {}
    return data


def _starts_as_peft(baselines: list[Any]) -> bool:
    """Returns whether an experiment's baselines are of a version whose shared LoRA started as PEFT does, unsaid."""
    return bool(with_start(baselines, "peft") != baselines)


def with_open_defaults(space: Space) -> dict[str, Any]:
    """Returns a space's data with its defaults filled in, but for those that `with_earlier_defaults` may set.

    A space that is sent to where its experiment lies takes this along: what it leaves open is settled there.
    """
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(space.text)
    written = space.document.data
    if "baselines" in written:
        data["baselines"] = written["baselines"]
    else:
        del data["baselines"]
    if "normalize" not in written["data"]:
        data["data"].pop("normalize", None)
    for path in EARLIER_DEFAULTS:
        if path[-1] not in _section(written, path):
            _section(data, path).pop(path[-1], None)
    return data
