"""`cluster/slurm.sbatch` with stand-ins for Slurm, Ray and langsearch; a story of tests/cluster/run has real Ray."""

import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CLUSTER = Path(__file__).parents[1] / "cluster"

STAND_INS = {
    "scontrol": (
        'if [ "$2" = hostnames ]; then printf "node%s\\n" $(seq "${NUM_NODES:-3}"); '
        'else echo "NodeName=$4 Arch=x86_64 NodeAddr=$4.cluster NodeHostName=$4"; fi'
    ),
    # As Debian has it: a node's own name is also 127.0.1.1.
    "getent": '[ "${UNKNOWN:-}" ] || printf "127.0.1.1 STREAM\\n10.0.0.%s STREAM\\n" "${2//[^0-9]/}"',
    "hostname": 'echo "${ADDRESSES-}"',
    "ray": (
        'echo "ray $*" >> "$LOG"; [ "$1" = get-auth-token ] && echo secret > ~/.ray/auth_token; '
        '[ "$1" = status ] && { echo Active:; grep "^ray start" "$LOG" | '
        'sed "s/.*/ 1 node_a/"; echo Pending:; }; [ "$1" = start ] || exit 0; '
        '[ "${SLOW:-}" ] && [[ "$*" = *"ip-address=$SLOW"* ]] && '
        'mkdir "$LOG.slow" 2> /dev/null && exit 1; '
        "exec sleep 60"
    ),
    "srun": (
        'while [ "${1#--}" != "$1" ]; do case "$1" in --nodelist=*) node="${1#*=}";; esac; shift; done; '
        'echo "on $node: $*" >> "$LOG"; exec "$@"'
    ),
    # Ends when Ray was started on all nodes, or, with SLEEPS, at an interrupt.
    "langsearch": (
        'echo "langsearch $*" >> "$LOG"; for name in INT TERM; do '
        'trap "echo heard $name >> \\"$LOG\\"; exit 130" $name; done; touch "$LOG.ready"; '
        'for i in $(seq 100); do [ "${SLEEPS:-}" ] || [ "$(grep -c "^ray start" "$LOG")" -lt "${NUM_NODES:-3}" ] || '
        'exit "${CODE:-0}"; sleep 0.1 & wait $!; done; exit 99'
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


def test_slurms_script_starts_ray_on_every_node_by_addresses_that_the_others_reach(
    sbatch: Sbatch, tmp_path: Path
) -> None:
    script, log = sbatch("flores12.yaml", "--experiments", "/shared")
    assert script.wait(timeout=60) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    starts = sorted(re.sub(r": .* start ray", ": ray", line) for line in lines if re.match("on .*ray start", line))
    assert [line.partition(" --num")[0] for line in starts] == [
        "on node1: ray start --block --head --node-ip-address=10.0.0.1 --port=23456 --temp-dir=/tmp/ray-123456",
        "on node2: ray start --block --address=10.0.0.1:23456 --node-ip-address=10.0.0.2",
        "on node3: ray start --block --address=10.0.0.1:23456 --node-ip-address=10.0.0.3",
    ]
    assert all("--num-cpus=8 --num-gpus=2" in line for line in starts)
    assert "on node2: getent ahostsv4 node1.cluster" in lines, "the head's address is asked of another node"
    assert "langsearch run flores12.yaml --experiments /shared --address 10.0.0.1:23456 --resume-if-begun" in lines
    token = tmp_path / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_slurms_script_starts_ray_again_where_a_node_was_too_slow(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", SLOW="10.0.0.2")
    assert script.wait(timeout=60) == 0
    starts = re.findall(r"^ray start .*--node-ip-address=(\S+)", log.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(starts)[:3] == ["10.0.0.1", "10.0.0.2", "10.0.0.2"]


def test_slurms_script_leaves_nothing_on_the_nodes(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml")
    assert script.wait(timeout=60) == 0
    lines = log.read_text(encoding="utf-8").splitlines()
    assert sorted(line for line in lines if "rm -rf" in line) == [
        f"on node{number}: rm -rf /tmp/ray-123456" for number in (1, 2, 3)
    ]


def test_slurms_script_takes_what_a_node_says_of_itself_where_its_name_is_unknown(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", UNKNOWN="1", ADDRESSES="127.0.0.1 fe80::1 10.9.0.7 10.8.0.7")
    assert script.wait(timeout=60) == 0
    assert "--head --node-ip-address=10.9.0.7 " in log.read_text(encoding="utf-8")


def test_slurms_script_says_when_the_nodes_do_not_reach_each_other(
    sbatch: Sbatch, capfd: pytest.CaptureFixture[str]
) -> None:
    script, log = sbatch("flores12.yaml", UNKNOWN="1", ADDRESSES="127.0.1.1")
    assert script.wait(timeout=60) == 1
    assert "node1 must have an address that node2 reaches, but none was found" in capfd.readouterr().err
    assert "ray start" not in log.read_text(encoding="utf-8")


def test_on_one_node_slurms_script_needs_no_network(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", UNKNOWN="1", NUM_NODES="1")
    assert script.wait(timeout=60) == 0
    assert "--head --node-ip-address=127.0.0.1 " in log.read_text(encoding="utf-8")


def test_slurms_script_ends_as_the_search_and_takes_its_way_of_resuming(sbatch: Sbatch) -> None:
    script, log = sbatch("flores12.yaml", "--resume", SLURM_RESTART_COUNT="1", CODE="1")
    assert script.wait(timeout=60) == 1
    assert "langsearch run flores12.yaml --resume --address 10.0.0.1:23456\n" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize(("number", "heard"), [(signal.SIGUSR1, "INT"), (signal.SIGTERM, "TERM")])
def test_slurms_warnings_stop_the_search_gently(sbatch: Sbatch, number: signal.Signals, heard: str) -> None:
    script, log = sbatch("flores12.yaml", SLEEPS="1")
    end = time.monotonic() + 30
    while not log.with_name("log.ready").exists() and time.monotonic() < end:
        time.sleep(0.05)
    script.send_signal(number)
    assert script.wait(timeout=30) == 130
    text = log.read_text(encoding="utf-8")
    assert (f"heard {heard}\n" in text, "rm -rf /tmp/ray-123456" in text) == (True, True)
