"""A worker without Tune around it.

A test module asks for it by `pytest_plugins = ["search_fixtures", "worker_fixtures"]`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base, share_base
from langsearch.search import worker
from langsearch.search.worker import TrialTrainable
from langsearch.space.settings import FailureSettings


class BareTrainable(TrialTrainable):
    """The trainable without Tune around it."""

    def __init__(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> ExperimentFolder:
    return ExperimentFolder(tmp_path)


class Start:
    """Starts a trial on a worker that fails as told."""

    def __init__(self, folder: ExperimentFolder, base: Base, environment: Environment) -> None:
        self.folder, self.base, self.environment = folder, base, environment

    def __call__(
        self, task: TrialTask, failures: FailureSettings | None = None, max_failures: int = 2
    ) -> TrialTrainable:
        task.write(self.folder.trial(task.name))
        return self.again(task.name, failures, max_failures)

    def again(self, name: str, failures: FailureSettings | None = None, max_failures: int = 2) -> TrialTrainable:
        """Starts a trial whose task is written."""
        trainable = BareTrainable()
        trainable.setup(
            {"name": name},
            share_base(self.base),
            self.environment,
            self.folder.path,
            torch.get_num_threads(),
            failures,
            max_failures,
        )
        return trainable


@pytest.fixture
def start(
    folder: ExperimentFolder, base: Base, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Start]:
    monkeypatch.setattr(worker, "_bases", {})
    yield Start(folder, base, environment)


def steps_of(trainable: TrialTrainable) -> list[dict[str, Any]]:
    steps = [trainable.step()]
    while not steps[-1]["done"]:
        steps.append(trainable.step())
    trainable.cleanup()
    return steps
