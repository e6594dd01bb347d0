import inspect
import io
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE
from ray._private.runtime_env.packaging import create_package
from ray.job_submission import JobStatus

from langsearch.cli.app import app
from langsearch.cli.cluster import submit as submit_command
from langsearch.cli.search import run as run_command
from langsearch.cluster import jobs, packing
from langsearch.cluster.jobs import Jobs
from langsearch.cluster.packing import pack, read_folder, show_folder, unpack_folder
from langsearch.experiment.environment import check_space
from langsearch.experiment.folder import read_rows
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.train.checkpoint import read_newest_checkpoint

if TYPE_CHECKING:
    from tests.head_fixtures import Head

pytest_plugins = ["head_fixtures", "search_fixtures"]

LANGUAGES = ("en", "fr", "sw")


@pytest.fixture
def local_space(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> Space:
    """A space with data in a folder of the current one."""
    monkeypatch.chdir(space_file.parent)
    for part in ("train", "other"):
        (space_file.parent / "data" / part).mkdir(parents=True)
        for language in LANGUAGES:
            file = space_file.parent / "data" / part / f"{language}.txt"
            file.write_text("".join(f"{part} {language} {row}\n" for row in range(8)), encoding="utf-8")
    (space_file.parent / "data" / "train" / ".gitignore").write_text("*\n", encoding="utf-8")
    settings = ["train={files: data/train}", "validation={files: data/other}", "test={files: /on/the/cluster}"]
    return load_space(space_file, [f"data.{setting}" for setting in settings])


def test_relative_paths_go_along_and_absolute_ones_stay(local_space: Space, tmp_path: Path) -> None:
    folder = tmp_path / "packed"
    folder.mkdir()
    assert pack(local_space, folder) == ["data/train", "data/other"]
    packed = load_space(folder / "space.yaml")
    assert [source.path for source in packed.data.train] == ["files/0-train"]
    assert [source.path for source in packed.data.validation] == ["files/1-other"]
    assert [source.path for source in packed.data.test] == ["/on/the/cluster"]
    assert packed.base == "tiny-m2m"
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "space.yaml",
        *(f"files/{name}/{language}.txt" for name in ("0-train", "1-other") for language in LANGUAGES),
    }


