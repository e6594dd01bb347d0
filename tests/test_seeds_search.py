"""A whole search with further seeds, stopped among them and resumed."""

from pathlib import Path

import pytest
import ray
from rich.console import Console

from langsearch.experiment.environment import check_space
from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.experiment.task import TrialTask
from langsearch.report.experiment_reader import read_experiment
from langsearch.search.display import Display
from langsearch.search.runner import Outcome, run_search
from langsearch.space.schema import load_space
from langsearch.study.rows import State

pytest_plugins = ["search_fixtures"]

SETTINGS = (
    "baselines=[pretrained, shared_lora]",
    "search.objectives=[spbleu]",
    "search.trials=2",
    "trainer.epochs=3",
)


class _StoppingDisplay(Display):
    """Asks the search to stop once it trains with another seed, as somebody on the dashboard would."""

    stop_request: Path | None = None

    def started(self, task: TrialTask, retry_of: str | None = None) -> None:
        super().started(task, retry_of)
        if task.kind == "seed" and self.stop_request is not None:
            self.stop_request.touch()


def _run(
    space_file: Path, experiments: Path, *settings: str, resume: bool = True, stop: bool = False
) -> tuple[Outcome, str]:
    console = Console(record=True, width=200)
    display = _StoppingDisplay(console, "tiny", 4, 2)
    display.stop_request = ExperimentFolder(experiments / "tiny").stop_request if stop else None
    checked = check_space(load_space(space_file, [*SETTINGS, *settings]))
    return run_search(checked, experiments, display, resume=resume), console.export_text()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_search_stopped_among_its_seeds_goes_on_with_them_and_tests_all_once(
    tmp_path: Path, space_file: Path
) -> None:
    experiments = tmp_path / "experiments"
    try:
        first, said = _run(space_file, experiments, "evaluation.final.seeds=2", resume=False, stop=True)
        assert (first.stopped_by, first.is_complete) == ("requested", False)
        assert "2 systems with other seeds, 2 of each in all: 2 more trainings" in said
        rows = {row.name: row for row in first.rows}
        (best,) = [name for name in rows if name.endswith("-seed-2") and name != "shared_lora-seed-2"]
        member = best.removesuffix("-seed-2")
        assert State.RUNNING in {rows[name].state for name in (best, "shared_lora-seed-2")}
        assert not any(row.test for row in first.rows if row.kind != "baseline"), "none is tested before all are there"
        second, said = _run(space_file, experiments, "evaluation.final.seeds=2")
        assert (second.stopped_by, second.is_complete) == (None, True), said
        third, said = _run(space_file, experiments, "evaluation.final.seeds=2")
        assert third.is_complete and "Starting Ray" not in said, "nothing is left to be done"
        assert [row for row in third.rows if row.kind == "seed"] == [row for row in second.rows if row.kind == "seed"]
    finally:
        ray.shutdown()
    folder = ExperimentFolder(experiments / "tiny")
    rows = {row.name: row for row in second.rows}
    assert {name for name, row in rows.items() if row.test} == {
        *("pretrained", "shared_lora", "shared_lora-seed-2", member, best)
    }
    tasks = [TrialTask.read(folder.trial(name)) for name in (member, best)]
    assert [task.trainer.seed - tasks[0].trainer.seed for task in tasks] == [0, 1]
    assert tasks[0].architecture == tasks[1].architecture
    one, other = rows[member].result, rows[best].result
    assert one is not None and other is not None
    assert one.train_loss != other.train_loss
    differences = rows[member].differences
    assert {name: found.num_seeds for name, found in differences.items()} == {"pretrained": 2, "shared_lora": 2}
    assert all(found.holm_p is not None for found in differences.values())
    results = {row["name"]: row for row in read_rows(folder.results)}
    assert results[best]["kind"] == "seed" and results[best]["seed_of"] == member
    scores = [results[name]["test_spbleu"] for name in (member, best)]
    assert results[member]["test_num_seeds"] == 2
    assert results[member]["test_seeds_spbleu"] == pytest.approx(sum(scores) / 2)
    assert folder.trial(member).weights.exists() and not folder.trial(best).weights.exists()
    shown = {trial.name: trial for trial in read_experiment(folder.path).trials}
    assert set(shown) == {"pretrained", "shared_lora", "00000", "00001"}
    score = shown[member].test
    assert score is not None and score.num_seeds == 2


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_further_seed_of_a_cut_s_winner_begins_at_the_same_cut(tmp_path: Path, space_file: Path) -> None:
    one_shot = "search.one_shot={cuts: 6, winners: 2, sample: 3, min_correlation: -1}"
    both = "search.objectives=[spbleu, trainable_parameters]"
    settings = ("search.strategy=one_shot", "search.donors=1", one_shot, both, "baselines=[pretrained]")
    try:
        ended, said = _run(space_file, tmp_path, *settings, "evaluation.final.seeds=2", resume=False)
    finally:
        ray.shutdown()
    assert ended.is_complete, said
    rows = {row.name: row for row in ended.rows}
    seeds = [row for row in ended.rows if row.kind == "seed"]
    assert seeds and all(row.state is State.COMPLETE and row.test is not None for row in seeds)
    folder = ExperimentFolder(tmp_path / "tiny")
    assert any(rows[row.name.removesuffix("-seed-2")].is_from_cut for row in seeds), "a winner is on the front"
    for row in seeds:
        original = row.name.removesuffix("-seed-2")
        task, first = TrialTask.read(folder.trial(row.name)), TrialTask.read(folder.trial(original))
        assert (task.trainer.start_cut, task.trainer.seed) == (first.trainer.start_cut, first.trainer.seed + 1)
        assert bool(task.trainer.start_cut) == rows[original].is_from_cut
        assert ("begins at the same cut" in said) or not task.trainer.start_cut
