"""The dashboard's addresses: each experiment's page, what changed on it, requests to stop, the list, the comparison."""

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import plotly.offline
from flask import Flask, Response, abort, redirect, request
from werkzeug.exceptions import HTTPException

from langsearch import __version__
from langsearch.dashboard.comparing import (
    RUN_STATE_WORDS,
    Compared,
    baseline_rows,
    comparison_views,
    describe,
    most_shown,
    warnings,
)
from langsearch.dashboard.guard import Guard
from langsearch.dashboard.live import LiveExperiment, LivePage, RefusedError, Snapshot
from langsearch.dashboard.optuna_view import Studies, WithOptuna, study_path
from langsearch.report.page import SCRIPTS, STYLE, asset, json_text, packed, scripts, template
from langsearch.report.wording import counted

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_MAX_REQUEST_BYTES = 4_096
_MAX_COMPARED = 12
_SMALL_BYTES = 2_000
"""Below this an answer is not compressed."""

_FOLDER = Path(__file__).parent
_FILES = ("experiment.json", "results.parquet", "space.yaml")
"""What makes a folder an experiment."""


@dataclass
class Experiments:
    """What the dashboard shows: experiments by name, and those that appear in folders of experiments.

    An experiment's place never changes, so that it can stand in addresses; no other path leads to the disk.
    """

    paths: Sequence[Path]
    _found: dict[Path, LiveExperiment] = field(default_factory=dict)

    @property
    def is_one(self) -> bool:
        """Whether there is one experiment, and never will be another."""
        return len(self.paths) == 1 and not is_folder_of_experiments(self.paths[0])

    def all(self) -> list[LiveExperiment]:
        """Returns all experiments, new ones last."""
        for path in self.paths:
            found = [path]
            if is_folder_of_experiments(path):
                found = sorted(child for child in path.iterdir() if is_experiment(child))
            for child in found:
                self._found.setdefault(child, LiveExperiment(child))
        return list(self._found.values())

    def at(self, index: int) -> LiveExperiment:
        """Returns the experiment at a place; answers 404 if there is none."""
        known = self.all()
        if not 0 <= index < len(known):
            abort(404, "There is no such experiment.")
        return known[index]


def is_experiment(path: Path) -> bool:
    """Returns whether a folder holds an experiment."""
    return not path.name.startswith(".") and any((path / name).is_file() for name in _FILES)


def is_folder_of_experiments(path: Path) -> bool:
    """Returns whether a path is a folder that is no experiment, but holds some."""
    try:
        return path.is_dir() and not is_experiment(path) and any(is_experiment(child) for child in path.iterdir())
    except OSError:
        return False