def test_a_packed_space_is_the_same_space(space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = load_space(space_file)
    folder = tmp_path / "packed"
    folder.mkdir()
    assert pack(space, folder) == []
    assert load_space(folder / "space.yaml").text == space.text
    monkeypatch.chdir(folder)
    assert check_space(load_space("space.yaml")).directions == check_space(space).directions


def test_every_kind_of_path_goes_along(space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "flores", "adapters"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}", encoding="utf-8")
    (tmp_path / "score.model").write_bytes(b"1")
    (tmp_path / "a.tsv").write_text("en\tfr\tsw\n", encoding="utf-8")
    settings = [
        "base=base",
        "data={folder: flores, train: {tsv: a.tsv}, validation: {flores101: dev}, test: {flores101: devtest}}",
        "evaluation.spbleu=spm:score.model",
        "trainer.init_from=adapters",
    ]
    folder = tmp_path / "packed"
    folder.mkdir()
    assert set(pack(load_space(space_file, settings), folder)) == {"flores", "a.tsv", "base", "score.model", "adapters"}
    packed = load_space(folder / "space.yaml")
    named = [packed.base, packed.evaluation.spbleu.removeprefix("spm:"), packed.trainer_section.init_from]
    named += [source.path for source in (*packed.data.train, *packed.data.test)]
    assert all(name is not None and (folder / name).exists() for name in named), named


def test_what_is_not_here_or_too_large_is_refused(
    local_space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "data" / "train" / "fr.txt").open("a", encoding="utf-8") as file:
        file.write("a" * 3_000_000)
    monkeypatch.setattr(packing, "MAX_SENT_BYTES", 2_000_000)
    listed = r"data/train/fr\.txt \(3\.0 MB\), data/\w+/\w+\.txt \(0\.0 MB\), .* and 1 more files\. Copy it"
    with pytest.raises(InputError, match=rf"must be at most 2 MB, but is 3 MB: {listed}"):
        pack(local_space, tmp_path)
    shutil.rmtree(tmp_path / "data" / "other")
    with pytest.raises(InputError, match="goes along, but there is no data/other"):
        pack(local_space, tmp_path)


def test_a_job_may_be_as_large_as_rays_server_takes(local_space: Space, tmp_path: Path) -> None:
    assert packing.MAX_JOB_BYTES == DASHBOARD_CLIENT_MAX_SIZE
    here, package = tmp_path / "packed", tmp_path / "package.zip"
    here.mkdir()
    pack(local_space, here)
    create_package(str(here), package, include_gitignore=True)
    with pytest.raises(InputError, match="What goes along with a space must be at most"):
        pack(local_space, tmp_path / "again", package.stat().st_size - 1)


def test_submit_has_every_option_of_run() -> None:
    run, submit = (inspect.signature(command).parameters for command in (run_command, submit_command))
    assert set(run) - set(submit) == set()
    shared = set(run) - {"address", "experiments"}
    assert {name for name in shared if run[name].annotation != submit[name].annotation} == set()


def test_submit_passes_on_what_was_given(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(jobs, "Jobs", lambda address: SimpleNamespace(submit=lambda *given: sent.append(given)))
    line = ["--address", "http://head:8265", "--experiments", "/shared", "--detach", "--name", "a", "--trials", "7"]
    line += ["--hours", "2", "--resume-if-begun", "--retry", "failed", "--accept-changed-space", "--quiet"]
    with pytest.raises(SystemExit, match="0"):
        app(["submit", str(space_file), *line, "--set", "trainer.epochs=2"])
    ((space, experiments, options),) = sent
    assert (space.name, space.search.trials, space.search.max_hours) == ("a", 7, 2)
    assert (space.trainer_section.epochs, experiments) == (2, "/shared")
    assert options == ["--resume-if-begun", "--accept-changed-space", "--retry", "failed", "--quiet"]


def test_an_experiment_survives_being_text(tmp_path: Path) -> None:
    folder = tmp_path / "experiment"
    (folder / "trials" / "00000").mkdir(parents=True)
    (folder / "space.yaml").write_text("name: é\n", encoding="utf-8")
    (folder / "trials" / "00000" / "weights").write_bytes(bytes(range(256)) * 50)
    (folder / ".lock").write_text("", encoding="utf-8")
    text = f"a log\n{show_folder(folder)}more of it\n"
    read_folder(text, tmp_path / "here")
    assert (tmp_path / "here" / "space.yaml").read_text(encoding="utf-8") == "name: é\n"
    assert (tmp_path / "here" / "trials" / "00000" / "weights").read_bytes() == bytes(range(256)) * 50
    assert not (tmp_path / "here" / ".lock").exists()
    with pytest.raises(InputError, match="came torn"):
        read_folder(text[:-100], tmp_path / "torn")
    with pytest.raises(InputError, match=r"^no such thing$"):
        read_folder("a log\nerror: no such thing\n", tmp_path / "torn")
    assert not (tmp_path / "torn").exists()


def test_what_is_no_experiment_or_too_large_is_not_handed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has none on the cluster's head"):
        show_folder(tmp_path)
    (tmp_path / "space.yaml").write_text("name: a\n", encoding="utf-8")
    monkeypatch.setattr(packing, "MAX_PRINTED_BYTES", 3)
    with pytest.raises(InputError, match="Copy it with rsync, scp or `ray rsync-down`"):
        show_folder(tmp_path)


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("10.0.0.1:6379", "must be the cluster's dashboard, http://HOST:8265, but got"),
        ("http://127.0.0.1:1", "nothing"),
    ],
)
def test_an_address_without_a_dashboard_is_refused(address: str, rule: str) -> None:
    with pytest.raises(InputError, match=rule):
        Jobs(address)


class FakeClient:
    """A cluster whose connection breaks: the log comes in parts, and each try of a tail ends with an error."""

    def __init__(self) -> None:
        self.log, self.tails, self.looks = "one\ntwo\nthree\n", 0, 0

    async def tail_job_logs(self, job: str) -> Any:
        self.tails += 1
        for line in self.log.splitlines(keepends=True)[: self.tails]:
            yield line
        raise RuntimeError("the connection is gone")

    def get_job_info(self, job: str) -> Any:
        self.looks += 1
        if self.looks == 1:
            raise OSError("the head is away")
        return SimpleNamespace(status=JobStatus.FAILED if self.looks > 2 else JobStatus.RUNNING, driver_exit_code=7)

    def get_job_logs(self, job: str) -> str:
        return self.log


def test_following_a_job_survives_lost_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SECONDS_BETWEEN_LOOKS", 0.0)
    followed = Jobs.__new__(Jobs)
    followed._client, followed.address = FakeClient(), "http://head:8265"
    parts: list[str] = []
    assert followed.follow("a", parts.append) == 7
    assert "".join(parts) == "one\ntwo\nthree\n"


