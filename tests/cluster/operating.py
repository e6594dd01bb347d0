"""What an operator does with a cluster, by the commands of cluster/README.md: token, up, doctor, run, fetch, down."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.host import Host
from tests.cluster.sandbox import HOME, LOGS, REPOSITORY, ROOT, SHARED

WORK = ROOT / "work"
CONFIG = "cluster/onprem.yaml"
NAME, NUM_EPOCHS = "three-hosts", 6
EXPERIMENT = SHARED / "langsearch" / "experiments" / NAME
# A trial takes longer than the start of a worker process, so that every host surely has one in the middle.
SPACE = f"""\
name: {NAME}
base: tiny-m2m
languages: {{high: [en, fr], low: [sw]}}
data:
  train: {{embedded: quickstart, part: train}}
  validation: {{embedded: quickstart, part: validation}}
  test: {{embedded: quickstart, part: test}}
architecture:
  rank: {{high: {{choice: [2, 4]}}, low: {{choice: [2, 4, 8]}}}}
trainer:
  epochs: {NUM_EPOCHS}
  pairs_per_epoch: 200
  tokens_per_batch: 600
  accumulation: 1
  lr: {{float: [3.0e-3, 3.0e-2], log: true}}
evaluation:
  spbleu: base
  search: {{directions: 2, sentences: 4, beams: 1}}
  final: {{directions: 2, sentences: 4, beams: 1}}
baselines: []
search: {{sampler: random, scheduler: none}}
resources: {{cpu: 1, max_failures: 2}}
"""

HOSTS = [Host("head", "192.0.2.10"), Host("worker1", "192.0.2.11"), Host("worker2", "192.0.2.12")]
"""Their addresses are those in the launcher's file: nobody has them, they are for documentation."""


class CommandError(Exception):
    """A command that must succeed has not."""


def command(*line: str, seconds: float = 180) -> str:
    """Runs a command in the operator's folder; returns what it printed. Raises CommandError if it fails."""
    log = _log(line)
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                line, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=WORK, timeout=seconds, check=False
            )
            code: object = done.returncode
        except subprocess.TimeoutExpired:
            code = f"no end within {seconds:g} s"
    text = text_of(log)
    if code != 0:
        raise CommandError(f"{' '.join(line)}: {code}\n{text}")
    return text


def _log(line: Sequence[str]) -> Path:
    number = len(list(LOGS.iterdir()))
    return LOGS / f"{number:02}-{re.sub('[^a-z]+', '-', ' '.join(line[:2]))}.log"


def prepare(head_options: str = "") -> None:
    """Makes the operator's folder: the launcher's file for these hosts, the space, and a token as the README says.

    Args:
        head_options: More of `ray start --head`'s.
    """
    (WORK / "search_spaces").mkdir(parents=True)
    (WORK / "search_spaces" / f"{NAME}.yaml").write_text(SPACE, encoding="utf-8")
    shutil.copytree(REPOSITORY / "cluster", WORK / "cluster")
    config = (WORK / CONFIG).read_text(encoding="utf-8")
    changes = {
        "ssh_user: langsearch\n": "ssh_user: root\n",
        "/shared/": f"{SHARED}/",
        "ray start --head": f"ray start --head{head_options}",
    }
    for shipped, ours in changes.items():
        assert shipped in config, shipped
        config = config.replace(shipped, ours)
    (WORK / CONFIG).write_text(config, encoding="utf-8")
    readme = (WORK / "cluster" / "README.md").read_text(encoding="utf-8")
    lines = readme.partition("## Tokens")[2].partition("```sh\n")[2].partition("```")[0]
    command("bash", "-euc", lines)
    os.environ["RAY_AUTH_MODE"] = "token"
    assert (HOME / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


def wait_for_nodes(num_nodes: int, seconds: float = 180) -> None:
    """Returns when there are so many nodes."""
    end = time.monotonic() + seconds
    while True:
        text = command("ray", "exec", CONFIG, "RAY_AUTH_MODE=token ray status")
        active = text.partition("Active:")[2].partition("Pending:")[0]
        if sum(map(int, re.findall(r"^\s*(\d+) \S", active, re.MULTILINE))) == num_nodes:
            return
        if time.monotonic() > end:
            raise CommandError(f"{num_nodes} nodes must be there within {seconds:g} s, but are not:\n{text}")
        time.sleep(1)


def examine() -> int:
    """Has the doctor look at all nodes; returns the CPUs of a worker. Raises CommandError if something is wrong."""
    text = command("ray", "submit", CONFIG, "cluster/submit.py", "--", "doctor", "--json")
    found = json.loads(text[text.index("{\n") : text.rindex("}") + 1])
    names = [node["name"] for node in found["nodes"]]
    expected = [f"{host.name} ({host.address})" for host in HOSTS]
    if names != expected:
        raise CommandError(f"The nodes must be {expected}, but are {names}")
    return int(found["nodes"][-1]["resources"]["CPU"])


def search(num_cpus: int, num_trials: int) -> "subprocess.Popen[bytes]":
    """Starts a search whose trials take more than half of a host, so that each host has one."""
    line = ["ray", "submit", CONFIG, "cluster/submit.py", "--", "run", f"search_spaces/{NAME}.yaml"]
    line += ["--trials", str(num_trials), "--set", f"resources.cpu={num_cpus / 2 + 0.5:g}"]
    with (LOGS / "search.log").open("wb") as file:
        return subprocess.Popen(line, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=WORK)


def search_log() -> str:
    """Returns what the search has printed."""
    return text_of(LOGS / "search.log")


def text_of(path: Path) -> str:
    """Returns a log without what colours it."""
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", path.read_text(encoding="utf-8", errors="replace"))


def fetch() -> Path:
    """Fetches the experiment as the README says, by rsync and through the job's API; returns its folder here."""
    here, through_jobs = WORK / "experiments" / NAME, WORK / "fetched"
    here.parent.mkdir()
    command("ray", "rsync-down", CONFIG, f"~/langsearch/experiments/{NAME}/", f"{here}/")
    with tunnel(8265):
        line = ("fetch", str(EXPERIMENT), "--address", "http://localhost:8265", "--to", str(through_jobs))
        command("langsearch", *line)
    for name in ("results.parquet", "study.db", "report.html", f"trials/{0:05}/curve.parquet"):
        assert (here / name).read_bytes() == (through_jobs / name).read_bytes(), name
    return here


@contextmanager
def tunnel(port: int) -> Iterator[None]:
    """Brings a port of the head's loopback here."""
    options = ("-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oExitOnForwardFailure=yes")
    line = ["ssh", "-f", "-N", *options, "-L", f"{port}:localhost:{port}", f"root@{HOSTS[0].address}"]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    yield  # it ends with the namespace
