"""Slurm's script on three hosts: stand-ins for srun and scontrol start real Ray processes there, by ssh."""

import re
import subprocess
import sys
import time
from pathlib import Path

from langsearch.experiment.folder import read_rows
from tests.cluster.host import make_network
from tests.cluster.operating import HOSTS, SPACE, CommandError, text_of
from tests.cluster.sandbox import HOME, LOGS, REPOSITORY, ROOT, SHARED, make_sandbox

_NAME, _JOB = "three-hosts", "4242"
_PROGRAMS = ROOT / "slurm"
_EXPERIMENTS = SHARED / "experiments"
_OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
_CASES = " ".join(f"{host.name}) address={host.address};;" for host in HOSTS)
_STAND_INS = {
    "scontrol": """\
if [ "$2" = hostnames ]; then printf '%s\\n' head worker1 worker2
else echo "NodeName=$4 Arch=x86_64 NodeAddr=$4 NodeHostName=$4"; fi
""",
    # srun passes on the environment, and a signal to the step's process on the node. It knows the nodes' addresses.
    "srun": f"""\
while [ "${{1#--}}" != "$1" ]; do case "$1" in --nodelist=*) node="${{1#*=}}";; esac; shift; done
case "$node" in {_CASES} esac
on="ssh {_OPTIONS} root@$address" step=/tmp/step-$$
printf -v line '%q ' RAY_AUTH_MODE="$RAY_AUTH_MODE" RAY_USAGE_STATS_ENABLED=0 PYTHONPATH="$PYTHONPATH" PATH="$PATH" "$@"
$on "echo \\$\\$ > $step; cd $PWD && exec env $line" < /dev/null &
trap '$on "kill \\$(cat $step)" < /dev/null' TERM
code=0
wait $! || code=$?
while kill -0 $! 2> /dev/null; do code=0; wait $! || code=$?; done
exit $code
""",
}
_SETTINGS = ("trainer.epochs=3", "trainer.pairs_per_epoch=100", "resources.cpu=1")
_NUM_TRIALS = 6


def play_slurm() -> None:
    """A job searches on three nodes, is requeued before it has begun and after it has ended, and leaves nothing."""
    make_sandbox()
    make_network(HOSTS)
    # As Debian's installer writes it: a host's own name is a loopback address.
    with Path("/etc/hosts").open("a", encoding="utf-8") as file:
        file.write("127.0.1.1 head worker1 worker2\n")
    for host in HOSTS:
        host.turn_on()
        # Homes are shared on such clusters; the token is all that counts here.
        (host.root / str(HOME).lstrip("/") / ".ray").symlink_to(SHARED / "dot-ray")
    (SHARED / "dot-ray").mkdir()
    _PROGRAMS.mkdir()
    for name, body in _STAND_INS.items():
        (_PROGRAMS / name).write_text(f"#!/usr/bin/env bash\n{body}", encoding="utf-8")
        (_PROGRAMS / name).chmod(0o755)
    key = (HOME / ".ssh" / "id_ed25519").read_bytes()
    for host in HOSTS:
        folder = host.root / str(HOME).lstrip("/") / ".ssh"
        folder.mkdir(mode=0o700, exist_ok=True)
        (folder / "id_ed25519").write_bytes(key)
        (folder / "id_ed25519").chmod(0o600)
    (SHARED / "space.yaml").write_text(SPACE, encoding="utf-8")
    print("three hosts answer", flush=True)
    # Requeued before its first try had made the experiment.
    _sbatch("first", SLURM_RESTART_COUNT="1")
    rows = read_rows(_EXPERIMENTS / _NAME / "results.parquet")
    assert {row["state"] for row in rows} == {"complete"}, rows
    hosts = {str(row["worker"]).partition("/")[0] for row in rows}
    assert len(hosts) > 1, f"all trials ran on {hosts}"
    print(f"{len(rows)} trials are complete, on {', '.join(sorted(hosts))}", flush=True)
    for host in HOSTS:
        left = [path.name for path in (host.root / "tmp").glob("ray-*")]
        assert left == [], f"{host.name} keeps {left}"
    for name in ("raylet", "gcs_server"):
        assert not _processes(name), f"{name} still runs"
    print("nothing is left on the nodes", flush=True)
    log = _sbatch("again", SLURM_RESTART_COUNT="2")
    assert "the search had ended before" in log, log
    print("a job that is requeued behind the end has nothing to do", flush=True)


def _sbatch(name: str, **values: str) -> str:
    """Runs the script on the first host, as Slurm does; returns its output. Raises CommandError if it fails."""
    slurm = {"SLURM_JOB_ID": _JOB, "SLURM_JOB_NODELIST": "head,worker[1-2]", "SLURM_CPUS_PER_TASK": "1", **values}
    setting = " ".join(f"{key}={value}" for key, value in slurm.items())
    options = f"{SHARED}/space.yaml --experiments {_EXPERIMENTS} --trials {_NUM_TRIALS} "
    options += " ".join(f"--set {setting}" for setting in _SETTINGS)
    path = f"{_PROGRAMS}:{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    script = f"{REPOSITORY}/cluster/slurm.sbatch"
    command = f"cd {SHARED} && env PYTHONPATH={REPOSITORY} PATH={path} {setting} bash {script} {options}"
    log = LOGS / f"sbatch-{name}.log"
    with log.open("wb") as file:
        line = ["ssh", *_OPTIONS.split(), f"root@{HOSTS[0].address}", command]
        done = subprocess.run(line, stdout=file, stderr=file, stdin=subprocess.DEVNULL, timeout=600, check=False)
    text = re.sub(r"\r", "", text_of(log))
    if done.returncode:
        raise CommandError(f"the job: {done.returncode}\n{text}")
    return text


def _processes(name: str, seconds: float = 20) -> list[str]:
    """Returns which processes of a name all hosts have, when they have had time to end."""
    end = time.monotonic() + seconds
    while True:
        found = []
        for path in Path("/proc").glob("[0-9]*/comm"):
            try:
                found += [path.parent.name] if path.read_text(encoding="utf-8").strip() == name else []
            except OSError:
                continue
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.5)
