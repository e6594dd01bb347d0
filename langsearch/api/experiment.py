"""An experiment as Python sees it: a folder, and what can be asked of it."""

from __future__ import annotations  # `help` shows annotations as they are written here

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from langsearch.api.report_page import ReportPage
from langsearch.api.words import speaking_python
from langsearch.space.problems import InputError

if TYPE_CHECKING:
    import pandas as pd

    from langsearch.evaluate.spbleu import Scores
    from langsearch.report import experiment_values
    from langsearch.space.schema import Space

# What takes seconds to load is imported where it is needed.


_TELLING = (
    *("name", "test_spbleu", "test_num_seeds", "test_seeds_spbleu", "test_seeds_spbleu_sd"),
    *("test_to_pretrained", "test_to_full", "full_spbleu", "spbleu"),
    *("trainable_parameters", "trainable_percent", "nonzero_parameters", "summary"),
)
"""The columns of results.parquet that come first in a front."""


class Experiment:
    """An experiment's folder: what a search has left there, or leaves while it goes on.

    It is read anew at every call, so that an experiment that runs elsewhere can be watched. As the last value of a cell
    of a notebook it is the table of its front against the baselines.

    Args:
        folder: Such as experiments/quickstart.

    Raises:
        InputError: If it holds no experiment.
    """

    __module__ = "langsearch"  # where users have it from

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._read()

    @property
    def folder(self) -> Path:
        """Its folder."""
        return self._folder

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self._read().name

    @property
    def state(self) -> Literal["running", "done", "stopped"]:
        """running: a run holds it. done: all has ended and the front is tested. stopped: resume=True goes on."""
        from langsearch.experiment.lock import is_held

        if is_held(self.folder):
            return "running"
        return "done" if self._read().finished else "stopped"

    @property
    def space(self) -> Space:
        """The space that it searches, with its defaults filled in."""
        from langsearch.experiment.earlier import load_begun_space

        return load_begun_space(self.folder / "space.yaml")

    def results(self) -> pd.DataFrame:
        """Returns a row for each trial and baseline, as results.parquet has them; the README lists the columns."""
        import pandas as pd

        from langsearch.experiment.results_parquet import RESULTS

        file = self.folder / "results.parquet"
        found: pd.DataFrame = pd.read_parquet(file) if file.exists() else RESULTS.empty_table().to_pandas()
        return found

    def front(self) -> pd.DataFrame:
        """Returns the rows of `results` that are on the Pareto front, the best on validation first.

        Of the columns those come first that tell the members apart: scores, sizes, the architecture.
        """
        results = self.results()
        members = results[results.is_front.astype(bool)].sort_values("spbleu", ascending=False, ignore_index=True)
        first = [name for name in _TELLING if name in members.columns]  # older experiments lack some
        return members[[*first, *(name for name in members.columns if name not in _TELLING)]]

    def trial(self, name: str | int) -> dict[str, Any]:
        """Returns all that is known of a trial, as `langsearch show EXPERIMENT TRIAL --json` prints it.

        Args:
            name: 12, "00012", or a baseline's name.

        Raises:
            InputError: If there is no such trial.
        """
        from langsearch.report.showing import find_trial, trial_data

        experiment = self._read()
        return trial_data(experiment, find_trial(experiment, str(name)))

    def report(self, price_per_gpu_hour: float | None = None) -> ReportPage:
        """Writes report.html, and returns its path; a notebook shows the page.

        Args:
            price_per_gpu_hour: For the costs, in any currency. None: none are shown.
        """
        from langsearch.report.page import write_report

        return ReportPage(write_report(self.folder, price_per_gpu_hour))

    def adapters(self, trial: str | int | None = None) -> Path:
        """Returns the folder of a trial's adapters in PEFT's format, which `ls.translate` takes.

        Args:
            trial: A member of the front. None: the best on validation, or the one that was trained alone.

        Raises:
            InputError: If the trial is not on the front, or there is none yet.
        """
        if trial is None:
            from langsearch.trial.export import adapters_of

            with speaking_python():
                return adapters_of(self.folder)
        name = f"{int(trial):05d}" if str(trial).isdecimal() else str(trial)
        folder = self.folder / "front" / name
        if not folder.is_dir():
            raise InputError(
                f"Adapters are exported of the front's members, but {folder} is not there. "
                f'Export another trial: experiment.export("adapters", trial="{name}")'
            )
        return folder

    def export(
        self,
        to: str | Path,
        trial: str | int | None = None,
        *,
        format: Literal["peft", "merged"] = "peft",  # as the option of `langsearch export`
        direction: str | None = None,
        compact: bool = False,
        energy: float | None = None,
    ) -> Path:
        """Exports a trial's adapters; see `ls.export`."""
        from langsearch.api.calls import export

        return export(self.folder, to, trial, format=format, direction=direction, compact=compact, energy=energy)

    def evaluate(
        self, split: str = "test", trial: str | int | None = None, *, beams: int | None = None, quiet: bool = False
    ) -> Scores:
        """Scores a trial again; see `ls.evaluate`."""
        from langsearch.api.calls import evaluate

        return evaluate(self.folder, split, trial, beams=beams, quiet=quiet)

    def _read(self) -> experiment_values.Experiment:
        """Returns what its folder says now, as the report's values."""
        from langsearch.report.experiment_reader import read_experiment

        with speaking_python():
            return read_experiment(self.folder)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Experiment) and self.folder == other.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    def __repr__(self) -> str:
        from langsearch.report.summary import summarise

        experiment = self._read()
        planned = "" if experiment.num_trials is None else f" of {experiment.num_trials}"
        return f"<Experiment {str(self.folder)!r}: {summarise(experiment).num_ended}{planned} trials, {self.state}>"

    def _repr_mimebundle_(self, include: Sequence[str] = (), exclude: Sequence[str] = (), **_: Any) -> dict[str, str]:
        """Returns the front's table as HTML and text; called by Jupyter."""
        from langsearch.report.terminal import front_table

        return front_table(self._read())._repr_mimebundle_(include, exclude)
