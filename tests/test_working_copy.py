from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from langsearch.experiment import working_copy
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.lock import hold
from langsearch.experiment.object_store import StorageError
from langsearch.experiment.remote import Remote, open_remote
from langsearch.experiment.working_copy import (
    RequestLook,
    WorkingCopy,
    fetch_experiment,
    fetch_experiments,
    remove_copy,
)
from langsearch.search.tuning import _Between
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

QUICKSTART = Path(__file__).parent.parent / "search_spaces" / "quickstart.yaml"


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


def test_a_node_keeps_nothing_of_a_search_that_has_ended(remote: Remote, tmp_path: Path) -> None:
    for name in ("tiny", "other"):
        put(remote, tmp_path / "there", name, space_yaml="a: 1", trials__00000__state="epoch 1")
        WorkingCopy(remote, name).pull("00000")
    tiny, other = WorkingCopy(remote, "tiny"), WorkingCopy(remote, "other")
    write(tiny.path.parent, **{".store__en.arrow": "tokens"})
    assert remove_copy(tiny) > 0
    assert (tiny.path.exists(), other.path.exists()) == (False, True)
    assert (other.path.parent / ".store" / "en.arrow").exists(), "the other experiment may need it"
    with hold(other.path):
        assert remove_copy(other) == 0, "this machine runs the search"
    assert remove_copy(other) > 0
    assert list((tmp_path / "cache" / "remote").iterdir()) == []
    assert remove_copy(other) == 0
    assert list((tmp_path / "cache" / "remote").iterdir()) == [], "a node that ran nothing is left as it was"


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


@pytest.mark.parametrize("name", ["a ?b", "#1", "50%41", "naïve", "{x}[y]"])
def test_a_name_may_have_signs_that_mean_something_in_a_url(name: str, remote: Remote, tmp_path: Path) -> None:
    put(remote, tmp_path / "there", name, space_yaml="a: 1", trials__00000__state="1")
    assert remote.names() == [name]
    (found,) = fetch_experiments(remote.url, with_trials=True)
    assert (found.name, contents(found)["trials/00000/state"]) == (name, "1")
    assert fetch_experiment(remote.child(name).url) == found


def test_a_url_without_an_experiment_is_named_and_nothing_is_kept(remote: Remote, tmp_path: Path) -> None:
    url = f"{remote.url}/nothing"
    with pytest.raises(InputError, match=f"must be of a folder that holds a space.yaml, but {url} holds none"):
        fetch_experiment(url)
    assert not list((tmp_path / "cache").rglob("nothing*"))


def test_a_folder_here_is_read_where_it_lies(tmp_path: Path) -> None:
    write(tmp_path / "b", space_yaml="")
    write(tmp_path / "a", space_yaml="")
    (tmp_path / ".store").mkdir()
    assert fetch_experiment(str(tmp_path / "a")) == tmp_path / "a"
    assert fetch_experiments(str(tmp_path), with_trials=True) == [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(InputError, match=r"EXPERIMENTS must be a folder, but .*none is none"):
        fetch_experiments(str(tmp_path / "none"), with_trials=True)


def machine(monkeypatch: pytest.MonkeyPatch, cache: Path, remote: Remote) -> WorkingCopy:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(cache))
    return WorkingCopy(remote, "tiny")


def test_a_request_to_stop_a_trial_reaches_its_worker_on_another_machine_and_no_other(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(remote, tmp_path / "there", "tiny", space_yaml="a: 1", trials__00000__state="1", trials__00001__state="1")
    driver = machine(monkeypatch, tmp_path / "driver", remote)
    looks = {name: RequestLook(driver, name, seconds=0.0) for name in ("00000", "00001")}
    assert [look() for look in looks.values()] == [False, False]
    driver.take_over()
    search = SimpleNamespace(
        folder=ExperimentFolder(driver.path), copy=driver, space=load_space(QUICKSTART), address="ray://elsewhere"
    )
    trials = {"00000": None, "00001": None}
    between = _Between(cast(Any, search), cast(Any, None), cast(Any, SimpleNamespace(trials=trials)), cast(Any, None))
    between._pass_on(driver)
    assert [look() for look in looks.values()] == [False, False]
    search.folder.trial("00001").stop_request.touch()
    between._pass_on(driver)
    assert [look() for look in looks.values()] == [False, True]
    worker = machine(monkeypatch, tmp_path / "worker", remote)
    worker.take_over()
    assert contents(worker.path).keys() >= {"space.yaml", "trials/00001/state"}
    assert not any("stop" in name for name in contents(worker.path))


def test_a_request_that_the_storage_does_not_take_is_made_again(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put(remote, tmp_path / "there", "tiny", space_yaml="a: 1", trials__00000__state="1")
    copy = WorkingCopy(remote, "tiny")

    def away(*_: Any) -> None:
        raise StorageError("the storage is away")

    with monkeypatch.context() as patch:
        patch.setattr(working_copy, "write_bytes", away)
        assert not copy.try_request_stop("00000")
    assert "the storage is away" in caplog.text
    assert not copy.is_stop_requested("00000")
    assert copy.try_request_stop("00000")
    assert copy.is_stop_requested("00000")
    assert not copy.is_stop_requested("00001")
