"""What a search will be: updates, time, and what cannot teach or tell anything, put together of counts and measures."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from langsearch.cluster.resources import num_threads
from langsearch.data.directions import sample_directions
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.task import baseline_task, searched_task
from langsearch.model.memory import available_bytes, free_memory, is_out_of_memory
from langsearch.search.needs import memory_needs, num_at_once
from langsearch.search.sizes import parameter_range, sample_point
from langsearch.space.one_shot import cut_decoding, num_donors
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.space.values import Value, extremes, options
from langsearch.train.fitting import MAX_TOKENS
from langsearch.trial.forecast import Measured, measure
from langsearch.trial.kept_measures import keep_measured, measure_key, read_measured
from langsearch.trial.measuring import TranslationTime
from langsearch.trial.teaching import Taught, count_taught
from langsearch.trial.update_count import Epoch, count_updates, fewest_and_most, sampled

_SECONDS = 0.5
"""How long updates are measured; translations, which tell of the base's quality too, twice as long."""

_MOST_S, _MOST_S_ASKED = 10.0, 60.0
"""How long translations may go on until there are enough to say where the base stands: unasked, and with --measure."""

NOT_ASKED = "that was not asked for"

_START_S = 20.0
"""Until Ray and the first workers have started, with the base in them: 10 to 30 s on two cores."""

_LEAST_DIFFERENT = 0.3
"""Of the rows of many cuts, how many are different ones at least: 0.29 were of all 54 cuts of a donor whose encoder is
all by target, in the space of tests/benchmarks/search_efficiency."""

_NUM_MEMBERS = 3
"""So many members of a front are counted on, to be scored again and tested."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a search will be."""

    trainer: TrainerSettings
    """That the rest is said of; what is searched is as in the sample."""

    epoch: Epoch
    fewest: int
    """Updates of a whole training, with the settings of the space that make the fewest."""

    most: int
    measured: Measured | None
    is_kept: bool
    """Whether it was measured before, and nothing that it depends on has changed since."""

    refusal: str | None
    """Why nothing was measured."""

    num_scored: tuple[tuple[int, int], ...]
    """Of a trial after each epoch: directions, and translations in all of them; each time that they are scored."""

    num_at_once: int
    """Trials that this machine runs at once."""

    taught: Taught | None
    """What another base that teaches reads for it."""

    trial_s: float | None
    search_s: tuple[float, float] | None
    """With early stopping as it is meant, and without."""


def forecast(checked: CheckedSpace, *, is_measured: bool | None) -> Forecast:
    """Returns what a search of a space will be.

    Args:
        checked: The space.
        is_measured: Whether the time is measured, if that can be done here: that takes some seconds. None: it is,
            unless the same was measured on this machine before. True is more patient on a busy machine.
    """
    space = checked.space
    task = searched_task(space, checked.shape, 0, sample_point(space.dimensions()))
    trainer = replace(task.trainer, tokens_per_batch=task.trainer.tokens_per_batch or MAX_TOKENS)
    measured, is_kept = None, False
    refusal = NOT_ASKED if is_measured is False else _refusal(checked)
    with sampled(checked) as sample:
        epoch = count_updates(checked, sample, trainer)
        taught = count_taught(checked, sample, trainer, epoch)
        fewest, most = fewest_and_most(checked, sample, list(_corners(space, trainer)))
        if refusal is None:
            try:
                key = measure_key(checked, sample, task, num_threads(space.resources))
                measured = None if is_measured else read_measured(key)
                is_kept = measured is not None
                if measured is None:
                    most_s = _MOST_S_ASKED if is_measured else _MOST_S
                    measured = measure(checked, sample, task, num_threads(space.resources), _SECONDS, most_s)
                    keep_measured(key, measured)
            except InputError as error:
                refusal = str(error)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                free_memory()
                refusal = "memory ran out"
    found = Forecast(
        trainer=trainer,
        epoch=epoch,
        fewest=fewest,
        most=most,
        measured=measured,
        is_kept=is_kept,
        refusal=refusal,
        num_scored=tuple(_num_scored(checked, trainer)),
        num_at_once=num_at_once(space),
        taught=taught,
        trial_s=None,
        search_s=None,
    )
    if measured is None:
        return found
    trial_s = sum(_epoch_seconds(found, measured))
    return replace(found, trial_s=trial_s, search_s=search_seconds(checked, found, measured))


def _refusal(checked: CheckedSpace) -> str | None:
    """Returns why nothing can be measured here, None if something can."""
    if checked.base.to_fetch:
        return "the base is not here yet; `run` fetches it"
    is_gpu = checked.space.resources.gpu > 0
    if is_gpu and not torch.cuda.is_available():
        return "this machine shows no GPU"
    need = memory_needs(checked, parameter_range(checked)[1])["a trial"]
    if need.fixed > available_bytes(torch.device("cuda" if is_gpu else "cpu")):
        return "there is not enough memory now"
    return None


def _corners(space: Space, trainer: TrainerSettings) -> Iterator[TrainerSettings]:
    """Yields the settings that make the fewest updates, and the most."""
    section = space.trainer_section
    for pick, other in ((min, max), (max, min)):
        yield replace(
            trainer,
            epochs=int(pick(extremes(section.epochs))),
            pairs_per_epoch=_pick(section.pairs_per_epoch, pick),
            tokens_per_batch=_pick(section.tokens_per_batch, other) or MAX_TOKENS,
        )


def _pick(value: Value, pick: Callable[[Iterable[float]], float]) -> int | None:
    if value is None or None in options(value):
        return None
    return int(pick(extremes(value)))


