"""The files of a base's weights: which they are, whether they are there and whole, and what tells them from others."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from langsearch.model.cache import file_digest
from langsearch.model.pickled import read_pickled
from langsearch.space.problems import InputError

_INDEX = ".index.json"

FORMS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
"""What the weights of a published base begin with; the first that is there counts. An index names their files."""


@dataclass(frozen=True)
class WeightFiles:
    """A base's weights as they lie in its folder, or are to lie there."""

    folder: Path
    form: str
    """One of `FORMS`."""

    names: tuple[str, ...]
    """The files with the weights themselves."""

    @property
    def is_pickled(self) -> bool:
        """Whether they are PyTorch's pickles, which are turned to safetensors before they are used."""
        return self.form.removesuffix(_INDEX).endswith(".bin")

    @property
    def missing(self) -> tuple[str, ...]:
        """The files that are not there."""
        return tuple(name for name in self.names if not (self.folder / name).is_file())

    @property
    def num_bytes(self) -> int:
        """The size of what is there."""
        return sum((self.folder / name).stat().st_size for name in self.names if (self.folder / name).is_file())

    def fingerprint(self) -> str:
        """Returns 16 hexadecimal digits over the files' content. Raises OSError if one cannot be read."""
        digest = hashlib.sha256()
        for name in self.names:
            digest.update(f"{name} {file_digest(self.folder / name)}\n".encode())
        return digest.hexdigest()[:16]


def find_form(names: Collection[str]) -> str | None:
    """Returns which of `FORMS` files hold the weights, safetensors before pickles; None if none does."""
    return next((form for form in FORMS if form in names), None)


def is_index(form: str) -> bool:
    """Returns whether a form is an index of further files."""
    return form.endswith(_INDEX)


def find_weights(folder: Path, names: Collection[str] | None = None) -> WeightFiles | None:
    """Returns the weights of a base; None if there are none.

    Args:
        folder: The base's folder; an index must lie in it.
        names: The files of the base. None: those in the folder.

    Raises:
        InputError: If an index cannot be read.
    """
    form = find_form({path.name for path in folder.iterdir()} if names is None else names)
    if form is None or not is_index(form):
        return None if form is None else WeightFiles(folder, form, (form,))
    path = folder / form
    try:
        found = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"An index of weights must say which file has which, but {path} does not: {error!r}"
        ) from error
    # An index is read from the network: it must not lead out of the folder.
    if not found or not all(isinstance(name, str) and Path(name).name == name for name in found):
        raise InputError(f"An index of weights must name files beside it, but {path} has {found[:3]}.")
    return WeightFiles(folder, form, tuple(found))


def check_weights(weights: WeightFiles | None, folder: Path) -> list[str]:
    """Returns what is wrong with the weights of a base that are there, as far as shows without reading all of them.

    Args:
        weights: The weights; None if there are none.
        folder: The base's folder, for the message.
    """
    if weights is None:
        return [
            f"A base must have its weights beside its config.json, as {FORMS[0]} or {FORMS[2]}, in one file or in "
            f"several with an index, but {folder} has neither. Copy them there."
        ]
    problems = []
    if missing := weights.missing:
        listed = ", ".join(missing[:5])
        problems.append(
            f"A base's weights must be all there, but {weights.folder} lacks {listed}, which {weights.form} names. "
            "Copy what is missing."
        )
    present = [weights.folder / name for name in weights.names if name not in missing]
    return problems + [problem for path in present for problem in _check_file(path, is_pickled=weights.is_pickled)]


def _check_file(path: Path, *, is_pickled: bool) -> Iterator[str]:
    with path.open("rb") as file:
        if file.read(24).startswith(b"version https://git-lfs"):
            yield f"A base's weights must be there, but {path} is only Git LFS's pointer to them. Run: git lfs pull"
            return
    try:
        if is_pickled:
            read_pickled(path, is_check=True)
        else:
            with safe_open(path, "pt"):
                pass
    except InputError as error:
        yield from error.problems
    except (OSError, SafetensorError) as error:
        yield f"A base's weights must be whole, but {path} cannot be read: {error}. Copy or fetch it again."
