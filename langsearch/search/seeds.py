"""Training with other seeds what is to be tested, once the front is final: `evaluation.final.seeds`."""

from collections.abc import Sequence

from langsearch.experiment.task import TrialTask
from langsearch.prior.seeding import Seeding
from langsearch.search.cut_scoring import write_cuts
from langsearch.search.search import Ended, Search
from langsearch.search.tuning import run_trials
from langsearch.space.schema import Space
from langsearch.study.beside_names import original_of
from langsearch.study.rows import State, TrialRow
from langsearch.study.seeds import complete_seeds, further_seeds, missing_seeds
from langsearch.study.table import TrialTable

LEFT = "what it is a further seed of is not tested any more"
"""The cause of a further seed that had not ended when its original left the front."""


def wanted_seeds(space: Space, table: TrialTable) -> list[str]:
    """Returns the names of the further trainings that a search's front and its trained baselines are to have."""
    return further_seeds(_originals(space, table), space.evaluation.num_seeds)


def has_missing_seeds(space: Space, table: TrialTable) -> bool:
    """Returns whether further trainings are still to be made."""
    return bool(missing_seeds(table.rows(), wanted_seeds(space, table)))


def train_seeds(search: Search, seeding: Seeding, deadline: float | None) -> Ended:
    """Trains the front and the trained baselines with as many seeds as the space asks for, each once over all resumes.

    A training that fails is told and left out; the next resume tries it again.

    Args:
        search: The search, with its final front.
        seeding: How the search began.
        deadline: When the time is up, by the monotonic clock. None: never.
    """
    space, table = search.space, search.table
    wanted = wanted_seeds(space, table)
    for row in table.rows():
        if row.kind == "seed" and not row.state.is_finished and row.name not in wanted:
            table.fail(row.name, LEFT)
    names = missing_seeds(table.rows(), wanted)
    if names:
        search.display.message(_announcement(search, names))
        if search.cuts is not None:
            write_cuts(search, search.cuts, _cuts_of(search, names))
        search.display.plan_more(len(names))
        for name in names:
            table.add_baseline(name)
        ended = run_trials(search, seeding, (), are_proposed=False, are_seeds=True, deadline=deadline)
        if not ended.is_done:
            return ended
    for text in shortages(table.rows(), _originals(space, table), space.evaluation.num_seeds):
        search.display.message(text)
    return Ended(True, None, None)


def shortages(rows: Sequence[TrialRow], originals: Sequence[TrialRow], num_seeds: int) -> list[str]:
    """Returns a sentence for each system that has fewer seeds than were asked for, with the reasons."""
    by_name, lines = {row.name: row for row in rows}, []
    for original in originals:
        names = further_seeds([original], num_seeds)
        there = {row.name for row in complete_seeds(rows, [original])}
        lacking = [by_name[name] for name in names if name in by_name and name not in there]
        if lacking:
            reasons = "; ".join(f"{row.name} {row.state.value}: {row.cause}" for row in lacking)
            again = " --resume tries it again." if any(row.state is State.FAILED for row in lacking) else ""
            num = 1 + len(names) - len(lacking)
            lines.append(f"{original.name:<15} has {num} of {num_seeds} seeds, since {reasons}.{again}")
    return lines


def _originals(space: Space, table: TrialTable) -> list[TrialRow]:
    """Returns what is tested: the space's baselines and the front."""
    listed = {baseline.name for baseline in space.baselines}
    baselines = [row for row in table.rows() if row.name in listed and row.state is State.COMPLETE]
    return [*baselines, *table.front()]


def _announcement(search: Search, names: Sequence[str]) -> str:
    systems = len({original_of(name) for name in names})
    what = "1 system" if systems == 1 else f"{systems} systems"
    trainings = "1 more training" if len(names) == 1 else f"{len(names)} more trainings"
    going_on = ""
    if search.cuts is not None and _cuts_of(search, names):
        going_on = " What was trained on from a cut begins at the same cut again, so that its donor's seed stays."
    return (
        f"Training {what} with other seeds, {search.space.evaluation.num_seeds} of each in all: {trainings} …{going_on}"
    )


def _cuts_of(search: Search, names: Sequence[str]) -> list[str]:
    """Returns the cuts that some trainings begin at."""
    originals = dict.fromkeys(map(original_of, names))
    cuts = [TrialTask.read(search.folder.trial(name)).trainer.start_cut for name in originals]
    return [cut for cut in dict.fromkeys(cuts) if cut]
