"""Priors of an experiment on remote storage, learned by machines that share nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from langsearch.cli.app import main
from langsearch.cluster.ray_session import set_environment
from langsearch.experiment.environment import CheckedSpace, Environment
from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows
from langsearch.experiment.remote import open_remote
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.model.base import Base, share_base
from langsearch.prior.seeding import next_task
from langsearch.prior.sides import read_sides
from langsearch.search import tasks
from langsearch.space.schema import load_space
from langsearch.train import loop

pytest_plugins = ["search_fixtures"]

PRIOR = "prior={sides: {steps: 6, rank: 2}, subspace: {epochs: 2, rank: 4}}"
SEARCHED = "architecture.encoder.source_layers={int: [0, 3]}"


class LostNodeError(BaseException):
    """What ends a worker in the middle, as far as this process can play it."""


def test_a_machine_takes_over_what_another_had_begun_to_learn(
    base: Base,
    checked: CheckedSpace,
    environment: Environment,
    space_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    space = load_space(space_file, [PRIOR, SEARCHED])
    copy = WorkingCopy(open_remote(f"file://{tmp_path}/store"), "tiny")
    shared, updates = share_base(base), []
    monkeypatch.setattr("langsearch.prior.learning.UPDATES_BETWEEN_CHECKPOINTS", 2)
    update = loop._Run._update

    def counted(run: Any, batches: Any) -> None:
        updates.append(run.updates)
        if len(updates) == 6:
            raise LostNodeError
        update(run, batches)

    monkeypatch.setattr(loop._Run, "_update", counted)

    def learn(machine: str) -> ExperimentFolder:
        monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / machine))
        folder = ExperimentFolder(copy.path)
        task = next_task(space, checked.shape, folder)
        assert task is not None and task.kind == "sides"
        assert tasks.learn_on_worker(shared, environment, Path("/nowhere"), task, 1, copy) == []
        return folder

    with pytest.raises(LostNodeError):
        learn("one")
    folder = learn("two")
    assert updates == [0, 1, 2, 3, 4, 5, 4, 5], "it goes on from the last checkpoint"
    assert read_sides(folder.sides).steps == 6
    assert {path.name for path in (tmp_path / "store/tiny/priors/sides").iterdir()} >= {"sides.json", "task.json"}
    assert list((tmp_path / "store/tiny/priors/sides").glob("checkpoint/*/*")) == []


@pytest.fixture
def other_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Ray, whose workers share no folder with this process but the remote storage; the workers' own."""
    theirs = tmp_path / "theirs"
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "ours"))
    set_environment()
    ray.init(
        "local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=200_000_000,
        runtime_env={"env_vars": {"LANGSEARCH_CACHE": str(theirs)}},
    )
    yield theirs
    ray.shutdown()


@pytest.mark.integration
def test_a_search_learns_its_priors_on_another_machine(
    other_machine: Path, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/store"
    settings = [PRIOR, SEARCHED, "search.trials=1", "baselines=[]", "trainer.epochs=1"]
    arguments = ["run", str(space_file), "--experiments", url, *(f"--set={setting}" for setting in settings)]
    monkeypatch.setattr(sys, "argv", ["langsearch", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (0, None)
    copy = WorkingCopy(open_remote(url), "tiny")
    ours, store = ExperimentFolder(copy.path), ExperimentFolder(tmp_path / "store/tiny")
    monkeypatch.setenv("LANGSEARCH_CACHE", str(other_machine))
    theirs = ExperimentFolder(copy.path)
    assert theirs.path.is_relative_to(other_machine) and not ours.path.is_relative_to(other_machine)
    for file in ("sides/sides.json", "subspace/demand.parquet"):
        assert len({(folder.path / "priors" / file).read_bytes() for folder in (ours, theirs, store)}) == 1, file
    (row,) = read_rows(store.results)
    assert row["state"] == "complete"
    (seed, *_) = read_json(store.description)["prior"]["seeds"]
    assert seed.items() <= json.loads(row["params"]).items(), "the search begins at what was learned"
