"""`langsearch check` and `langsearch run`: what stops them before they begin, and how a search's end is told."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.object_store import StorageError
from langsearch.search.display import Display
from langsearch.space.problems import LeaseLostError

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures", "search_fixtures"]


@dataclass(frozen=True, kw_only=True)
class End:
    """As much of a search's outcome as the command line looks at."""

    folder: ExperimentFolder
    is_complete: bool = True
    num_complete: int = 1
    num_failed: int = 0
    stopped_by: str | None = None
    ended_by: str | None = None
    copy: None = None


ENDS = {
    "done": ({"ended_by": "trials"}, 0, "", ""),
    "done before": (
        {"ended_by": "trials"},
        0,
        "No trial was left to run: the search had ended before. For more: --resume --trials N\n",
        "",
    ),
    "plateau before": (
        {"ended_by": "plateau"},
        0,
        "No trial was left to run: the search had ended before.\n"
        "Ended before all trials: the last ones gained too little (`search.plateau`).\n",
        "",
    ),
    "done with failures": (
        {"num_failed": 2},
        0,
        "2 trials failed; the causes are in the report. To try again: --resume --retry failed\n",
        "",
    ),
    "plateau": (
        {"ended_by": "plateau"},
        0,
        "Ended before all trials: the last ones gained too little (`search.plateau`).\n",
        "",
    ),
    "exhausted": (
        {"ended_by": "exhausted"},
        0,
        "Ended before all trials: every point of the space was tried.\n",
        "",
    ),
    "nothing complete": (
        {"num_complete": 0, "num_failed": 1},
        1,
        "1 trial failed; the causes are in the report. To try again: --resume --retry failed\n",
        "No searched trial could finish; the causes are in the report.\n",
    ),
    "time": (
        {"is_complete": False, "stopped_by": "time", "num_complete": 0},
        0,
        "The time is up: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "interrupted": (
        {"is_complete": False, "stopped_by": "interrupted"},
        130,
        "Interrupted: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "terminated": (
        {"is_complete": False, "stopped_by": "terminated"},
        143,
        "Interrupted by SIGTERM: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "requested": (
        {"is_complete": False, "stopped_by": "requested"},
        0,
        "Stopped on request: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "not tested": (
        {"is_complete": False},
        1,
        "",
        "The front could not be scored or tested; --resume tries it again.\n",
    ),
    "disk full": (
        {"is_complete": False, "stopped_by": "disk full: [Errno 28] No space left on device"},
        1,
        "",
        "Stopped: disk full: [Errno 28] No space left on device. Make room on the disk, or lower "
        "`checkpoints.max_gigabytes`; then go on with the same command and --resume: no finished epoch is lost.\n",
    ),
    "a failure": (
        {"is_complete": False, "stopped_by": "ValueError: odd"},
        1,
        "",
        "Stopped: ValueError: odd. Remove the cause, or change `failures`; then go on with the "
        "same command and --resume: no finished epoch is lost.\n",
    ),
}


