"""`langsearch list` and `langsearch show`, on a terminal, piped and as JSON."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.distributions import IntDistribution
from rich.console import Console
from rich.table import Table

from langsearch.cli.app import main
from langsearch.experiment.folder import read_json, read_rows, write_json
from langsearch.experiment.lock import hold, is_held
from langsearch.experiment.printable import Unpadded, json_text, printable, printable_lines
from langsearch.experiment.remote import open_remote
from langsearch.experiment.results_parquet import row_values
from langsearch.report.experiment_reader import as_trial

if TYPE_CHECKING:
    from tests.search_fixtures import TableMaker

pytest_plugins = ["search_fixtures"]

Command = Callable[..., tuple[object, str, str]]


@pytest.fixture
def langsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs the command line in this process; returns its code, and what it printed."""

    def run(*arguments: object) -> tuple[object, str, str]:
        monkeypatch.setattr(sys, "argv", ["langsearch", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"\d|^$") as caught:
            main()
        return (caught.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained experiment, alone in its folder but for what is no experiment."""
    copy = tmp_path / "experiments" / "tiny"
    shutil.copytree(trained, copy, ignore=shutil.ignore_patterns("weights", "checkpoint"))
    (copy.parent / "notes").mkdir()
    (copy.parent / ".store").mkdir()
    (copy.parent / "thesis.tex").touch()
    return copy


def test_list_shows_each_experiment_in_80_columns(copied: Path, langsearch: Command) -> None:
    code, out, _ = langsearch("list", copied.parent)
    assert code == 0
    (line,) = [line for line in out.splitlines() if "tiny" in line]
    rows = {row["name"]: row for row in read_rows(copied / "results.parquet")}
    assert line.split()[:3] == ["tiny", "stopped", "2/3"]
    assert line.split()[3] == f"{rows['00000']['spbleu']:.2f}v"
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "\x1b" not in out


def test_list_takes_one_experiment_too(copied: Path, langsearch: Command) -> None:
    _, several, _ = langsearch("list", copied.parent, "--json")
    _, one, _ = langsearch("list", copied, "--json")
    assert json.loads(one) == json.loads(several)


def test_list_as_json_has_the_numbers_as_they_are(copied: Path, langsearch: Command) -> None:
    _, out, _ = langsearch("list", copied.parent, "--json")
    (listed,) = json.loads(out)
    rows = {row["name"]: row for row in read_rows(copied / "results.parquet")}
    best = rows["00000"]
    assert (listed["name"], listed["state"], listed["num_ended"], listed["num_failed"]) == ("tiny", "stopped", 2, 1)
    assert (listed["best"], listed["split"], listed["spbleu"]) == ("00000", "validation", best["spbleu"])
    assert listed["to_pretrained"] == best["spbleu"] - rows["pretrained"]["spbleu"]
    assert listed["trainable_parameters"] == best["trainable_parameters"]


def test_experiments_on_remote_storage_are_listed_and_shown_alike(
    copied: Path, tmp_path: Path, langsearch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "cache"))
    remote = open_remote(f"file://{tmp_path}/storage")
    remote.child("tiny").push(copied)
    ours, theirs = (json.loads(langsearch("list", place, "--json")[1]) for place in (copied.parent, remote.url))
    assert [{**row, "folder": ""} for row in theirs] == [{**row, "folder": ""} for row in ours]
    assert langsearch("show", f"{remote.url}/tiny")[1] == langsearch("show", copied)[1]
    code, _, error = langsearch("dashboard", f"file://{tmp_path}/cache")
    assert (code, "of a folder of experiments, but" in error) == (2, True)


def test_an_experiment_is_done_once_it_is_tested_and_running_while_it_is_held(
    copied: Path, langsearch: Command
) -> None:
    about = read_json(copied / "experiment.json")
    write_json(copied / "experiment.json", about | {"finished": "2026-11-22T12:00:00+00:00"})
    assert not is_held(copied)
    assert json.loads(langsearch("list", copied.parent, "--json")[1])[0]["state"] == "done"
    with hold(copied):
        assert is_held(copied)
        assert json.loads(langsearch("list", copied.parent, "--json")[1])[0]["state"] == "running"
    assert not is_held(copied)


def test_a_folder_without_experiments_is_empty_and_one_that_is_not_there_is_refused(
    tmp_path: Path, langsearch: Command
) -> None:
    assert langsearch("list", tmp_path)[:2] == (0, f"No experiment in {tmp_path}.\n")
    assert langsearch("list", tmp_path, "--json")[:2] == (0, "[]\n")
    code, _, error = langsearch("list", tmp_path / "absent")
    assert (code, "EXPERIMENTS must be a folder" in error) == (2, True)


def test_show_tells_an_experiment_its_front_and_its_failures(copied: Path, langsearch: Command) -> None:
    code, out, _ = langsearch("show", copied)
    assert code == 0
    for text in (
        "tiny-m2m",
        "class low    sw",
        "2 of 3 ended (1 complete, 1 failed); beside them 1 with another's result",
        "* 00000",
        "= pretrained",
    ):
        assert text in out
    assert "failed 1 x: out of memory: no" in out


def test_show_as_json_has_the_description_and_every_column(copied: Path, langsearch: Command) -> None:
    shown = json.loads(langsearch("show", copied, "--json")[1])
    rows = read_rows(copied / "results.parquet")
    assert shown["experiment"] == read_json(copied / "experiment.json")
    assert [trial["name"] for trial in shown["trials"]] == [row["name"] for row in rows]
    for trial, row in zip(shown["trials"], rows, strict=True):
        assert set(trial) == set(row)
        assert trial["params"] == json.loads(row["params"])
        assert trial["spbleu"] == row["spbleu"]


def test_show_tells_a_trial_with_its_point_plan_and_curve(copied: Path, langsearch: Command) -> None:
    code, out, _ = langsearch("show", copied, "0")
    assert code == 0
    row = next(row for row in read_rows(copied / "results.parquet") if row["name"] == "00000")
    (curve,) = read_rows(copied / "trials" / "00000" / "curve.parquet")
    assert "trial        00000 of tiny · on the front" in out
    assert f"{row['spbleu']:.2f}" in out
    assert "rank.low" in out
    assert "encoder 0-2" in out
    assert f"{curve['train_loss']:.3f}" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    shared = langsearch("show", copied, "00002")[1]
    assert "same as      00000" in shared
    assert "encoder 0-2" in shared, "the plan of the trial that it repeats"


def test_show_of_a_trial_as_json_has_its_files(copied: Path, langsearch: Command) -> None:
    shown = json.loads(langsearch("show", copied, "00000", "--json")[1])
    folder = copied / "trials" / "00000"
    assert shown["architecture"] == read_json(folder / "architecture.json")
    assert shown["curve"] == read_rows(folder / "curve.parquet")
    assert shown["scores"] == read_rows(folder / "scores.parquet")
    assert shown["failure"] is None
    assert shown["trial"]["name"] == "00000"


@pytest.mark.parametrize(("name", "hint"), [("7", "00000"), ("pretraind", "Did you mean pretrained?"), ("../x", "")])
def test_a_trial_that_is_not_there_is_refused(name: str, hint: str, copied: Path, langsearch: Command) -> None:
    code, out, error = langsearch("show", copied, name)
    assert (code, out) == (2, "")
    assert f"TRIAL must name a trial of tiny, but {name!r} is none." in error
    assert hint in error


def test_control_characters_of_a_file_do_not_reach_the_terminal(copied: Path, langsearch: Command) -> None:
    rows = read_rows(copied / "results.parquet")
    evil = "\x1b]0;owned\x07\x9b31m [bold]<script>\u202e"
    for row in rows:
        row["summary"] = row["cause"] = row["worker"] = evil
    rows[1]["name"] = "../../" + evil
    pq.write_table(pa.Table.from_pylist(rows, pq.read_schema(copied / "results.parquet")), copied / "results.parquet")
    outputs = [
        langsearch("list", copied.parent)[1],
        langsearch("show", copied)[1],
        langsearch("show", copied, "pretrained")[1],
    ]
    outputs += [langsearch("show", copied, "--json")[1], langsearch("show", copied, rows[1]["name"], "--json")[1]]
    for out in outputs:
        assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(out)
    assert "[bold]<script>" in outputs[2]
    assert json.loads(outputs[3])["trials"][0]["summary"] == evil


def test_results_tell_a_proposal_that_was_never_trained_from_a_trial_that_was_stopped(make_table: "TableMaker") -> None:
    table = make_table()
    for _ in range(2):
        table.propose({"rank": IntDistribution(1, 8)}, fingerprint=None)
    table.reject("00000", {"trainable_parameters <= 9": 0.5})
    table.end_on_request("00001")
    for row in table.rows():
        trial = as_trial(row_values(row, 1000))
        assert trial is not None
        assert (
            (trial.is_rejected, trial.counts)
            == (row.is_rejected, row.counts)
            == ((row.name == "00000"), not trial.is_rejected)
        )


def test_text_for_a_terminal_stays_on_its_line() -> None:
    assert printable("a\tb\nc\x1b[0m") == "a b c\ufffd[0m"
    assert printable_lines("a\tb\nc\x07") == "a b\nc\ufffd"
    assert printable("Ünïcödé 語 العربية") == "Ünïcödé 語 العربية"


def test_json_has_no_numbers_that_json_does_not_have() -> None:
    value = {"a": float("nan"), "b": [1.5, float("inf")], "c": ("\x9b", None, True)}
    assert json.loads(json_text(value)) == {"a": None, "b": [1.5, None], "c": ["\x9b", None, True]}
    assert "\x9b" not in json_text(value)


def test_a_table_has_no_blanks_at_the_ends_of_its_lines() -> None:
    table = Table("name", "words", title="two", title_justify="left", box=None)
    table.add_row("a", "some words here")
    table.add_row("b", "", style="bold")
    stream = io.StringIO()
    Console(file=stream, width=60, force_terminal=True, color_system="standard").print(Unpadded(table))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert plain.splitlines() == ["two", " name  words", " a     some words here", " b"]
