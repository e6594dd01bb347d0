"""Searches by cuts of donors of several kinds of adapters."""

import json
from pathlib import Path

import pytest
import ray

from langsearch.experiment.cut_tasks import donor_task
from langsearch.experiment.environment import check_space
from langsearch.experiment.folder import read_rows
from langsearch.space.architecture import Architecture
from langsearch.space.one_shot import DONOR, cut_dimensions, donor_points
from langsearch.space.schema import load_space
from tests.one_shot_cases import EFFICIENCY, KINDS, KINDS_OF, one_shot_space, run_command

pytest_plugins = ["search_fixtures"]


def test_each_kind_has_its_own_donors_and_none_for_what_it_does_not_read() -> None:
    space = load_space(EFFICIENCY, {**KINDS, "trainer.lr": 0.01, "architecture.alpha": {"choice": [4.0, 8.0]}})
    assert set(cut_dimensions(space)) >= {"shared_rank", "rank.high", "rank.low", "layer_norm.stacks"}
    points = donor_points(space)
    by_kind = {kind: [point for point in points if point["adapter"] == kind] for kind in KINDS_OF}
    # Scaling and alpha are 3 combinations, since without a factor there is no alpha; two_sided has no sides.
    assert [len(by_kind[kind]) for kind in KINDS_OF] == [6, 3, 6]
    shape = check_space(space).shape
    tasks = [donor_task(space, shape, f"donor-{number}") for number in range(1, len(points) + 1)]
    assert len({task.fingerprint for task in tasks}) == len(points)
    for point, task in zip(points, tasks, strict=True):
        assert task.architecture is not None and task.trainer.nesting is not None
        assert task.architecture.word == point["adapter"]
        is_lora = point["adapter"] == "lora"
        assert task.architecture.shared_rank == (4 if is_lora else 0)
        assert dict(task.trainer.nesting.ranks).get("all") == ((0, 2, 4) if is_lora else None)
        found = {name for name in task.trainer.nesting.modules if "layer_norm" in name}
        assert found == ({"encoder.layer_norm"} if "layer_norm" in point["adapter"] else set()), "all have the others"
    few = load_space(EFFICIENCY, {**KINDS, "search.donors": 3})
    assert {point["adapter"] for point in donor_points(few)} == set(KINDS_OF), "each kind, however few donors"


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_one_shot_search_cuts_donors_of_two_kinds_and_trains_the_best_of_either_on(
    tmp_path: Path, tiny_space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = "  adapter: {choice: [lora, factorized+layer_norm]}\n  shared_rank: {choice: [0, 2]}\n"
    text = tiny_space.replace("architecture:\n", f"architecture:\n{kinds}").replace(
        "{float: [1.0e-3, 1.0e-2], log: true}", "0.003"
    )
    space = one_shot_space(tmp_path, text, min_correlation=-1, cuts=16, winners=3)
    path = tmp_path / "experiments" / "tiny"
    assert run_command(monkeypatch, "run", str(space), "--experiments", str(path.parent)) == 0
    ray.shutdown()
    rows = {row["name"]: row for row in read_rows(path / "results.parquet")}
    assert [name for name, row in rows.items() if row["kind"] == "donor"] == ["donor-1", "donor-2"]
    words = {
        name: Architecture.from_json((path / "trials" / name / "architecture.json").read_text())
        for name in rows
        if (path / "trials" / name / "architecture.json").exists()
    }
    assert [words[f"donor-{number}"].word for number in (1, 2)] == ["lora", "factorized+layer_norm"]
    assert words["donor-1"].shared_rank == 2
    scored = {name: row for name, row in rows.items() if row["kind"] == "cut" and row["state"] == "complete"}
    assert {json.loads(row["params"])[DONOR] for row in scored.values()} == {1, 2}
    assert not [row["cause"] for row in rows.values() if row["state"] == "failed"]
    winners = [row for row in rows.values() if row["kind"] == "searched" and row["is_from_cut"]]
    assert len(winners) == 3 and all(row["state"] == "complete" for row in winners)
    for row in winners:
        assert words[row["name"]].fingerprint == words[row["cut"]].fingerprint