class AwayClient(FakeClient):
    """A cluster that answers every question by one error."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def get_job_info(self, *_: Any, **__: Any) -> Any:
        raise self.error

    get_job_status = list_jobs = submit_job = get_job_info


def away(error: Exception) -> Jobs:
    found = Jobs.__new__(Jobs)
    found._client, found.address = AwayClient(error), "http://head:8265"
    return found


UNKNOWN = RuntimeError("Request failed with status code 404: Job a does not exist.")


def test_a_job_that_vanished_is_not_followed_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_SECONDS_BETWEEN_LOOKS", 0.0)
    with pytest.raises(
        InputError, match=r"http://head:8265 knows no 'a' any more: .* submit it again with --resume\.$"
    ):
        away(UNKNOWN).follow("a", print)


def test_a_head_that_does_not_come_back_ends_the_following(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(jobs, "_SECONDS_TO_COME_BACK", 0.1)
    with pytest.raises(ConnectionError, match=r"again with: langsearch status 'a b' --address http://head:8265 --f"):
        away(OSError("refused")).follow("a b", print)
    assert [record.message for record in caplog.records] == [
        "http://head:8265 does not answer (refused). Trying again …"
    ]


@pytest.mark.parametrize("error", [RuntimeError("status code 500"), OSError("refused")])
def test_a_cluster_that_goes_away_is_told_by_every_question(error: Exception, tmp_path: Path) -> None:
    cluster = away(error)
    to = tmp_path / "b"
    questions: list[Callable[[], object]] = [cluster.all, lambda: cluster.find("a"), lambda: cluster.fetch("a", to)]
    for ask in questions:
        with pytest.raises(ConnectionError, match=r"^http://head:8265 must answer, but does not \((status|refused)"):
            ask()
    with pytest.raises(InputError, match="must take the job, but does not"):
        cluster.fetch("/on/the/cluster", to)


def test_a_job_says_where_its_experiment_lies() -> None:
    details = SimpleNamespace(
        submission_id="tiny-1",
        status=JobStatus.RUNNING,
        message="Job is running.\n",
        metadata={"langsearch_experiments": "s3://bucket/all/?region=eu-west-1", "langsearch_name": "tiny"},
        start_time=1000,
        end_time=None,
    )
    job = jobs._job(details)
    assert job.experiment == "s3://bucket/all/tiny?region=eu-west-1"
    assert (job.status, job.message, job.ended) == ("running", "Job is running.", None)
    assert job.started == datetime.fromtimestamp(1, UTC)
    details.metadata = None
    assert jobs._job(details).experiment is None


@pytest.mark.integration
def test_a_search_as_a_job(head: "Head", space_file: Path, tmp_path: Path) -> None:
    experiments, here = tmp_path / "experiments", tmp_path / "here"
    (tmp_path / "elsewhere").mkdir()

    def langsearch(*arguments: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "langsearch", *map(str, arguments), "--address", head.dashboard]
        return subprocess.run(
            line, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path / "elsewhere"
        )

    settings = ["--set", "search.trials=1", "--set", "baselines=[]", "--set", "trainer.epochs=1"]
    done = langsearch("submit", space_file, "--experiments", experiments, *settings, "--detach")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1].rstrip(".")
    followed = langsearch("status", job, "--follow")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "Report:" in followed.stdout
    listed = langsearch("status")
    assert f"{job}  succeeded" in listed.stdout
    assert f"{experiments}/tiny" in listed.stdout
    fetched = langsearch("fetch", job, "--to", here)
    assert fetched.returncode == 0, fetched.stderr
    assert (here / "report.html").is_file()
    assert (here / "results.parquet").read_bytes() == (experiments / "tiny" / "results.parquet").read_bytes()
    again = langsearch("submit", space_file, "--experiments", experiments, *settings)
    assert again.returncode == 2, "the search's own exit code"
    assert "resume" in again.stdout
    unknown = langsearch("fetch", "nothing", "--to", tmp_path / "no")
    assert (unknown.returncode, unknown.stderr.startswith("error: JOB must be a job of")) == (2, True)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_job_that_is_stopped_ends_behind_checkpoints_and_goes_on_by_the_same_line(
    head: "Head", space_file: Path, tmp_path: Path
) -> None:
    experiments = tmp_path / "experiments"
    settings = ["search.trials=1", "baselines=[]", "trainer.epochs=12"]

    def submit(*more: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "langsearch", "submit", str(space_file), "--address", head.dashboard]
        line += ["--experiments", str(experiments), "--resume-if-begun", *more]
        line += [part for setting in settings for part in ("--set", setting)]
        return subprocess.run(line, capture_output=True, text=True, check=False, timeout=200, cwd=tmp_path)

    done = submit("--detach")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split()[1].rstrip(".")
    checkpoint, end = experiments / "tiny" / "trials" / "00000" / "checkpoint", time.monotonic() + 120
    while read_newest_checkpoint(checkpoint) is None and time.monotonic() < end:
        time.sleep(0.1)

    def ray_job(*arguments: str) -> str:
        line = ["ray", "job", *arguments, job, "--address", head.dashboard]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=200).stdout

    ray_job("stop")
    log = ray_job("logs")
    assert "00000           stopped behind a checkpoint" in log, log
    assert "Interrupted: not all trials have ended" in log, log
    again = submit()
    assert again.returncode == 0, again.stdout + again.stderr
    rows = read_rows(experiments / "tiny" / "results.parquet")
    assert [(row["name"], row["state"], row["epochs"]) for row in rows] == [("00000", "complete", 12)]


@pytest.mark.parametrize("name", ["../outside", "/outside", "link"])
def test_what_would_lie_elsewhere_is_not_unpacked(name: str, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/outside"
        archive.addfile(member)
    with pytest.raises(InputError, match="must hold files and folders of its own, but has "):
        unpack_folder(packed.getvalue(), tmp_path / "to")
    assert not (tmp_path / "outside").exists()
