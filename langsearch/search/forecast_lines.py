"""What `langsearch check` and `run` say of a forecast: updates and time, and warnings of what cannot teach or tell."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from statistics import fmean
from typing import Any

from langsearch.experiment.environment import CheckedSpace
from langsearch.model.cpus import available_cpus
from langsearch.search.forecast import NOT_ASKED, Forecast, SeedPlan, taught_seconds
from langsearch.study.results import TrialResult, beam_words
from langsearch.train.optimizer import learning_rate
from langsearch.trial.teaching import Taught

MIN_UPDATES = 50
"""Of a whole training. Adam's second moment, with beta 0.98, looks back over as many: before that a rate is a guess."""

GOOD_UPDATES = 300
"""What a warning proposes settings for."""

PUBLISHED_GAIN = 2.25
"""spBLEU: the most that language-specific LoRA has gained over full fine-tuning (Cao et al. 2024, arXiv 2409.05224,
abstract). An interval that is wider hides all of it."""

MAX_HALF_SHARE = 0.25
"""Half an interval that is more than such a part of the score itself hides what weaker bases gain."""

NEAR_ZERO = 1.0
"""spBLEU below which a base translates next to nothing into a language."""

MIN_COMPARED = 20
"""Sentences of a direction below which a resample of them says nothing of how uncertain a score is."""

_MORE_SENTENCES = "`data.validation`, `evaluation.search`"

_MIN_SENTENCES = 4
"""Of fewer sentences nothing is said."""

_MAX_LISTED = 12
"""So many target languages have their score beside them."""

_MAX_RATES = 10_000
"""Of so many updates at most, evenly spaced, the mean rate is taken."""


def forecast_lines(checked: CheckedSpace, found: Forecast) -> Iterator[tuple[str, str]]:
    """Yields a label and a text for the updates, the time, what that rests on, and each warning."""
    yield "updates", _updates(found)
    yield "rates", _rates(found)
    if found.taught is not None:
        yield "teacher", _teacher(found.taught, taught_seconds(found))
    yield from _times(found)
    if (seeds := SeedPlan.of(checked)).num_further:
        yield "seeds", _seeds(seeds)
    yield "base score", base_score(checked, found)
    for text in (*counted_warnings(checked, found), *measured_warnings(checked, found)):
        yield "warning", text


def base_score(checked: CheckedSpace, found: Forecast) -> str:
    """Returns where the base stands before any training, by the few sentences that were translated for the measure.

    Or why that is not known, and that warnings which rest on it are missing.
    """
    if found.measured is None:
        way_out = "; --measure does" if found.refusal == NOT_ASKED else ""
        return f"not measured: {found.refusal}{way_out}"
    scores = found.measured.translations.scores
    num_there = min((rows.validation for rows in checked.direction_rows.values() if rows.validation), default=0)
    if scores is None or scores.num_sentences < min(_MIN_SENTENCES, num_there):
        num = found.measured.translations.num_sentences
        return (
            f"not measured: {num} translations were made in the time there was, too few to say where the base stands, "
            "or to warn of languages that it cannot do; --measure takes more time"
        )
    into = {name: score for name, (score, _) in found.measured.translations.by_language.items()}
    weakest = len(into) > _MAX_LISTED
    listed = sorted(into, key=lambda name: into[name])[:_MAX_LISTED] if weakest else [*into]
    beams = beam_words(checked.space.evaluation.search.beams)
    few = "only " if scores.num_sentences < _MIN_SENTENCES else ""
    num, whole = len(scores.by_direction), len(checked.directions)
    return (
        f"about {scores.spbleu:.1f} spBLEU by the base as it is, 95 % {scores.spbleu_low:.1f} to "
        f"{scores.spbleu_high:.1f}, {beams}; {'weakest ' if weakest else ''}into "
        f"{', '.join(f'{name} {into[name]:.1f}' for name in listed)}. A small sample, of validation: "
        f"{few}{scores.num_sentences} sentences in each of {num if num == whole else f'{num} of {whole}'} "
        f"direction{'' if whole == 1 else 's'}. Where that is much more than on other text, the base has "
        "probably seen it."
    )


def counted_warnings(checked: CheckedSpace, found: Forecast) -> Iterator[str]:
    """Yields what can be warned of before anything is measured: too few updates, or sentences to compare trials on."""
    yield from update_warnings(found)
    num = _num_compared(checked)
    if num < MIN_COMPARED:
        yield (
            f"Trials are compared on {num:,} sentences a direction: fewer than {MIN_COMPARED} tell no trials apart, "
            f"nor how uncertain their scores are. Select on more: {_MORE_SENTENCES}."
        )


