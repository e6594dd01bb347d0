"""Numbers as people read them: the terminal, the cards and the page's script show the same digits."""

from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from langsearch.report import wording
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.page import render_page
from langsearch.study.results import final_part
from tests.report_fixtures import Page, make_experiment


def test_the_page_s_tables_read_as_the_terminal_does_where_a_score_lies_by_a_half() -> None:
    near_halves = [20.244978, 20.245, 2.2446, 0.125, 0.375, -0.125, 12.12499999, 12.12500001, 2.24996, 99.99499, 0.0]
    for value in [*near_halves, *(index / 7919 for index in range(0, 200_000, 97))]:
        given = wording.for_script(value)
        assert given is not None
        by_to_fixed = Decimal(given).quantize(Decimal("0.01"), ROUND_HALF_UP)  # JavaScript rounds a tie up
        assert str(by_to_fixed) == wording.spbleu(value), value
    assert wording.for_script(20.1234567) == 20.1235  # a page of thousands of trials stays small
    assert wording.for_script(None) is None


def test_a_trial_on_the_page_has_the_score_and_the_duration_of_the_terminal(tmp_path: Path) -> None:
    experiment = read_experiment(make_experiment(tmp_path / "experiment"))
    (trial,) = [trial for trial in experiment.trials if trial.name == "pretrained"]
    assert trial.validation is not None
    trial = replace(trial, validation=replace(trial.validation, spbleu=20.244978), seconds=90.46)
    columns = Page(render_page(replace(experiment, trials=(trial,)))).data["trials"]
    assert f"{columns['validation'][0][0]:.2f}" == wording.spbleu(20.244978) == "20.24"
    assert wording.duration(columns["seconds"][0]) == wording.duration(90.46) == "1 min 30 s"
    assert int(columns["seconds"][0] + 0.5) == 90  # as JavaScript rounds


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((52, 56, 52, 56), "validation"),
        ((52, 56, 52, 56, (52, 56), 5), "validation, beam 5"),
        ((52, 56, 52, 56, (20, 56), 5), "all of validation, beam 5"),
        ((52, 56, 52, 56, (52, 12)), "all of validation"),
        ((None, None, 52, 56), "validation"),
        ((20, 56, None, None), "validation"),
        ((20, 56, 52, 56, (52, 56), 1), "20 of 52 validation sentences in all directions, greedy"),
        ((20, 56, 52, 56), "20 of 52 validation sentences in all directions"),
        ((52, 12, 52, 56), "all validation sentences in 12 of 56 directions"),
    ],
)
def test_full_scores_say_how_much_of_the_validation_part_they_are_of(sizes: tuple[Any, ...], words: str) -> None:
    assert final_part(*sizes) == words
