"""Fixtures of the search's tests; a test module asks for them by `pytest_plugins = ["search_fixtures"]`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.description import write_description
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.opening import open_table, start_experiment
from langsearch.experiment.results_parquet import write_results
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import Architecture, Pruning, SiteAdapters, uniform_ranks
from langsearch.space.schema import load_space
from langsearch.space.settings import TrainerSettings
from langsearch.space.sites import Site
from langsearch.study.front import Objective
from langsearch.study.results import TrialResult
from langsearch.study.table import TrialTable
from langsearch.trial.export import export_one
from langsearch.trial.trial import run_trial

ResultMaker = Callable[..., TrialResult]
TableMaker = Callable[..., TrialTable]
TaskMaker = Callable[..., TrialTask]

TINY = """\
name: tiny
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
  rank: {high: {choice: [0, 2]}, low: {choice: [2, 4]}}
  encoder: {modules: [q_proj, v_proj]}
  decoder: {modules: [q_proj, fc1]}
trainer:
  epochs: 2
  pairs_per_epoch: 24
  precision: fp32
  tokens_per_batch: 600
  accumulation: 1
  lr: {float: [1.0e-3, 1.0e-2], log: true}
evaluation:
  spbleu: base
  search: {directions: 2, sentences: 3}
  final: {directions: 2, sentences: 4, beams: 1}
baselines: [pretrained, full_finetuning, shared_lora, published]
search: {trials: 3, sampler: random, scheduler: none}
resources: {cpu: 1}
"""


@pytest.fixture(scope="session")
def tiny_space() -> str:
    """The text of a space that trains in seconds."""
    return TINY


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    """A space that trains in seconds, alone in its folder."""
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def base() -> Base:
    return load_base("tiny-m2m")


@pytest.fixture(scope="session")
def checked(tmp_path_factory: pytest.TempPathFactory) -> CheckedSpace:
    path = tmp_path_factory.mktemp("space") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return check_space(load_space(path))


@pytest.fixture(scope="session")
def environment(checked: CheckedSpace, base: Base, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return build_environment(checked, base, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, base: Base) -> Path:
    """An experiment that has ended: trial 00000 is complete, 00001 failed, 00002 shares the first one's result."""
    path = tmp_path_factory.mktemp("trained") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    checked = check_space(load_space(path, ["trainer.epochs=1", "baselines=[pretrained]"]))
    experiments = path.parent / "experiments"
    folder = start_experiment(experiments / "tiny", checked.space, resume=False)
    environment = build_environment(checked, base, experiments / ".store")
    table = open_table(folder, checked.space)
    table.add_baseline("pretrained")
    tasks = [baseline_task(checked.space, checked.shape, "pretrained")]
    for _ in range(3):
        point: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.01}
        tasks.append(searched_task(checked.space, checked.shape, table.num_searched, point))
        table.propose(checked.space.dimensions(), fingerprint=tasks[-1].fingerprint)
    for task in tasks[:2]:
        task.write(folder.trial(task.name))
        *_, result = run_trial(base, environment, task, folder.trial(task.name))
        table.complete(task.name, result)
    table.fail("00001", "out of memory: no")
    table.share("00002", next(row for row in table.rows() if row.name == "00000"))
    write_description(folder, checked, result.signature)
    write_results(folder, table, checked.shape.num_parameters)
    return folder.path


@pytest.fixture(scope="session")
def adapters(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The adapters of the trained experiment, exported."""
    folder = tmp_path_factory.mktemp("exported") / "adapters"
    export_one(trained, "0", folder, "peft")
    return folder


@pytest.fixture
def make_result() -> ResultMaker:
    """Results of a trial of three epochs."""

    def make(epoch: int = 3, spbleu: float = 10.0, trainable_parameters: int = 1000, **values: object) -> TrialResult:
        given: dict[str, object] = {
            "finished": epoch == 3,
            "spbleu_low": spbleu - 1,
            "spbleu_high": spbleu + 1,
            "kept_epoch": epoch,
            "num_sentences": 4,
            "num_directions": 2,
            "signature": "nrefs:1|tok:none",
            "worst_class_spbleu": spbleu,
            "nonzero_parameters": trainable_parameters,
            "train_loss": 5.0,
            "updates": 10 * epoch,
            "train_seconds": 1.0,
            "seconds": 2.0,
            "peak_memory_bytes": 3,
        }
        given |= {"epoch": epoch, "spbleu": spbleu, "trainable_parameters": trainable_parameters} | values
        return TrialResult(**given)  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_table() -> TableMaker:
    """Trial tables in memory, or in the file that is given."""

    def make(
        file: Path | None = None,
        name: str = "small",
        objectives: tuple[Objective, ...] = (Objective("spbleu", True), Objective("trainable_parameters", False)),
        sampler: str = "tpe",
        seed: int = 0,
        num_trials: int = 8,
        **values: Any,
    ) -> TrialTable:
        url = f"sqlite:///{file}" if file else "sqlite://"
        return TrialTable(url, name, objectives, sampler=sampler, seed=seed, num_trials=num_trials, **values)

    return make


@pytest.fixture
def make_task() -> TaskMaker:
    """Tasks that train adapters of the tiny space's languages."""

    def make(name: str = "00000", rank: int = 2, target: float = 0.0, **trainer: object) -> TrialTask:
        sites: list[tuple[Site, object]] = [(Site("encoder", 0, "q_proj"), "src"), (Site("decoder", 2, "fc1"), "tgt")]
        languages = ("en", "fr", "sw")
        adapters: tuple[SiteAdapters, ...] = uniform_ranks(sites, dict.fromkeys(languages, rank))  # type: ignore[arg-type]
        pruning = Pruning(targets=tuple((language, target) for language in languages), start=1, duration=1)
        settings = {"epochs": 2, "pairs_per_epoch": 24, "tokens_per_batch": 600, "accumulation": 1, "lr": 1e-2}
        return TrialTask(
            name=name,
            kind="searched",
            method="adapters",
            trainer=TrainerSettings(**(settings | trainer)),  # type: ignore[arg-type]
            architecture=Architecture(
                slots=tuple((language, language) for language in languages),
                adapters=adapters,
                pruning=pruning if target else None,
            ),
        )

    return make
