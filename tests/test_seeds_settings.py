"""`evaluation.final.seeds`: where it stands, what it changes, and what a forecast makes of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.disk import keep_within
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import space_changes
from langsearch.search.forecast import SeedPlan
from langsearch.search.forecast_lines import _seeds
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import CheckpointSettings, DecodingSettings
from langsearch.study.results import TestResult
from langsearch.study.rows import State, TrialRow

pytest_plugins = ["search_fixtures"]


def test_seeds_are_of_the_final_scores_alone_and_change_nothing_of_how_these_are_decoded(space_file: Path) -> None:
    plain, three = load_space(space_file), load_space(space_file, ["evaluation.final.seeds=3"])
    assert (plain.evaluation.num_seeds, three.evaluation.num_seeds) == (1, 3)
    assert three.evaluation.final == plain.evaluation.final == DecodingSettings(directions=2, sentences=4, beams=1)
    assert load_space(space_file, ["evaluation.final={seeds: 2}"]).evaluation.final.beams == 5
    assert "seeds: 3" in three.text
    with pytest.raises(InputError, match=r"evaluation\.search\.seeds` must be a key of"):
        load_space(space_file, ["evaluation.search.seeds=3"])
    with pytest.raises(InputError, match=r"evaluation\.final\.seeds` must be"):
        load_space(space_file, ["evaluation.final.seeds=0"])


def test_a_resumed_run_may_ask_for_more_seeds(space_file: Path) -> None:
    plain, three = load_space(space_file), load_space(space_file, ["evaluation.final.seeds=3"])
    assert space_changes(plain.text, three.text) == {}
    older = plain.text.replace(", seeds: 1", "")
    assert older != plain.text and space_changes(older, three.text) == {}, "also of what began before there were any"


def test_a_forecast_counts_the_further_seeds_and_says_which(checked: CheckedSpace) -> None:
    evaluation = replace(checked.space.evaluation, num_seeds=3)
    plan = SeedPlan.of(replace(checked, space=replace(checked.space, evaluation=evaluation)))
    assert plan == SeedPlan(num_further=2, num_members=3, num_baselines=3), "pretrained is not trained again"
    assert "counts 3 members and 3 trained baselines, so 12 whole trainings more" in _seeds(plan)
    assert SeedPlan.of(checked).num_further == 0


@pytest.mark.parametrize(
    ("keep", "is_tested", "is_kept"), [("front", True, False), ("front", False, True), ("all", True, True)]
)
def test_weights_of_further_seeds_go_once_these_are_tested_unless_all_stay(
    keep: Any, is_tested: bool, is_kept: bool, tmp_path: Path
) -> None:
    folder = ExperimentFolder(tmp_path)
    test = TestResult(
        test_spbleu=1.0, test_spbleu_low=0.5, test_spbleu_high=1.5, test_num_sentences=4, test_num_directions=2
    )
    rows = [
        TrialRow(
            name=name,
            kind=kind,
            state=State.COMPLETE,
            params={},
            fingerprint=None,
            test=test if is_tested else None,
        )
        for name, kind in (("00001", "searched"), ("00001-seed-2", "seed"))
    ]
    for row in rows:
        folder.trial(row.name).weights.mkdir(parents=True)
        (folder.trial(row.name).weights / "w").write_bytes(b"0")
    keep_within(folder, rows, ["00001"], CheckpointSettings(keep=keep))
    assert folder.trial("00001").weights.exists()
    assert folder.trial("00001-seed-2").weights.exists() == is_kept
