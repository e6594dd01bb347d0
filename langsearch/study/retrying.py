"""Which failed trials `--retry` means."""

from collections.abc import Sequence

from langsearch.space.problems import InputError
from langsearch.study.rows import State, TrialRow

ALL = "failed"
"""All that failed."""


def choose_failed(rows: Sequence[TrialRow], what: str) -> list[str]:
    """Returns the names of the failed trials to try again, in the order of their numbers.

    Args:
        rows: All trials of the experiment. Failed baselines are tried again by every resumed run and none of these.
        what: "failed" for all; numbers such as "12,17"; or how a cause begins, such as "out of memory". Trials
            that were retried already are left out.

    Raises:
        InputError: If nothing matches, or a number is not that of a failed trial that is still to be retried.
    """
    failed = [row for row in rows if row.kind == "searched" and row.state is State.FAILED]
    waiting = [row for row in failed if row.retried_as is None]
    parts = [part.strip() for part in what.split(",") if part.strip()]
    if parts and all(part.isdecimal() for part in parts):
        return _by_number(rows, [f"{int(part):05d}" for part in parts], waiting)
    asked = what.strip().lower()
    if asked == ALL:
        chosen = waiting
    else:
        chosen = [row for row in waiting if asked and (row.cause or "").lower().startswith(asked)]
    if not chosen:
        rule = "--retry must be failed, numbers such as 12,17, or how a cause begins"
        raise InputError([f"{rule}, but got {what!r}, which no failed trial matches.", *_listed(failed)])
    return [row.name for row in chosen]


def _by_number(rows: Sequence[TrialRow], names: Sequence[str], waiting: Sequence[TrialRow]) -> list[str]:
    by_name = {row.name: row for row in rows}
    left = {row.name for row in waiting}
    problems = []
    for name in dict.fromkeys(names):
        if name in left:
            continue
        row = by_name.get(name)
        if row is None:
            why = "there is none of that number"
        elif row.state is State.FAILED:
            why = f"it was retried already, as {row.retried_as}"
        else:
            why = f"it is {row.state.value}"
        problems.append(f"--retry must name failed trials, but got {name}: {why}.")
    if problems:
        raise InputError([*problems, *_listed([row for row in rows if row.name in left])])
    return sorted(set(names))


def _listed(failed: Sequence[TrialRow]) -> list[str]:
    """Returns the failed trials by cause, a line each."""
    by_cause: dict[str, list[str]] = {}
    for row in failed:
        kind = (row.cause or "unknown").split(":", 1)[0].strip()
        again = f" (retried as {row.retried_as})" if row.retried_as is not None else ""
        by_cause.setdefault(kind, []).append(f"{row.name}{again}")
    if not by_cause:
        return ["No searched trial has failed."]
    return [f"  {kind}: {', '.join(names)}" for kind, names in sorted(by_cause.items())]
