"""Every command with each of its folders missing, a file, without rights, on a full disk, or on a storage that is gone.

`PLACES` is the table: a command or a place that is new and has no entry there fails the first test.
"""

import io
import re
import shutil
import sys
import tempfile
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
import typer.main

from langsearch.cli.app import app
from langsearch.dashboard.serving import Dashboard
from tests.fault_fixtures import bound_by_permissions, fill, no_file_may_grow
from tests.s3_fixtures import s3_url

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures", "fault_fixtures", "search_fixtures"]

WORKS = 0
"""The state does not matter to the command, which does its work."""

SPACE = {"missing": 2, "wrong kind": 2, "no right to read": 2}
"""A file that is read."""

READ = {"missing": 2, "wrong kind": 2, "no right to read": 2, "no right to write": WORKS, "full": WORKS}
"""A folder that is only read."""

WRITTEN = {"missing": 2, "wrong kind": 2, "no right to read": 2, "no right to write": 2, "full": 2}
"""A folder that must be there, and is written into."""

MADE = {"wrong kind": 2, "no right to read": 2, "no right to write": 2, "full": 2}
"""A folder that is made where it is missing."""

GONE = {"gone": 2}
"""A storage, or a cluster, where nothing answers."""

NO_PLACES = {
    *(
        "overrides",
        "is_json",
        "is_measured",
        "name",
        "trials",
        "hours",
        "resume",
        "resume_if_begun",
        "retry",
        "accept_changed_space",
        "like",
        "language",
        "quiet",
        "address",
    ),
    *("split", "trial", "beams", "src", "tgt", "max_length", "format_", "direction", "compact", "energy", "price"),
    *("host", "token", "port", "detach", "follow", "job", "steps", "rank", "by", "epochs", "target"),
}
"""What is no folder; where one of them is a cluster's address or a folder, the command's entry says so."""

CACHE, STORE, TEMPORARY, HERE = "$LANGSEARCH_CACHE", "tokenized text", "$TMPDIR", "./experiments"
"""Places that a command uses without being given them."""


@dataclass(frozen=True)
class Given:
    """How a command is called, with the names of its places in braces, and what each place's states must give."""

    line: str
    places: dict[str, dict[str, int]]
    options: dict[str, str] = field(default_factory=dict)
    """What else a place needs on the line."""


ADAPTERS_OR_EXPERIMENT = READ | GONE
FETCHED = {"no right to write": 2, "wrong kind": 2, "full": 1}
"""The machine's folder for copies of what is remote."""

ONE_POINT = "--set architecture.rank=2 --set trainer.lr=0.01"

PLACES = {
    "check": Given("check {space}", {"space": SPACE, "report": MADE}, {"report": "--report {report}"}),
    "run": Given(
        "run {space} --experiments {experiments}", {"space": SPACE, "experiments": MADE | GONE, CACHE: FETCHED}
    ),
    "train": Given(
        f"train {{target}} --to {{to}} {ONE_POINT}",
        {"target": SPACE, "space": SPACE, "to": MADE, HERE: MADE},
        {"space": "--space {space}"},
    ),
    "extend": Given(
        f"extend {{source}} {{space}} --like en --to {{to}} {ONE_POINT} --set languages.low=[cy]",
        # What it writes beside `to`, the tokens' store, is not the source's.
        {
            "source": {state: code for state, code in READ.items() if code} | GONE,
            "space": SPACE,
            "to": MADE,
            CACHE: FETCHED,
        },
    ),
    "evaluate": Given(
        "evaluate {target} --beams 1",
        {"target": READ | GONE, "space": SPACE, CACHE: FETCHED, STORE: MADE | {"full": 1}, TEMPORARY: {"full": 1}},
        {"space": "--space {space}", TEMPORARY: "--space {space}"},
    ),
    "translate": Given(
        "translate {adapters} --from en --to fr", {"adapters": READ, "base": SPACE}, {"base": "--base {base}"}
    ),
    "export": Given(
        "export {source} --to {to}", {"source": READ | GONE, "to": MADE, CACHE: FETCHED, STORE: MADE | {"full": 1}}
    ),
    "report": Given("report {experiment}", {"experiment": WRITTEN | GONE, CACHE: FETCHED}),
    "dashboard": Given(
        "dashboard {experiments} --port 0", {"experiments": READ | GONE | {"missing": WORKS}, CACHE: FETCHED}
    ),
    "submit": Given(
        "submit {space} --address {address} --experiments {experiments} --detach",
        {"space": SPACE, "address": GONE, "experiments": {}},
    ),
    "status": Given("status --address {address}", {"address": GONE}),
    "fetch": Given(
        "fetch {what} --to {to}",
        {"what": GONE, "to": MADE, "address": GONE, CACHE: FETCHED},
        {"address": "--address {address}"},
    ),
    "doctor": Given(
        "doctor {space} --experiments {experiments}",
        {"space": SPACE, "experiments": {"wrong kind": 1, "no right to write": 1, "full": 1, "gone": 1}},
    ),
    "list": Given("list {experiments}", {"experiments": READ | GONE, CACHE: FETCHED}),
    "show": Given("show {experiment}", {"experiment": READ | GONE, CACHE: FETCHED}),
    "learn sides": Given("learn sides {space} --to {to} --steps 1", {"space": SPACE, "to": MADE, HERE: MADE}),
    "learn subspace": Given("learn subspace {space} --to {to}", {"space": SPACE, "to": MADE, HERE: MADE}),
}
CASES = [
    (command, place, state)
    for command, given in PLACES.items()
    for place, states in given.places.items()
    for state in states
]


