"""Further trainings with other seeds: what they are, when they are trained, and what is made of their scores."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from optuna.distributions import IntDistribution

from langsearch.adapters.learners import FullModel, adapt
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.seed_statistics import t_quantile
from langsearch.evaluate.spbleu import Difference, Resamples
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.seed_tasks import seed_task
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.search import compared, seeds
from langsearch.search.planned import planned_tasks
from langsearch.search.search import Ended
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.study.beside_names import original_of, seed_name, seed_of
from langsearch.study.results import TestResult
from langsearch.study.rows import State, TrialRow
from langsearch.study.seeds import seed_scores
from langsearch.study.table import TrialTable
from langsearch.train.loop import TrainingData, train
from langsearch.train.stages import plan_of
from langsearch.trial.trial import settings_at

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures"]


@pytest.mark.parametrize("original", ["00012", "shared_lora", "full_finetuning"])
def test_a_further_seed_says_what_it_is_one_of(original: str) -> None:
    name = seed_name(original, 3)
    assert name == f"{original}-seed-3"
    assert (seed_of(name), original_of(name)) == ((original, 3), original)
    assert (seed_of(original), original_of(original)) == (None, original)


def _test(spbleu: float, half: float = 1.0) -> TestResult:
    return TestResult(
        test_spbleu=spbleu,
        test_spbleu_low=spbleu - half,
        test_spbleu_high=spbleu + half,
        test_num_sentences=60,
        test_num_directions=2,
    )


def _tested(make_table: "TableMaker", make_result: "ResultMaker", file: Path | None = None) -> TrialTable:
    """Two members of a front and two baselines, of which one is trained."""
    table = make_table(file)
    for name, size in (("pretrained", 0), ("shared_lora", 500)):
        table.add_baseline(name)
        table.complete(name, make_result(spbleu=1.0, trainable_parameters=size))
    for number in range(2):
        table.propose({"rank": IntDistribution(1, 8)}, fingerprint=None)
        table.complete(f"{number:05d}", make_result(spbleu=2.0 + number, trainable_parameters=1000 * (1 + number)))
    return table


def _space(num_seeds: int) -> Any:
    baselines = [SimpleNamespace(name=name) for name in ("pretrained", "shared_lora")]
    return SimpleNamespace(evaluation=SimpleNamespace(num_seeds=num_seeds), baselines=baselines)


WANTED = [f"{name}-seed-{number}" for number in (2, 3) for name in ("shared_lora", "00000", "00001")]


def test_all_that_is_tested_and_trained_gets_its_second_seed_before_any_gets_its_third(
    make_table: "TableMaker", make_result: "ResultMaker"
) -> None:
    table = _tested(make_table, make_result)
    assert seeds.wanted_seeds(_space(3), table) == WANTED
    assert seeds.wanted_seeds(_space(1), table) == []
    assert seeds.has_missing_seeds(_space(2), table) and not seeds.has_missing_seeds(_space(1), table)


def test_further_seeds_lie_beside_the_trials_are_tested_as_they_are_and_never_on_the_front(
    make_table: "TableMaker", make_result: "ResultMaker", tmp_path: Path
) -> None:
    table = _tested(make_table, make_result, tmp_path / "study.db")
    best, lost = "00001-seed-2", "00000-seed-2"
    for name in (best, lost):
        table.add_baseline(name)
    table.complete(best, make_result(spbleu=50.0, trainable_parameters=1))
    table.fail(lost, "error: no")
    for _ in range(2):  # as it is, and as it is read again
        assert [row.name for row in table.front()] == ["00000", "00001"]
        assert {row.name for row in table.untested()} == {"pretrained", "shared_lora", "00000", "00001", best}
        assert (table.row(best).kind, table.row(lost).kind) == ("seed", "seed")
        assert table.num_searched == 2
        table = make_table(tmp_path / "study.db")
    table.record_test(best, _test(3.0))
    assert best not in {row.name for row in make_table(tmp_path / "study.db").untested()}


@pytest.fixture
def folder(tmp_path: Path, make_task: "TaskMaker") -> ExperimentFolder:
    """An experiment with the task of a trial that goes on from a cut, and has seed 5."""
    folder = ExperimentFolder(tmp_path / "tiny")
    make_task("00001", seed=5, start_cut="cut-00007").write(folder.trial("00001"))
    return folder


def test_a_further_seed_does_what_its_original_did_with_the_next_seed(folder: ExperimentFolder) -> None:
    original = TrialTask.read(folder.trial("00001"))
    task = seed_task(folder, "00001-seed-3")
    assert task.trainer.seed == 7
    assert task == replace(original, name="00001-seed-3", kind="seed", trainer=replace(original.trainer, seed=7))
    assert task.trainer.start_cut == "cut-00007", "it begins at the same cut"
    assert task.fingerprint != original.fingerprint
    task.write(folder.trial(task.name))
    assert TrialTask.read(folder.trial(task.name)) == task


def test_a_baseline_that_the_space_lists_no_more_has_no_task_nor_have_its_seeds(
    make_table: "TableMaker", make_result: "ResultMaker", folder: ExperimentFolder, make_task: "TaskMaker"
) -> None:
    table = make_table()
    for name in ("shared_lora", "shared_lora-seed-2"):
        table.add_baseline(name)
        make_task(name).write(folder.trial(name))
    assert planned_tasks(SimpleNamespace(baselines=[]), None, folder, table) == {}  # type: ignore[arg-type]


class _Search(SimpleNamespace):
    def told(self) -> list[str]:
        said: list[str] = self.said
        return said


def _search(table: TrialTable, num_seeds: int, folder: ExperimentFolder | None = None) -> Any:
    said: list[str] = []
    display = SimpleNamespace(message=said.append, plan_more=lambda num: None)
    return _Search(space=_space(num_seeds), table=table, display=display, cuts=None, folder=folder, said=said)


def test_a_search_without_further_seeds_starts_nothing(
    make_table: "TableMaker", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_trials", lambda *_, **__: pytest.fail("nothing is to be run"))
    search = _search(_tested(make_table, make_result), 1)
    assert seeds.train_seeds(search, None, None).is_done  # type: ignore[arg-type]
    assert search.told() == []


def test_what_failed_is_told_and_left_out_and_what_left_the_front_is_not_trained(
    make_table: "TableMaker", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    table = _tested(make_table, make_result)
    table.add_baseline("00009-seed-2")  # of a trial that was on the front when an earlier run was stopped
    asked: list[Mapping[str, Any]] = []

    def run(search: Any, seeding: Any, retry: Sequence[str], **given: Any) -> Ended:
        asked.append(given | {"running": [row.name for row in table.rows() if not row.state.is_finished]})
        for name in asked[-1]["running"]:
            if name == "00001-seed-2":
                table.fail(name, "out of memory: no")
            else:
                table.complete(name, make_result(spbleu=2.0, trainable_parameters=1000))
        return Ended(True, "trials", None)

    monkeypatch.setattr(seeds, "run_trials", run)
    search = _search(table, 3)
    assert seeds.train_seeds(search, None, 12.0).is_done  # type: ignore[arg-type]
    assert asked == [{"are_proposed": False, "are_seeds": True, "deadline": 12.0, "running": WANTED}]
    assert (table.row("00009-seed-2").state, table.row("00009-seed-2").cause) == (State.FAILED, seeds.LEFT)
    assert search.told() == [
        "Training 3 systems with other seeds, 3 of each in all: 6 more trainings …",
        "00001           has 2 of 3 seeds, since 00001-seed-2 failed: out of memory: no. --resume tries it again.",
    ]
    assert seeds.has_missing_seeds(_space(3), table)
    seeds.train_seeds(search, None, None)  # type: ignore[arg-type]
    assert asked[-1]["running"] == ["00001-seed-2"], "a resume tries what failed, and nothing twice"


def test_time_that_is_up_among_the_seeds_stops_the_run(
    make_table: "TableMaker", make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeds, "run_trials", lambda *_, **__: Ended(False, None, "time"))
    ended = seeds.train_seeds(_search(_tested(make_table, make_result), 2), None, 0.0)  # type: ignore[arg-type]
    assert (ended.is_done, ended.stopped_by) == (False, "time")


RUNGS = (DecodingSettings(sentences=1), DecodingSettings(sentences=2))


@pytest.mark.parametrize(("name", "is_cheap"), [("00001-seed-2", True), ("shared_lora-seed-2", False)])
def test_a_further_seed_is_scored_at_the_rungs_as_its_original_is(
    name: str, is_cheap: bool, make_task: "TaskMaker"
) -> None:
    evaluation = SimpleNamespace(search=DecodingSettings(sentences=9), rungs=RUNGS)
    environment: Any = SimpleNamespace(evaluation=evaluation, rung_epochs=(1, 3))
    task = replace(make_task(name, epochs=4), kind="seed")
    assert settings_at(environment, task, 1) == (RUNGS[0] if is_cheap else evaluation.search)
    assert settings_at(environment, task, 4) == evaluation.search


LANGUAGES = ("en", "fr", "sw")


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, all_directions(LANGUAGES), LANGUAGES, tiny_base.vocabulary(LANGUAGES))


def test_the_seed_rules_where_adapters_start_and_the_order_of_the_data(
    new_base: Callable[[], Base], make_architecture: Callable[..., Architecture], data: TrainingData
) -> None:
    starts = [adapt(new_base(), make_architecture(), (*LANGUAGES, "de"), seed).state() for seed in (1, 2)]
    assert any(not torch.equal(value, starts[1][name]) for name, value in starts[0].items())
    plans = [
        plan_of(
            TrainerSettings(seed=seed, tokens_per_batch=200, accumulation=1, pairs_per_epoch=24),
            data.store,
            data.directions,
            epoch=0,
            max_length=100,
            weights=None,
        )
        for seed in (1, 2)
    ]
    assert [part.tolist() for part in plans[0].microbatches] != [part.tolist() for part in plans[1].microbatches]


def test_the_seed_rules_dropout(new_base: Callable[[], Base], data: TrainingData) -> None:
    few = replace(data, directions=data.directions[:1])

    def loss(seed: int, dropout: float) -> float:
        # All pairs in one update, so that their order changes nothing, and no adapters that start anywhere.
        settings = TrainerSettings(
            seed=seed, dropout=dropout, epochs=1, tokens_per_batch=10**6, accumulation=1, precision="fp32"
        )
        *_, last = train(FullModel(new_base()), few, settings)
        assert last.updates == 1 and last.train_loss is not None
        return last.train_loss

    assert loss(1, 0.0) == pytest.approx(loss(2, 0.0), rel=1e-5)
    assert loss(1, 0.3) != pytest.approx(loss(2, 0.3), rel=1e-4)


def _row(name: str, kind: str, spbleu: float | None, size: int = 1000, **values: Any) -> TrialRow:
    test = None if spbleu is None else _test(spbleu)
    return TrialRow(name=name, kind=kind, state=State.COMPLETE, params={}, fingerprint=None, test=test, **values)


def test_scores_over_seeds_are_the_mean_with_their_number_deviation_and_interval() -> None:
    rows = [
        _row("00001-seed-2", "seed", 11.0),
        _row("00001-seed-3", "seed", 12.0),
        _row("00001-seed-4", "seed", None),
        _row("00001", "searched", 10.0),
        _row("pretrained", "baseline", 9.0),
    ]
    found = seed_scores(rows)
    assert set(found) == {"00001"}
    scores = found["00001"]
    assert (scores.test_num_seeds, scores.test_seeds_spbleu, scores.test_seeds_spbleu_sd) == (3, 11.0, 1.0)
    of_sentences, of_seeds = (1 / 1.959964) ** 2, 1 / 3
    degrees = (of_sentences + of_seeds) ** 2 / (of_seeds**2 / 2)
    half = t_quantile(degrees) * (of_sentences + of_seeds) ** 0.5
    assert (scores.test_seeds_spbleu_low, scores.test_seeds_spbleu_high) == pytest.approx((11 - half, 11 + half))


@pytest.fixture
def resampled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tested systems whose translations need not be there; notes which were resampled."""
    means = {"pretrained": 9.0, "shared_lora": 10.0, "00000": 10.2, "00001": 11.0}
    noted: list[str] = []

    def resample(spbleu: Any, name: str) -> Resamples:
        noted.append(name)
        original, number = seed_of(name) or (name, 1)
        rng = np.random.default_rng(len(noted))
        value = means[original] + 0.1 * number
        return Resamples(value, value + rng.normal(0, 0.2, 500))

    monkeypatch.setattr(compared, "SpBleu", lambda tokenizer: None)
    monkeypatch.setattr(compared, "resample_trial", resample)
    return noted


