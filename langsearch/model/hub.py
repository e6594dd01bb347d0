"""A base on the hub: which files it has, which of them are fetched, and what a refusal means.

huggingface_hub does the work, with its own cache, its own token and its own switches, such as HF_HUB_OFFLINE.
"""

import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from langsearch.model.published import near_bases
from langsearch.model.weights import find_form, find_weights, is_index
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

SMALL_FILES = (
    "README.md",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "tokenization_small100.py",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
"""What is fetched of a base beside its weights: the configuration, the tokenizer, and the card, for its licence. The
Python file is never run: that it is there tells a family."""

_TIMEOUT_S = 20.0
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class HubBase:
    """A base on the hub at one commit; its small files are in the hub's cache, its weights may be."""

    folder: Path
    commit: str
    sizes: Mapping[str, int] | None
    """The bytes of each file that the hub has; None where it could not be asked."""

    refusal: str | None = None
    """Why it could not."""


def open_hub(source: BaseSource) -> HubBase:
    """Finds a base on the hub, or in the hub's cache where the hub cannot be reached; fetches its small files.

    Args:
        source: A hub id. At a commit whose files are all in the cache the hub is not asked.

    Raises:
        InputError: If it is neither there nor here.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RevisionNotFoundError

    cached = _open_cached(source)
    if cached is not None and _COMMIT.fullmatch(source.revision or "") and _is_whole(cached.folder):
        return cached
    try:
        info = HfApi().model_info(source.id, revision=source.revision, files_metadata=True, timeout=_TIMEOUT_S)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        form = find_form(sizes)
        wanted = [name for name in SMALL_FILES if name in sizes] + ([form] if form and is_index(form) else [])
        folder = Path(snapshot_download(source.id, revision=source.revision, allow_patterns=wanted))
        return HubBase(folder, folder.name, sizes)
    except Exception as error:  # httpx's and the hub's own errors have no common class
        refusal = explain(error, source)
        if cached is None or isinstance(error, RevisionNotFoundError):
            raise InputError(refusal) from error
        return HubBase(cached.folder, cached.commit, None, refusal)


def fetch(source: BaseSource, names: Sequence[str], num_bytes: int) -> None:
    """Brings files of a base into the hub's cache.

    Args:
        source: The base, at a commit.
        names: The files.
        num_bytes: How large they are together.

    Raises:
        InputError: If the hub refuses, cannot be reached, or the disk has no room.
    """
    import shutil

    from huggingface_hub import constants, snapshot_download

    cache = Path(constants.HF_HUB_CACHE).expanduser()
    around = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if (free := shutil.disk_usage(around).free) < num_bytes:
        raise InputError(_no_room(source, f"takes {num_bytes / 1e9:.2f} GB, but has {free / 1e9:.2f} GB free"))
    try:
        snapshot_download(source.id, revision=source.revision, allow_patterns=list(names))
    except Exception as error:
        raise InputError(explain(error, source)) from error


def explain(error: Exception, source: BaseSource) -> str:
    """Returns in a sentence what an error of the hub means for a person, and the way out."""
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    log_in = "log in with an account that may read it: `hf auth login`, or the variable HF_TOKEN"
    if isinstance(error, GatedRepoError):
        return (
            f"A base must be open to you, but the hub asks for its terms to be accepted before it gives {source.id!r}. "
            f"Accept them on its page there, and {log_in}."
        )
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, RepositoryNotFoundError) or status in (401, 403):
        return (
            f"A base must be on the hub and open to you, but the hub says that {source.id!r} is not."
            f"{near_bases(source.id)} Check its name; if it is private, {log_in}."
        )
    if isinstance(error, RevisionNotFoundError):
        return (
            "`base.revision` must be a branch, a tag, a commit or a pull request (refs/pr/N) of the base, but "
            f"{source.id!r} has no {source.revision!r}. Look at its page on the hub."
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return _no_room(source, "has no more room")
    if isinstance(error, OfflineModeIsEnabled):
        return (
            f"The base {str(source)!r} is no folder here, not whole in the hub's cache, and could not be fetched from "
            f"the hub: HF_HUB_OFFLINE is set.{near_bases(source.id)} Unset it, or fetch the base where there is a "
            "network and give its folder."
        )
    return (
        f"The base {str(source)!r} is no folder here and could not be fetched from the hub ({type(error).__name__})."
        f"{near_bases(source.id)} Fetch it where there is a network and give its folder, or use an embedded base."
    )


def _no_room(source: BaseSource, why: str) -> str:
    return (
        f"The hub's cache must have room for the base {source.id!r}: it {why}. Make room, or name another folder by "
        "HF_HOME."
    )


def _open_cached(source: BaseSource) -> HubBase | None:
    """Returns what the hub's cache has of a base, None if not even its configuration."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        found = snapshot_download(
            source.id, revision=source.revision, allow_patterns=["config.json"], local_files_only=True
        )
    except (OSError, HFValidationError):
        return None
    folder = Path(found)
    return HubBase(folder, folder.name, None) if (folder / "config.json").exists() else None


def _is_whole(folder: Path) -> bool:
    """Returns whether a snapshot has all that `open_hub` and `fetch` would bring, as far as shows from here."""
    weights = find_weights(folder)
    return weights is not None and not weights.missing
