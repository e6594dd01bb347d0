import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, portable
from langsearch.experiment.folder import STORE_FOLDER
from langsearch.experiment.working_copy import WorkingCopy, find_experiments
from langsearch.model.base import Base

pytest_plugins = ["search_fixtures"]


def test_without_remote_storage_the_environment_is_sent_as_it_is(environment: Environment) -> None:
    assert portable(environment, None) is environment


def test_another_machine_fetches_the_token_files(
    checked: CheckedSpace, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "here"))
    root, remote = find_experiments(f"file://{tmp_path}/remote")
    assert remote is not None
    copy = WorkingCopy(remote, "tiny")
    built = build_environment(checked, base, root / STORE_FOLDER)
    copy.push_store()
    sent = pickle.dumps(portable(built, copy))
    assert str(tmp_path / "here").encode() not in sent

    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "there"))
    with ThreadPoolExecutor(2) as workers:  # two workers of a machine at once
        found, again = workers.map(pickle.loads, [sent, sent])
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(built, part), getattr(found, part)
        assert [path.name for path in ours.files.values()] == [path.name for path in theirs.files.values()]
        assert all(tmp_path / "there" in path.parents for path in theirs.files.values())
        assert theirs.text("sw", 3) == ours.text("sw", 3) == getattr(again, part).text("sw", 3)
    assert found.directions == built.directions
