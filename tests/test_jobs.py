import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from ray.job_submission import JobStatus

from langsearch.cluster import jobs, packing
from langsearch.cluster.jobs import Jobs
from langsearch.cluster.packing import pack, read_folder, show_folder
from langsearch.experiment.environment import check_space
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space

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
    monkeypatch.setattr(packing, "MAX_SENT_BYTES", 100)
    with pytest.raises(InputError, match=r"must be at most 0 MB, but is more: data/train \(0 MB\)"):
        pack(local_space, tmp_path)
    shutil.rmtree(tmp_path / "data" / "other")
    with pytest.raises(InputError, match="goes along, but there is no data/other"):
        pack(local_space, tmp_path)


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
    followed._client = FakeClient()
    parts: list[str] = []
    assert followed.follow("a", parts.append) == 7
    assert "".join(parts) == "one\ntwo\nthree\n"


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
