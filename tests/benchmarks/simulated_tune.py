"""Ray Tune's event loop in simulated time: real searcher, real scheduler, real table, scripted trials.

What Tune calls, and in which order, is that of `ray.tune.execution.tune_controller` (2.60): a free slot asks the
searcher; a result that ends its trial goes to the searcher alone, any other one first to the scheduler, whose STOP ends
the trial, then to the searcher. A trial that stopped on request ends with a result that says so, and nothing else.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from langsearch.experiment.task import TrialTask
from langsearch.study.results import TrialResult
from langsearch.trial.failures import PAUSED


@dataclass
class SimulatedTrial:
    """What schedulers see of a trial."""

    trial_id: str
    config: dict[str, Any]
    last_result: dict[str, Any] = field(default_factory=dict)


Epochs = Iterator[tuple[float, TrialResult | None]]
Script = Callable[[TrialTask], Epochs]
"""A trial's epochs: the seconds that each takes, and its result. None: the trial stopped on request."""


def scripted_result(epoch: int, num_epochs: int, spbleu: float, num_trainable: int) -> TrialResult:
    """Returns what a trial that nobody trains reports after an epoch."""
    return TrialResult(
        epoch=epoch,
        finished=epoch == num_epochs,
        spbleu=spbleu,
        worst_class_spbleu=spbleu,
        spbleu_low=spbleu - 0.3,
        spbleu_high=spbleu + 0.3,
        kept_epoch=epoch,
        num_sentences=52,
        num_directions=6,
        signature="nrefs:1",
        trainable_parameters=num_trainable,
        nonzero_parameters=num_trainable,
        train_loss=5.0,
        updates=epoch,
        train_seconds=1.0,
        seconds=1.0,
        peak_memory_bytes=1,
    )


def run_simulated(
    searcher: Any, scheduler: Any, script: Script, num_slots: int = 1, on_event: Callable[[float], None] | None = None
) -> float:
    """Runs a search to its end and returns the simulated seconds.

    Args:
        searcher: A `TableSearcher`.
        scheduler: A Tune scheduler.
        script: What each trial would report.
        num_slots: Trials at once.
        on_event: Called with the simulated time after every event.
    """
    clock, order, numbers = 0.0, itertools.count(), itertools.count()
    events: list[tuple[float, int, SimulatedTrial, Epochs, TrialResult | None]] = []
    is_open = True

    def push(trial: SimulatedTrial, epochs: Epochs) -> None:
        seconds, result = next(epochs)
        heapq.heappush(events, (clock + seconds, next(order), trial, epochs, result))

    while True:
        while is_open and len(events) < num_slots:
            trial_id = f"t{next(numbers):05d}"
            config = searcher.suggest(trial_id)
            if config == Searcher.FINISHED:
                is_open = False
            elif config is None:
                break
            else:
                push(SimulatedTrial(trial_id, config), iter(script(searcher.task(config["name"]))))
        if not events:
            return clock
        clock, _, trial, epochs, result = heapq.heappop(events)
        names = {"name": trial.config["name"], "kind": searcher.task(trial.config["name"]).kind}
        reported = {PAUSED: True} if result is None else asdict(result)
        values = {**reported, **names, "done": result is None or result.finished}
        trial.last_result = values
        if values["done"]:
            scheduler.on_trial_complete(None, trial, values)
            searcher.on_trial_complete(trial.trial_id, values)
        elif scheduler.on_trial_result(None, trial, values) == TrialScheduler.STOP:
            searcher.on_trial_complete(trial.trial_id, {**values, "done": True})
        else:
            searcher.on_trial_result(trial.trial_id, values)
            push(trial, epochs)
        if on_event is not None:
            on_event(clock)
