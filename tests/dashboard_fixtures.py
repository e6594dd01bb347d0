"""An experiment that is searched while the test looks: real table, tasks and curves; scripted scores.

A test module that asks for the fixtures names them by `pytest_plugins = ["dashboard_fixtures"]`.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from langsearch.dashboard.application import make_application
from langsearch.dashboard.serving import Dashboard, open_dashboard
from langsearch.experiment.folder import write_json, write_rows
from langsearch.experiment.lock import hold
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.results_parquet import write_results
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.model.finding import find_base
from langsearch.model.shape import read_shape
from langsearch.space.architecture import BaseShape
from langsearch.space.schema import load_space
from langsearch.study.results import TestResult
from langsearch.study.table import TrialTable
from langsearch.trial.curve import CURVE
from tests.benchmarks.simulated_tune import scripted_result

SPACE = """\
name: NAME
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
  rank: {high: {choice: [0, 2, 4]}, low: {choice: [2, 4, 8]}}
  encoder: {modules: {subset: [q_proj, v_proj]}}
  decoder: {modules: [q_proj]}
trainer: {epochs: 4, lr: {float: [1.0e-3, 1.0e-2], log: true}}
evaluation: {spbleu: base}
baselines: [pretrained, full_finetuning]
search: {trials: 30, sampler: random, seed: 3, scheduler: asha, grace_epochs: 1, reduction_factor: 2}
"""
EPOCHS = 4
SIGNATURE = "nrefs:1"


@cache
def tiny_shape() -> BaseShape:
    return read_shape(find_base("tiny-m2m"))


class LiveSearch:
    """A search whose driver is the test.

    Args:
        path: The experiment's folder, not there yet.
        overrides: Of the space.
        about: What its description says otherwise.
    """

    def __init__(self, path: Path, overrides: Sequence[str] = (), **about: Any) -> None:
        file = path.parent / f"{path.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SPACE.replace("NAME", path.name), encoding="utf-8")
        self.space = load_space(file, overrides)
        self.folder = start_experiment(path, self.space, resume=False)
        self.shape = tiny_shape()
        given = {
            "name": path.name,
            "base": self.space.base,
            "base_parameters": self.shape.num_parameters,
            "languages": list(self.space.languages),
            "classes": {name: list(codes) for name, codes in self.space.classes.items()},
            "directions": ["en-fr", "fr-en", "en-sw", "sw-en", "fr-sw", "sw-fr"],
            "tokenizer": {"name": "base", "stand_in": True},
            "signature": SIGNATURE,
            "objectives": dict(self.space.search.objectives),
            "num_trials": self.space.search.trials,
            "started": "2026-11-22T10:00:00+00:00",
            "finished": None,
            "seconds": 0.0,
        }
        write_json(self.folder.description, {**given, **about})
        self.table: TrialTable = open_table(self.folder, self.space)
        self.tasks: dict[str, TrialTask] = {}

    def begin(self) -> str:
        """Proposes a trial and gives it to a worker; returns its name."""
        while True:
            found = self.table.next_point(self.space.dimensions())
            assert found is not None
            task = searched_task(self.space, self.shape, *found)
            self.table.add(*found, fingerprint=task.fingerprint)
            return self._give(task)

    def begin_baseline(self, name: str) -> None:
        """Gives a baseline to a worker."""
        self.table.add_baseline(name)
        self._give(baseline_task(self.space, self.shape, name))

    def _give(self, task: TrialTask) -> str:
        self.tasks[task.name] = task
        task.write(self.folder.trial(task.name))
        return task.name

    def result(self, name: str, epoch: int, spbleu: float) -> Any:
        """Returns what a worker reports."""
        return scripted_result(epoch, EPOCHS, spbleu, self.tasks[name].num_trainable(self.shape))

    def epoch(self, name: str, epoch: int, spbleu: float) -> None:
        """A trial's epoch ends: its curve is written, then the table hears of it."""
        rows = [
            {"epoch": past, "updates": past, "train_loss": 5.0 / past, "spbleu": spbleu - 0.4 * (epoch - past)}
            for past in range(1, epoch + 1)
        ]
        write_rows(self.folder.trial(name).curve, rows, CURVE)
        self.table.report(name, self.result(name, epoch, spbleu))

    def complete(self, name: str, spbleu: float) -> None:
        """A trial ends."""
        self.epoch(name, EPOCHS, spbleu)
        self.table.complete(name, self.result(name, EPOCHS, spbleu))

    def run(self, spbleu: float) -> str:
        """A trial begins and ends."""
        name = self.begin()
        self.complete(name, spbleu)
        return name

    def run_baselines(self) -> None:
        for name, spbleu in (("pretrained", 5.0), ("full_finetuning", 10.0)):
            self.begin_baseline(name)
            self.complete(name, spbleu)

    def test(self, name: str, spbleu: float) -> None:
        """The test set is touched."""
        scores = TestResult(
            test_spbleu=spbleu,
            test_spbleu_low=spbleu - 0.2,
            test_spbleu_high=spbleu + 0.2,
            test_num_sentences=104,
            test_num_directions=6,
        )
        self.table.record_test(name, scores)

    def write_results(self) -> None:
        write_results(self.folder, self.table, self.shape.num_parameters)


@contextmanager
def running(search: LiveSearch) -> Iterator[LiveSearch]:
    """Holds an experiment as its driver does."""
    with hold(search.folder.path):
        yield search


@contextmanager
def served(*paths: Path, **options: Any) -> Iterator[Dashboard]:
    """Serves the dashboard on a port of its own."""
    dashboard = open_dashboard(paths, port=0, **options)
    thread = threading.Thread(target=dashboard.run, daemon=True)
    with ExitStack() as stack:
        stack.callback(dashboard.close)
        thread.start()
        yield dashboard


ASKING = {"X-Langsearch": "1"}


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
