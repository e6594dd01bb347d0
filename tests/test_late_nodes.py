"""Nodes that come while a search runs."""

import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.tune.search import Searcher

from langsearch.cluster import probes
from langsearch.cluster.nodes import NODE_LABEL, Node, NodeError
from langsearch.cluster.probes import NodeCheck, try_node, versions
from langsearch.experiment.folder import read_rows
from langsearch.search import late_nodes, worker
from langsearch.search.late_nodes import LateNodes, PlacedFifo
from langsearch.search.unfit_node import UnfitNodeError, check_here
from langsearch.study.rows import State
from langsearch.study.table import TrialTable
from langsearch.trial.failures import SPENT, UNFIT
from tests.searcher_fixtures import SearcherMaker, reported, states

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TaskMaker
    from tests.worker_fixtures import Start

pytest_plugins = ["search_fixtures", "searcher_fixtures", "worker_fixtures"]

CHECK = NodeCheck(versions(), "/shared", ".nodes-a", "token", {}, needs_gpu=False, passed=frozenset({"here"}))


def late(*ids: str, tell: list[str] | None = None) -> LateNodes:
    found = LateNodes({"CPU": 1}, CHECK, (tell if tell is not None else []).append)
    for name in ids:
        found.refuse(name, f"host-{name} (10.0.0.1)", "must have a clock, but has none.")
    return found


def test_a_node_that_is_not_fit_is_named_once_and_left_out() -> None:
    told: list[str] = []
    nodes = late("b", "a", "b", tell=told)
    assert told == [
        "Node host-b (10.0.0.1) gets no trial: it must have a clock, but has none.",
        "Node host-a (10.0.0.1) gets no trial: it must have a clock, but has none.",
    ]
    assert nodes.selector == {NODE_LABEL: "!in(a,b)"}
    trial = SimpleNamespace(placement_group_factory=None)
    scheduler = PlacedFifo()
    scheduler.late_nodes = nodes
    scheduler.on_trial_add(None, trial)
    request = cast(Any, trial.placement_group_factory)
    assert request._bound.arguments["bundle_label_selector"] == [{NODE_LABEL: "!in(a,b)"}]
    assert request.bundles == [{"CPU": 1.0}]


def test_without_such_a_node_a_trial_asks_for_what_it_takes_alone() -> None:
    assert late().selector == {}
    assert late().request() == late().request()
    assert "bundle_label_selector" not in late().request()._bound.arguments


def test_new_nodes_with_room_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    there = [Node(name, f"host-{name}", "10.0.0.1", {"CPU": 1.0}, is_head=False) for name in ("here", "b", "c", "d")]
    there.append(Node("small", "host-small", "10.0.0.1", {}, is_head=False))
    answers = {"b": None, "c": "must have a clock, but has none.", "d": NodeError("No module named 'langsearch'.")}
    asked: list[str] = []
    monkeypatch.setattr(late_nodes, "live_nodes", lambda: there)

    def begin_to_ask(node: Node, *_: object) -> str:
        asked.append(node.id)
        return node.id

    monkeypatch.setattr(late_nodes, "begin_to_ask", begin_to_ask)
    monkeypatch.setattr(late_nodes, "answer", answers.__getitem__)
    monkeypatch.setattr(ray, "wait", lambda references, **_: (references, []))
    told: list[str] = []
    nodes = late(tell=told)
    nodes.look()
    nodes.look()
    assert asked == ["b", "c", "d"]
    assert told == [
        "Node host-c (10.0.0.1) gets no trial: it must have a clock, but has none.",
        "Node host-d (10.0.0.1) gets no trial: it must run langsearch, but cannot: No module named 'langsearch'. "
        "Install the same version there.",
    ]
    assert len(nodes.resources()) == 3, "room on nodes that are left out is none"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"versions": {"ray": "1.0"}}, f"but ray is {ray.__version__} instead of 1.0. Install these there."),
        ({"place": "/absent"}, "must read and write the experiments in /absent, but cannot: there is no /absent. "),
        ({"sizes": {"/absent.arrow": 3}}, "must read the data of the trials, but cannot: "),
        ({"needs_gpu": True}, "must have a GPU that CUDA can use for `resources.gpu`, but cannot: no driver. "),
    ],
)
def test_a_node_is_told_what_it_lacks(
    change: dict[str, Any], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsearch.model.device.cuda_problem", lambda: "no driver")
    sound = replace(CHECK, place=str(tmp_path))
    probes.write_token(str(tmp_path), sound.name, sound.token)
    assert try_node(sound) is None
    found = try_node(replace(sound, **change))
    assert found is not None
    assert problem in found
    assert try_node(replace(sound, needs_gpu=True), with_gpu=False) is None


def test_a_worker_on_a_node_that_was_looked_at_does_not_look_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "here"))
    check_here(CHECK)
    monkeypatch.setattr(ray, "get_runtime_context", lambda: SimpleNamespace(get_node_id=lambda: "there"))
    with pytest.raises(UnfitNodeError, match="there is no /shared"):
        check_here(CHECK)
    check_here(None)


