import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from langsearch.cluster import jobs
from langsearch.model.device import cuda_problem

CLUSTER = Path(__file__).parents[1] / "cluster"
LAUNCHER = ("onprem", "aws", "gcp")


def read(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe", pure=True).load((CLUSTER / f"{name}.yaml").read_text(encoding="utf-8"))
    return loaded


def test_every_file_is_known_to_these_tests() -> None:
    found = {path.name for path in CLUSTER.iterdir() if path.is_file()}
    others = {"slurm.sbatch", "submit.py", "README.md", "gpu.md", "Dockerfile"}
    assert found == {f"{name}.yaml" for name in (*LAUNCHER, "kuberay")} | others


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


NAMED = {
    "aws": {
        "images": {
            "resolve:ssm:/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id"
        },
        "accounts": ["langsearch-head", "langsearch-worker"],
        "disks": {"/dev/sda1 gp3 200"},
        "buckets": {"s3://BUCKET/data", "s3://BUCKET/experiments"},
        "roles": {
            *("s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "ssm:GetParameters", "iam:PassRole"),
            *("ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DescribeInstances"),
            *("ec2:DescribeInstanceTypes", "ec2:DescribeImages", "ec2:DescribeKeyPairs", "ec2:CreateKeyPair"),
            *("ec2:DescribeSubnets", "ec2:DescribeVpcs", "ec2:DescribeSecurityGroups", "ec2:CreateSecurityGroup"),
            *("ec2:AuthorizeSecurityGroupIngress", "iam:GetInstanceProfile", "iam:CreateServiceLinkedRole"),
        },
    },
    "gcp": {
        "images": {
            "projects/deeplearning-platform-release/global/images/family/common-cu129-ubuntu-2204-nvidia-580",
        },
        "accounts": [
            "langsearch-head@your-project.iam.gserviceaccount.com",
            "langsearch-worker@your-project.iam.gserviceaccount.com",
        ],
        "disks": {"zones/europe-west4-a/diskTypes/pd-balanced 200"},
        "buckets": {"gs://BUCKET/data", "gs://BUCKET/experiments"},
        "roles": {
            *("roles/storage.objectAdmin", "roles/compute.instanceAdmin.v1", "roles/iam.serviceAccountUser"),
            *("roles/compute.admin", "roles/iam.serviceAccountAdmin", "roles/resourcemanager.projectIamAdmin"),
            "roles/iam.roleViewer",
        },
    },
}
"""What the clouds' files name that must be there, as it was looked up."""


def disk(entry: dict[str, Any]) -> str:
    if "Ebs" in entry:
        return f"{entry['DeviceName']} {entry['Ebs']['VolumeType']} {entry['Ebs']['VolumeSize']}"
    return f"{entry['initializeParams']['diskType']} {entry['initializeParams']['diskSizeGb']}"


@pytest.mark.parametrize("name", NAMED)
def test_all_that_a_clouds_file_names_is_listed(name: str) -> None:
    config, text = read(name), (CLUSTER / f"{name}.yaml").read_text(encoding="utf-8")
    nodes = [config["available_node_types"][kind]["node_config"] for kind in ("head", "gpu_worker")]
    disks = [entry for node in nodes for entry in node.get("BlockDeviceMappings", node.get("disks"))]
    images = (
        {node["ImageId"] for node in nodes}
        if name == "aws"
        else {entry["initializeParams"]["sourceImage"] for entry in disks}
    )
    accounts = (
        [node["IamInstanceProfile"]["Name"] for node in nodes]
        if name == "aws"
        else [account["email"] for node in nodes for account in node["serviceAccounts"]]
    )
    assert {
        "images": images,
        "accounts": accounts,
        "disks": set(map(disk, disks)),
        "buckets": set(re.findall(r"(?:s3|gs)://[\w/]+", text)),
        "roles": set(re.findall(r"\b(?:(?:s3|ec2|iam|ssm):[A-Z]\w+|roles/\w+(?:\.\w+)+)", text)),
    } == NAMED[name]
    if name == "gcp":
        assert f"zones/{config['provider']['availability_zone']}/" in next(iter(map(disk, disks)))


@pytest.mark.parametrize("name", NAMED)
def test_a_cloud_machine_brings_its_python_its_data_and_a_gpu_that_answers(name: str) -> None:
    config = read(name)
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = re.findall(r"uv venv -q --python (\S+) ~/venv", " ".join(config["setup_commands"]))
    assert project["requires-python"] == f">={version}"
    mounted = {target for target in config["file_mounts"] if target.startswith("~/langsearch/")}
    assert {f"~/langsearch/{name}" for name in ("langsearch", project["readme"], *project["license-files"])} < mounted
    assert config["head_setup_commands"][-1].endswith("://BUCKET/data ~/langsearch/data")
    (check,) = config["available_node_types"]["gpu_worker"]["worker_setup_commands"]
    done = subprocess.run(
        ["bash", "-c", check.replace("~/venv/bin/python", sys.executable)], capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (cuda_problem() is None)
    for command in (*config["setup_commands"], *config["head_setup_commands"], check):
        assert subprocess.run(["bash", "-nc", command], check=False).returncode == 0, command


def test_the_image_has_the_ray_that_the_rayjob_asks_for() -> None:
    lines = (CLUSTER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    (base,) = (line.removeprefix("FROM ") for line in lines if line.startswith("FROM "))
    assert base == f"rayproject/ray:{ray.__version__}-py311"
    assert f"ray.__version__ == '{ray.__version__}'" in "\n".join(lines)
    copied = [source for line in lines if line.startswith("COPY") for source in line.split()[2:-1]]
    assert all((CLUSTER.parent / source).exists() for source in copied)
    (tag,) = {line.split()[-2] for line in lines if "docker build" in line}
    job = read("kuberay")["spec"]["rayClusterSpec"]
    groups = [job["headGroupSpec"], *job["workerGroupSpecs"]]
    assert {group["template"]["spec"]["containers"][0]["image"] for group in groups} == {tag}
    project = tomllib.loads((CLUSTER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tag.endswith(f":{project['version']}")


@pytest.mark.integration
def test_the_images_commands_run_in_a_fresh_environment(tmp_path: Path) -> None:
    """As far as can be without a container: an environment that sees this one's packages stands in for Ray's image."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{tmp_path}/venv/bin/python" -m pip "$@"\n', encoding="utf-8")
    pip.chmod(0o755)
    site = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", "import site; print(site.getsitepackages()[0])"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    packages = sysconfig.get_paths()["purelib"]
    Path(site, "image.pth").write_text(f"{packages}\n", encoding="utf-8")
    folder, environment = tmp_path, {"PATH": f"{tmp_path}/venv/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    for line in (CLUSTER / "Dockerfile").read_text(encoding="utf-8").splitlines():
        word, _, rest = line.partition(" ")
        if word == "WORKDIR":
            folder = tmp_path / rest.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
        elif word == "COPY":
            *sources, target = rest.split()[1:]
            for source in sources:
                there = CLUSTER.parent / source
                if there.is_dir():
                    shutil.copytree(there, folder / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(there, folder / target)
        elif word == "RUN":
            rest = rest.replace("pip install", "pip install --no-deps --no-build-isolation --ignore-installed")
            rest = rest.replace("cd /", f"cd {tmp_path}")
            done = subprocess.run(
                ["sh", "-c", rest], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (line, done.stdout, done.stderr)
    found = subprocess.run(
        [tmp_path / "venv" / "bin" / "python", "-c", "import langsearch; print(langsearch.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(site), "what was installed, not what was copied"


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
    assert cluster["autoscalerOptions"]["version"] == "v2"
    assert "--resume-if-begun" in spec["entrypoint"]
    assert YAML(typ="safe", pure=True).load(spec["runtimeEnvYAML"]) == jobs._STOPPING
    for group in (cluster["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["restartPolicy"] == "Never"
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    assert "nvidia.com/gpu" in workers["template"]["spec"]["containers"][0]["resources"]["limits"]
    done = subprocess.run(["sh", "-nc", spec["entrypoint"]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


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
