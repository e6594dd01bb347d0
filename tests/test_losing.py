"""A report does not praise what loses."""

from pathlib import Path

from langsearch.report.sentences import _gain_sentence, headline
from langsearch.report.summary import summarise
from tests.test_tables import _experiment, _row


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