def update_warnings(found: Forecast) -> Iterator[str]:
    """Yields a warning if a training of the space makes too few updates to learn from."""
    if found.fewest >= MIN_UPDATES or not found.trainer.epochs:
        return
    trainer, per_update = found.trainer, found.epoch.num_pairs / found.epoch.num_updates
    which = "a trial" if found.fewest == found.most else "a trial with the fewest"
    text = (
        f"{which} makes {found.fewest:,} updates{_apart(found)} in all, but fewer than {MIN_UPDATES} teach next to "
        f"nothing. An update takes up to {trainer.tokens_per_batch:,} tokens, about {per_update:,.0f} pairs."
    )
    tokens = _proposed_tokens(found)
    if tokens is not None:
        more = f"trainer.tokens_per_batch={tokens} trainer.accumulation=1"
        settings = " ".join(f"--set {one}" for one in more.split())
        yield f"{text} Smaller ones are more: {settings}; or raise `trainer.epochs`."
    else:
        yield f"{text} Raise `trainer.epochs`, or bring more sentences."


def _proposed_tokens(found: Forecast) -> int | None:
    """Returns a batch of fewer tokens that makes `GOOD_UPDATES`; None if none does that the longest pairs fit in."""
    tokens = found.trainer.tokens_per_batch or 0
    wanted = 100 * (tokens * found.fewest // GOOD_UPDATES // 100)
    least = max(found.trainer.max_length, 200)
    return max(wanted, least) if max(wanted, least) < tokens else None


def measured_warnings(checked: CheckedSpace, found: Forecast) -> Iterator[str]:
    """Yields warnings of languages that the base cannot do, and of scores that tell no trials apart."""
    if found.measured is None:
        return
    translated = found.measured.translations
    weak = {name: pair for name, pair in translated.by_language.items() if pair[1] >= _MIN_SENTENCES}
    if text := near_zero_warning(
        {name: score for name, (score, _) in weak.items()}, min((n for _, n in weak.values()), default=0)
    ):
        yield text
    scores = translated.scores
    if scores is None or scores.num_sentences < _MIN_SENTENCES:
        return
    num = _num_compared(checked)
    if num < MIN_COMPARED:
        return
    half = (scores.spbleu_high - scores.spbleu_low) / 2 * math.sqrt(scores.num_sentences / max(num, 1))
    if text := interval_warning(scores.spbleu, half, num, f"{scores.num_sentences} sentences"):
        yield text


def scored_warnings(result: TrialResult, by_direction: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yields the same of the pretrained base's own scores, once a search has them.

    Args:
        result: The base's.
        by_direction: Rows of its scores.parquet.
    """
    into: dict[str, list[float]] = {}
    for row in by_direction:
        if row["split"] == "validation":
            into.setdefault(row["tgt"], []).append(row["spbleu"])
    means = {language: sum(scores) / len(scores) for language, scores in into.items()}
    if text := near_zero_warning(means, result.num_sentences):
        yield text
    half = (result.spbleu_high - result.spbleu_low) / 2
    if result.num_sentences < MIN_COMPARED:
        return
    if text := interval_warning(result.spbleu, half, result.num_sentences, "the pretrained base's score"):
        yield text


def _num_compared(checked: CheckedSpace) -> int:
    """Returns on how many sentences of a direction trials are compared, at most."""
    most = max((rows.validation for rows in checked.direction_rows.values()), default=0)
    return min(checked.space.evaluation.search.sentences or most, most)


def near_zero_warning(by_language: dict[str, float], num_sentences: int) -> str | None:
    """Returns a warning of languages that the base translates next to nothing into; None if there is none.

    Args:
        by_language: spBLEU of the pretrained base into each language.
        num_sentences: On so many of each, at least.
    """
    weak = {name: score for name, score in by_language.items() if score < NEAR_ZERO}
    if not weak:
        return None
    listed = ", ".join(f"{name} {score:.1f}" for name, score in sorted(weak.items(), key=lambda item: item[1]))
    return (
        f"The pretrained base translates next to nothing into {listed} (spBLEU, {num_sentences} sentences each): "
        "adapters of few parameters refine what a base can do, and teach it no language. Take a base that knows them, "
        "or give them more sentences and higher ranks."
    )


def interval_warning(score: float, half: float, num_sentences: int, measured_on: str) -> str | None:
    """Returns a warning if scores are too uncertain to tell trials apart; None if they are not.

    Args:
        score: spBLEU of the pretrained base.
        half: Half of its 95 % interval on what trials are compared on.
        num_sentences: Of a direction there.
        measured_on: What that was found on.
    """
    if 2 * half <= PUBLISHED_GAIN and (half <= MAX_HALF_SHARE * score or score < NEAR_ZERO):
        return None
    stake = (
        f"the method's published adapters gained {PUBLISHED_GAIN} spBLEU at most, over full fine-tuning on FLORES-101 "
        "(Cao et al. 2024)"
    )
    if 2 * half <= PUBLISHED_GAIN:
        stake = f"that is more than {100 * MAX_HALF_SHARE:g} % of the score"
    return (
        f"Trials are compared on {num_sentences:,} sentences a direction, where 95 % of a score of {score:.1f} reach "
        f"from -{half:.1f} to +{half:.1f} spBLEU (by {measured_on}), and {stake}: chance decides between trials. "
        f"Select on more sentences or directions: {_MORE_SENTENCES}."
    )


def describe_forecast(found: Forecast) -> dict[str, Any]:
    """Returns the same as JSON data, times in seconds."""
    return {
        "updates": asdict(found.epoch) | {"fewest": found.fewest, "most": found.most},
        "tokens_per_batch": found.trainer.tokens_per_batch,
        "num_at_once": found.num_at_once,
        "teacher": None if found.taught is None else asdict(found.taught) | {"seconds": taught_seconds(found)},
        "num_translations": [num for _, num in found.num_scored],
        "trial_s": found.trial_s,
        "search_s": found.search_s,
        "measured": None if found.measured is None else asdict(found.measured),
        "measured_before": found.is_kept,
        "not_measured_because": found.refusal,
    }


def _updates(found: Forecast) -> str:
    epoch, trainer = found.epoch, found.trainer
    about = "" if epoch.is_exact else "about "
    text = (
        f"{about}{epoch.num_updates:,} an epoch of {epoch.num_pairs:,} pairs, {epoch.num_updates * trainer.epochs:,} "
        f"in all; an update takes up to {trainer.tokens_per_batch:,} tokens"
    )
    if found.fewest != found.most:
        return f"{text}; {found.fewest:,} to {found.most:,}{_apart(found)} by what is searched"
    return text if epoch.num_apart == 1 else f"{text}; {found.fewest:,}{_apart(found)}".rstrip(",")


def _rates(found: Forecast) -> str:
    """Returns how much of `trainer.lr` updates have: with another warmup, the same value means other rates."""
    trainer = found.trainer
    num_updates = max(found.epoch.num_updates * trainer.epochs // found.epoch.num_apart, 1)
    step = math.ceil(num_updates / _MAX_RATES)
    shares = [learning_rate(update, trainer) / trainer.lr for update in range(1, num_updates + 1, step)]
    return (
        f"an update has {fmean(shares):.2f} of trainer.lr on average, the last one "
        f"{learning_rate(num_updates, trainer) / trainer.lr:.2f}, by its schedule and warmup"
    )


def _apart(found: Forecast) -> str:
    return "" if found.epoch.num_apart == 1 else " of each adapter, which learns alone,"


def _teacher(taught: Taught, seconds: float | None) -> str:
    took = "that was not measured" if seconds is None else f"about {show_time(seconds)}"
    return (
        f"{taught.teacher} reads up to {taught.num_pairs:,} pairs of a training once for all trials of a machine, "
        f"{took}; {_bytes(taught.num_bytes)} are kept beside the tokens. While it reads, its "
        f"{_bytes(taught.num_weight_bytes)} of weights are loaded too"
    )


def _seeds(plan: SeedPlan) -> str:
    members = "1 member" if plan.num_members == 1 else f"{plan.num_members} members"
    baselines = "1 trained baseline" if plan.num_baselines == 1 else f"{plan.num_baselines} trained baselines"
    num = plan.num_further * (plan.num_members + plan.num_baselines)
    return (
        f"{plan.num_further} more of each member of the front and of each trained baseline, once the front is final. "
        f"The search's time counts {members} and {baselines}, so {num} whole trainings more; the front may have more "
        "members, or fewer"
    )


def _bytes(num: int) -> str:
    return f"{num / 1e9:,.1f} GB" if num >= 1e9 else f"{num / 1e6:,.1f} MB"


def _times(found: Forecast) -> Iterator[tuple[str, str]]:
    measured = found.measured
    if measured is None or found.trial_s is None or found.search_s is None:
        yield "time", f"not measured: {found.refusal}"
        return
    updates_s = 0.0
    if measured.updates is not None:
        updates_s = found.trainer.epochs * found.epoch.num_microbatches * measured.updates.microbatch_s
    num_translations = sum(num for _, num in found.num_scored)
    yield (
        "time",
        f"a trial about {show_time(found.trial_s)}: updates {show_time(updates_s)}, {num_translations:,} translations "
        f"{show_time(found.trial_s - updates_s)}",
    )
    low, high = (show_time(seconds) for seconds in found.search_s)
    at_once = "one trial at a time" if found.num_at_once == 1 else f"{found.num_at_once} trials at once"
    yield "time", f"the search about {low if low == high else f'{low} to {high}'} on this machine, {at_once}"
    made = [f"{measured.translations.num_sentences} translations"]
    if measured.updates is not None:
        made.insert(0, f"{measured.updates.num_microbatches} updates")
        if not measured.updates.is_full:
            made[0] += " smaller than a trial's"
    kept = f", at {measured.at} UTC; --measure measures anew" if found.is_kept else ""
    took = show_time(measured.seconds)
    cpus = available_cpus()
    busy = "as busy as it was" if measured.load is None else f"while its load was {measured.load:.1f} of {cpus:,}"
    yield "measured", f"{' and '.join(made)} of the sample, on this machine {busy}, in {took}{kept}"


def show_time(seconds: float) -> str:
    """Returns a time with two digits: 0.5 s, 25 s, 4 min, 2.3 h, 3 days."""
    for unit, size, limit in (("s", 1.0, 100), ("min", 60.0, 100), ("h", 3600.0, 48)):
        if (number := seconds / size) < limit:
            return f"{number:.1f} {unit}" if number < 9.95 and unit != "min" else f"{number:.0f} {unit}"
    return f"{seconds / 86400:.0f} days"
