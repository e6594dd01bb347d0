"""What `check` says of the night to come: updates, time, and what cannot teach or tell anything."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.adapters.learners import adapt
from langsearch.evaluate.evaluation import evaluation_set
from langsearch.evaluate.spbleu import Scores, SpBleu
from langsearch.experiment.environment import CheckedSpace, Environment, check_space
from langsearch.experiment.folder import read_rows
from langsearch.model.base import Base
from langsearch.search.checking import print_check
from langsearch.search.forecast import Forecast, forecast, num_scored, search_seconds
from langsearch.search.forecast_lines import (
    base_score,
    counted_warnings,
    describe_forecast,
    forecast_lines,
    interval_warning,
    near_zero_warning,
    scored_warnings,
    show_time,
    update_warnings,
)
from langsearch.space.architecture import Architecture
from langsearch.space.schema import load_space
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.trial import update_count
from langsearch.trial.measuring import time_translations
from tests.search_fixtures import ResultMaker
from tests.space_fixtures import SMALL, load

pytest_plugins = ["search_fixtures"]


@pytest.fixture(scope="module")
def measured(checked: CheckedSpace) -> Forecast:
    """Of the space that trains in seconds."""
    return forecast(checked, is_measured=True)


def counted(folder: Path, *overrides: str, text: str = SMALL) -> Forecast:
    return forecast(check_space(load(folder, text, "evaluation.spbleu=base", *overrides)), is_measured=False)


def test_the_updates_are_those_that_a_trial_makes(trained: Path) -> None:
    found = forecast(check_space(load_space(trained / "space.yaml")), is_measured=False)
    assert found.epoch.is_exact
    (epoch,) = read_rows(trained / "trials" / "00000" / "curve.parquet")
    assert found.epoch.num_updates == found.fewest == found.most == epoch["updates"] > 1


@pytest.mark.parametrize(
    ("settings", "mean", "last"),
    [
        (TrainerSettings(lr=0.01, epochs=2), "0.20", "0.11"),
        (TrainerSettings(lr=0.01, epochs=2, warmup_updates=40), "0.67", "0.69"),
        (TrainerSettings(lr=0.01, epochs=2, schedule="constant"), "1.00", "1.00"),
    ],
)
def test_it_is_said_how_much_of_the_rate_updates_have(
    settings: TrainerSettings, mean: str, last: str, tmp_path: Path
) -> None:
    given = counted(tmp_path)
    found = replace(given, trainer=settings, epoch=replace(given.epoch, num_updates=42))
    lines = dict(forecast_lines(check_space(load(tmp_path, SMALL, "evaluation.spbleu=base")), found))
    assert lines["rates"] == (
        f"an update has {mean} of trainer.lr on average, the last one {last}, by its schedule and warmup"
    )


def test_of_a_large_text_a_sample_says_about_how_many_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = "trainer.tokens_per_batch=400", "trainer.accumulation=2"
    whole = counted(tmp_path, *few)
    monkeypatch.setattr(update_count, "_MAX_SENTENCES", 300)
    found = counted(tmp_path, *few)
    assert whole.epoch.is_exact and not found.epoch.is_exact
    assert found.epoch.num_pairs == pytest.approx(whole.epoch.num_pairs, rel=0.01)
    assert found.epoch.num_updates == pytest.approx(whole.epoch.num_updates, rel=0.1)


def test_what_is_searched_has_its_fewest_and_its_most(tmp_path: Path) -> None:
    found = counted(tmp_path, "trainer.tokens_per_batch={choice: [500, 8000]}", "trainer.accumulation=1")
    ends = [
        counted(tmp_path, f"trainer.tokens_per_batch={tokens}", "trainer.accumulation=1").fewest
        for tokens in (8000, 500)
    ]
    assert [found.fewest, found.most] == ends
    assert ends[0] < ends[1]


def test_adapters_that_learn_alone_have_updates_of_their_own(tmp_path: Path) -> None:
    alone = "trainer.modular={bridge: en}", "trainer.epochs=2"
    found = counted(tmp_path, *alone, "trainer.pairs_per_epoch=50", "trainer.tokens_per_batch=600")
    assert (found.epoch.num_pairs, found.epoch.num_apart) == (4 * 50, 4)
    assert found.fewest == found.most == found.epoch.num_updates * 2 // 4
    assert found.epoch.num_microbatches == 4 * found.epoch.num_updates  # parts of an update
    (warning,) = update_warnings(found)
    assert warning.startswith(f"a trial makes {found.fewest} updates of each adapter, which learns alone, in all, but")
    space = check_space(load(tmp_path, SMALL, "evaluation.spbleu=base"))
    assert dict(forecast_lines(space, found))["updates"].endswith(f"{found.fewest} of each adapter, which learns alone")
    merged = counted(
        tmp_path,
        "trainer.modular={bridge: en, merge_ratio: {src: [0.5, 1.0], tgt: [0.3, 0.5, 1.0]}}",
        "trainer.epochs=2",
        "architecture.adapter=two_sided",
    )
    first, last = merged.num_scored
    assert last == (7 * first[0], 7 * first[1])


def test_too_few_updates_are_warned_of_with_settings_that_make_more(tmp_path: Path) -> None:
    """500 pairs in updates of 16,000 tokens are a handful, and nothing is learned of them."""
    few = counted(tmp_path, "trainer.pairs_per_epoch=500", "trainer.epochs=4")
    assert few.fewest < 10
    (warning,) = update_warnings(few)
    assert warning.startswith(f"a trial makes {few.fewest} updates in all, but fewer than 50 teach next to nothing.")
    words = warning.partition("Smaller ones are more: ")[2].partition(";")[0].split()
    settings = [word for word in words if word != "--set"]
    assert [setting.partition("=")[0] for setting in settings] == ["trainer.tokens_per_batch", "trainer.accumulation"]
    more = counted(tmp_path, "trainer.pairs_per_epoch=500", "trainer.epochs=4", *settings)
    assert more.fewest >= 50
    assert list(update_warnings(more)) == []


def test_where_no_smaller_update_helps_more_epochs_or_sentences_are_asked_for(tmp_path: Path) -> None:
    few = counted(tmp_path, "trainer.pairs_per_epoch=8", "trainer.epochs=1", "trainer.tokens_per_batch=256")
    (warning,) = update_warnings(few)
    assert warning.endswith("Raise `trainer.epochs`, or bring more sentences.")


def test_a_few_updates_and_translations_are_measured(measured: Forecast, checked: CheckedSpace) -> None:
    assert measured.refusal is None and measured.measured is not None
    updates, translations = measured.measured.updates, measured.measured.translations
    assert updates is not None and updates.num_microbatches >= 2
    assert translations.num_sentences >= 8
    assert set(translations.by_language) == {"en", "fr", "sw"}
    assert measured.trial_s is not None and measured.search_s is not None
    epoch_s = measured.epoch.num_microbatches * updates.microbatch_s
    assert measured.trial_s > 2 * epoch_s
    assert 0 < measured.trial_s < measured.search_s[0] <= measured.search_s[1]
    assert measured.num_scored == ((2, 6), (2, 6)), "two directions of three sentences after each of two epochs"
    assert num_scored(checked, checked.space.evaluation.final, "test") == (2, 8)


def test_what_was_measured_is_kept_until_something_that_it_depends_on_changes(
    checked: CheckedSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path))

    def looked(*overrides: str, is_measured: bool | None = None) -> Forecast:
        space = load_space(checked.space.document.data, list(overrides))
        return forecast(check_space(space), is_measured=is_measured)

    first, again = looked(), looked("search.trials=2", "search.sampler=tpe")
    assert not first.is_kept and again.is_kept
    assert again.measured == first.measured and again.trial_s == first.trial_s
    assert dict(forecast_lines(checked, again))["measured"].endswith("UTC; --measure measures anew")
    assert json.loads(json.dumps(describe_forecast(again)))["measured_before"] is True
    assert not looked(is_measured=True).is_kept, "asked for anew"
    assert not looked("trainer.tokens_per_batch=500").is_kept
    for file in (tmp_path / "measured").glob("*.json"):
        file.write_text(file.read_text()[:-9])
    assert not looked().is_kept, "a torn file is as none"


def test_it_is_told_in_lines_and_as_data(measured: Forecast, checked: CheckedSpace) -> None:
    lines = dict(forecast_lines(checked, measured))
    total = measured.epoch.num_updates * 2
    assert f"an epoch of 24 pairs, {total} in all; an update takes up to 600 tokens" in lines["updates"]
    assert "the search about" in lines["time"]
    assert "while its load was " in lines["measured"]
    assert lines["measured"].endswith(f"in {show_time(measured.measured.seconds)}")  # type: ignore[union-attr]
    data = json.loads(json.dumps(describe_forecast(measured)))
    assert data["updates"]["num_updates"] == measured.epoch.num_updates
    assert data["num_translations"] == [6, 6]
    assert data["measured"]["translations"]["num_sentences"] >= 8
    stream = io.StringIO()
    print_check(Console(file=stream, width=100), checked, None, measured)
    assert stream.getvalue().count("\ntime  ") == 2


def test_early_stopping_takes_less_and_more_trials_take_longer(measured: Forecast, checked: CheckedSpace) -> None:
    def search_s(*overrides: str) -> tuple[float, float]:
        assert measured.measured is not None
        space = load_space(checked.space.document.data, list(overrides))
        return search_seconds(replace(checked, space=space), measured, measured.measured)

    once = search_s()
    assert once[0] == once[1]
    assert search_s("search.trials=300")[0] > 3 * once[0]
    low, high = search_s("search.trials=300", "search.scheduler=asha")
    assert low < high == search_s("search.trials=300")[1]
    assert search_s("search.trials=300", "search.max_hours=0.001") == (3.6, 3.6)
    # Two tries of a baseline take twice its time, and those of fewer epochs less.
    tuned = "baselines=[pretrained, {shared_lora: {tune: %s}}]"
    one = search_s("baselines=[pretrained, shared_lora]")[1]
    two, six = search_s(tuned % 2)[1], search_s(tuned % 6)[1]
    assert six - one == pytest.approx(5 * (two - one))
    assert two > one
    assert search_s(tuned % "{trials: 2, epochs: {choice: [1, 2]}}")[1] < two
    # A further seed trains a tuned baseline once, not as often as it was tried.
    seeds = "evaluation.final.seeds=2"
    assert search_s(tuned % 6, seeds)[1] - six == pytest.approx(search_s(tuned % 2, seeds)[1] - two)
    # Cuts cost what is decoded, not what ordinary trials would take.
    one_shot = ["search.trials=300", "search.strategy=one_shot"]
    few, many = (search_s(*one_shot, f"search.one_shot={{cuts: {num}}}") for num in (8, 400))
    assert few[1] < search_s("search.trials=300")[1]
    assert few[0] < many[0] < many[1] and few[0] <= few[1] < many[1]
    assert search_s(*one_shot, "search.one_shot={cuts: 400, sentences: 1}")[1] < many[1]


def test_what_cannot_be_measured_is_told_with_its_reason(
    checked: CheckedSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = replace(checked, base=replace(checked.base, to_fetch={"model.safetensors": 9}))
    assert dict(forecast_lines(checked, forecast(absent, is_measured=True)))["time"] == (
        "not measured: the base is not here yet; `run` fetches it"
    )
    assert forecast(checked, is_measured=False).refusal == "that was not asked for"
    monkeypatch.setattr("langsearch.search.forecast.available_bytes", lambda device: 1000)
    assert forecast(checked, is_measured=True).refusal == "there is not enough memory now"


def test_memory_that_runs_out_while_it_is_measured_is_a_reason(
    checked: CheckedSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("langsearch.trial.forecast.time_updates", fail)
    assert forecast(checked, is_measured=True).refusal == "memory ran out"


def test_a_part_that_is_too_small_to_compare_on_is_warned_of_without_a_measure(
    tmp_path: Path, checked: CheckedSpace
) -> None:
    few = list(counted_warnings(checked, forecast(checked, is_measured=False)))
    assert few[-1].startswith("Trials are compared on 3 sentences a direction: fewer than 20 tell no trials apart")
    many = check_space(load(tmp_path, SMALL, "evaluation.spbleu=base", "trainer.tokens_per_batch=300"))
    assert list(counted_warnings(many, forecast(many, is_measured=False))) == []


def test_languages_that_the_base_cannot_say_are_warned_of() -> None:
    assert near_zero_warning({"en": 12.0, "sw": 1.0}, 9) is None
    warning = near_zero_warning({"en": 12.0, "wo": 0.42, "sw": 0.0}, 9)
    assert warning is not None
    assert "next to nothing into sw 0.0, wo 0.4 (spBLEU, 9 sentences each)" in warning


def test_where_the_base_stands_is_told_with_how_small_the_sample_is(checked: CheckedSpace, measured: Forecast) -> None:
    assert measured.measured is not None
    scores = measured.measured.translations.scores
    assert scores is not None
    few = replace(scores, num_sentences=3)
    many = replace(scores, num_sentences=16, spbleu=9.06, spbleu_low=4.0, spbleu_high=14.3)

    def told(scores: Scores | None, by_language: dict[str, tuple[float, int]]) -> str:
        assert measured.measured is not None
        translations = replace(measured.measured.translations, scores=scores, by_language=by_language)
        found = replace(measured, measured=replace(measured.measured, translations=translations))
        assert dict(forecast_lines(checked, found))["base score"] == base_score(checked, found)
        return base_score(checked, found)

    text = told(many, {"en": (11.04, 16), "sw": (7.0, 16)})
    assert text.startswith("about 9.1 spBLEU by the base as it is, 95 % 4.0 to 14.3, greedy; into en 11.0, sw 7.0. ")
    num = len(scores.by_direction)
    of = str(num) if num == len(checked.directions) else f"{num} of {len(checked.directions)}"
    assert f"A small sample, of validation: 16 sentences in each of {of} directions." in text
    assert "; weakest into l0 0.0, l1 1.0, " in told(many, {f"l{score}": (float(score), 16) for score in range(40)})
    num = measured.measured.translations.num_sentences
    assert told(few, {"en": (11.04, 3)}) == told(None, {})
    rows = {direction: replace(rows, validation=3) for direction, rows in checked.direction_rows.items()}
    translations = replace(measured.measured.translations, scores=few)
    small = replace(measured, measured=replace(measured.measured, translations=translations))
    assert "of validation: only 3 sentences in each" in base_score(replace(checked, direction_rows=rows), small)
    assert told(None, {}).startswith(f"not measured: {num} translations were made in the time there was, too few")
    assert told(None, {}).endswith("--measure takes more time")
    refused = replace(measured, measured=None, refusal="memory ran out")
    assert base_score(checked, refused) == "not measured: memory ran out"
    assert (
        base_score(checked, forecast(checked, is_measured=False))
        == "not measured: that was not asked for; --measure does"
    )


def test_a_busy_machine_translates_enough_to_say_where_the_base_stands(
    base: Base, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the time alone it would be eight sentences in all; a slow machine gets more of it, up to a limit."""
    monkeypatch.setattr("langsearch.trial.measuring.ENOUGH_SENTENCES", 3)
    data = evaluation_set(
        environment.validation,
        environment.directions,
        DecodingSettings(sentences=6),
        environment.classes,
        base.vocabulary(environment.languages),
        environment.train,
    )
    no_adapters = Architecture(slots=tuple((name, name) for name in environment.languages), adapters=())
    learner = adapt(base, no_adapters, environment.languages)

    def num(most_seconds: float) -> int:
        settings, scorer = DecodingSettings(beams=1), SpBleu(environment.tokenizer)
        found = time_translations(learner, data, settings, base.tokenizer, scorer, 0.0, most_seconds)
        return found.num_sentences

    assert len(environment.directions) == 6
    assert num(0.0) == 8
    assert num(600.0) == 20, "three of each of six directions, in batches of four"