def _num_scored(checked: CheckedSpace, trainer: TrainerSettings) -> Iterator[tuple[int, int]]:
    space, epochs = checked.space, trainer.epochs
    rungs = list(zip(space.search.rung_epochs(epochs), space.evaluation.rungs, strict=False))
    for epoch in range(1, epochs + 1):
        settings = next((rung for last, rung in rungs if epoch <= last), space.evaluation.search)
        # Behind the last epoch each ratio has a score of its own.
        times = 1 + len(trainer.merge_src) * len(trainer.merge_tgt) * (epoch == epochs)
        num_directions, num = num_scored(checked, settings, "validation")
        yield times * num_directions, times * num


def num_scored(checked: CheckedSpace, settings: DecodingSettings, part: str) -> tuple[int, int]:
    """Returns in how many directions translations are made for a score, and how many in all of them."""
    chosen = sample_directions(checked.directions, settings.directions, checked.space.classes)
    rows = [getattr(checked.direction_rows[direction], part) for direction in chosen]
    return len(rows), sum(num if settings.sentences is None else min(num, settings.sentences) for num in rows)


def _epoch_seconds(found: Forecast, measured: Measured) -> list[float]:
    updates_s = 0.0
    if measured.updates is not None:
        updates_s = found.epoch.num_microbatches * measured.updates.microbatch_s
    return [updates_s + _score_seconds(measured.translations, *scored) for scored in found.num_scored]


def _score_seconds(measured: TranslationTime, num_directions: int, num_sentences: int) -> float:
    return num_sentences * measured.sentence_s + num_directions * measured.score_s


def search_seconds(checked: CheckedSpace, found: Forecast, measured: Measured) -> tuple[float, float]:
    """Returns how long all takes with early stopping as it is meant, and without."""
    space, epochs = checked.space, _epoch_seconds(found, measured)
    whole = sum(epochs)
    rungs, share, stopped, begin = space.search.rung_epochs(len(epochs)), 1.0, 0.0, 0
    for end in (*rungs, len(epochs)):
        stopped += share * sum(epochs[begin:end])
        share, begin = share / space.search.reduction_factor, end
    baselines, further, seeds = 0.0, 0.0, SeedPlan.of(checked)
    score_s = _score_seconds(measured.translations, *num_scored(checked, space.evaluation.search, "validation"))
    an_epoch = whole / len(epochs) if epochs else 0.0
    for baseline in space.baselines:
        num_epochs = each = baseline_task(space, checked.shape, baseline.name).num_epochs
        if baseline.tune is not None:
            searched = baseline.tune.epochs
            each = each if searched is None else int(sum(extremes(searched)) / 2)
            num_epochs = space.num_tries(baseline.name) * each
        baselines += num_epochs * an_epoch if num_epochs else score_s
        further += each * an_epoch
    final, members = space.evaluation.final, seeds.num_members
    again_s, test_s = (
        _score_seconds(measured.final, *num_scored(checked, final, part)) for part in ("validation", "test")
    )
    last_s = members * again_s + (members + len(space.baselines)) * test_s
    last_s += seeds.num_further * (members * whole + further + (members + seeds.num_baselines) * test_s)
    trials = [space.search.trials * one for one in (stopped if rungs else whole, whole)]
    if space.search.strategy == "one_shot":
        trials = _one_shot_seconds(checked, epochs, measured)
    # Whatever runs at once waits for the same teacher.
    begin_s = _START_S + (taught_seconds(found) or 0.0)
    low, high = (begin_s + (one + baselines + last_s) / found.num_at_once for one in trials)
    if space.search.max_hours is not None:
        high = min(high, 3600 * space.search.max_hours)
    return min(low, high), high


def _one_shot_seconds(checked: CheckedSpace, epochs: Sequence[float], measured: Measured) -> list[float]:
    """Returns what donors, cuts, sample and winners take: where cuts have most of their rows in common, and none.

    All seconds are those of one trial after another.
    """
    space, settings = checked.space, checked.space.search.one_shot
    whole, an_epoch = sum(epochs), sum(epochs) / len(epochs)
    decoding = cut_decoding(space.evaluation.search, settings.sentences)
    cuts = settings.cuts * _score_seconds(measured.translations, *num_scored(checked, decoding, "validation"))
    num_epochs = num_donors(space) * (settings.donor_epochs or len(epochs)) + settings.winners * settings.epochs
    trained = num_epochs * an_epoch + settings.sample * whole
    return [trained + share * cuts for share in (_LEAST_DIFFERENT, 1.0)]


@dataclass(frozen=True)
class SeedPlan:
    """What a forecast assumes of the further seeds of what is tested; which trials that will be nobody knows yet."""

    num_further: int
    """Trainings of each beside its own."""

    num_members: int
    """Members of the front that are counted on."""

    num_baselines: int
    """Baselines that are trained."""

    @classmethod
    def of(cls, checked: CheckedSpace) -> "SeedPlan":
        """Returns that of a space."""
        space = checked.space
        tasks = [baseline_task(space, checked.shape, baseline.name) for baseline in space.baselines]
        return cls(
            space.evaluation.num_seeds - 1,
            min(_NUM_MEMBERS, space.search.trials),
            sum(task.num_epochs > 0 for task in tasks),
        )


def taught_seconds(found: Forecast) -> float | None:
    """Returns how long another base that teaches reads, once for all trials; None where that is not known."""
    if found.taught is None or found.measured is None or found.measured.taught_token_s is None:
        return None
    return found.taught.num_tokens * found.measured.taught_token_s