def make_application(paths: Sequence[Path], *, token: str | None = None, host: str = "127.0.0.1") -> "WSGIApplication":
    """Returns the dashboard as a WSGI application.

    Args:
        paths: Experiments, and folders of them.
        token: What every request must bring. None: only this machine is served.
        host: Where it will listen.
    """
    experiments = Experiments([path.resolve() for path in paths])
    app = Flask("langsearch", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_REQUEST_BYTES
    _add_pages(app, experiments)
    app.register_error_handler(HTTPException, _failed)
    app.after_request(_compressed)
    return Guard(WithOptuna(app, Studies(experiments.all)), token, host)


def _add_pages(app: Flask, experiments: Experiments) -> None:
    @app.get("/")
    def home() -> Any:
        return redirect("/experiments/0/") if experiments.is_one else _overview(_list_values(experiments)).page()

    @app.get("/version")
    def list_version() -> Any:
        return {"version": _overview(_list_values(experiments)).version}

    @app.get("/update")
    def list_update() -> Any:
        return _overview(_list_values(experiments)).update()

    @app.get("/compare")
    def compare() -> Any:
        return redirect("/compare/?" + request.query_string.decode("ascii", "ignore"))

    @app.get("/compare/")
    def comparison() -> Any:
        return _comparison(experiments).page()

    @app.get("/compare/version")
    def comparison_version() -> Any:
        known = experiments.all()
        return {"version": _digest([experiment.version() for experiment in known])}

    @app.get("/compare/update")
    def comparison_update() -> Any:
        return _comparison(experiments).update()

    @app.get("/experiments/<int:index>/")
    def experiment(index: int) -> Any:
        return _experiment(experiments, index).page()

    @app.get("/experiments/<int:index>/version")
    def experiment_version(index: int) -> Any:
        return {"version": experiments.at(index).version()}

    @app.get("/experiments/<int:index>/update")
    def experiment_update(index: int) -> Any:
        return _experiment(experiments, index).update()

    @app.post("/experiments/<int:index>/stop")
    def stop(index: int) -> Any:
        wanted = request.get_json(silent=True)
        if not isinstance(wanted, dict) or "trial" not in wanted or not isinstance(wanted["trial"], str | None):
            return {"message": 'A request must be JSON: {"trial": NAME}, or {"trial": null} for the search.'}, 400
        try:
            return {"message": experiments.at(index).request_stop(wanted["trial"])}
        except RefusedError as error:
            return {"message": str(error)}, 409

    @app.get("/assets/<version>/<name>")
    def assets(version: str, name: str) -> Any:
        found = _assets().get(name)
        if found is None:
            abort(404, "There is no such file.")
        answer = Response(found[1], mimetype=found[0])
        answer.headers["Content-Encoding"] = "gzip"
        # Its address changes with it.
        answer.headers["Cache-Control"] = (
            "private, max-age=31536000, immutable" if version == _version() else "no-store"
        )
        return answer


@dataclass(frozen=True)
class _Shown:
    """A page as the browser gets it, at first and when it changed."""

    name: str
    values: Mapping[str, Any]
    version: str
    data: Callable[[], str]
    live: Mapping[str, Any]
    wait: float = 0.0

    def page(self) -> str:
        """Returns the whole page."""
        return template(self.name, _FOLDER).render(**self.values, payload=packed(self.data()))

    def update(self) -> Response:
        """Returns the page without its data, and the data."""
        page = template(self.name, _FOLDER).render(**self.values, payload="")
        about = {"version": self.version, "wait": self.wait, "page": page, "live": self.live}
        text = json_text(about)
        return Response(f'{text[:-1]},"data":{self.data()}}}', mimetype="application/json")


def _experiment(experiments: Experiments, index: int) -> _Shown:
    experiment = experiments.at(index)
    snapshot = experiment.snapshot()
    if snapshot.experiment is None:
        words = {"absent": f"There is no experiment in {experiment.path} yet.", "running": "The run is starting."}
        text = words.get(snapshot.state, words["absent"])
        values: dict[str, Any] = {"title": experiment.name, "text": text, "lines": [], "compared": None}
        return _overview({**values, "url": f"/experiments/{index}/", "kind": "waiting"}, snapshot.version)
    made: LivePage = experiment.page()
    snapshot = made.snapshot
    is_running = snapshot.state == "running"
    facts = {"running": snapshot.running if is_running else (), "stopping": snapshot.stopping}
    known = experiments.all()
    live: dict[str, Any] = {
        "url": f"/experiments/{index}/",
        "index": index,
        "version": snapshot.version,
        "facts": json.dumps(facts),
        "assets": f"/assets/{_version()}",
        "state": snapshot.state,
        "words": RUN_STATE_WORDS[snapshot.state],
        "notices": _notices(snapshot),
        "num_experiments": len(known) if not experiments.is_one else 1,
        "optuna": study_path(known, index),
        "can_stop": is_running,
        "is_stopping": snapshot.is_stopping,
    }
    return _Shown(
        "page.html",
        {**made.page.values, "live": live},
        snapshot.version,
        lambda: made.page.data,
        facts,
        made.seconds_between,
    )


def _notices(snapshot: Snapshot) -> list[str]:
    num = len(snapshot.running)
    if not num:
        return []
    if snapshot.state == "running":
        stopping = f", {len(snapshot.stopping)} stopping" if snapshot.stopping else ""
        return [f"{counted(num, 'trial')}{stopping}"]
    return [f"{counted(num, 'trial')} to go on by --resume"]


def _list_values(experiments: Experiments) -> dict[str, Any]:
    lines = [describe(index, experiment) for index, experiment in enumerate(experiments.all())]
    text = "" if lines else "There is no experiment yet."
    return {"title": "Experiments", "text": text, "lines": lines, "compared": None, "url": "/", "kind": "list"}


def _comparison(experiments: Experiments) -> _Shown:
    known = experiments.all()
    wanted = request.args.getlist("with")
    places = [int(text) for text in dict.fromkeys(wanted) if text.isascii() and text.isdigit()]
    places = [place for place in places if place < len(known)][:_MAX_COMPARED]
    version = _digest([experiment.version() for experiment in known])
    lines = [describe(index, experiment) for index, experiment in enumerate(known)]
    found = []
    for place in places:
        experiment, summary = known[place].snapshot().experiment, known[place].summary()
        if experiment is not None and summary is not None:
            names = [line.name for line in lines]
            label = lines[place].name if names.count(lines[place].name) == 1 else f"{lines[place].name} ({place})"
            found.append(Compared(index=place, label=label, experiment=experiment, summary=summary))
    views = comparison_views(found)
    chosen = most_shown(views)
    compared = {
        "experiments": found,
        "warnings": warnings(found),
        "views": [title for title, _ in views],
        "chosen": chosen,
        "words": views[chosen][1]["words"] if views else "",
        "rows": baseline_rows(found),
    }
    values: dict[str, Any] = {"title": "Comparison", "text": "", "lines": lines, "compared": compared}
    data = json_text({"comparison": [figure for _, figure in views]})
    return _overview({**values, "url": "/compare/", "kind": "comparison"}, version, data)


def _overview(values: Mapping[str, Any], version: str | None = None, data: str = "{}") -> _Shown:
    if version is None:
        version = _digest(values["lines"])
    given = {
        **values,
        "version": version,
        "assets": f"/assets/{_version()}",
        "langsearch_version": __version__,
        "counted": counted,
    }
    return _Shown("overview.html", given, version, lambda: data, {})


def _digest(value: object) -> str:
    return sha256(repr(value).encode()).hexdigest()[:16]


@cache
def _assets() -> dict[str, tuple[str, bytes]]:
    """Returns the files of all pages by name: their kind, and their content, compressed."""
    files = {
        "page.css": ("text/css", f"{asset(STYLE)}\n{asset(_FOLDER / 'live.css')}"),
        "page.js": ("text/javascript", f'"use strict";\n{scripts((*SCRIPTS[:-1], _FOLDER / "live.js", SCRIPTS[-1]))}'),
        "plotly.js": ("text/javascript", plotly.offline.get_plotlyjs()),
    }
    return {name: (kind, gzip.compress(text.encode(), 6, mtime=0)) for name, (kind, text) in files.items()}


@cache
def _version() -> str:
    """Returns a text that changes with the assets."""
    return sha256(b"".join(content for _, content in _assets().values())).hexdigest()[:12]


def _compressed(answer: Response) -> Response:
    is_text = answer.mimetype in ("text/html", "application/json") and not answer.direct_passthrough
    if is_text and "gzip" in request.headers.get("Accept-Encoding", "") and len(answer.get_data()) > _SMALL_BYTES:
        answer.set_data(gzip.compress(answer.get_data(), 1))
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Vary"] = "Accept-Encoding"
    return answer


def _failed(error: HTTPException) -> Response:
    """Says in a line what is wrong: nothing of the request is repeated."""
    return Response(f"{error.code} {error.name}\n", status=error.code or 500, mimetype="text/plain")
