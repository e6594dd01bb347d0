"""A one-shot search: wide trainings, many cuts of them scored without training, the best of these trained on.

Whether cuts are in the order of trainings is looked at inside the search: some of their architectures are trained by
themselves. Where they are not, the search goes on as an ordinary one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from langsearch.experiment.cut_tasks import donor_names, donor_task, going_on, whole_point
from langsearch.experiment.folder import ExperimentFolder, read_json, write_json
from langsearch.experiment.task import searched_task
from langsearch.prior.seeding import Seeding
from langsearch.search.cut_scoring import score_cuts, write_cuts
from langsearch.search.search import Ended, Search
from langsearch.search.tuning import run_trials
from langsearch.study.cut_rows import cut_name, cut_row, scored_cuts
from langsearch.study.front import hypervolume
from langsearch.study.mirror import Proposal
from langsearch.study.rows import State
from langsearch.study.table import TrialTable


@dataclass
class OneShotPlan:
    """What a one-shot search has decided so far, as a file of the experiment."""

    sample: list[str] = field(default_factory=list)
    """The cuts whose architectures are trained by themselves."""

    winners: list[str] = field(default_factory=list)
    """The cuts that are trained on."""

    correlation: float | None = None
    """Spearman's, between the sample's scores as cuts and as trainings."""

    is_trusted: bool | None = None
    """Whether winners are trained on; None: not known yet."""

    is_complete: bool = False


def read_plan(folder: ExperimentFolder) -> OneShotPlan:
    """Returns what a search has decided; nothing yet where there is no file."""
    return OneShotPlan(**(read_json(folder.one_shot) if folder.one_shot.exists() else {}))


def write_plan(folder: ExperimentFolder, plan: OneShotPlan) -> None:
    """Writes it. Raises OSError if the disk is full."""
    write_json(folder.one_shot, asdict(plan))


def run_one_shot(
    search: Search, seeding: Seeding, retry: Sequence[str], described: dict[str, Any], deadline: float | None
) -> Ended:
    """Runs a one-shot search up to the last scores and the test, which are those of every search.

    Args:
        search: The search, with its table of cuts.
        seeding: How an ordinary search begins, which it becomes where cuts cannot be trusted.
        retry: Failed trials to try again.
        described: Gets what the experiment's description keeps of it.
        deadline: When the time is up, by the monotonic clock. None: never.
    """
    cuts = search.cuts
    assert cuts is not None, "the table of cuts must be open"
    space, table, settings = search.space, search.table, search.space.search.one_shot
    plan = read_plan(search.folder)
    if plan.is_trusted is False:
        described["num_trials"] = space.search.trials
        return run_trials(search, seeding, retry, deadline=deadline)
    donors = donor_names(space)
    for name in donors:
        table.add_baseline(name)
    _say_donors(search, donors)
    ended = run_trials(search, seeding, retry, are_proposed=False, deadline=deadline)
    if not ended.is_done:
        return ended
    if not any(table.row(name).state is State.COMPLETE for name in donors):
        return replace(ended, is_done=False, stopped_by="no donor could be trained")
    stopped = score_cuts(search, cuts, donors, deadline)
    if stopped is not None:
        return Ended(False, None, stopped)
    if not plan.sample:
        plan.sample = _spread(cuts, settings.sample)
        write_plan(search.folder, plan)
    _add(search, cuts, plan.sample, is_from_cut=False)
    ended = run_trials(search, seeding, (), are_proposed=False, deadline=deadline)
    if not ended.is_done:
        return ended
    if plan.is_trusted is None:
        plan.correlation = _correlation(search, cuts)
        plan.is_trusted = plan.correlation is not None and plan.correlation >= settings.min_correlation
        write_plan(search.folder, plan)
        _say_trust(search, plan)
    if not plan.is_trusted:
        described["num_trials"] = space.search.trials
        return run_trials(search, seeding, (), deadline=deadline)
    if not plan.winners:
        plan.winners = best_cuts(cuts, settings.winners)
        write_plan(search.folder, plan)
    search.display.message(f"The {len(plan.winners)} best cuts are trained on: {', '.join(plan.winners)} …")
    write_cuts(search, cuts, plan.winners)
    _add(search, cuts, plan.winners, is_from_cut=True)
    ended = run_trials(search, seeding, (), are_proposed=False, deadline=deadline)
    if ended.is_done and not plan.is_complete:
        plan.is_complete = True
        write_plan(search.folder, plan)
    return ended


def best_cuts(cuts: TrialTable, num: int) -> list[str]:
    """Returns the names of the cuts that together dominate most, the one that adds most first.

    Each next one is that which adds most hypervolume to those chosen before; where none adds any, from those that none
    of the rest dominates. What breaks a constraint is never chosen.
    """
    rows = [row for row in scored_cuts(cuts) if row.is_feasible]
    if not rows:
        return []
    costs = np.array([cuts.costs(row.result) for row in rows if row.result is not None])
    spread = costs.max(axis=0) - costs.min(axis=0)
    # In units of the spread, with a corner behind the worst of each: the ends of the front count as well.
    scaled = (costs - costs.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    corner = [1.1] * costs.shape[1]
    chosen: list[int] = []
    layer: list[int] = []
    left = list(range(len(rows)))
    while left and len(chosen) < num:
        before = hypervolume(scaled[layer], corner) if layer else 0.0
        gains = [hypervolume(scaled[[*layer, index]], corner) - before for index in left]
        best = int(np.argmax(gains))
        if gains[best] <= 1e-12 and layer:
            layer = []  # the next ones, by themselves
            continue
        layer.append(left[best])
        chosen.append(left.pop(best))
    return [cut_name(int(rows[index].name)) for index in chosen]


def _spread(cuts: TrialTable, num: int) -> list[str]:
    """Returns the names of so many cuts, evenly over the order of their scores."""
    rows = sorted(scored_cuts(cuts), key=lambda row: row.result.spbleu if row.result is not None else 0.0)
    if not rows:
        return []
    places = np.unique(np.linspace(0, len(rows) - 1, min(num, len(rows))).round().astype(int))
    return [cut_name(int(rows[place].name)) for place in places]


def _add(search: Search, cuts: TrialTable, names: Sequence[str], *, is_from_cut: bool) -> None:
    """Adds the trials of some cuts, as running ones; those that are there already are not added again."""
    space, table, shape = search.space, search.table, search.checked.shape
    there = {row.cut for row in table.rows() if row.is_from_cut == is_from_cut}
    for name in names:
        if name in there:
            continue
        point, number = whole_point(space, cut_row(cuts, name).params), table.num_searched
        task = searched_task(space, shape, number, point)
        task = going_on(task, space, name) if is_from_cut else task
        proposal = Proposal(point=point, distributions=space.dimensions())
        table.add(number, point, fingerprint=task.fingerprint, recorded=proposal, cut=name, is_from_cut=is_from_cut)


def _correlation(search: Search, cuts: TrialTable) -> float | None:
    """Returns Spearman's correlation over the sample; None of fewer than three, or where one side is constant."""
    pairs = []
    for row in search.table.rows():
        if row.cut is not None and not row.is_from_cut and row.state is State.COMPLETE and row.result is not None:
            cut = cut_row(cuts, row.cut).result
            assert cut is not None
            pairs.append((cut.spbleu, row.result.spbleu))
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _say_donors(search: Search, donors: Sequence[str]) -> None:
    if all(search.table.row(name).state is State.COMPLETE for name in donors):
        return
    sizes = [
        donor_task(search.space, search.checked.shape, name).num_trainable(search.checked.shape) for name in donors
    ]
    what = "One wide training" if len(donors) == 1 else f"{len(donors)} wide trainings"
    search.display.message(f"{what} of up to {max(sizes):,} parameters, to be cut.")


def _say_trust(search: Search, plan: OneShotPlan) -> None:
    num, bound = len(plan.sample), search.space.search.one_shot.min_correlation
    if plan.correlation is None:
        found = f"Of {num} architectures too few could be trained by themselves to say whether cuts are in their order"
    else:
        found = f"{num} architectures trained by themselves: Spearman {plan.correlation:+.2f} with their scores as cuts"
    if plan.is_trusted:
        search.display.message(f"{found} (at least {bound:g} is asked for).")
    else:
        search.display.message(f"{found}, less than {bound:g}: cuts are not trusted, and the search goes on without.")