def test_a_worker_gives_its_trial_back_before_it_has_touched_it(
    start: "Start", make_task: "TaskMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    def check_here(check: NodeCheck | None) -> None:
        raise UnfitNodeError("a", "host-a", "must have a clock, but has none.")

    monkeypatch.setattr(worker, "check_here", check_here)
    trainable = start(make_task("00000"))
    before = sorted(start.folder.trial("00000").path.rglob("*"))
    values = {UNFIT: ["a", "host-a", "must have a clock, but has none."], SPENT: True, "done": True}
    assert trainable.step() == {"name": "00000", "kind": "searched", **values}
    trainable.cleanup()
    assert sorted(start.folder.trial("00000").path.rglob("*")) == before


def test_trials_that_wait_for_a_node_end_with_the_search() -> None:
    stopped: list[str] = []
    trials = [SimpleNamespace(name=status, status=status) for status in ("PENDING", "RUNNING", "TERMINATED")]
    scheduler = PlacedFifo()
    scheduler.late_nodes = late()
    scheduler.end_waiting()
    controller = SimpleNamespace(get_trials=lambda: trials, stop_trial=lambda trial: stopped.append(trial.name))
    scheduler.on_trial_add(controller, trials[0])
    scheduler.end_waiting()
    assert stopped == ["PENDING"]
    assert scheduler.__getstate__() == {}, "Tune pickles it, which a controller cannot be"


def test_a_trial_that_is_given_back_goes_to_another_node(
    make_searcher: SearcherMaker, make_result: "ResultMaker", table: TrialTable
) -> None:
    searcher = make_searcher(1, may_come_back=True)
    assert searcher.suggest("t0") == {"name": "00000"}
    assert searcher.suggest("t1") is None, "the only trial may come back, so this is not yet the end"
    searcher.on_trial_complete("t0", {UNFIT: ["a", "host-a", "must …"], "done": True})
    assert not searcher.is_done
    assert searcher.suggest("t2") == {"name": "00000"}
    searcher.on_trial_complete("t2", reported(make_result()))
    assert searcher.suggest("t3") == Searcher.FINISHED
    assert (searcher.is_done, states(table)) == (True, {"00000": State.COMPLETE})


# Python runs it at its start; a worker has the driver's folder on its path, before all others.
WITHOUT_LANGSEARCH = """\
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "langsearch":
            raise ModuleNotFoundError("No module named 'langsearch'")

sys.meta_path.insert(0, Without())
"""
LATE_NODES = {
    "another version": (
        "langsearch-9.9.dist-info/METADATA",
        "Metadata-Version: 2.1\nName: langsearch\nVersion: 9.9\n",
        "must have the versions of the machine that runs the search, but langsearch is 9.9 instead of ",
    ),
    "no langsearch": ("sitecustomize.py", WITHOUT_LANGSEARCH, "must run langsearch, but cannot: "),
}


@pytest.mark.integration
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("file", "text", "problem"), LATE_NODES.values(), ids=LATE_NODES)
def test_a_search_goes_on_beside_a_late_node_that_is_not_fit(
    file: str, text: str, problem: str, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / file).parent.mkdir(parents=True)
    (tmp_path / "there" / file).write_text(text, encoding="utf-8")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    log = tmp_path / "log.txt"
    with tempfile.TemporaryDirectory(prefix="r") as folder:  # a short path
        monkeypatch.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=1)
            line = [sys.executable, "-m", "langsearch", "run", str(space_file), "--address", cluster.address]
            line += ["--experiments", str(tmp_path / "experiments"), "--trials", "4", "--set", "baselines=[]"]
            line += ["--set", "trainer.epochs=12"]  # it goes on until the node is there, on a busy machine too
            with log.open("wb") as output:
                running = subprocess.Popen(line, stdout=output, stderr=output)
            end = time.monotonic() + 240
            while "epoch" not in log.read_text(encoding="utf-8") and running.poll() is None and time.monotonic() < end:
                time.sleep(0.2)
            path = f"{tmp_path}/there:{Path(__file__).parents[1]}"
            cluster.add_node(num_cpus=3, env_vars={"PYTHONPATH": path})
            code = running.wait(timeout=300)
        finally:
            cluster.shutdown()
    shown = log.read_text(encoding="utf-8")
    assert code == 0, shown
    assert " ".join(shown.split()).count("gets no trial: it ") == 1, shown
    assert problem in " ".join(shown.split()), shown
    rows = read_rows(tmp_path / "experiments" / "tiny" / "results.parquet")
    assert [row["state"] for row in rows] == ["complete"] * 4, shown
