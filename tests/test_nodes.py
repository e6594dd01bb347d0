import io
import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from rich.console import Console

from langsearch.cli.app import app
from langsearch.cluster import doctor, nodes, preflight, probes
from langsearch.cluster.nodes import Node, NodeError, ask, live_nodes
from langsearch.cluster.ray_session import check_local_resources, connect
from langsearch.cluster.resources import amounts, task_options
from langsearch.experiment.environment import Environment
from langsearch.search.display import Display
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space

pytest_plugins = ["search_fixtures"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head that runs no trials, a node with CPUs, and one with what passes for a GPU and a resource of its own."""
    with tempfile.TemporaryDirectory(prefix="r") as folder, pytest.MonkeyPatch.context() as patch:  # a short path
        patch.setenv("RAY_TMPDIR", folder)
        found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        found.add_node(num_cpus=2, num_gpus=0)
        found.add_node(num_cpus=1, num_gpus=1, resources={"big": 1})
        connect(found.address)
        yield found
        ray.shutdown()
        found.shutdown()


@pytest.fixture
def display() -> Display:
    return Display(Console(file=io.StringIO()), "tiny", 1, 0)


def text(display: Display) -> str:
    file = display._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def space(file: Path, *settings: str) -> Space:
    return load_space(file, [f"resources.{setting}" for setting in settings])


def test_every_node_answers_even_one_without_cpus(cluster: Any) -> None:
    found = live_nodes()
    assert [node.is_head for node in found] == [True, False, False]
    answers = ask(found, probes.read_clock)
    assert len(answers) == 3
    assert all(abs(float(str(answer)) - time.time()) < 60 for answer in answers.values())


def test_what_a_node_cannot_run_is_its_answer(cluster: Any) -> None:
    (answer, *_) = ask(live_nodes()[:1], probes.try_files, 3).values()
    assert isinstance(answer, NodeError)
    assert "'int' object has no attribute 'items'" in answer.cause


@pytest.mark.parametrize("setting", ["cpu=2", "gpu=0.25", "gpu=1", "custom={big: 0.5}"])
def test_what_one_node_has_is_enough(
    setting: str, cluster: Any, space_file: Path, tmp_path: Path, display: Display, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "check_gpus", lambda nodes: None)  # it only passes for one
    preflight.check_cluster(space(space_file, setting), tmp_path / "experiments", None, display.message)
    assert list((tmp_path / "experiments").iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "asked", "keys"),
    [
        (["cpu=3"], "3 CPU", "resources.cpu"),
        (["custom={huge: 1}"], "1 CPU, 1 huge", "resources.custom.huge"),
        # Each is there, but not on one node.
        (["cpu=2", "gpu=0.5"], "2 CPU, 0.5 GPU", "CPU, GPU"),
    ],
)
def test_a_space_that_no_node_can_satisfy_is_refused_with_what_there_is(
    settings: list[str], asked: str, keys: str, cluster: Any, space_file: Path, tmp_path: Path, display: Display
) -> None:
    with pytest.raises(InputError, match="A node must have all that a trial takes") as caught:
        preflight.check_cluster(space(space_file, *settings), tmp_path / "experiments", None, display.message)
    (problem,) = caught.value.problems
    assert f"a trial takes, {asked}, but" in problem
    assert "has nothing; " in problem
    assert re.search(r"has 2 CPU[;.]", problem)
    assert "has 1 CPU, 1 GPU, 1 big" in problem
    if keys != "CPU, GPU":
        assert f"Change {keys}, or add such a node." in problem
    assert not (tmp_path / "experiments").exists()


def test_a_space_waits_for_a_node_that_can_come(display: Display) -> None:
    there = [Node("1", "head", "10.0.0.1", {"CPU": 0.0}, is_head=True)]
    preflight.check_room({"CPU": 4, "GPU": 1}, there, lambda amounts: True, display.message)
    assert "No node has 4 CPU, 1 GPU for a trial yet (head (10.0.0.1) has nothing): one is asked for." in text(display)
    preflight.check_room({"CPU": 4}, there, lambda amounts: None, display.message)
    assert "this waits until the cluster brings one" in text(display)
    with pytest.raises(InputError, match=r"10\.0\.0\.1"):
        preflight.check_room({"CPU": 4}, there, lambda amounts: False, display.message)


def test_a_trial_that_no_node_has_a_gpu_for_is_refused_with_what_to_change(display: Display) -> None:
    there = [Node("1", "worker", "10.0.0.2", {"CPU": 4.0}, is_head=False)]
    change = r"Change resources\.gpu or resources\.trials_per_gpu, or add such a node\."
    with pytest.raises(InputError, match=change):
        preflight.check_room({"CPU": 1, "GPU": 1}, there, lambda amounts: False, display.message)


def test_what_can_come_is_read_from_the_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Any) -> None:
    wanted = {"CPU": 8, "GPU": 1}
    assert nodes.may_come(wanted) is False
    kinds = "{head: {resources: {CPU: 64, GPU: 8}}, worker: {resources: {CPU: 8, GPU: 1}, max_workers: 3}}"
    configuration = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setattr(nodes, "_BOOTSTRAP", str(configuration))
    configuration.write_text(f"head_node_type: head\navailable_node_types: {kinds}\n", encoding="utf-8")
    assert nodes.may_come(wanted) is True
    assert nodes.may_come({"CPU": 9}) is False
    configuration.write_text(configuration.read_text().replace("max_workers: 3", "max_workers: 0"), encoding="utf-8")
    assert nodes.may_come(wanted) is False
    configuration.write_text("head_node_type: head\navailable_node_types: {head: {}, worker: {}}\n", encoding="utf-8")
    assert nodes.may_come(wanted) is False, "a kind that says nothing leaves it to the autoscaler, of which is none"


STATES: dict[str, tuple[bool, object, bool]] = {
    "nothing is known": (False, None, False),
    "a head by hand": (False, {"active_nodes": {"node_91f3": 1}, "pending_launches": {}}, False),
    "version 1, no worker yet": (False, {"active_nodes": {"head": 1}, "pending_launches": {}}, True),
    "version 1, the head unknown to it": (False, {"active_nodes": None, "pending_launches": {"worker": 1}}, True),
    "version 2, which writes no state": (True, None, True),
}


@pytest.mark.parametrize(("is_second", "report", "expected"), STATES.values(), ids=STATES)
def test_an_autoscaler_of_either_version_is_recognised(
    is_second: bool, report: object, expected: bool, monkeypatch: pytest.MonkeyPatch, cluster: Any
) -> None:
    written = None if report is None else json.dumps({"autoscaler_report": report}).encode()
    monkeypatch.setattr(nodes, "read_autoscaler_state", lambda: (is_second, written))
    assert nodes.may_come({"CPU": 9}) is (None if expected else False)


def test_ray_says_by_the_names_that_are_known_here_that_its_autoscaler_is_the_second() -> None:
    assert nodes._SECOND_VERSION.decode() == ray._raylet.GCS_AUTOSCALER_V2_ENABLED_KEY
    assert nodes._AUTOSCALER_NAMESPACE.decode() == ray._raylet.GCS_AUTOSCALER_STATE_NAMESPACE


def test_a_node_with_other_versions_is_named_before_anything_starts(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    preflight.check_versions(live_nodes())
    monkeypatch.setattr(preflight, "versions", lambda: {**probes.versions(), "ray": "1.0"})
    message = rf"Node .* must have the versions .* but ray is {ray.__version__} instead of 1\.0\. Install"
    with pytest.raises(InputError, match=message) as caught:
        preflight.check_versions(live_nodes())
    assert len(caught.value.problems) == 3


def test_a_node_that_sees_another_storage_is_named_with_the_path(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = Path(f"/proc/self/cwd/{tmp_path.name}-experiments")  # for each process another folder
    workers = live_nodes()[1:]
    with pytest.raises(InputError, match="must read and write the experiments") as caught:
        preflight.check_place(workers, place, None)
    assert len(caught.value.problems) == 2
    assert (
        f"Node {workers[0]} must read and write the experiments in {place}, but cannot: there is no {place}"
        in (caught.value.problems[0])
    )
    assert list((tmp_path / place.name).iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_node_whose_gpu_cuda_cannot_use_is_named_before_anything_starts(cluster: Any, tmp_path: Path) -> None:
    (node,) = [node for node in live_nodes() if node.fits({"GPU": 1})]
    rule = rf"Node {re.escape(str(node))} must have a GPU that CUDA can use for `resources\.gpu`, but cannot: "
    with pytest.raises(InputError, match=rule) as caught:
        preflight.check_gpus([node])
    assert caught.value.problems[0].endswith("Mend the driver or PyTorch there, or set resources.gpu=0.")


def test_storage_that_this_machine_cannot_write_is_refused(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match=r"must lie where this machine can write, but .*file is not such a place"):
        preflight.check_place(live_nodes(), tmp_path / "file", None)


def test_a_node_that_cannot_read_the_token_files_is_named_with_the_file(
    cluster: Any, environment: Environment, space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = space(space_file)
    preflight.check_files(environment, loaded)
    monkeypatch.chdir(tmp_path)
    for name in ("en.arrow", "fr.arrow"):
        (tmp_path / name).write_bytes(b"1")
    store = type(environment.train)({}, {"en": Path("/proc/self/cwd/en.arrow"), "fr": Path("/proc/self/cwd/fr.arrow")})
    with pytest.raises(InputError, match=r"must read the data of the trials, but cannot: .*en\.arrow"):
        preflight.check_files(replace(environment, train=store), loaded)


def test_the_doctor_finds_a_sound_cluster_sound(cluster: Any, space_file: Path, tmp_path: Path) -> None:
    found = doctor.diagnose(str(tmp_path / "deep" / "experiments"), space(space_file, "gpu=0.5"), cluster.address)
    assert not (tmp_path / "deep").exists(), "the storage test leaves nothing"
    assert sorted(one.has_room or False for one in found) == [False, False, True]
    assert all(one.skew_seconds is not None and abs(one.skew_seconds) < 10 for one in found)
    for one in found:
        assert one.examined is not None
        assert one.examined.place_problem is None
        assert one.examined.versions["ray"] == ray.__version__
    assert doctor.room_problems(found, space(space_file, "gpu=0.5"), cluster.address) == []


def test_the_doctor_names_what_would_break_a_run(
    cluster: Any, space_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["doctor", str(space_file), "--set", "resources.cpu=9", "--address", cluster.address]
    with pytest.raises(SystemExit, match="1"):
        app([*arguments, "--experiments", "/proc/self/cwd/here", "--json"])
    shown = capsys.readouterr().out
    assert '"No node has room for a trial, 9 CPU."' in shown
    assert shown.count("the storage cannot be used: there is no /proc/self/cwd/here.") == 3
    with pytest.raises(SystemExit, match="1"):
        app([*arguments, "--experiments", str(tmp_path / "experiments")])
    shown = capsys.readouterr().out
    assert "problem: No node has room for a trial, 9 CPU." in shown
    assert "Nothing here would break a run" not in shown


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"versions": {"ray": "1.0"}}, "ray must be"),
        ({"versions": {"optuna": None}}, "optuna is not installed."),
        ({"free_disk_bytes": 10**8}, "at least 1 GB of disk must be free, but 0.1 GB are."),
        ({"place_problem": "no"}, "the storage cannot be used: no."),
        ({"missing": ["/data/adapters"]}, "/data/adapters must be readable, but is not."),
        ({"gpus": ["H200, 143771 MiB"], "versions": {"torch": "2.13.0+cpu"}}, "there are GPUs, but torch is a build"),
    ],
)
def test_the_doctor_on_one_machine(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    here = probes.examine(str(tmp_path), "absent", "", [])
    sound = replace(here, place_problem=None, gpus=[], free_disk_bytes=10**10)
    assert doctor._judge("this machine", None, sound, sound, None, None).problems == ()
    changed = replace(sound, **(change | {"versions": {**sound.versions, **change.get("versions", {})}}))
    ours = changed if "gpus" in change else sound
    (found,) = doctor._judge("this machine", None, changed, ours, None, None).problems
    assert found.startswith(problem)


def test_the_doctor_warns_where_ray_gives_out_more_cpus_than_there_are(tmp_path: Path) -> None:
    here = replace(probes.examine(str(tmp_path), "absent", "", []), place_problem=None, free_disk_bytes=10**10, cpus=2)
    assert doctor._judge("a", {"CPU": 2.0}, here, here, 0.0, None).warnings == ()
    (warning,) = doctor._judge("a", {"CPU": 64.0}, here, here, 0.0, None).warnings
    assert warning.startswith("Ray was started with 64 CPUs, but its processes may use 2: ")


def test_the_doctor_says_when_a_clock_is_wrong(tmp_path: Path) -> None:
    here = replace(probes.examine(str(tmp_path), "absent", "", []), place_problem=None, free_disk_bytes=10**10)
    resources = {"CPU": 1.0}
    assert doctor._judge("a", resources, here, here, 59.0, None).problems == ()
    (problem,) = doctor._judge("a", resources, here, here, -120.0, None).problems
    assert problem == "the clock must be within 60 s of this machine's, but is -120 s off."


@pytest.mark.parametrize("address", ["nonsense", "http://127.0.0.1:8265", "ray:/127.0.0.1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="must be"):
        connect(address)


def test_a_token_that_is_not_the_clusters_is_refused_plainly() -> None:
    from langsearch.cluster.ray_session import refusal

    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = RuntimeError("Failed to connect to GCS. RPC error: InvalidAuthToken: missing or incorrect")
    assert refusal("10.0.0.1:6379", error).startswith("The token must be the cluster's, but '10.0.0.1:6379' refuses")
    assert os.environ.get("RAY_AUTH_TOKEN", "unset") not in refusal("10.0.0.1:6379", error)


def test_a_machine_outside_the_cluster_is_told_how_to_reach_it() -> None:
    from langsearch.cluster.ray_session import refusal

    error = RuntimeError("No raylet found on this node")
    assert "must be given on a node of the cluster" in refusal("10.0.0.1:6379", error)
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.59.0\n    Python: 3.11.2\n")
    assert "of the cluster's versions, but at 'auto' they are others (Ray: 2.59.0 Python" in refusal("auto", error)


def test_only_a_run_takes_a_clients_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"ray://127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=r"is a client's, 'ray://127\.0\.0\.1:\d+'\. Only `langsearch run`"):
            connect(address)


WRONG_RESOURCES = {
    "custom={big: 0}": "`resources.custom.big` must be a number above 0, but got 0",
    "custom={GPU: 1}": "`resources.custom.GPU` must not be one of Ray's own resources",
    "gpu=2": "`resources.gpu` must be at most 1, since a trial trains on one GPU; further GPUs run further trials",
}


@pytest.mark.parametrize("setting", WRONG_RESOURCES)
def test_resources_that_ray_would_refuse_are_refused_with_the_space(setting: str, space_file: Path) -> None:
    with pytest.raises(InputError, match=re.escape(WRONG_RESOURCES[setting])):
        space(space_file, setting)


def test_a_trial_asks_for_its_share(space_file: Path) -> None:
    resources = space(space_file, "cpu=2", "gpu=1", "trials_per_gpu=4", "custom={big: 0.5}").resources
    assert amounts(resources) == {"CPU": 2, "GPU": 0.25, "big": 0.5}
    assert task_options(resources) == {"num_cpus": 2, "num_gpus": 0.25, "resources": {"big": 0.5}, "max_retries": 3}
    assert amounts(space(space_file).resources) == {"CPU": 1}


def test_a_resource_of_a_cluster_is_refused_on_one_machine(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match="must name resources of a cluster, but this machine alone has no big"):
        check_local_resources(space(space_file, "custom={big: 1}"), None)