def test_scores_that_are_less_certain_than_what_is_at_stake_are_warned_of() -> None:
    assert interval_warning(20.0, 1.0, 100, "16 sentences") is None
    wide = interval_warning(20.0, 1.5, 30, "16 sentences")
    assert wide is not None and "over full fine-tuning on FLORES-101 (Cao et al. 2024)" in wide
    assert "on 30 sentences a direction, where 95 % of a score of 20.0 reach from -1.5 to +1.5" in wide
    weak = interval_warning(2.0, 0.9, 30, "16 sentences")
    assert weak is not None and "more than 25 % of the score" in weak
    assert interval_warning(0.1, 0.1, 30, "16 sentences") is None, "the base is warned of already"


def test_the_pretrained_base_s_own_scores_say_it_again(make_result: ResultMaker) -> None:
    rows = [
        {"split": "validation", "src": "en", "tgt": "sw", "spbleu": 0.2},
        {"split": "test", "src": "en", "tgt": "fr", "spbleu": 0.0},
        {"split": "validation", "src": "sw", "tgt": "fr", "spbleu": 9.0},
    ]
    result = make_result(spbleu=4.6, spbleu_low=2.0, spbleu_high=8.0, num_sentences=30)
    told = list(scored_warnings(result, rows))
    assert "into sw 0.2 (spBLEU, 30 sentences each)" in told[0]
    assert "(by the pretrained base's score)" in told[1]
    assert list(scored_warnings(make_result(spbleu=20.0), [])) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (25, "25 s"), (240, "4 min"), (8280, "2.3 h"), (360000, "4 days")],
)
def test_times_have_two_digits(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown
