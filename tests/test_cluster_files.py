import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

CLUSTER = Path(__file__).parents[1] / "cluster"
LAUNCHER = ("onprem", "aws", "gcp")


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((CLUSTER / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def test_every_file_is_known_to_these_tests() -> None:
    found = {path.name for path in CLUSTER.iterdir() if path.is_file()}
    assert found == {f"{name}.yaml" for name in (*LAUNCHER, "kuberay")} | {"slurm.sbatch", "submit.py", "README.md"}


@pytest.mark.parametrize("name", LAUNCHER)
def test_rays_launcher_takes_its_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CLUSTER.parent)
    config = prepare_config(read(name))
    validate_config(config)
    for source in read(name)["file_mounts"].values():
        assert source.startswith("~") or Path(source).exists()


@pytest.mark.parametrize("name", LAUNCHER)
def test_a_launched_cluster_asks_for_a_token_and_shows_itself_to_its_head_alone(name: str) -> None:
    config = read(name)
    starts = [
        line for line in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    # Ray's client server is given this port; one that Ray chooses is known too late for it.
    assert all("--runtime-env-agent-port=6380" in line for line in starts)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert config["setup_commands"][0].endswith("chmod 600 ~/.ray/auth_token")


def test_machines_of_ones_own_all_join() -> None:
    config = read("onprem")
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
    assert "RAY_enable_autoscaler_v2=0" in config["head_start_ray_commands"][-1]


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_clouds_begin_without_workers_and_take_gpus_from_the_spot_market(name: str) -> None:
    config = read(name)
    head, worker = (config["available_node_types"][kind] for kind in ("head", "gpu_worker"))
    assert head["resources"]["CPU"] == 0
    assert (worker["min_workers"], worker["max_workers"]) == (0, config["max_workers"])
    assert worker["resources"]["GPU"] >= 1
    node = worker["node_config"]
    market = node["InstanceMarketOptions"]["MarketType"] if name == "aws" else node["scheduling"]["provisioningModel"]
    assert market.lower() == "spot"


# The fields of KubeRay's API reference, ray.io/v1 (docs.ray.io/en/master/cluster/kubernetes/references/api.html).
# None: anything, since it is Kubernetes' own.
POD_TEMPLATE = None
GROUP = {
    "rayStartParams": {"*": str},
    "template": POD_TEMPLATE,
    "resources": {"*": str},
    "labels": {"*": str},
}
RAY_JOB: dict[str, Any] = {
    "apiVersion": str,
    "kind": str,
    "metadata": None,
    "spec": {
        "activeDeadlineSeconds": int,
        "backoffLimit": int,
        "clusterSelector": {"*": str},
        "entrypoint": str,
        "entrypointNumCpus": float,
        "entrypointNumGpus": float,
        "entrypointResources": str,
        "jobId": str,
        "metadata": {"*": str},
        "runtimeEnvYAML": str,
        "shutdownAfterJobFinishes": bool,
        "submissionMode": str,
        "submitterConfig": {"backoffLimit": int},
        "submitterPodTemplate": POD_TEMPLATE,
        "suspend": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": {
            "rayVersion": str,
            "authOptions": {"mode": str, "secretName": str},
            "enableInTreeAutoscaling": bool,
            "autoscalerOptions": {
                "idleTimeoutSeconds": int,
                "upscalingMode": str,
                "version": str,
                "image": str,
                "imagePullPolicy": str,
                "resources": None,
                "env": None,
            },
            "headGroupSpec": {**GROUP, "serviceType": str, "enableIngress": bool, "headService": None},
            "workerGroupSpecs": [
                {
                    **GROUP,
                    "groupName": str,
                    "replicas": int,
                    "minReplicas": int,
                    "maxReplicas": int,
                    "idleTimeoutSeconds": int,
                    "numOfHosts": int,
                    "suspend": bool,
                    "scaleStrategy": None,
                }
            ],
        },
    },
}


def unknown(value: Any, schema: Any, path: str = "") -> list[str]:
    """Returns what is not in the schema, or of another type."""
    if schema is None:
        return []
    if isinstance(schema, list):
        return [text for index, item in enumerate(value) for text in unknown(item, schema[0], f"{path}[{index}]")]
    if isinstance(schema, dict):
        if not isinstance(value, dict):
            return [path]
        return [
            text
            for key, item in value.items()
            for text in (
                unknown(item, schema.get(key, schema.get("*")), f"{path}.{key}")
                if key in schema or "*" in schema
                else [f"{path}.{key}"]
            )
        ]
    return [] if type(value) is schema else [path]


def test_the_rayjob_has_only_fields_that_kuberay_knows() -> None:
    job = read("kuberay")
    assert unknown(job, RAY_JOB) == []
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert unknown({"spec": {"entryPoint": "x", "backoffLimit": "3"}}, RAY_JOB) == [
        ".spec.entryPoint",
        ".spec.backoffLimit",
    ]


def test_the_rayjob_is_whole() -> None:
    spec = read("kuberay")["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    (workers,) = cluster["workerGroupSpecs"]
    assert (workers["minReplicas"], workers["replicas"]) == (0, 0)
    assert cluster["enableInTreeAutoscaling"] is True
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "nvidia.com/gpu" in workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    done = subprocess.run(["sh", "-nc", spec["entrypoint"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


STAND_INS = {
    "scontrol": 'printf "node1\\nnode2\\nnode3\\n"',
    "ray": (
        'echo "ray $*" >> "$LOG"; [ "$1" = get-auth-token ] && echo secret > ~/.ray/auth_token; '
        '[ "$1" = start ] && exec sleep 60; exit 0'
    ),
    "srun": (
        'echo "srun $*" >> "$LOG"; while [ "${1#--}" != "$1" ]; do shift; done; '
        '[ "$1" = hostname ] && { echo "10.0.0.1 fe80::1"; exit 0; }; exec "$@"'
    ),
    # Ends when Ray was started on all three nodes, or, with SLEEPS, at an interrupt.
    "langsearch": (
        'echo "langsearch $*" >> "$LOG"; trap \'echo interrupted >> "$LOG"; exit 130\' INT; touch "$LOG.ready"; '
        'for i in $(seq 100); do [ "${SLEEPS:-}" ] || [ "$(grep -c "^ray start" "$LOG")" -lt 3 ] || exit "${CODE:-0}"; '
        "sleep 0.1; done; exit 99"
    ),
}


@pytest.fixture
def sbatch(tmp_path: Path) -> Callable[..., tuple[subprocess.Popen[str], Path]]:
    """Starts the Slurm script with stand-ins for Slurm, Ray and langsearch, which write down how they were called."""
    for name, body in STAND_INS.items():
        path = tmp_path / name
        path.write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    log = tmp_path / "log"

    def start(*arguments: str, **values: str) -> tuple[subprocess.Popen[str], Path]:
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LOG": str(log),
            "SLURM_JOB_ID": "123456",
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_CPUS_PER_TASK": "8",
            "SLURM_GPUS_ON_NODE": "2",
        }
        script = [str(CLUSTER / "slurm.sbatch"), *arguments]
        # Tests that run in the background of a shell hear no SIGINT, and nor would the script.
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            started = subprocess.Popen(["bash", *script], env=environment | values, text=True, start_new_session=True)
        finally:
            signal.signal(signal.SIGINT, before)
        return started, log

    return start


Sbatch = Callable[..., tuple[subprocess.Popen[str], Path]]


def test_slurms_script_is_bash() -> None:
    done = subprocess.run(["bash", "-n", CLUSTER / "slurm.sbatch"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    options = re.findall(r"^#SBATCH (--[\w-]+)", (CLUSTER / "slurm.sbatch").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"--nodes", "--requeue", "--signal"} <= set(options)


def test_slurms_script_starts_ray_on_every_node_and_then_the_search(sbatch: Sbatch, tmp_path: Path) -> None:
    script, log = sbatch("flores12.yaml", "--experiments", "/shared")
    assert script.wait(timeout=60) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    starts = sorted(line for line in lines if line.startswith("ray start"))
    assert [line.split("--")[2] for line in starts] == ["address=10.0.0.1:23456 "] * 2 + ["head "]
    assert all("--num-cpus=8 --num-gpus=2" in line for line in starts)
    assert {node for line in lines for node in re.findall(r"^srun .*--nodelist=(\w+) ray start", line)} == {
        "node1",
        "node2",
        "node3",
    }
    assert "langsearch run flores12.yaml --experiments /shared --address 10.0.0.1:23456" in lines
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_slurms_script_ends_as_the_search_and_resumes_when_requeued(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", SLURM_RESTART_COUNT="1", CODE="1")
    assert script.wait(timeout=60) == 1
    assert "--address 10.0.0.1:23456 --resume\n" in log.read_text(encoding="utf-8")


def test_slurms_warning_interrupts_the_search(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", SLEEPS="1")
    end = time.monotonic() + 30
    while not log.with_name("log.ready").exists() and time.monotonic() < end:
        time.sleep(0.05)
    script.send_signal(signal.SIGUSR1)
    assert script.wait(timeout=30) == 130
    assert "interrupted\n" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--", "run", "a.yaml"), "run a.yaml --address auto"),
        (("run", "a.yaml", "--address=10.0.0.1:6379"), "run a.yaml --address=10.0.0.1:6379"),
        (("doctor",), "doctor --address auto"),
        (("report", "experiments/a b"), "report experiments/a b"),
        ((), ""),
    ],
)
def test_submit_hands_its_arguments_to_langsearch(arguments: tuple[str, ...], line: str, tmp_path: Path) -> None:
    (tmp_path / "langsearch").mkdir()
    (tmp_path / "bin").mkdir()
    stand_in = tmp_path / "bin" / "langsearch"
    stand_in.write_text('#!/usr/bin/env bash\npwd\necho "$*"\necho "$RAY_AUTH_MODE"\nexit 3\n', encoding="utf-8")
    stand_in.chmod(0o755)
    done = submit(tmp_path, *arguments)
    assert done.stdout.splitlines() == [str(tmp_path / "langsearch"), line, "token"]
    assert done.returncode == 3


def test_submit_says_where_langsearch_is_missing(tmp_path: Path) -> None:
    done = submit(tmp_path, "run", "a.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("langsearch must be on the head's PATH, but is not.")


def submit(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"PATH": f"{home / 'bin'}:{Path(bash).parent}", "HOME": str(home)}
    return subprocess.run(
        [sys.executable, CLUSTER / "submit.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
