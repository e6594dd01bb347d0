"""The dashboard by HTTP: what it serves, to whom, and what it passes on."""

import base64
import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from werkzeug.test import Client, TestResponse

from langsearch.cli import app
from langsearch.dashboard.application import make_application
from langsearch.dashboard.live import LiveExperiment
from langsearch.dashboard.serving import open_dashboard
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.lock import hold
from langsearch.report.experiment_reader import Trial, as_trial, read_experiment
from langsearch.space.problems import InputError
from langsearch.study.rows import STOPPED
from tests.dashboard_fixtures import LiveSearch, running
from tests.report_fixtures import make_experiment

ASKING = {"X-Langsearch": "1"}
TOKEN = "s3cret & more"


@pytest.fixture
def search(tmp_path: Path) -> LiveSearch:
    """A search with two baselines, two complete trials and one that runs."""
    search = LiveSearch(tmp_path / "experiments" / "small")
    search.run_baselines()
    for spbleu in (8.0, 11.0):
        search.run(spbleu)
    search.epoch(search.begin(), 1, 6.0)
    return search


@pytest.fixture
def client(search: LiveSearch) -> Client:
    return client_of(search.folder.path)


def client_of(*paths: Path, **options: Any) -> Client:
    return Client(make_application(paths, **options))


def ask(client: Client, path: str, *, expected: int = 200, method: str = "GET", **options: Any) -> TestResponse:
    options.setdefault("base_url", "http://127.0.0.1:8266")
    answer = client.open(path, method=method, **options)
    assert answer.status_code == expected, answer.get_data(as_text=True)[:400]
    return answer


def update(client: Client, index: int = 0) -> Any:
    return json.loads(ask(client, f"/experiments/{index}/update").get_data())


def version(client: Client, path: str = "/experiments/0/version") -> str:
    return str(json.loads(ask(client, path).get_data())["version"])


def stop(client: Client, trial: str | None, *, expected: int, **headers: str) -> str:
    path, options = "/experiments/0/stop", {"json": {"trial": trial}, "headers": {**ASKING, **headers}}
    answer = ask(client, path, expected=expected, method="POST", **options)
    return str(answer.get_json()["message"]) if answer.is_json else answer.get_data(as_text=True)


def states(client: Client) -> dict[str, str]:
    trials = update(client)["data"]["trials"]
    return dict(zip(trials["name"], trials["state"], strict=True))


def test_one_experiment_opens_its_own_page_with_its_data_inside(client: Client, search: LiveSearch) -> None:
    assert ask(client, "/", expected=302).location == "/experiments/0/"
    page = ask(client, "/experiments/0/").get_data(as_text=True)
    found = re.search(r'id="report-data">([^<]*)<', page)
    assert found is not None
    data = json.loads(gzip.decompress(base64.b64decode(found[1])))
    assert data["trials"]["name"] == [row.name for row in search.table.rows()]
    assert "<script>" not in page, "scripts come as files alone"


def test_the_trials_are_those_of_results_parquet_to_the_last_value(search: LiveSearch) -> None:
    search.write_results()
    live = LiveExperiment(search.folder.path).snapshot()
    assert live.experiment is not None
    assert live.experiment.trials == read_experiment(search.folder.path).trials


def test_what_changes_changes_the_version_and_is_in_the_next_update(client: Client, search: LiveSearch) -> None:
    before = version(client)
    assert (version(client), states(client)["00002"]) == (before, "running")
    search.epoch("00002", 2, 7.0)
    first = version(client)
    found = update(client)
    place = found["data"]["trials"]["name"].index("00002")
    assert found["data"]["trials"]["epochs"][place] == 2
    assert found["data"]["trials"]["curve"][place] == [[1, 6.6], [2, 7.0]]
    search.complete("00002", 20.0)
    assert states(client)["00002"] == "complete"
    assert len({before, first, version(client)}) == 3
    assert found["version"] == first


def test_a_curve_that_is_written_before_the_table_hears_of_it_is_shown(client: Client, search: LiveSearch) -> None:
    before = version(client)
    curve = search.folder.trial("00002").curve
    content = curve.read_bytes()
    curve.unlink()
    assert version(client) != before
    torn = version(client)
    curve.write_bytes(content[:100])
    assert version(client) != torn
    trials = update(client)["data"]["trials"]
    assert trials["curve"][trials["name"].index("00002")] == [], "a torn curve is left out"


