from pathlib import Path

import pytest

from langsearch.search.lock import hold
from langsearch.search.remote import Remote, open_remote
from langsearch.search.working_copy import WorkingCopy, fetch_experiment, fetch_experiments
from langsearch.space.problems import InputError


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """Experiments on a storage, and a machine that has seen nothing of them."""
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    return open_remote(f"file://{tmp_path}/storage")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_yaml", ".yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def put(remote: Remote, elsewhere: Path, name: str, **files: str) -> None:
    """What a run on another machine sends."""
    write(elsewhere / name, **files)
    remote.child(name).push(elsewhere / name)
    for trial in (elsewhere / name / "trials").glob("*"):
        remote.child(name).push(elsewhere / name, f"trials/{trial.name}")


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_reading_a_remote_experiment_disturbs_no_worker_of_this_machine(remote: Remote, tmp_path: Path) -> None:
    put(remote, tmp_path / "there", "tiny", space_yaml="a: 1", trials__00000__state="epoch 1")
    working = WorkingCopy(remote, "tiny")
    working.pull("00000")
    write(working.path, trials__00000__state="epoch 2, not sent yet", trials__00001__state="just begun")
    before = contents(working.path)
    put(remote, tmp_path / "there", "tiny", space_yaml="a: 2", trials__00000__state="epoch 1 again")
    fetched = fetch_experiment(f"{remote.url}/tiny")
    assert contents(working.path) == before
    assert fetched != working.path
    assert (fetched / "space.yaml").read_text() == "a: 2"
    assert (fetched / "trials" / "00000" / "state").read_text() == "epoch 1 again"


def test_what_a_run_of_this_machine_holds_is_read_where_it_works(remote: Remote, tmp_path: Path) -> None:
    put(remote, tmp_path / "there", "tiny", space_yaml="a: 1")
    working = WorkingCopy(remote, "tiny")
    with hold(working.path):
        write(working.path, space_yaml="newer than the storage's")
        assert fetch_experiment(f"{remote.url}/tiny") == working.path
        assert fetch_experiments(remote.url, with_trials=False) == [working.path]
        assert (working.path / "space.yaml").read_text() == "newer than the storage's"
    assert fetch_experiment(f"{remote.url}/tiny") != working.path


def test_a_list_of_remote_experiments_fetches_no_trials_and_a_later_look_the_rest(
    remote: Remote, tmp_path: Path
) -> None:
    put(remote, tmp_path / "there", "a", space_yaml="a: 1", trials__00000__state="1")
    put(remote, tmp_path / "there", "b", space_yaml="b: 1")
    put(remote, tmp_path / "there", "other", notes="none")
    found = fetch_experiments(remote.url, with_trials=False)
    assert [path.name for path in found] == ["a", "b"]
    assert not (found[0] / "trials").exists()
    assert fetch_experiments(remote.url, with_trials=True) == found
    assert (found[0] / "trials" / "00000" / "state").read_text() == "1"
    assert fetch_experiments(f"{remote.url}/a", with_trials=True) == found[:1]


def test_a_folder_here_is_read_where_it_lies(tmp_path: Path) -> None:
    write(tmp_path / "b", space_yaml="")
    write(tmp_path / "a", space_yaml="")
    (tmp_path / ".store").mkdir()
    assert fetch_experiment(str(tmp_path / "a")) == tmp_path / "a"
    assert fetch_experiments(str(tmp_path), with_trials=True) == [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(InputError, match=r"EXPERIMENTS must be a folder, but .*none is none"):
        fetch_experiments(str(tmp_path / "none"), with_trials=True)