def commands(group: Any = None, *names: str) -> Iterator[tuple[str, Any]]:
    """Yields the application's commands, those of groups too."""
    for name, command in (group or cast(Any, typer.main.get_command(app))).commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def test_every_command_and_each_of_its_places_is_in_the_table() -> None:
    found = dict(commands())
    assert set(PLACES) == set(found)
    for name, command in found.items():
        places = {place for place in PLACES[name].places if place not in (CACHE, STORE, TEMPORARY, HERE)}
        parameters = {parameter.name for parameter in command.params} - {"help"}
        assert places <= parameters
        assert parameters - places <= NO_PLACES, f"{name}: say in the table what of these is a place"
        types: dict[str, Any] = typing.get_type_hints(command.callback)
        paths = {
            parameter for parameter in parameters if Path in (types[parameter], *typing.get_args(types[parameter]))
        }
        assert paths <= places, f"{name}: paths are places"


@dataclass
class Scene:
    """One command's places, one of which something is wrong with."""

    root: Path
    disk: Path | None
    port: int
    values: dict[str, str]
    """What stands on the line for each place."""

    environment: dict[str, str] = field(default_factory=dict)
    removed: Path | None = None
    """The temporary folder, where it is the place."""

    is_bound: bool = False
    is_full: bool = False

    def spoil(self, path: Path, state: str) -> Path:
        """Returns a place in a state; what is there goes with it."""
        if state == "missing":
            return path.with_name("absent")
        if state == "wrong kind" and path.is_file():
            (folder := path.with_name(f"folder-{path.name}")).mkdir()
            return folder
        if state == "wrong kind":
            if path.exists():
                path.rename(path.with_name(f"moved-{path.name}"))
            path.write_text("a file\n", encoding="utf-8")
            return path
        if state == "full":
            self.is_full = True
            if self.disk is None:
                return path
            if path.name == "tiny":  # with the tokenized text beside it
                shutil.copytree(path.parent, self.disk / "all")
                return self.disk / "all" / "tiny"
            if path.is_dir():
                shutil.copytree(path, self.disk / path.name)
            return self.disk / path.name
        if not path.exists():
            path.mkdir()
        self.is_bound = True
        path.chmod(0o000 if state == "no right to read" else 0o555)
        return path

    def close(self) -> None:
        """Gives the rights back, so that what was made can be removed."""
        for path in (self.root, *self.root.rglob("*")):
            if path.is_dir():
                path.chmod(0o755)
        for path in self.disk.iterdir() if self.disk is not None else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture
def scene(
    tmp_path: Path, trained: Path, adapters: Path, space_file: Path, disk: Path | None, closed_port: int
) -> Iterator[Scene]:
    """All places as they should be."""
    shutil.copytree(trained.parent, tmp_path / "all")
    shutil.copytree(adapters, tmp_path / "adapters")
    experiment = str(tmp_path / "all" / "tiny")
    values = {"space": str(space_file), "experiments": str(tmp_path / "all"), "adapters": str(tmp_path / "adapters")}
    values |= dict.fromkeys(("experiment", "source", "what"), experiment) | {"to": str(tmp_path / "new")}
    values["report"] = str(tmp_path / "page")
    values |= {"base": str(tmp_path / "base.json"), "address": f"http://127.0.0.1:{closed_port}"}
    (tmp_path / "base.json").write_text("{}", encoding="utf-8")
    made = Scene(tmp_path, disk, closed_port, values)
    yield made
    made.close()


