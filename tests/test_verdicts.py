"""What may be said of a difference: by p, by seeds, and in which words."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from langsearch.report import verdicts, wording
from langsearch.report.advice import next_sentences
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment, PairedDifference, Score
from langsearch.report.figures import front_figure
from langsearch.report.page import render_page
from langsearch.report.sentences import headline, sentences
from langsearch.report.showing import find_trial, print_experiment, print_trial
from langsearch.report.summary import summarise
from langsearch.report.terminal import print_front

OPEN = PairedDifference(value=0.3, low=-0.1, high=0.7, p=0.14, holm_p=0.28, num_seeds=3, sentences_sd=0.1)
SURE = PairedDifference(value=0.5, low=0.2, high=0.8, p=0.004, holm_p=0.012, num_seeds=3, sentences_sd=0.1)
ONCE = replace(SURE, num_seeds=1)


@pytest.mark.parametrize(
    ("paired", "is_said"),
    [
        (SURE, True),
        (OPEN, False),
        (ONCE, False),
        (replace(SURE, holm_p=0.06), False),
        (replace(SURE, value=-0.5, low=-0.8, high=-0.2), False),
        (None, False),
    ],
)
def test_beats_is_said_only_of_a_gain_over_seeds_that_is_sure_among_all_members(
    paired: PairedDifference | None, is_said: bool
) -> None:
    assert verdicts.beats(paired) is is_said


def test_older_experiments_without_p_are_judged_by_their_interval() -> None:
    old = PairedDifference(value=0.5, low=0.2, high=0.8)
    assert verdicts.is_sure(old) and not verdicts.is_sure(replace(old, low=-0.1))
    assert verdicts.evidence(old) == "95 % +0.20 to +0.80 over sentences, paired bootstrap"


def test_evidence_says_what_the_interval_holds() -> None:
    assert verdicts.evidence(SURE) == "95 % +0.20 to +0.80 over sentences and 3 seeds, Holm's p 0.012"
    assert verdicts.evidence(replace(ONCE, holm_p=None)).endswith("over sentences, paired bootstrap, p 0.004")
    assert [verdicts.p_words(p) for p in (0.00001, 0.0123, 0.5)] == ["< 0.001", "0.012", "0.50"]


def _score(sd: float | None, num: int = 3) -> Score:
    return Score(spbleu=9.0, low=8.0, high=10.0, num_sentences=60, num_directions=2, num_seeds=num, seeds_sd=sd)


def test_so_many_seeds_are_recommended_as_the_spread_so_far_asks_for() -> None:
    once = _score(None, 1)
    assert verdicts.seeds_to_tell(ONCE, once, once) == verdicts.USUAL_SEEDS
    few, many = (verdicts.seeds_to_tell(OPEN, _score(sd), _score(sd)) for sd in (0.05, 0.2))
    assert few is not None and many is not None and few < many
    # t(31) sqrt(0.01 + 2 x 0.04 / 6) = 2.04 x 0.153 = 0.31 is more than 0.3; of 7 t(42) x 0.146 = 0.295 is less.
    assert many == 7
    assert verdicts.seeds_to_tell(replace(OPEN, sentences_sd=0.2), _score(0.1), _score(0.1)) is None
    assert "more test sentences" in verdicts.caution(replace(OPEN, sentences_sd=0.2), _score(0.1), _score(0.1))
    assert verdicts.caution(OPEN, _score(0.2), _score(0.2)).startswith("`evaluation.final.seeds: 7`")
    assert verdicts.caution(ONCE, once, once).endswith("`evaluation.final.seeds: 3` tells")
    assert verdicts.caution(replace(OPEN, num_seeds=1), once, once).startswith("score more test sentences, or train")
    assert verdicts.caution(SURE, _score(0.1), _score(0.1)) == ""


def _difference(name: str, paired: PairedDifference) -> dict[str, Any]:
    values = dict(vars(paired))
    return {name: values.pop("value"), **{f"{name}_{end}": value for end, value in values.items()}}


def _row(name: str, spbleu: float, size: int, **changes: Any) -> dict[str, Any]:
    kind = "searched" if name.isdigit() else "seed" if "-seed-" in name else "baseline"
    row = {"name": name, "kind": kind, "state": "complete", "is_front": name == "00000", "summary": "rank 2"}
    row |= {"trainable_parameters": size, "trainable_percent": size / 100}
    for part in ("", "test_"):
        row |= {f"{part}spbleu": spbleu, f"{part}spbleu_low": spbleu - 1, f"{part}spbleu_high": spbleu + 1}
        row |= {f"{part}num_sentences": 60, f"{part}num_directions": 2}
    return row | changes


def _experiment(folder: Path, to_full: PairedDifference, *, with_seeds: bool) -> Experiment:
    folder.mkdir()
    (folder / "experiment.json").write_text(json.dumps({"name": "tiny", "languages": ["en", "fr"]}), encoding="utf-8")

    def seeds(mean: float) -> dict[str, Any]:
        found = {"test_num_seeds": 3, "test_seeds_spbleu": mean, "test_seeds_spbleu_sd": 0.21}
        found |= {"test_seeds_spbleu_low": mean - 1.5, "test_seeds_spbleu_high": mean + 1.5}
        return found if with_seeds else {"test_num_seeds": 1}

    to_pretrained = _difference("test_to_pretrained", replace(SURE, value=3.0, num_seeds=to_full.num_seeds))
    to_shared = _difference("test_to_shared_lora", replace(OPEN, num_seeds=to_full.num_seeds))
    rows = [
        _row("pretrained", 6.0, 0, test_num_seeds=1),
        _row("full_finetuning", 8.0, 9000, **seeds(8.5)),
        _row("shared_lora", 8.3, 50, **seeds(8.7)),
        _row("00000", 9.25, 100, **seeds(9.0), **_difference("test_to_full", to_full), **to_pretrained, **to_shared),
        _row("00000-seed-2", 8.8, 100, seed_of="00000"),
    ]
    columns = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in columns}), folder / "results.parquet")
    return read_experiment(folder)


def _printed(experiment: Experiment, show: Any, *given: Any, width: int = 200) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=width), experiment, *given)
    return stream.getvalue()


def test_a_gain_over_seeds_beats_and_the_means_are_shown_with_their_spread(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path / "tiny", SURE, with_seeds=True)
    summary = summarise(experiment)
    assert headline(summary) == (
        "The best adapters beat full fine-tuning by 0.50 spBLEU (95 % +0.20 to +0.80 over sentences and 3 seeds, "
        "Holm's p 0.012), training 1.00 % of the parameters."
    )
    assert [trial.name for trial in experiment.trials] == ["pretrained", "full_finetuning", "shared_lora", "00000"]
    said = " ".join(sentences(experiment, summary, {}))
    assert "9.00 spBLEU (95 % interval 7.50–10.50, mean over 3 seeds, sd 0.21)" in said
    assert "Against shared LoRA, 8.70 spBLEU" in said
    printed = _printed(experiment, print_front)
    assert "3 ±0.21" in printed and "9.00 7.50–10.50" in printed and "9.25" not in printed
    assert "* against shared LoRA: +0.30, 95 % −0.10 to +0.70 (3 seeds, p 0.28)" in printed
    assert "p: by Holm's rule over members" in printed and "1 seed" not in printed
    shown = _printed(experiment, print_trial, find_trial(experiment, "0"))
    assert "to shared LoRA: +0.30 on test" in shown and "sd" in shown and "0.21" in shown
    assert "seed of      00000" in _printed(experiment, print_trial, find_trial(experiment, "00000-seed-2"))
    assert "1 of 1 ended (1 complete)" in _printed(experiment, print_experiment)
    figure = front_figure(experiment, summary, "test")
    assert figure is not None
    front = next(trace for trace in figure["data"] if trace["name"] == "front")
    assert (front["y"], front["error_y"]["array"], front["error_y"]["arrayminus"]) == ([9.0], [1.5], [1.5])
    assert "over seeds where there are several" in figure["words"]


def test_at_80_columns_a_table_with_seeds_loses_no_letter(tmp_path: Path) -> None:
    given = _experiment(tmp_path / "tiny", SURE, with_seeds=True)
    text = "rank 2;2;8 · enc 0-2 dec 0-2 · 10 src 29 tgt"
    trials = tuple(replace(one, summary=text, trainable_parameters=569_088) for one in given.trials)
    printed = _printed(replace(given, trials=trials), print_front, width=80)
    lines = printed.partition("* best")[0].splitlines()
    (start,) = (line.index("architecture") for line in lines if "architecture" in line)
    shown = re.sub(r"\s", "", "".join(line[start:] for line in lines))
    assert shown.count(re.sub(r"\s", "", text)) == len(trials)


def test_a_gain_of_one_training_each_is_said_to_be_of_these_and_how_to_learn_more(tmp_path: Path) -> None:
    experiment = _experiment(tmp_path / "tiny", ONCE, with_seeds=False)
    summary = summarise(experiment)
    found = headline(summary)
    assert "beat" not in found
    assert found == (
        "The best adapters score 1.25 spBLEU more than full fine-tuning (95 % +0.20 to +0.80 over sentences, paired "
        "bootstrap, Holm's p 0.012), training 1.00 % of the parameters; that is of these trainings alone: with other "
        "seeds it may be another: `evaluation.final.seeds: 3` tells."
    )
    assert any("`evaluation.final.seeds: 3`" in line for line in next_sentences(experiment, summary, {}, (), {}))
    printed = _printed(experiment, print_front, width=80)
    assert "seeds" not in printed.partition("architecture")[0], "no column where there is nothing to say"
    assert "* against full fine-tuning: +0.50, 95 % +0.20 to +0.80 (1 seed, p 0.012)" in printed
    assert "1 seed: other trainings may differ" in printed
    assert wording.over_seeds(summary.best.test if summary.best else None) == ""


def test_the_page_shows_the_mean_over_seeds_and_says_so(tmp_path: Path) -> None:
    page = render_page(_experiment(tmp_path / "tiny", SURE, with_seeds=True))
    assert "7.50–10.50; 3 seeds, sd 0.21" in page
    assert "What was trained with several seeds has their mean" in page
