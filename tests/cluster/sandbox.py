"""Folders of this machine that a process in a mount namespace of its own has for itself, in memory."""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/mnt")
"""Everything that is made lies in this file system, in memory. All hosts have it, as they would a network's."""

SHARED = ROOT / "shared"
LOGS = ROOT / "logs"
REPOSITORY = Path(__file__).parents[2]
HOME = Path(pwd.getpwuid(os.getuid()).pw_dir)
"""ssh and sshd take it from the user database, whatever $HOME is."""

_LIST = ROOT / "kept.txt"


def make_sandbox() -> None:
    """Gives this process, the first in its namespaces, an empty home, /tmp and /run, and no names from elsewhere."""
    if os.getpid() != 1:
        raise RuntimeError("This must run in namespaces of its own. Start it by tests/cluster/run.")
    needed = _needed()
    if within := [path for path in needed if path.is_relative_to(ROOT)]:
        raise RuntimeError(f"The repository and the environment must not lie in {ROOT}, but {within[0]} does.")
    mount("-t", "tmpfs", "tmpfs", ROOT)
    for path in needed:
        target = _kept(path)
        target.mkdir(parents=True)
        mount("--bind", path, target)
    _LIST.write_text("\n".join(map(str, needed)), encoding="utf-8")
    for folder in (SHARED, LOGS):
        folder.mkdir()
    for hidden in ("/run", "/var/log"):  # sshd writes down who came
        mount("-t", "tmpfs", "tmpfs", hidden)
    Path("/run/sshd").mkdir()  # made by Debian at boot
    for log in ("/run/utmp", "/var/log/wtmp", "/var/log/lastlog"):
        Path(log).touch()
    for file, text in (("/etc/hosts", "127.0.0.1 localhost\n"), ("/etc/resolv.conf", "")):
        own = ROOT / Path(file).name
        own.write_text(text, encoding="utf-8")
        mount("--bind", own, file)
    hide(ROOT / "homes" / "operator")


def hide(home: Path) -> None:
    """Gives this process's mount namespace an empty /tmp and /dev/shm, and another home.

    Args:
        home: The folder that takes the home's place; made if absent.
    """
    if not home.exists():
        shutil.copytree("/etc/skel", home)
        home.chmod(0o700)
    mount("-t", "tmpfs", "tmpfs", "/tmp")
    mount("-t", "tmpfs", "tmpfs", "/dev/shm")
    mount("--bind", home, HOME)
    for path in map(Path, _LIST.read_text(encoding="utf-8").splitlines()):
        if any(path.is_relative_to(hidden) for hidden in ("/tmp", "/run", HOME)):
            path.mkdir(parents=True, exist_ok=True)
            mount("--bind", _kept(path), path)
    os.chdir(REPOSITORY)


def mount(*arguments: str | Path) -> None:
    """Runs mount."""
    run("mount", *arguments)


def run(*line: str | Path) -> None:
    """Runs a command that must succeed; what it prints is shown only if it fails."""
    done = subprocess.run([*map(str, line)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, line))} failed: {done.stderr or done.stdout}")


def _kept(path: Path) -> Path:
    """Returns where a folder is found while another one hides it."""
    return ROOT / "kept" / path.relative_to("/")


def _needed() -> Sequence[Path]:
    """Returns the folders of this machine that Python needs."""
    folders = {REPOSITORY, Path(sys.prefix), Path(sys.base_prefix), *(Path(entry) for entry in sys.path if entry)}
    found = sorted({folder.resolve() for folder in folders if folder.is_dir()})
    return [path for path in found if not any(path != other and path.is_relative_to(other) for other in found)]
