"""A report does not praise what loses."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

from optuna.distributions import IntDistribution
from rich.console import Console

from langsearch.evaluate.spbleu import Difference
from langsearch.report.advice import next_sentences
from langsearch.report.listing import list_experiments, listing_table
from langsearch.report.sentences import _gain_sentence, headline
from langsearch.report.showing import print_experiment
from langsearch.report.summary import summarise
from langsearch.trial.export import export_trial, open_experiment
from tests.test_tables import _experiment, _row

pytest_plugins = ["search_fixtures"]


def test_adapters_that_are_no_better_than_the_base_are_not_praised(tmp_path: Path) -> None:
    rows = [_row("00000", 18.69, 10_000, is_front=True), _row("pretrained", 18.89, 0)]
    worse = headline(summarise(_experiment(tmp_path / "worse", rows)))
    assert worse == (
        "No adapters beat the pretrained base: the best reach 18.69 spBLEU, −0.20 to it, training 1.00 % of the "
        "parameters."
    )
    rows[1] = _row("pretrained", 18.0, 0)
    better = headline(summarise(_experiment(tmp_path / "better", rows)))
    assert better == "The best adapters reach 18.69 spBLEU, training 1.00 % of the parameters."


def test_languages_that_lose_are_not_said_to_gain() -> None:
    said = [_gain_sentence(gains, "it") for gains in ({"a": 2.0, "b": 1.0}, {"a": 2.0, "b": -1.0}, {"a": -1, "b": -2})]
    assert [("gain most" in text, "lose least" in text) for text in said] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert ["these lose most" in text for text in said] == [False, True, True]
    assert "these gain least" in said[0]


def test_the_terminal_and_the_list_say_that_nothing_was_gained(tmp_path: Path) -> None:
    def printed(name: str, pretrained: float) -> tuple[str, str]:
        rows = [_row("00000", 18.69, 10_000, is_front=True), _row("pretrained", pretrained, 0)]
        experiment = _experiment(tmp_path / name, rows)
        shown, listed = (Console(file=io.StringIO(), width=80) for _ in range(2))
        print_experiment(shown, experiment)
        listed.print(listing_table(list_experiments([tmp_path / name])))
        return tuple(console.file.getvalue() for console in (shown, listed))  # type: ignore[attr-defined]

    shown, listed = printed("worse", 18.89)
    assert shown.splitlines()[-1].startswith("No adapters beat the pretrained base: the best reach 18.69")
    assert "−0.20!" in listed
    assert "! its best adapters are no better than the pretrained base" in " ".join(listed.split())
    shown, listed = printed("better", 18.0)
    assert "No adapters beat" not in shown
    assert "!" not in listed


def test_the_card_and_the_export_say_that_nothing_was_gained(trained: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trained, tmp_path / "experiments" / "tiny")
    folder, base, environment, table = open_experiment(copy)
    row = table.row("00000")
    for value, expected in ((-0.39, "do not beat the pretrained base: -0.39 spBLEU to it on test."), (0.39, "")):
        changed = replace(row, differences={"pretrained": Difference(value, value - 1, value + 1)})
        notes: list[str] = []
        export_trial(base, environment, folder, changed, tmp_path / "out", note=notes.append)
        card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
        assert any(expected in note for note in notes) == bool(expected)
        assert card.rstrip().endswith(expected or "is called so.")


def test_advice_after_no_gain_names_causes_and_no_wider_ranks(tmp_path: Path) -> None:
    def advice(name: str, pretrained: float) -> str:
        rows = [
            _row("00000", 18.69, 10_000, is_front=True, params='{"rank.low": 2}'),
            _row("pretrained", pretrained, 0),
        ]
        experiment = _experiment(tmp_path / name, rows)
        dimensions = {"rank.low": IntDistribution(2, 8)}
        return " ".join(next_sentences(experiment, summarise(experiment), dimensions, (), {}))

    worse, better = advice("worse", 18.89), advice("better", 18.0)
    assert all(key in worse for key in ("`trainer.lr`", "`trainer.epochs`", "`trainer.label_smoothing`", "has seen"))
    assert "widen" not in worse
    assert "`rank.low` of trial 00000 is 2, the smallest" in better
    assert "trainer.lr" not in better


def test_a_language_that_loses_is_not_among_those_that_gain_most() -> None:
    text = _gain_sentence({"de": 0.08, "en": -0.33, "sw": -0.5, "cy": -0.9}, "it")
    assert "gain most (mean over the directions from and into each): de +0.08; these lose most" in text