def arrange(scene: Scene, command: str, place: str, state: str) -> str:
    """Brings a command's place into a state; returns what its message must name."""
    values = scene.values
    values["target"] = values["space"] if command == "train" else values["experiment"]
    if command == "train" and place == "space":
        values["target"] = str(scene.root / "all" / "tiny" / "trials" / "00000" / "architecture.json")
    if place in ("space", TEMPORARY) and command == "evaluate":
        values["target"] = values["adapters"]
    if command == "run" and place == "experiments":
        values["experiments"] = str(scene.root / "new")
    if command in ("fetch", "run") or place == CACHE:
        local = {"experiments": scene.root / "all", "what": scene.root / "all" / "tiny"}
        names = ("what",) if command == "fetch" else PLACES[command].places if place == CACHE else ()
        for name in names:
            if name in ("experiment", "target", "source", "what", "experiments"):
                values[name] = local.get(name, local["what"]).as_uri()
    if state == "gone" and place != "address":
        parts = "all" if place == "experiments" else "all/tiny"
        values[place] = s3_url(scene.port, parts)
        return f"127.0.0.1:{scene.port}"
    if place == "address":
        values["what"] = "/on/the/cluster"
        return values[place]
    if place == "report" and state == "wrong kind":  # it is a file, so a folder
        (scene.root / "page").mkdir()
        return "page"
    if place == CACHE:
        spoilt = scene.spoil(scene.root / "cache", state)
        scene.environment["LANGSEARCH_CACHE"] = str(spoilt)
    elif place == HERE:
        spoilt = scene.spoil(scene.root / "experiments", state)
        if spoilt != scene.root / "experiments":
            (scene.root / "experiments").symlink_to(spoilt)
        return "experiments"
    elif place == TEMPORARY:
        spoilt = scene.removed = scene.spoil(scene.root / "temporary", state)
        spoilt.mkdir(exist_ok=True)
    elif place == STORE:
        store = scene.root / "all" / ".store"
        shutil.rmtree(store)
        if state == "full":
            moved = scene.spoil(scene.root / "all", state)
            values.update(dict.fromkeys(("target", "source"), str(moved / "tiny")))
            return str(moved)
        spoilt = scene.spoil(store, state)
    else:
        spoilt = scene.spoil(Path(values[place]), state)
        values[place] = str(spoilt)
    return str(spoilt)


def files(scene: Scene, code: int) -> dict[str, tuple[int, int]]:
    """Returns what is there with size and time, but for the machine's own copies, locks, and what is asked for."""
    roots = [scene.root, *([scene.disk] if scene.disk is not None else [])]
    found = {str(path): path.lstat() for root in roots for path in (root, *root.rglob("*"))}
    kept = {name: (stat.st_size, stat.st_mtime_ns) for name, stat in found.items() if Path(name).is_file()}
    left_out = ("/cache", "/.lock", *(["/new"] if code == WORKS else []))
    return {name: kept.get(name, (0, 0)) for name in found if not any(part in name for part in left_out)}


@pytest.mark.parametrize(("command", "place", "state"), CASES, ids=[" - ".join(case) for case in CASES])
def test_a_wrong_place_is_told_in_a_sentence_and_nothing_is_written(
    command: str,
    place: str,
    state: str,
    scene: Scene,
    disk: Path | None,
    langsearch: "Command",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code = PLACES[command].places[place][state]
    if state == "full" and code != 2 and disk is None:
        pytest.skip("needs the right to mount a file system: without, every place is full at once")
    named = arrange(scene, command, place, state)
    given = PLACES[command]
    line = f"{given.line} {given.options.get(place, '')}"
    if place == HERE:
        line = line.replace(" --to {to}", "")
    scene.environment.setdefault("LANGSEARCH_CACHE", str(scene.root / "cache"))
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", **scene.environment}.items():
        monkeypatch.setenv(name, value)
    if scene.removed is not None:
        monkeypatch.setattr(tempfile, "tempdir", str(scene.removed))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Good morning.\n")))
    monkeypatch.setattr(Dashboard, "run", Dashboard.close)
    before = files(scene, code)
    with ExitStack() as stack:
        if scene.is_full and scene.disk is not None:
            ballast = fill(scene.disk)
            stack.callback(ballast.unlink)
        elif scene.is_full:
            stack.enter_context(no_file_may_grow())
        if scene.is_bound:
            stack.enter_context(bound_by_permissions())
        ended = langsearch(*(word.format(**scene.values) for word in line.split()))
    assert (ended.code, "Traceback" in ended.err) == (code, False), ended.err + ended.out
    assert files(scene, code) == before
    if code != WORKS:
        problems = [line for line in ended.err.splitlines() + ended.out.splitlines() if ": " in line]
        if state == "no right to read" and "Usage: " in ended.err:  # typer looks too, where root is not asked
            assert f"'{named}' is not readable." in ended.err
            return
        problems = [line for line in problems if line.startswith(("error: ", "problem: "))]
        assert len(problems) in (1, 2)
        assert all(len(problem) < 700 for problem in problems)
        assert any(named in problem for problem in problems)
        assert command == "doctor" or ended.err.splitlines() == problems
        assert command == "doctor" or all(re.search(" must | holds ", problem) for problem in problems), problems
