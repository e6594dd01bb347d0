import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
import ray

from langsearch.cluster import client
from langsearch.experiment.folder import TrialFolder, read_rows
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.trial.stalls import stall_file

if TYPE_CHECKING:
    from tests.head_fixtures import Head

pytest_plugins = ["head_fixtures", "search_fixtures"]

LANGUAGES = ("en", "fr", "sw")


def refused(address: str, space: Path, experiments: str = "/experiments") -> str:
    """Returns why a search is refused, which must be told at once."""
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        client.run_on_head(load_space(space), address, experiments, [], lambda text: None)
    assert time.monotonic() - begin < 15
    (problem,) = caught.value.problems
    return problem


@contextmanager
def grpc_server(code: grpc.StatusCode | None) -> Iterator[str]:
    """A server that refuses every request with a code, or knows none."""

    class Refusing(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
        def service(self, call: Any) -> Any:
            def refuse(request: bytes, context: Any) -> None:
                context.abort(code, "no")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[] if code is None else [Refusing()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"ray://127.0.0.1:{port}"
    server.stop(None)


def test_a_place_that_is_none_on_the_cluster_is_refused(space_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        assert "must be a path that is absolute on the cluster" in refused(address, space_file, "experiments")


def test_a_port_where_another_server_listens_is_refused(space_file: Path) -> None:
    with grpc_server(None) as address:
        problem = refused(address, space_file)
    assert problem.startswith("--address ray://HOST:PORT must be that of Ray's client server, by default port 10001")
    assert f"but at {address!r} something else answers (" in problem


def test_a_token_that_is_refused_is_told(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "use_token", lambda: None)  # of this machine's user
    with grpc_server(grpc.StatusCode.UNAUTHENTICATED) as address:
        problem = refused(address, space_file)
    assert problem.startswith(f"The token must be the cluster's, but {address!r} refuses it. Copy the head's")


@pytest.mark.parametrize("address", ["ray://127.0.0.1", "ray://:x"])
def test_what_is_no_address_is_refused(address: str, space_file: Path) -> None:
    assert "must be auto, HOST:PORT or ray://HOST:PORT, but got" in refused(address, space_file)


BUSY = (
    "Initialization failure from server:\nRuntimeError: Starting Ray client server failed. See ray_client_server_1.err"
)
"""What Ray's client raises where the head has not started a process for it within its half minute."""


def connecting(
    monkeypatch: pytest.MonkeyPatch, answers: Sequence[Exception | None], pings: Sequence[grpc.StatusCode]
) -> str:
    """Connects to a head that answers so, one after another; returns what is told."""
    told: list[str] = []
    answers, pings = list(answers), list(pings)

    def init(*given: Any, **options: Any) -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(client, "_ping", lambda address: (pings.pop(0), ""))
    client._connect("ray://10.0.0.1:10001", told.append)
    assert not answers
    return "".join(told)


def test_a_head_that_lives_and_is_busy_is_asked_again_and_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [ConnectionAbortedError(BUSY), ConnectionError("Ray Client connection timed out. Ensure that"), None]
    told = connecting(monkeypatch, answers, [grpc.StatusCode.OK] * 3)
    assert told == "The head at ray://10.0.0.1:10001 lives, but is too busy to serve another client. Trying again …\n"


def test_a_head_that_ends_while_it_is_busy_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="answered, and ended while it started a process for this client"):
        pings = [grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE]
        connecting(monkeypatch, [ConnectionAbortedError(BUSY)], pings)


def test_a_head_that_stays_busy_is_given_up_and_not_called_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_SECONDS_FOR_A_BUSY_HEAD", -1.0)
    with pytest.raises(InputError, match="answers and has started none") as caught:
        connecting(monkeypatch, [ConnectionAbortedError(BUSY)], [grpc.StatusCode.OK] * 2)
    assert "nothing answers" not in str(caught.value)


def test_what_is_no_sign_of_a_busy_head_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="of the cluster's versions"):
        error = ConnectionAbortedError("Version mismatch:\n Ray: 2.59.0\n Python: 3.12")
        connecting(monkeypatch, [error], [grpc.StatusCode.OK])


Starter = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(head: "Head", space_file: Path, tmp_path: Path) -> Iterator[Starter]:
    """Starts runs of a space whose data is only here; what still runs at the end is killed."""
    for part in ("train", "other", "test"):
        (tmp_path / part).mkdir()
        for language in LANGUAGES:
            text = "".join(f"{part} {language} {row} {row * row}\n" for row in range(30))
            (tmp_path / part / f"{language}.txt").write_text(text, encoding="utf-8")
    data = ["train={files: train}", "validation={files: other}", "test={files: test}"]
    settings = [*(f"data.{setting}" for setting in data), "search.trials=1", "baselines=[]", "resources.cpu=2"]
    started = []

    def run(*more: str, code: str = "", environment: dict[str, str] | None = None) -> "subprocess.Popen[str]":
        code = f"{code}\nfrom langsearch.cli.app import main\nmain()"
        given = [f"--set={setting}" for setting in settings]
        place = ["--experiments", str(tmp_path / "experiments"), "--address", head.client]
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", code, "run", space_file.name, *given, *place, *more],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=tmp_path,
                env={**os.environ, **(environment or {})},
            )
        )
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """Waits for a run's end; returns what it has printed."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == code, out + err
    return out + err


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_search_runs_on_the_head_with_what_is_only_here(start: Starter, head: "Head", tmp_path: Path) -> None:
    output = ended(start("--set=trainer.epochs=1"), 0)
    assert f"Sent to {head.client}" in output
    assert f"Report: {tmp_path}/experiments/tiny/report.html" in output
    assert "Traceback" not in output
    (row,) = read_rows(tmp_path / "experiments/tiny/results.parquet")
    assert row["state"] == "complete"
    assert "--resume" in ended(start("--set=trainer.epochs=1"), 2), "the search's own exit code"
    until(lambda: not list(head.folder.glob("langsearch-run-*")))


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_interrupts_reach_the_search_and_a_lost_client_does_not_end_it(
    start: Starter, head: "Head", tmp_path: Path
) -> None:
    long = "--set=trainer.pairs_per_epoch=5000"
    trial = tmp_path / "experiments/tiny/trials/00000"
    begun = start(long)
    # There while a worker is at an epoch of it: what interrupts it from then on leaves a checkpoint behind.
    until(stall_file(TrialFolder(trial)).exists)
    begun.send_signal(signal.SIGINT)
    assert "Go on with the same command and --resume" in ended(begun, 130)
    checkpoint = sorted((trial / "checkpoint").glob("0*"))[-1]  # by then an epoch may have ended, and left one too

    lost = start(long, "--resume")
    until(lambda: sorted((trial / "checkpoint").glob("0*"))[-1] != checkpoint)
    lost.kill()
    second = start(long)  # alone: a head that serves two at once may be done with the search before it answers
    assert "Follow it with --resume, or start another with --name" in ended(second, 2)
    follower = start(long, "--resume")
    output = ended(follower, 0)
    assert "is being searched already. Its output follows" in output
    assert "Report: " in output
    (row,) = read_rows(tmp_path / "experiments/tiny/results.parquet")
    assert row["state"] == "complete"


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_what_a_cluster_refuses_is_told_in_a_line(
    start: Starter, head: "Head", space_file: Path, tmp_path: Path
) -> None:
    dashboard = head.dashboard.replace("http", "ray")
    assert f"by default port 10001 of the head, but at {dashboard!r}" in refused(dashboard, space_file)
    (tmp_path / "token").write_text("b" * 64, encoding="utf-8")
    wrong = {
        "The token must be the cluster's, but": start(environment={"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}),
        "Ray and Python must be of the cluster's versions, but": start(code="import ray; ray.__version__ = '1.0'"),
        "langsearch must be of the cluster's version, but here it is 9 and": start(
            code="from langsearch.cluster import client; client.__version__ = '9'"
        ),
    }
    for rule, process in wrong.items():
        output = ended(process, 2)
        assert output.startswith("error: "), output
        assert rule in output
        assert output.count("\n") == 1, output
