"""A host: a network, process, mount and UTS namespace with an sshd, and a switch to turn it off.

python -m tests.cluster.host NAME runs as the first process of one.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.sandbox import HOME, LOGS, ROOT, hide, mount, run

_GATEWAY = "192.0.2.1"
_BRIDGE = "bridge0"
_SSHD = ROOT / "sshd_config"


@dataclass
class Host:
    """A machine of the cluster."""

    name: str
    address: str
    _first: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def is_on(self) -> bool:
        """Whether it runs."""
        return self._first is not None and self._first.poll() is None

    @property
    def root(self) -> Path:
        """Its files, as long as it is on."""
        pid = self._process.pid
        (first,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()
        return Path(f"/proc/{first}/root")

    def turn_on(self) -> None:
        """Starts it, as a boot does: its home has what it had, its /tmp is empty. Returns when sshd answers."""
        apart = ["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
        with (LOGS / f"{self.name}.log").open("ab") as log:
            line = [*apart, sys.executable, "-m", "tests.cluster.host", self.name]
            self._first = subprocess.Popen(line, stdout=log, stderr=log, stdin=subprocess.PIPE)
        ours = Path("/proc/self/ns/net").readlink()
        _wait(lambda: Path(f"/proc/{self._process.pid}/ns/net").readlink() != ours, f"{self.name}'s network")
        pid = str(self._process.pid)
        run("ip", "link", "add", self.name, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", self.name, "master", _BRIDGE, "up")
        inside = ("nsenter", f"--net=/proc/{pid}/ns/net", "ip")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{self.address}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", _GATEWAY)
        assert self._process.stdin is not None
        self._process.stdin.close()  # now it may go on
        _wait(self._answers, f"{self.name}'s sshd")

    def turn_off(self) -> None:
        """Takes its power: all its processes are killed at once, its network and its /tmp are gone."""
        self._process.kill()
        self._process.wait()
        self._first = None

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._first is not None
        return self._first

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {(LOGS / f'{self.name}.log').read_text()}")
        return subprocess.run([*_ssh(self), "true"], capture_output=True, check=False).returncode == 0


def make_network(hosts: list[Host]) -> None:
    """Makes a network for hosts, their names, and a key in this process's home with which ssh lets it in."""
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", _BRIDGE, "type", "bridge")
    run("ip", "address", "add", f"{_GATEWAY}/24", "dev", _BRIDGE)
    run("ip", "link", "set", _BRIDGE, "up")
    with Path("/etc/hosts").open("a", encoding="utf-8") as file:
        file.writelines(f"{host.address} {host.name}\n" for host in hosts)
    (HOME / ".ssh").mkdir(mode=0o700)
    for key in (HOME / ".ssh" / "id_ed25519", ROOT / "host_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    shutil.copy(HOME / ".ssh" / "id_ed25519.pub", ROOT / "authorized_keys")
    # sshd refuses an account that has a password nobody can know; nor need the real one be there.
    shadow = ROOT / "shadow"
    shadow.write_text("root:*:20000:0:99999:7:::\n", encoding="utf-8")
    mount("--bind", shadow, "/etc/shadow")
    lines = {
        "HostKey": ROOT / "host_key",
        "AuthorizedKeysFile": ROOT / "authorized_keys",
        "StrictModes": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "UsePAM": "no",
        "UseDNS": "no",
        "PrintMotd": "no",
        "PidFile": "none",
    }
    _SSHD.write_text("".join(f"{name} {value}\n" for name, value in lines.items()), encoding="utf-8")


def _ssh(host: Host) -> list[str]:
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=2", "LogLevel=ERROR")
    return ["ssh", *(part for option in options for part in ("-o", option)), f"root@{host.address}"]


def _wait(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 30
    while not is_so():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} must be there within 30 s, but is not.")
        time.sleep(0.1)


def main(name: str) -> None:
    """Becomes a host of that name."""
    run("hostname", name)
    home = ROOT / "homes" / name
    hide(home)
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    # TTY_COMPATIBLE: plain lines instead of a live table, though Ray's launcher has a terminal there.
    profile = f"export PATH={path} PYTHONDONTWRITEBYTECODE=1 TTY_COMPATIBLE=0\n"
    (home / ".profile").write_text(profile, encoding="utf-8")
    sys.stdin.read()  # until it has a network
    os.execv("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D", "-e", "-f", str(_SSHD)])


if __name__ == "__main__":
    main(sys.argv[1])