def test_an_absent_experiment_is_not_resumed(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--resume")
    path = space_file.parent / "experiments" / "tiny"
    message = f"error: --resume goes on with an experiment, but {path} does not exist. Start it without.\n"
    assert (ended.code, ended.err) == (2, message)
    assert not Path("experiments").exists()


def test_an_experiment_that_is_there_is_not_started_again(trained: Path, langsearch: "Command") -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*")}
    ended = langsearch("run", trained / "space.yaml", "--experiments", trained.parent)
    assert (ended.code, ended.err) == (
        2,
        f"error: An experiment must have a name of its own, but {trained} exists. "
        "Go on with it by --resume, or start another with --name NAME.\n",
    )
    assert {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*")} == before


def test_an_experiment_is_not_resumed_with_another_space(trained: Path, langsearch: "Command") -> None:
    arguments = ("run", trained / "space.yaml", "--experiments", trained.parent, "--resume")
    ended = langsearch(*arguments, "--set", "trainer.seed=9")
    assert ended.code == 2
    assert "error:   trainer.seed: 0 -> 9\n" in ended.err


@pytest.mark.parametrize("option", [("--retry", "failed"), ("--accept-changed-space",)])
def test_what_goes_on_with_an_experiment_needs_resume(
    option: tuple[str, ...], space_file: Path, langsearch: "Command"
) -> None:
    ended = langsearch("run", space_file, *option)
    message = f"{option[0]} goes on with an experiment, but neither --resume nor --resume-if-begun is given. Add one."
    assert (ended.code, ended.err) == (2, f"error: {message}\n")


def test_only_one_way_of_resuming_is_given(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--resume", "--resume-if-begun")
    assert (ended.code, "but both are given. Leave out one of them." in ended.err) == (2, True)


def test_what_has_begun_is_resumed_by_the_option_that_also_begins(trained: Path, langsearch: "Command") -> None:
    arguments = ("run", trained / "space.yaml", "--experiments", trained.parent, "--resume-if-begun")
    ended = langsearch(*arguments, "--set", "trainer.seed=9")
    assert (ended.code, "error:   trainer.seed: 0 -> 9\n" in ended.err) == (2, True)


def test_what_has_not_begun_is_begun_by_it(
    trained: Path, tmp_path: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    class BegunError(Exception):
        """Everything was taken; the experiment begins."""

    def start_experiment(path: Path, *_: object, resume: bool, **__: object) -> None:
        assert (path, resume) == (tmp_path / "tiny", False)
        raise BegunError

    monkeypatch.setattr("langsearch.search.runner.start_experiment", start_experiment)
    with pytest.raises(BegunError):
        langsearch("run", trained / "space.yaml", "--experiments", tmp_path, "--resume-if-begun")


@pytest.mark.parametrize(("values", "code", "out", "err"), ENDS.values(), ids=ENDS)
def test_every_end_of_a_search_is_told_with_its_exit_code_and_what_to_do(
    values: dict[str, object],
    code: int,
    out: str,
    err: str,
    trained: Path,
    tmp_path: Path,
    langsearch: "Command",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained, tmp_path / "experiments" / "tiny")
    given: dict[str, object] = {}
    num_started = 0 if "had ended before" in out else 1

    def run_search(checked: CheckedSpace, experiments: Path, display: Display, **options: Any) -> End:
        conclude = options.pop("conclude")
        given.update(options)
        display.num_started = num_started
        end = End(folder=ExperimentFolder(Path(experiments) / checked.space.name), **values)  # type: ignore[arg-type]
        conclude(end)
        return end

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)
    space = trained / "space.yaml"
    ended = langsearch("run", space, "--resume", "--retry", "12,17", "--accept-changed-space", "--quiet")
    assert given == given | {"resume": True, "resume_if_begun": False, "retry": "12,17", "accept_changed_space": True}
    report = "Report: experiments/tiny/report.html\n"
    assert (ended.code, ended.out.partition(report)[2], ended.err) == (code, out, err)


def test_a_report_that_a_full_disk_prevents_is_told(
    trained: Path, tmp_path: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    def run_search(*values: object, conclude: Callable[[End], None], **options: object) -> End:
        conclude(end := End(folder=ExperimentFolder(tmp_path)))
        return end

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)
    monkeypatch.setattr("langsearch.report.page.write_report", fail)
    ended = langsearch("run", trained / "space.yaml", "--quiet")
    assert ended.code == 1
    assert ended.err == (
        "The front and report could not be written: [Errno 28] No space left on device. "
        "--resume writes what is missing.\n"
    )


@pytest.mark.parametrize("error", [LeaseLostError("The lease is lost."), StorageError("s3://b could not be written")])
def test_a_lease_that_is_lost_and_a_store_that_is_away_are_told_in_a_sentence(
    error: Exception, trained: Path, langsearch: "Command", monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_search(*values: object, **options: object) -> End:
        raise error

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    ended = langsearch("run", trained / "space.yaml", "--quiet")
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert ended.err.startswith(f"Stopped: {error}")


def test_trials_and_hours_set_the_space_s(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--trials", 9, "--hours", 0)
    assert (ended.code, ended.err) == (
        2,
        "error: --hours 0: `search.max_hours` must be a number above 0 or none, but got 0.0\n",
    )


def test_errors_name_the_options_that_were_typed(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--hours", 0, "--name", "a é b", "--set", "search.seed=x")
    assert ended.code == 2
    hours, name, seed = sorted(ended.err.splitlines())
    assert hours.startswith("error: --hours 0: `search.max_hours` must be")
    assert name.startswith("error: --name 'a é b': `name` must be")
    assert seed.startswith("error: --set search.seed=x: `search.seed` must be")
    ended = langsearch("submit", space_file, "--address", "URL", "--experiments", "/x", "--name", "a é b")
    assert ended.err.startswith("error: --name 'a é b': `name` must be")


def test_more_than_the_machine_has_is_refused(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--set", "resources.cpu=999")
    rule = r"`resources\.cpu` must be at most the \d+ that this machine gives, but is 999"
    way_out = r"Run with --set resources\.cpu=\d+, or on a cluster with --address\."
    assert ended.code == 2
    assert re.fullmatch(rf"error: {rule}\. {way_out}\n", ended.err)
    assert not Path("experiments").exists()


def test_more_than_one_gpu_a_trial_is_refused_with_the_reason(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--set", "resources.gpu=2")
    assert ended.code == 2
    assert "`resources.gpu` must be at most 1, since a trial trains on one GPU; further GPUs run" in ended.err
    assert not Path("experiments").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_refused_where_none_is(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--set", "resources.gpu=1")
    assert "`resources.gpu` 1 needs a GPU that CUDA can use, but here: " in ended.err
    assert "Set resources.gpu=0 to stay on the CPU, or run on a cluster with --address." in ended.err
    assert (ended.code, Path("experiments").exists()) == (2, False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_is_is_refused_at_once(
    address: str, space_file: Path, langsearch: "Command"
) -> None:
    ended = langsearch("run", space_file, "--address", address)
    rule = f"error: --address must be that of a running Ray cluster, but nothing answers at '{address}' ("
    assert ended.code == 2
    assert ended.err.startswith(rule)
    assert not Path("experiments").exists()


def test_a_name_of_digits_is_a_name(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("run", space_file, "--name", "7", "--resume")
    assert "experiments/7 does not exist" in ended.err


def test_check_shows_the_space_and_writes_nothing(space_file: Path, langsearch: "Command") -> None:
    ended = langsearch("check", space_file)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("tiny: the space is right. Nothing was started.\n")
    assert "adapters    8,448 to 33,792 parameters (0.35 to 1.39 % of the base)\n" in ended.out
    assert list(space_file.parent.iterdir()) == [space_file]
