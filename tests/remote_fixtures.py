"""An empty remote folder; a test module asks for it by `pytest_plugins = ["s3_fixtures", "remote_fixtures"]`."""

from pathlib import Path

import pytest

from langsearch.experiment.remote import Remote, open_remote
from tests.s3_fixtures import s3_url


@pytest.fixture(params=["file", "s3"])
def remote(request: pytest.FixtureRequest, tmp_path: Path) -> Remote:
    """An empty remote folder."""
    if request.param == "file":
        return open_remote(f"file://{tmp_path}/store/tiny")
    return open_remote(s3_url(request.getfixturevalue("s3_port"), f"{tmp_path.name}/tiny"))


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def files(root: Path) -> dict[str, str]:
    """Returns the files that are not hidden, with their text."""
    found = (path for path in root.rglob("*") if path.is_file())
    names = {path: path.relative_to(root) for path in found}
    return {
        str(name): path.read_text(encoding="utf-8")
        for path, name in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }
