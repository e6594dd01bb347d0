"""What a search uploads of its study; run it by `python -m tests.benchmarks.study_upload`.

A search of scripted trials of about a minute in simulated time, as `tests.benchmarks.driver` has it, on eight workers;
nothing waits for the disk. The study goes to a folder that stands for an object store, as a search sends it: what has
changed, at most every five seconds. Beside it what earlier versions sent: the whole file with every proposal, and with
every result file.
"""

import argparse
import json
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.event import listen

from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.study_pieces import StudyUpload, pull_study
from langsearch.experiment.task import TrialTask
from langsearch.search.uploading import SECONDS_BETWEEN_STUDIES
from langsearch.study.early_stopping import AsyncHalving
from langsearch.study.results import TrialResult
from tests.benchmarks.driver import make_search, script_trials
from tests.benchmarks.simulated_tune import run_simulated

_WORKERS = 8
_EPOCHS = 3
_SECONDS_BETWEEN_RESULTS = 5.0


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[500, 5000])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    os.fsync = lambda fd: None
    listen(Engine, "connect", lambda connection, record: connection.execute("PRAGMA synchronous=OFF"))
    figures = []
    print(f"{'trials':>7}{'hours':>7}{'study, MB':>11}{'before, GB':>12}{'now, GB':>9}{'uploads':>9}{'ms each':>9}")
    for num_trials in arguments.trials:
        found = measure(num_trials)
        figures.append(found)
        print(
            f"{num_trials:>7}{found['hours']:>7.1f}{found['study_bytes'] / 1e6:>11.1f}{found['before'] / 1e9:>12.2f}"
            f"{found['now'] / 1e9:>9.3f}{found['uploads']:>9.0f}{1000 * found['seconds'] / found['uploads']:>9.1f}",
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(num_trials: int) -> dict[str, float]:
    """Returns the bytes that go before and now, and what the uploads take."""
    with tempfile.TemporaryDirectory() as name:
        folder, url = ExperimentFolder(Path(name) / "here"), f"file://{name}/store"
        folder.path.mkdir()
        space, shape, table, searcher = make_search(folder, "random", num_trials)
        upload = StudyUpload(url, folder.path, lambda: None)
        found = {"trials": num_trials, "before": 0, "now": 0, "uploads": 0, "seconds": 0.0}
        num_proposed, sent, written = 0, float("-inf"), float("-inf")

        def send() -> None:
            started = time.perf_counter()
            num_bytes = upload.push()
            found["seconds"] += time.perf_counter() - started
            found["now"] += num_bytes
            found["uploads"] += num_bytes > 0

        def note(clock: float) -> None:
            nonlocal num_proposed, sent, written
            times = table.num_searched - num_proposed
            num_proposed = table.num_searched
            if clock - written >= _SECONDS_BETWEEN_RESULTS:
                written, times = clock, times + 1
            found["before"] += times * folder.study.stat().st_size
            if clock - sent >= SECONDS_BETWEEN_STUDIES:
                sent = clock
                send()

        scheduler = AsyncHalving(table, max_epochs=_EPOCHS, grace_epochs=1, reduction_factor=2)
        script = script_trials(space, shape)

        def uneven(task: TrialTask) -> Iterator[tuple[float, TrialResult]]:
            """Yields the epochs of a trial that takes up to a quarter longer or shorter, as no two end together."""
            factor = random.Random(task.name).uniform(0.75, 1.25)
            yield from ((factor * seconds, result) for seconds, result in script(task))

        seconds = run_simulated(searcher, scheduler, uneven, num_slots=_WORKERS, on_event=note)
        send()
        pull_study(url, Path(name) / "there")
        assert (Path(name) / "there" / "study.db").read_bytes() == folder.study.read_bytes()
        return {**found, "hours": seconds / 3600, "study_bytes": folder.study.stat().st_size}


if __name__ == "__main__":
    main()
