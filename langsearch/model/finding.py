"""Where a base lies: an embedded name, a folder, or a hub id; and what there is of it without loading it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from langsearch.model.hub import SMALL_FILES, HubBase, fetch, open_hub
from langsearch.model.pickled import as_safetensors
from langsearch.model.published import near_bases
from langsearch.model.weights import WeightFiles, check_weights, find_weights
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
"""Bases that travel with the package, by folder name."""


@dataclass(frozen=True)
class FoundBase:
    """A base that was found: its configuration and tokenizer are here, its weights may still be on the hub."""

    source: BaseSource
    """As it was asked for; of the hub with the commit that was found as its revision."""

    folder: Path
    weights: WeightFiles | None
    commit: str | None = None
    """Of the hub; None for a folder."""

    to_fetch: Mapping[str, int] = field(default_factory=dict)
    """The files that loading it fetches, with their bytes."""

    refusal: str | None = None
    """Why the hub could not be asked."""

    def check(self) -> list[str]:
        """Returns what is wrong with its weights as far as it shows without fetching or reading all of them."""
        if self.commit is None:
            return check_weights(self.weights, self.folder)
        if self.weights is None:
            there = "it has" if self.refusal is None else f"the hub's cache has only {self.folder}"
            rule = f"A base must have weights as safetensors or pytorch_model.bin, but of {self.source.id!r} {there}"
            return [f"{rule} none. {self.refusal or 'Is it a model?'}"]
        missing = [name for name in self.weights.missing if name not in self.to_fetch]
        if missing:
            rule = f"A base's weights must be all there, but of {self.source} {', '.join(missing[:5])} is missing"
            return [f"{rule}. {self.refusal or 'Its index names it, but the hub does not have it.'}"]
        here = replace(self.weights, names=tuple(name for name in self.weights.names if name not in self.to_fetch))
        return check_weights(here, self.folder)

    def fingerprint(self) -> str:
        """Returns what tells its weights from others: the commit, or 16 hexadecimal digits over their content.

        Raises:
            InputError: If a file is missing or cannot be read.
        """
        if self.commit is not None:
            return self.commit
        if problems := self.check():
            raise InputError(problems)
        assert self.weights is not None
        return self.weights.fingerprint()


def is_embedded(name: str) -> bool:
    """Returns whether a base travels with the package."""
    return Path(name).name == name and (EMBEDDED_FOLDER / name / "config.json").exists()


def locate_base(source: BaseSource | str) -> FoundBase:
    """Finds a base and brings its configuration and tokenizer here; of its weights nothing is fetched or read.

    Args:
        source: An embedded name, a folder, or a hub id.

    Raises:
        InputError: If there is no such base, or the hub refuses or cannot be reached and its cache has not got it.
    """
    if isinstance(source, str):
        source = BaseSource(source)
    name = source.id
    if is_embedded(name) or Path(name).is_dir():
        folder = EMBEDDED_FOLDER / name if is_embedded(name) else Path(name)
        if source.revision is not None:
            raise InputError(
                f"`base.revision` must be of a base on the hub, but {name} is a folder. Leave it out, or name a hub id."
            )
        if not (folder / "config.json").exists():
            raise InputError(f"A base folder must hold a config.json, but {name} has none.")
        return FoundBase(source, folder, find_weights(folder))
    if name.count("/") != 1 or name.startswith((".", "/")):
        embedded = tuple(sorted(folder.name for folder in EMBEDDED_FOLDER.iterdir() if folder.is_dir()))
        raise InputError(
            f"A base must be an embedded name ({', '.join(embedded)}), a folder or a hub id, but got {name!r}."
            f"{near_bases(name, embedded)}"
        )
    return _on_hub(source, open_hub(source))


def _on_hub(source: BaseSource, found: HubBase) -> FoundBase:
    sizes = found.sizes
    weights = find_weights(found.folder, sizes)
    missing = weights.missing if weights is not None and sizes is not None else ()
    to_fetch = {name: sizes[name] for name in missing if sizes is not None and name in sizes}
    pinned = replace(source, revision=found.commit)
    return FoundBase(pinned, found.folder, weights, found.commit, to_fetch, found.refusal)


def base_files(folder: Path) -> list[str]:
    """Returns the files of a base's folder that loading it needs, among what else may lie there."""
    weights = find_weights(folder)
    names = [] if weights is None else [weights.form, *weights.names]
    return [name for name in dict.fromkeys((*SMALL_FILES, *names)) if (folder / name).is_file()]


def find_base(name: str) -> Path:
    """Returns the folder of a base's configuration and tokenizer; raises InputError as `locate_base`."""
    return locate_base(name).folder


def provide_weights(found: FoundBase) -> Path:
    """Returns a folder with a base's weights as safetensors: fetches what is missing, and turns pickles to them.

    Raises:
        InputError: If a file is missing, torn or holds code, the hub refuses, or a disk has no room.
    """
    if problems := found.check():
        raise InputError(problems)
    if found.to_fetch:
        fetch(found.source, list(found.to_fetch), sum(found.to_fetch.values()))
        # What was just fetched is checked as what had been here.
        return provide_weights(replace(found, to_fetch={}))
    weights = found.weights
    assert weights is not None
    return as_safetensors(weights.folder, weights.names, weights.fingerprint()) if weights.is_pickled else found.folder
