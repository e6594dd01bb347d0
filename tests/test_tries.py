"""The tries of tuned baselines: their points, their turns, and the baseline that is made of the best."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from ray.tune.search import Searcher

from langsearch.experiment.disk import keep_within
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder, read_json, write_json, write_text
from langsearch.experiment.opening import open_table
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.experiment.try_tasks import adopt_folder, num_tries, try_task
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.search import tries as adopting
from langsearch.search.planned import planned_tasks
from langsearch.search.searcher import TableSearcher
from langsearch.search.tries import adopt_tuned, begin_baselines, by_turns, try_proposer
from langsearch.space.schema import Space, with_overrides
from langsearch.space.settings import CheckpointSettings
from langsearch.study.rows import State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.study.tries import best_try, needed_tries, next_try, tries_of
from langsearch.trial.failures import FAILED
from tests.searcher_fixtures import reported

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker

pytest_plugins = ["search_fixtures"]

RATES: dict[str, BaseDistribution] = {"trainer.lr": FloatDistribution(3e-5, 3e-3, log=True)}
OWN = {"trainer.lr": 3e-4, "trainer.epochs": 2}
FULL = "full_finetuning"
SETTINGS = [
    "baselines=[pretrained, {full_finetuning: {tune: 3}}, {shared_lora: {tune: {trials: 2, epochs: {choice: [1, 2]}}}}]"
]


@pytest.fixture(scope="module")
def space(checked: CheckedSpace) -> Space:
    return with_overrides(checked.space, SETTINGS)


def tried(number: int, point: dict[str, Any], state: State = State.COMPLETE, result: Any = None) -> TrialRow:
    return TrialRow(name=f"{FULL}-try-{number}", kind="try", state=state, params=point, fingerprint=None, result=result)


def points(num: int, dimensions: dict[str, BaseDistribution], make_result: "ResultMaker", **given: Any) -> list[Any]:
    """The points of so many tries, one after the other; the score falls with the rate."""
    rows: list[TrialRow] = []
    options: dict[str, Any] = {"baseline": FULL, "num_tries": num, "sampler": "tpe", "seed": 0} | given
    for number in range(1, num + 1):
        point = next_try(rows, dimensions, OWN, **options)
        score = 10 - 1000 * point.get("trainer.lr", 0.0)
        rows.append(tried(number, point, result=make_result(spbleu=score)))
    return [dict(row.params) for row in rows]


@pytest.mark.parametrize("sampler", ["tpe", "gp", "nsga2", "random", "grid"])
def test_the_first_try_is_the_baseline_itself_and_the_same_history_gives_the_same_next_one(
    sampler: str, make_result: "ResultMaker"
) -> None:
    found = points(6, RATES, make_result, sampler=sampler)
    assert found[0] == {"trainer.lr": 3e-4}
    assert len({point["trainer.lr"] for point in found}) == 6
    assert all(3e-5 <= point["trainer.lr"] <= 3e-3 for point in found)
    assert found == points(6, RATES, make_result, sampler=sampler)
    other = points(6, RATES, make_result, sampler=sampler, baseline="published")
    assert found[1:] != other[1:], "two baselines do not try the same"
    assert found[1:] != points(6, RATES, make_result, sampler=sampler, seed=1)[1:]


def test_countable_points_are_tried_once_each(make_result: "ResultMaker") -> None:
    dimensions = {"trainer.lr": CategoricalDistribution((3e-4, 1e-3)), "trainer.epochs": IntDistribution(1, 3)}
    found = points(6, dimensions, make_result)
    assert found[0] == OWN
    assert len({(point["trainer.lr"], point["trainer.epochs"]) for point in found}) == 6


def test_a_first_try_has_of_the_baseline_what_lies_in_the_searched_values(make_result: "ResultMaker") -> None:
    dimensions = {"trainer.lr": CategoricalDistribution((1e-2, 1e-3)), "trainer.epochs": IntDistribution(1, 3)}
    (first,) = points(1, dimensions, make_result)
    assert first["trainer.epochs"] == 2
    assert first["trainer.lr"] in (1e-2, 1e-3)


def test_failed_and_stopped_tries_are_no_best_one_and_of_equal_ones_the_first_is(make_result: "ResultMaker") -> None:
    rows = [
        tried(1, {}, State.FAILED),
        tried(2, {}, result=make_result(spbleu=5.0)),
        tried(10, {}, result=make_result(spbleu=7.0)),
        tried(3, {}, result=make_result(spbleu=7.0)),
        tried(4, {}, State.PRUNED, make_result(epoch=1, spbleu=9.0)),
        tried(5, {}, State.RUNNING, make_result(epoch=1, spbleu=9.0)),
    ]
    ordered = tries_of(rows, FULL)
    assert [row.name.rpartition("-")[2] for row in ordered] == ["1", "2", "3", "4", "5", "10"]
    best = best_try(ordered)
    assert best is not None
    assert best.name == f"{FULL}-try-3"
    assert needed_tries(rows) == {best.name}
    assert best_try(rows[:1]) is None


def test_two_proposers_take_turns_until_neither_has_anything() -> None:
    def of(items: list[Any]) -> Any:
        found: Iterator[Any] = iter(items)
        return lambda: next(found, None)

    propose: Any = by_turns(of(["a", "b", "c", "d"]), of(["x", "y"]))
    assert [propose() for _ in range(8)] == ["a", "x", "b", "y", "c", "d", None, None]


class Run:
    """One run of a search whose Tune is the test."""

    def __init__(self, path: Path, checked: CheckedSpace, space: Space) -> None:
        self.folder, self.space, self.shape = ExperimentFolder(path), space, checked.shape
        self.table = open_table(self.folder, space)
        self.adopt()
        begin_baselines(space, self.table)
        tasks = planned_tasks(space, self.shape, self.folder, self.table)
        left = [
            tasks[row.name]
            for row in self.table.rows()
            if row.name in tasks and not row.state.is_finished and row.name not in (FULL, "shared_lora")
        ]
        self.searcher = TableSearcher(
            self.table,
            self.folder,
            lambda number, point: searched_task(space, checked.shape, number, point),
            space.dimensions(),
            left,
            2,
            next_try=try_proposer(space, self.shape, self.table),
        )

    def adopt(self) -> list[str]:
        """Makes baselines of their tries; returns which."""
        return [task.name for task, _ in adopt_tuned(self.space, self.folder, self.table, None)]

    def train(self, name: str, result: Any) -> None:
        """Leaves the files of a trained trial, and tells the searcher."""
        trial = self.folder.trial(name)
        write_json(trial.result, {"spbleu": result.spbleu})
        write_text(trial.weights / "000001" / "weights", f"weights of {name}")
        write_text(trial.path / "proposals.json", "[]")
        self.searcher.on_trial_complete(name, reported(result))

    def states(self) -> dict[str, str]:
        """The state of all that is not a searched trial."""
        return {row.name: row.state.value for row in self.table.rows() if row.kind != "searched"}


@pytest.fixture
def begin(tmp_path: Path, checked: CheckedSpace, space: Space) -> Any:
    """Begins a run of the same experiment, as after a kill."""
    (tmp_path / "trials").mkdir()
    ExperimentFolder(tmp_path).space.write_text(space.text, encoding="utf-8")

    def begin(space: Space = space) -> Run:
        return Run(tmp_path, checked, space)

    return begin


def test_tries_and_searched_trials_come_by_turns_the_baselines_by_turns_too(begin: Any) -> None:
    run = begin()
    names: list[str] = []
    while (given := run.searcher.suggest(f"t{len(names)}")) != Searcher.FINISHED:
        names.append(given["name"])
        assert TrialTask.read(run.folder.trial(names[-1])).name == names[-1]
    assert names == [
        "pretrained",
        "00000",
        f"{FULL}-try-1",
        "00001",
        "shared_lora-try-1",
        f"{FULL}-try-2",
        "shared_lora-try-2",
        f"{FULL}-try-3",
    ]
    assert num_tries(run.space) == 5
    assert not run.searcher.is_done
    tried = TrialTask.read(run.folder.trial(f"{FULL}-try-1"))
    own = run.space.baseline_trainer(FULL)
    assert (tried.kind, tried.method, tried.trainer) == ("try", "full", own)
    second = TrialTask.read(run.folder.trial(f"{FULL}-try-2")).trainer
    assert second == replace(own, lr=run.table.row(f"{FULL}-try-2").params["trainer.lr"]) != own


def drive(run: Run, make_result: "ResultMaker", num: int | None = None) -> list[str]:
    """Trains what is proposed, so many trials at most; the second try of a baseline is the best."""
    names: list[str] = []
    while num is None or len(names) < num:
        given = run.searcher.suggest("t")
        if given == Searcher.FINISHED:
            break
        name = given["name"]
        run.searcher._names = {name: name}
        run.train(name, make_result(spbleu=9.0 if name.endswith("-try-2") else 5.0))
        names.append(name)
        run.adopt()
    return names


def test_a_baseline_is_its_best_try_once_all_have_ended(begin: Any, make_result: "ResultMaker") -> None:
    run = begin()
    drive(run, make_result)
    assert run.searcher.is_done
    row = run.table.row(FULL)
    assert (row.kind, row.state, row.tuned_from) == ("baseline", State.COMPLETE, f"{FULL}-try-2")
    assert row.result is not None
    assert row.result.spbleu == 9.0
    assert row.params == run.table.row(f"{FULL}-try-2").params
    trial = run.folder.trial(FULL)
    task = TrialTask.read(trial)
    assert (task.name, task.kind) == (FULL, "baseline")
    assert task.fingerprint == TrialTask.read(run.folder.trial(f"{FULL}-try-2")).fingerprint
    weights = "weights/000001/weights"
    assert (trial.path / weights).samefile(run.folder.trial(f"{FULL}-try-2").path / weights)
    assert not (trial.path / "proposals.json").exists()
    assert {found.name for found in run.table.untested()} >= {FULL, "shared_lora", "pretrained"}
    assert not [found for found in run.table.untested() if found.kind == "try"]
    # What is read again is what was written.
    again = open_table(run.folder, run.space).row(FULL)
    assert (again.tuned_from, again.params, again.kind) == (row.tuned_from, row.params, "baseline")


def test_what_tries_leave_is_deleted_but_for_what_a_baseline_may_be_made_of(
    begin: Any, make_result: "ResultMaker"
) -> None:
    run = begin()
    drive(run, make_result, 6)
    rows = run.table.rows()
    keep_within(run.folder, rows, needed_tries(rows), CheckpointSettings())
    left = {path.parent.name for path in (run.folder.path / "trials").glob("*try*/weights")}
    assert left == {f"{FULL}-try-2", "shared_lora-try-1"}
    drive(run, make_result)
    rows = run.table.rows()
    keep_within(run.folder, rows, needed_tries(rows), CheckpointSettings())
    assert not [*(run.folder.path / "trials").glob("*try*/weights")]
    kept = run.folder.trial(FULL).weights / "000001" / "weights"
    assert kept.read_text() == f"weights of {FULL}-try-2"


def test_a_resumed_search_proposes_the_tries_that_it_would_have(begin: Any, make_result: "ResultMaker") -> None:
    whole = begin()
    drive(whole, make_result)
    expected = {row.name: row.params for row in whole.table.rows() if row.kind == "try"}
    for path in whole.folder.path.glob("study.db*"):
        path.unlink()
    names: list[str] = []
    for _ in range(20):
        run = begin()
        if not (found := drive(run, make_result, 1)):
            break
        names += found
    assert run.searcher.is_done
    assert len(names) == len(set(names)) == 8, "nothing is trained twice"
    assert {row.name: row.params for row in run.table.rows() if row.kind == "try"} == expected
    assert run.states()[FULL] == run.states()["shared_lora"] == "complete"


class KilledError(Exception):
    """Stands for kill -9."""


@pytest.mark.parametrize("step", ["adopt_folder", "rename", "add_baseline", "complete"])
@pytest.mark.parametrize("is_before", [True, False])
def test_a_kill_between_two_steps_of_adoption_is_made_good_by_the_next_run(
    step: str, is_before: bool, begin: Any, make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    drive(run, make_result, 7)
    last = run.searcher.suggest("t")["name"]
    run.searcher._names = {last: last}
    run.train(last, make_result(spbleu=5.0))
    owner: Any = {"adopt_folder": adopting, "rename": Path}.get(step, TrialTable)
    whole = getattr(owner, step)

    def killed(*given: Any, **named: Any) -> None:
        if not is_before:
            whole(*given, **named)
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, killed)
        with pytest.raises(KilledError):
            run.adopt()
    again = begin()
    row = again.table.row(FULL)
    assert (row.state, row.tuned_from) == (State.COMPLETE, f"{FULL}-try-2")
    assert TrialTask.read(again.folder.trial(FULL)).name == FULL
    assert read_json(again.folder.trial(FULL).result) == {"spbleu": 9.0}
    assert again.adopt() == []


def test_a_baseline_whose_tries_all_fail_has_failed_and_the_next_run_tries_them_again(
    begin: Any, make_result: "ResultMaker"
) -> None:
    run = begin()
    tries = [f"{FULL}-try-{number}" for number in (1, 2, 3)]
    while (given := run.searcher.suggest("t")) != Searcher.FINISHED:
        name = given["name"]
        run.searcher._names = {name: name}
        if name in tries:
            run.searcher.on_trial_complete(name, {FAILED: "non-finite loss: nan"})
        else:
            run.train(name, make_result())
    run.adopt()
    row = run.table.row(FULL)
    assert (row.state, row.cause) == (State.FAILED, "none of 3 tries was complete: non-finite loss: nan")
    points = [run.table.row(name).params for name in tries]
    again = begin()
    assert [again.states()[name] for name in tries] == ["running"] * 3
    assert drive(again, make_result) == tries
    assert [again.table.row(name).params for name in tries] == points
    assert again.states()[FULL] == "complete"


def test_a_failed_try_counts_as_ended(begin: Any, make_result: "ResultMaker") -> None:
    run = begin()
    scores = {f"{FULL}-try-{number}": float(number) for number in (1, 2, 3)}
    while (given := run.searcher.suggest("t")) != Searcher.FINISHED:
        name = given["name"]
        run.searcher._names = {name: name}
        if name == f"{FULL}-try-2":
            run.searcher.on_trial_complete(name, {FAILED: "non-finite loss: nan"})
        else:
            run.train(name, make_result(spbleu=scores.get(name, 5.0)))
    assert run.adopt() == [FULL, "shared_lora"]
    assert run.table.row(FULL).tuned_from == f"{FULL}-try-3"
    assert begin().states()[f"{FULL}-try-2"] == "failed", "the baseline has a result"


def test_a_remote_gets_the_baseline_before_the_table_says_that_it_is_there(
    begin: Any, make_result: "ResultMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begin()
    drive(run, make_result, 7)
    last = run.searcher.suggest("t")["name"]
    run.searcher._names = {last: last}
    run.train(last, make_result(spbleu=5.0))
    calls: list[tuple[str, str]] = []

    class Copy:
        def pull(self, name: str) -> None:
            calls.append(("pull", name))

        def push(self, name: str) -> None:
            assert run.folder.trial(name).result.is_file()
            assert name not in run.states()
            calls.append(("push", name))
            if len(calls) == 2:
                raise OSError("the store is away")

    copy: WorkingCopy = Copy()  # type: ignore[assignment]
    with pytest.raises(OSError, match="away"):
        adopt_tuned(run.space, run.folder, run.table, copy)
    assert FULL not in run.states()
    adopt_tuned(run.space, run.folder, run.table, copy)
    assert calls == [("pull", f"{FULL}-try-2"), ("push", FULL)] * 2
    assert run.states()[FULL] == "complete"


def test_a_try_without_its_files_makes_no_baseline(begin: Any, make_result: "ResultMaker") -> None:
    run = begin()
    drive(run, make_result, 3)
    run.folder.trial(f"{FULL}-try-1").result.unlink()
    with pytest.raises(FileNotFoundError, match=r"result.json is not there, so that baseline full_finetuning"):
        adopt_folder(run.folder, f"{FULL}-try-1")
    assert not run.folder.trial(FULL).path.exists()


def test_what_is_no_longer_tuned_or_listed_is_not_run(
    begin: Any, checked: CheckedSpace, space: Space, make_result: "ResultMaker"
) -> None:
    run = begin()
    drive(run, make_result, 4)
    left = run.searcher.suggest("t")["name"]
    assert left.startswith("shared_lora-try")
    changed = with_overrides(space, ["baselines=[pretrained, full_finetuning]"])
    tasks = planned_tasks(changed, checked.shape, run.folder, run.table)
    assert not [name for name in tasks if "-try-" in name]


def test_a_task_of_a_try_is_the_baseline_at_its_point(space: Space, checked: CheckedSpace) -> None:
    task = try_task(space, checked.shape, "shared_lora-try-2", {"trainer.lr": 0.5, "trainer.epochs": 1})
    assert (task.name, task.kind, task.num_epochs, task.trainer.lr) == ("shared_lora-try-2", "try", 1, 0.5)
    assert task.architecture == space.baseline_architecture("shared_lora", checked.shape)