def _compare(table: TrialTable) -> None:
    folder, environment = SimpleNamespace(trial=lambda name: name), SimpleNamespace(tokenizer=None)
    compared.compare_tested(folder, table, environment)  # type: ignore[arg-type]


def test_every_tested_system_is_compared_with_every_baseline_and_members_are_corrected_for_being_several(
    make_table: "TableMaker", make_result: "ResultMaker", resampled: list[str]
) -> None:
    table = _tested(make_table, make_result)
    for row in table.untested():
        table.record_test(row.name, _test(1.0))
    _compare(table)
    assert {name: set(table.row(name).differences) for name in ("00000", "00001", "shared_lora", "pretrained")} == {
        "00000": {"pretrained", "shared_lora"},
        "00001": {"pretrained", "shared_lora"},
        "shared_lora": {"pretrained"},
        "pretrained": {"shared_lora"},
    }
    weaker, stronger = (table.row(name).differences["shared_lora"] for name in ("00000", "00001"))
    assert stronger.p is not None and weaker.p is not None and stronger.p < weaker.p
    assert stronger.holm_p == pytest.approx(2 * stronger.p) and weaker.holm_p == weaker.p
    assert table.row("shared_lora").differences["pretrained"].holm_p is None, "it is no member"
    assert {row.differences[name].num_seeds for row in table.rows() for name in row.differences} == {1}
    resampled.clear()
    _compare(table)
    assert resampled == [], "what is known is not computed again"


