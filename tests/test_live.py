"""What the dashboard sees of an experiment that is searched, and how it is asked to stop."""

import operator
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client

from langsearch.dashboard.live import LiveExperiment
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.lock import hold
from langsearch.experiment.opening import open_table
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.report.cuts import cut_sentences
from langsearch.report.experiment_reader import as_trial, read_experiment
from langsearch.report.experiment_values import Trial
from langsearch.study.rows import STOP_REQUESTED
from tests.benchmarks.simulated_tune import scripted_result
from tests.dashboard_fixtures import ASKING, LiveSearch, ask, client_of, running, states, stop, update, version

pytest_plugins = ["dashboard_fixtures"]


def test_the_trials_are_those_of_results_parquet_to_the_last_value(search: LiveSearch) -> None:
    search.write_results()
    live = LiveExperiment(search.folder.path).snapshot()
    assert live.experiment is not None
    assert live.experiment.trials == read_experiment(search.folder.path).trials


def test_the_cuts_of_a_one_shot_search_are_shown_beside_the_trials_as_the_report_has_them(tmp_path: Path) -> None:
    search = LiveSearch(tmp_path / "cut", ["search.strategy=one_shot"])
    search.run_baselines()
    live = LiveExperiment(search.folder.path)
    assert live.snapshot().experiment is not None
    cuts = open_table(search.folder, search.space, cuts_of=search.table)
    search.table.add_baseline("donor-1")
    search.table.complete("donor-1", scripted_result(4, 4, 5.0, 900))
    names = []
    for spbleu in (4.0, 6.0):
        number, _ = cuts.propose(search.space.dimensions())
        names.append(f"{number:05d}")
        cuts.complete(names[-1], scripted_result(4, 4, spbleu, 10))
    cuts.add(2, dict(cuts.row(names[0]).params), same_as=names[0])
    cuts.share("00002", cuts.row(names[0]))
    experiment = live.snapshot().experiment
    assert experiment is not None
    assert [trial.name for trial in experiment.beside] == ["donor-1", "cut-00000", "cut-00001", "cut-00002"]
    assert experiment.beside[-1].same_as == "cut-00000"
    assert "2 architectures were cut out of 1 wide training" in " ".join(cut_sentences(experiment))
    ResultsFile(search.folder, search.shape.num_parameters).write(search.table, cuts)
    written = read_experiment(search.folder.path)
    assert (experiment.trials, experiment.beside) == (written.trials, written.beside)
    again = live.snapshot().experiment
    assert again is not None and all(map(operator.is_, again.beside, experiment.beside)), "nothing is read again"


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
        assert search.folder.trial("00002").stop_request.exists()
        assert version(client) != before
        assert update(client)["live"] == {"running": ["00002"], "stopping": ["00002"]}
        search.table.end_on_request("00002")
        trials = update(client)["data"]["trials"]
        place = trials["name"].index("00002")
        found = (trials["state"][place], trials["cause"][place], trials["epochs"][place])
        assert found == ("pruned", STOP_REQUESTED, 1)
        assert "The search was asked to stop" in stop(client, None, expected=200)
        assert search.folder.stop_request.exists()


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


def test_a_run_is_not_refused_for_somebody_who_looks(tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "small")
    experiment = LiveExperiment(folder.path)
    for _ in range(50):
        experiment.version()
        with hold(folder.path):
            assert experiment.snapshot().state == "running"
        assert experiment.snapshot().state == "absent"