def test_only_what_changed_is_read_again(search: LiveSearch, monkeypatch: pytest.MonkeyPatch) -> None:
    experiment, made = LiveExperiment(search.folder.path), list[str]()
    first = experiment.page().snapshot.experiment

    def note(row: Mapping[str, Any]) -> Trial | None:
        made.append(row["name"])
        return as_trial(row)

    monkeypatch.setattr("langsearch.dashboard.live.as_trial", note)
    assert experiment.page().snapshot.experiment is first
    search.epoch("00002", 2, 7.0)
    second = experiment.page().snapshot.experiment
    assert made == ["00002"]
    assert first is not None and second is not None
    same = [old is new for old, new in zip(first.trials, second.trials, strict=True)]
    assert same == [trial.name != "00002" for trial in first.trials]


def test_looking_writes_nothing(client: Client, search: LiveSearch) -> None:
    def files() -> dict[str, tuple[int, bytes]]:
        found = [path for path in search.folder.path.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}

    before = files()
    for path in ("/experiments/0/", "/experiments/0/update", "/compare/?with=0", "/dashboard", "/api/studies"):
        ask(client, path)
    assert files() == before


@pytest.mark.parametrize("content", [b"", b"SQLite format 3\0torn"])
def test_a_torn_trial_table_is_not_readable_yet_and_the_results_are_shown(content: bytes, search: LiveSearch) -> None:
    search.write_results()
    search.folder.study.write_bytes(content)
    client = client_of(search.folder.path)
    found = update(client)
    assert "Not readable yet" in found["page"] and "results.parquet, which may be older" in found["page"]
    assert len(found["data"]["trials"]["name"]) == 5


def test_a_torn_space_and_description_are_said_and_nothing_fails(search: LiveSearch) -> None:
    search.folder.space.write_text("name: [", encoding="utf-8")
    search.folder.description.write_text("{", encoding="utf-8")
    page = update(client_of(search.folder.path))["page"]
    assert "Not readable yet: space.yaml cannot be read now" in page and "experiment.json cannot be read" in page


def test_a_table_that_is_torn_while_it_is_shown_keeps_what_was_seen(client: Client, search: LiveSearch) -> None:
    assert len(states(client)) == 5
    content = search.folder.study.read_bytes()
    search.folder.study.write_bytes(content[:8192])
    found = update(client)
    assert "Not readable yet" in found["page"]
    assert len(found["data"]["trials"]["name"]) in (0, 5)
    search.folder.study.write_bytes(content)
    os.utime(search.folder.study)
    assert len(states(client)) == 5


def test_an_experiment_that_is_not_there_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later"
    client = client_of(path)
    assert "There is no experiment in" in ask(client, "/experiments/0/").get_data(as_text=True)
    before = version(client)
    LiveSearch(path)
    assert version(client) != before
    assert "No trial has started yet." in ask(client, "/experiments/0/").get_data(as_text=True)


def test_the_state_is_running_while_a_run_holds_it(client: Client, search: LiveSearch) -> None:
    assert 'class="light stopped"' in update(client)["page"]
    with running(search):
        page = update(client)["page"]
        assert 'class="light running"' in page and "Stop the search" in page
    assert "Stop the search" not in update(client)["page"]


def test_a_stop_is_passed_to_the_driver_by_a_file(client: Client, search: LiveSearch) -> None:
    with running(search):
        before = version(client)
        assert "Trial 00002 was asked to stop" in stop(client, "00002", expected=200)
        assert search.folder.trial("00002").stop.exists()
        assert version(client) != before
        assert update(client)["live"] == {"running": ["00002"], "stopping": ["00002"]}
        search.table.stop("00002")
        trials = update(client)["data"]["trials"]
        place = trials["name"].index("00002")
        assert (trials["state"][place], trials["cause"][place], trials["epochs"][place]) == ("pruned", STOPPED, 1)
        assert "The search was asked to stop" in stop(client, None, expected=200)
        assert search.folder.stop.exists()


