"""A whole search on an S3 server of this machine: run, killed, resumed elsewhere, fetched.

Deselected by default: `python -m pytest -m integration`.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from langsearch.experiment.folder import read_json, read_rows
from langsearch.experiment.object_store import child, open_system, read_bytes
from langsearch.experiment.remote import Remote
from tests.integration.harness import Experiment, write_faults
from tests.s3_fixtures import s3_url

pytest_plugins = ["s3_fixtures"]
pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

SETTINGS = ("search.trials=3", "search.sampler=random", "search.scheduler=none", "trainer.pairs_per_epoch=150")


@pytest.fixture
def environment() -> Iterator[dict[str, str]]:
    """Variables of the runs: a short folder for Ray's sockets."""
    folder = tempfile.mkdtemp(prefix="ray-")
    yield {"RAY_TMPDIR": folder}
    shutil.rmtree(folder, ignore_errors=True)


def langsearch(*arguments: object) -> str:
    """Runs a command that must succeed; returns what it has printed."""
    line = [sys.executable, "-m", "langsearch", *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def has_checkpoint(storage: Remote, name: str) -> bool:
    """Whether a checkpoint of a trial is whole there, and so what was written before it."""
    folder = f"trials/{name}/checkpoint"
    return any(storage.exists(f"{folder}/{found}/state.json") for found in storage.names(folder))


def test_a_search_killed_on_one_machine_goes_on_on_another(
    s3_port: int, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = Experiment(tmp_path / "undisturbed", SETTINGS, environment)
    undisturbed.run()

    url = s3_url(s3_port, "experiments")
    storage = Remote(child(url, "tiny"))
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "one"))
    experiment = Experiment(tmp_path / "it", SETTINGS, environment, url=url)
    with experiment.running() as driver:
        driver.wait_for(lambda: has_checkpoint(storage, "00001"), between=0.2)
        assert driver.kill()
    driver.wait_until_gone()
    (epoch, *_) = pq.read_table(io.BytesIO(read_bytes(storage.url, "trials/00001/curve.parquet"))).to_pylist()
    shutil.rmtree(tmp_path / "one")

    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "two"))
    experiment.run("--resume")
    experiment.assert_ended(3)
    assert read_rows(experiment.trial("00001") / "curve.parquet")[0] == epoch, "with its seconds: trained once"
    assert experiment.comparable() == undisturbed.comparable()
    for name in ("00000", "00001", "00002"):
        assert read_rows(experiment.trial(name) / "scores.parquet") == read_rows(
            undisturbed.trial(name) / "scores.parquet"
        )

    worked, rows = experiment.path, experiment.rows()
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "three"))
    langsearch("fetch", storage.url, "--to", tmp_path / "fetched")
    fetched = tmp_path / "fetched"
    assert read_rows(fetched / "results.parquet") == read_rows(worked / "results.parquet")
    assert read_json(fetched / "experiment.json")["finished"] is not None
    assert {path.name for path in (fetched / "front").iterdir()} == {
        row["name"] for row in rows.values() if row["is_front"]
    }
    shown = json.loads(langsearch("show", storage.url, "--json"))
    assert json.loads(langsearch("show", fetched, "--json")) == shown | {"folder": str(fetched)}
    assert "Report: " in langsearch("report", storage.url)
    there = {path.name for path in worked.iterdir() if not path.name.startswith(".")}
    assert storage.names() == sorted(there - {"study.db"}), "the study goes in pieces"
    assert (fetched / "study.db").read_bytes() == (worked / "study.db").read_bytes()


def everything(url: str) -> dict[str, bytes]:
    """All that lies on the store below a URL."""
    system, root = open_system(url)
    infos = system.get_file_info(pafs.FileSelector(root, recursive=True))
    return {info.path: system.open_input_stream(info.path).read() for info in infos if info.is_file}


def test_a_driver_that_was_paused_while_another_one_took_over_and_its_workers_write_nothing_more(
    s3_port: int, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, faults, seconds = s3_url(s3_port, "paused"), tmp_path / "faults", 20.0
    variables = {**environment, **write_faults(faults, {"00001": {"kind": "wait", "update": 2, "times": 1}})}
    variables["LANGSEARCH_TEST_LEASE_SECONDS"] = str(seconds)
    first = Experiment(tmp_path / "first", SETTINGS, variables, url=url)
    second = Experiment(tmp_path / "second", SETTINGS, variables, url=url)
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "one"))
    with first.running() as driver:
        driver.wait_for((faults / "struck-00001").exists)
        os.kill(driver.pid, signal.SIGSTOP)
        monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "two"))
        time.sleep(1.01 * seconds + 3)
        second.run("--resume")
        second.assert_ended(3)
        before = everything(url)
        (faults / "go").touch()
        time.sleep(5)
        assert everything(url) == before, "a worker goes on while its driver is paused"
        os.kill(driver.pid, signal.SIGCONT)
        driver.ends_with(1, timeout=60)
        driver.wait_until_gone()
        assert everything(url) == before
    assert driver.output.count("Stopped: ") == 1
    assert "Stopped: The lease on" in driver.output
    assert "Traceback" not in driver.output
