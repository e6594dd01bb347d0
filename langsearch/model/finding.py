"""Where a base lies: an embedded name, a folder, or a hub id."""

from pathlib import Path

from langsearch.space.problems import InputError

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
"""Bases that travel with the package, by folder name."""


def find_base(name: str) -> Path:
    """Returns the folder of a base: an embedded name, a folder, or a hub id (fetched into the hub's cache).

    Raises:
        InputError: If there is no such base, or the hub cannot be reached.
    """
    if (EMBEDDED_FOLDER / name / "config.json").exists():
        return EMBEDDED_FOLDER / name
    if Path(name).is_dir():
        if not (Path(name) / "config.json").exists():
            raise InputError(f"A base folder must hold a config.json, but {name} has none.")
        return Path(name)
    embedded = ", ".join(sorted(folder.name for folder in EMBEDDED_FOLDER.iterdir() if folder.is_dir()))
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise InputError(f"A base must be an embedded name ({embedded}), a folder or a hub id, but got {name!r}.")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.model"]))
    except Exception as error:
        raise InputError(
            f"The base {name!r} is no folder here and could not be fetched from the hub ({type(error).__name__}). "
            f"Fetch it where there is a network and give its folder, or use an embedded base: {embedded}."
        ) from error