def test_a_stop_that_cannot_be_met_is_answered_plainly_and_writes_nothing(client: Client, search: LiveSearch) -> None:
    assert "No run holds small now" in stop(client, "00002", expected=409)
    assert "No run holds small now" in stop(client, None, expected=409)
    with running(search):
        assert (
            stop(client, "00001", expected=409) == "Trial 00001 had ended before it could be stopped: it is complete."
        )
        for name in ("00099", "../small", "..", "", "pretrained/../00002"):
            assert stop(client, name, expected=409) == "There is no such trial."
        row = search.table.row("00002")
        search.table.add(search.table.num_searched, dict(row.params), fingerprint="x", same_as="00002")
        assert "waits for 00002, which trains the same" in stop(client, "00003", expected=409)
        for body in (b"", b"[]", b"{}", b'{"trial": 3}', b"x" * 10_000):
            ask(client, "/experiments/0/stop", expected=400, method="POST", data=body, headers=ASKING)
    assert not list(search.folder.path.rglob("stop"))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**ASKING, "Origin": "http://evil.example"},
        {**ASKING, "Origin": "http://127.0.0.1:9999"},
        {**ASKING, "Origin": "null"},
        {**ASKING, "Sec-Fetch-Site": "cross-site"},
        {**ASKING, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_stop_anything(headers: dict[str, str], client: Client, search: LiveSearch) -> None:
    with running(search):
        ask(client, "/experiments/0/stop", expected=403, method="POST", json={"trial": "00002"}, headers=headers)
        assert not search.folder.trial("00002").stop.exists()
        ours = {**ASKING, "Origin": "http://127.0.0.1:8266", "Sec-Fetch-Site": "same-origin"}
        ask(client, "/experiments/0/stop", method="POST", json={"trial": "00002"}, headers=ours)


@pytest.mark.parametrize("host", ["127.0.0.1:8266", "localhost:9000", "[::1]:8266", "LOCALHOST", "localhost."])
def test_loopback_names_are_served_also_through_a_forwarded_port(host: str, client: Client) -> None:
    ask(client, "/experiments/0/version", base_url="http://127.0.0.1", headers={"Host": host})


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:8266", "localhost.evil", "", "192.168.0.3"])
@pytest.mark.parametrize("path", ["/", "/experiments/0/", "/dashboard", "/api/studies", "/nothing"])
def test_other_names_are_refused_everywhere(host: str, path: str, client: Client) -> None:
    ask(client, path, expected=403, headers={"Host": host})


def test_with_a_token_every_request_needs_it(search: LiveSearch) -> None:
    client = client_of(search.folder.path, token=TOKEN, host="0.0.0.0")
    paths = ("/", "/experiments/0/", "/experiments/0/update", "/assets/x/page.js", "/dashboard", "/api/studies", "/x")
    for path in paths:
        ask(client, path, expected=401)
        ask(client, path, expected=401, headers={"Authorization": "Bearer wrong"})
        ask(client, path, expected=401, headers={"Cookie": "langsearch_8266=wrong"})
        ask(client, path, expected=401, query_string={"token": "wrong"})
    ask(client, "/experiments/0/stop", expected=401, method="POST", json={"trial": None}, headers=ASKING)
    ask(client, "/experiments/0/update", headers={"Authorization": f"Bearer {TOKEN}"})


def test_the_first_visit_moves_the_token_from_the_address_into_a_cookie(search: LiveSearch) -> None:
    client = client_of(search.folder.path, token=TOKEN, host="0.0.0.0")
    answer = ask(client, "/compare/", expected=303, query_string={"token": TOKEN, "with": "0"})
    assert answer.location == "/compare/?with=0"
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Lax" in cookie
    assert "s3cret" not in cookie
    ask(client, "/experiments/0/")
    ask(client, "/api/studies")
    path = {"PATH_INFO": "//evil.example/"}
    other = ask(client, "/", expected=303, query_string={"token": TOKEN}, environ_overrides=path)
    assert other.location == "/evil.example/", "it never leads elsewhere"
    with running(search):
        ask(client, "/experiments/0/stop", expected=403, method="POST", json={"trial": None})
        ask(client, "/experiments/0/stop", method="POST", json={"trial": None}, headers=ASKING)


def test_only_known_addresses_are_answered(client: Client) -> None:
    for path in (
        *("/experiments/1/", "/experiments/-1/", "/experiments/x/", "/experiments/0/study.db", "/etc/passwd"),
        *("/experiments/0/../../etc/passwd", "/experiments/%2e%2e/", "/assets/x/..%2f..%2fcli.py", "/assets/x/page.py"),
        "/experiments/99999999999999999999/update",
    ):
        ask(client, path, expected=404)
    for path in ("/static/../_app.py", "/static/%2e%2e/_app.py", "/static/..%2f..%2fetc/passwd"):
        assert client.get(path, base_url="http://127.0.0.1").status_code in (403, 404)
    ask(client, "/compare/?with=7&with=-1&with=²&with=99999999999999999999&with=../x")


def test_every_answer_has_a_policy_and_is_not_kept(client: Client) -> None:
    for path, expected in (("/experiments/0/", 200), ("/experiments/0/update", 200), ("/x", 404)):
        headers = ask(client, path, expected=expected).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_text_from_the_data_is_escaped(tmp_path: Path) -> None:
    attack = "</script><script>alert(1)</script>"
    folders = [make_experiment(tmp_path / name, hostile=attack) for name in ("a", "b")]
    client = client_of(*folders)
    for path in ("/", "/experiments/0/", "/compare/?with=0&with=1"):
        assert "<script>alert" not in ask(client, path).get_data(as_text=True)
    assert "<script>alert" not in update(client)["page"]


def test_experiments_that_appear_in_a_folder_are_listed_and_keep_their_addresses(
    search: LiveSearch, tmp_path: Path
) -> None:
    client = client_of(tmp_path / "experiments")
    before = version(client, "/version")
    LiveSearch(tmp_path / "experiments" / "a-first-one")
    assert version(client, "/version") != before
    page = ask(client, "/").get_data(as_text=True)
    assert re.findall(r'<a href="(/experiments/\d+/)">([^<]*)</a>', page) == [
        ("/experiments/0/", "small"),
        ("/experiments/1/", "a-first-one"),
    ]


@pytest.mark.parametrize(
    ("about", "what"),
    [
        ({}, None),
        ({"signature": "nrefs:2"}, "signature"),
        ({"languages": ["en", "fr"]}, "languages"),
        ({"directions": ["en-fr"]}, "directions"),
        ({"tokenizer": {"name": "flores101"}}, "tokenizer"),
    ],
)
def test_scores_that_cannot_be_compared_are_said_to_be(
    about: dict[str, Any], what: str | None, search: LiveSearch, tmp_path: Path
) -> None:
    other = LiveSearch(tmp_path / "other", **about)
    other.run_baselines()
    page = ask(client_of(search.folder.path, tmp_path / "other"), "/compare/?with=0&with=1").get_data(as_text=True)
    assert ("These scores cannot be compared." in page) == (what is not None)
    assert what is None or what in page


def test_test_sets_of_different_size_cannot_be_compared(search: LiveSearch, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "other")
    search.test("pretrained", 5.0)
    page = ask(client_of(search.folder.path, folder), "/compare/?with=0&with=1").get_data(as_text=True)
    assert "number of test sentences" in page


def test_optunas_dashboard_reads_all_studies_and_writes_none(search: LiveSearch, tmp_path: Path) -> None:
    other = LiveSearch(tmp_path / "experiments" / "other")
    other.run(3.0)
    client = client_of(tmp_path / "experiments")
    studies = ask(client, "/api/studies").get_json()["study_summaries"]
    numbers = {study["study_name"]: study["study_id"] for study in studies}
    assert set(numbers) == {"small", "small/baselines", "other", "other/baselines"}
    assert len(set(numbers.values())) == 4
    for name, known in (("small", search), ("other", other)):
        trials = ask(client, f"/api/studies/{numbers[name]}?after=0").get_json()["trials"]
        assert len(trials) == known.table.num_searched
    content = search.folder.study.read_bytes()
    for method, path in (("POST", "/api/studies"), ("DELETE", f"/api/studies/{numbers['small']}"), ("PUT", "/api/x")):
        ask(client, path, expected=405, method=method, json={}, headers=ASKING)
        ask(client, path, expected=403, method=method, json={})
    assert search.folder.study.read_bytes() == content


@pytest.mark.parametrize("given", [{"host": "0.0.0.0"}, {"token": "x"}, {"host": "0.0.0.0", "token": "  "}])
def test_a_host_needs_a_token_and_a_token_a_host(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--token"):
        open_dashboard([tmp_path], **given)
    options = [word for name, value in given.items() for word in (f"--{name}", value)]
    found = CliRunner().invoke(app, ["dashboard", str(tmp_path), *options])
    assert isinstance(found.exception, InputError)  # exit code 2


def test_a_taken_port_is_passed_over_unless_it_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"--port must be free, but {port} is taken"):
            open_dashboard([tmp_path], port=port)
        monkeypatch.setattr("langsearch.dashboard.serving.PORT", port)
        dashboard = open_dashboard([tmp_path])
        dashboard.close()
    assert int(dashboard.url.rstrip("/").rpartition(":")[2]) > port


def test_what_is_no_folder_is_refused_and_what_is_not_there_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="must be a folder"):
        open_dashboard([tmp_path / "file"])
    said: list[str] = []
    open_dashboard([tmp_path / "absent", tmp_path], port=0, tell=said.append).close()
    assert ["does not exist yet" in said[0], "holds no experiment yet" in said[1]] == [True, True]


@pytest.fixture
def process(search: LiveSearch) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "langsearch", "dashboard", str(search.folder.path), "--port", "0"]
    code = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += f"sys.argv = {command[2:]!r}; runpy.run_module('langsearch', run_name='__main__')"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True) as process:
        yield process
        process.kill()


def test_the_command_prints_its_address_and_ends_quietly(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None and process.stderr is not None
    line = process.stdout.readline()
    assert re.match(r"Dashboard: http://127\.0\.0\.1:\d+/ ", line)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stderr.read() == ""


def test_a_run_is_not_refused_for_somebody_who_looks(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "small")
    experiment = LiveExperiment(folder.path)
    for _ in range(50):
        experiment.version()
        with hold(folder.path):
            assert experiment.snapshot().state == "running"
        assert experiment.snapshot().state == "absent"
