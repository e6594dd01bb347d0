"""What a resumed run checks before it writes anything."""

import json
import re
import shutil
from pathlib import Path

import pytest
import ray
from rich.console import Console

from langsearch.cluster import ray_session
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.recorded_base import BASE_FILE
from langsearch.search.display import Display
from langsearch.search.runner import run_search
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.trial.export import open_experiment

pytest_plugins = ["search_fixtures"]


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "experiments" / "tiny"
    shutil.copytree(trained, copy)
    return copy


def changed(copied: Path, *settings: str) -> CheckedSpace:
    return check_space(load_space(copied / "space.yaml", settings))


def contents(path: Path) -> dict[str, bytes]:
    files = (file for file in path.rglob("*") if file.is_file() and file.name != ".lock")
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(
    ("retry", "is_deleted", "messages"),
    [
        ("99", False, ["--retry must name failed trials, but got 00099: there is none of that number."]),
        (None, True, ["A trial on the front must have its weights, but .* 00000 would be on it, whose weights"]),
        ("99", True, ["but got 00099", "A trial on the front must have its weights"]),
    ],
)
def test_a_resumed_run_that_is_refused_has_written_nothing(
    retry: str | None, is_deleted: bool, messages: list[str], copied: Path
) -> None:
    if is_deleted:  # as when another trial dominated it by the old constraints
        shutil.rmtree(ExperimentFolder(copied).trial("00000").weights)
    before = contents(copied)
    checked = changed(copied, "search.constraints=[trainable_parameters <= 90 %]")
    with pytest.raises(InputError) as caught:
        run_search(
            checked,
            copied.parent,
            Display(Console(), "tiny", 1, 1, is_quiet=True),
            resume=True,
            accept_changed_space=True,
            retry=retry,
        )
    for message in messages:
        assert any(re.search(message, problem) for problem in caught.value.problems)
    assert contents(copied) == before


def test_a_base_that_has_changed_since_is_refused_and_nothing_is_written(copied: Path) -> None:
    recorded = {"id": "tiny-m2m", "commit": None, "fingerprint": "0123456789abcdef", "family": "m2m100"}
    (copied / BASE_FILE).write_text(json.dumps(recorded))
    before = contents(copied)
    display = Display(Console(), "tiny", 1, 1, is_quiet=True)
    with pytest.raises(InputError, match=r"has the weights 0123456789abcdef of tiny-m2m, which has \w{16} now"):
        run_search(changed(copied), copied.parent, display, resume=True)
    assert contents(copied) == before
    with pytest.raises(InputError, match="has the weights 0123456789abcdef of tiny-m2m"):
        open_experiment(copied)


def test_where_ray_does_not_start_in_time_it_is_started_again_and_then_said_plainly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts: list[str] = []

    def start(*_: object, **__: object) -> None:
        starts.append("started")
        if len(starts) != 2:
            raise Exception("The current node timed out during startup. This could happen because ...")  # noqa: TRY002

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    told = list[str]()
    ray_session.start_ray(1_000_000, told.append)
    assert (len(starts), len(told)) == (2, 1)
    with pytest.raises(InputError, match=r"Ray must start within half a minute, but has not, 3 times: .*--resume"):
        ray_session.start_ray(1_000_000, told.append)
    assert (len(starts), len(told)) == (5, 3)


def test_another_failure_of_ray_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise ValueError("no such option")

    monkeypatch.setattr(ray, "init", start)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"Ray must start .* has not \(no such option\)\. .*RAY_TMPDIR"):
        ray_session.start_ray(1_000_000)


def test_where_a_temporary_folder_is_too_long_for_sockets_the_session_is_in_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    told: list[str] = []
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert ray_session.session_folder(told.append) == Path("/tmp/ray")
    assert not told
    long = tmp_path / ("scratch" * 10)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    assert ray_session.session_folder(told.append) == Path("/tmp/ray")
    assert told == [
        f"{long}/ray leaves too few of the 107 bytes that a socket's path may have. Ray's session is in /tmp/ray."
    ]
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")  # that cannot be made
    assert ray_session.session_folder(told.append) == Path("/tmp/ray")
    assert "/proc/none/ray cannot" in told[-1]
    monkeypatch.setattr(ray_session, "_SHORT_FOLDERS", ("/proc",))
    with pytest.raises(
        InputError, match=r"session must lie in a folder .* at most \d\d bytes, .* Name one in RAY_TMPDIR"
    ):
        ray_session.session_folder()