def test_comparisons_are_made_again_over_the_seeds_once_these_are_tested_and_where_an_older_one_has_no_p(
    make_table: "TableMaker", make_result: "ResultMaker", resampled: list[str], tmp_path: Path
) -> None:
    table = _tested(make_table, make_result, tmp_path / "study.db")
    for row in table.untested():
        table.record_test(row.name, _test(1.0))
    older: dict[str, Any] = {"value": 1.0, "low": 0.5, "high": 1.5}
    table.stored.note_on_study(table.row("00001"), "differences", {"pretrained": older})
    table = make_table(tmp_path / "study.db")
    assert table.row("00001").differences["pretrained"] == Difference(**older)
    _compare(table)
    assert table.row("00001").differences["pretrained"].p is not None
    for name in ("00001-seed-2", "00001-seed-3", "shared_lora-seed-2"):
        table.add_baseline(name)
        table.complete(name, make_result(spbleu=1.0, trainable_parameters=1000))
        table.record_test(name, _test(1.0))
    resampled.clear()
    _compare(table)
    found = make_table(tmp_path / "study.db").row("00001").differences
    assert {name: difference.num_seeds for name, difference in found.items()} == {"pretrained": 3, "shared_lora": 2}
    assert found["shared_lora"].value == pytest.approx(11.2 - 10.15), "the difference of the means over the seeds"
    assert table.row("00000").differences["shared_lora"].num_seeds == 1, "it has no further seed itself"
    assert asdict(found["pretrained"]) == asdict(table.row("00001").differences["pretrained"])
