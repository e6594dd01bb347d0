"""What a base of 600 million parameters costs; run it by `python -m tests.benchmarks.large_base`.

A base of random weights in the layout of NLLB-200-distilled-600M is written into a temporary hub's cache (2.5 GB, and
as much again as safetensors). Then each command runs on it in a process of its own, as from a shell, and its seconds
and its peaks of memory are printed:

- `driver`: the most that the command's own process had resident (VmHWM), pages of mapped files included, and the most
  that was its own and not a file's (RssAnon);
- `all`: the most that all its processes had together (PSS: what several share counts once), and without pages of
  files, which the system takes back when it needs room.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks.published_base import BASE, LANGUAGES

_SPACE = f"""\
name: large
base: {BASE}
languages: {{high: [{LANGUAGES[0]}, {LANGUAGES[1]}], low: [{LANGUAGES[2]}]}}
data:
  train: {{embedded: quickstart, part: train}}
  validation: {{embedded: quickstart, part: validation}}
  test: {{embedded: quickstart, part: test}}
  directions: [en-fr, fr-sw]
architecture:
  rank: {{high: 4, low: RANK}}
trainer: {{epochs: 1, pairs_per_epoch: 64, tokens_per_batch: 1000, accumulation: 1, lr: 1.0e-3}}
evaluation:
  spbleu: base
  search: {{directions: 1, sentences: 2, beams: 1}}
  final: {{directions: 1, sentences: 16, beams: 1}}
baselines: []
search: {{trials: 2, scheduler: none}}
resources: {{cpu: 1}}
"""
_LINES = "The house is red.\nTomorrow we will go to the market.\n"
_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Cost:
    """What a command took; sizes in bytes."""

    name: str
    seconds: float = 0.0
    driver: int = 0
    driver_own: int = 0
    together: int = 0
    together_held: int = 0


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a base of a few megabytes, to try the script")
    parser.add_argument("--only", nargs="*", default=list(_commands()), help="some of the commands, in this order")
    parser.add_argument("--package", type=Path, help="the root of another checkout whose langsearch is measured")
    parser.add_argument("--at", type=Path, help="the folder for the base and all results, used again if it is there")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="large-base-") as temporary:
        folder = (arguments.at or Path(temporary)).resolve()
        _prepare(folder, is_small=arguments.small)
        print(f"{'':<16}{'seconds':>9}{'driver':>9}{'own':>8}{'all':>8}{'held':>8}   (GB)")
        costs = []
        for name in arguments.only:
            costs.append(_measure(name, _commands()[name], folder, arguments.package))
            sizes = (costs[-1].driver, costs[-1].driver_own, costs[-1].together, costs[-1].together_held)
            cells = "".join(f"{size / 1e9:>{width}.2f}" for size, width in zip(sizes, (9, 8, 8, 8), strict=True))
            print(f"{name:<16}{costs[-1].seconds:>9.1f}{cells}", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n", encoding="utf-8")


def _commands() -> dict[str, list[str]]:
    return {
        "check": ["check", "space.yaml"],
        "train": ["train", "fixed.yaml", "--to", "trained"],
        "evaluate": ["evaluate", "trained/adapters", "--space", "fixed.yaml", "--split", "validation"],
        "export peft": ["export", "trained/adapters", "--to", "again", "--compact"],
        "export merged": ["export", "trained/adapters", "--to", "en-fr", "--format", "merged", "--direction", "en-fr"],
        "translate": ["translate", "trained/adapters", "--from", "en", "--to", "fr", "--beams", "1"],
        "run": ["run", "space.yaml", "--quiet"],
    }


def _prepare(folder: Path, *, is_small: bool) -> None:
    """Writes the spaces, and the base unless it is there; by another process, whose memory is then free again."""
    folder.mkdir(exist_ok=True)
    (folder / "space.yaml").write_text(_SPACE.replace("RANK", "{choice: [4, 8]}"), encoding="utf-8")
    (folder / "fixed.yaml").write_text(_SPACE.replace("RANK", "8"), encoding="utf-8")
    if not (folder / "hub").exists():
        started = time.monotonic()
        size = ["--small"] if is_small else []
        command = [sys.executable, "-m", "tests.benchmarks.published_base", str(folder / "hub"), *size]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print(f"The base was written in {time.monotonic() - started:.0f} s.", flush=True)


def _measure(name: str, command: Sequence[str], folder: Path, package: Path | None) -> Cost:
    """Runs a command of langsearch and returns what it took. Raises CalledProcessError if it fails."""
    environment = {**os.environ, "HF_HUB_CACHE": str(folder / "hub"), "HF_HUB_OFFLINE": "1"}
    environment["LANGSEARCH_CACHE"] = str(folder / "cache")
    environment["PYTHONPATH"] = str(package.resolve() if package else Path(__file__).parents[2])
    cost, started = Cost(name), time.monotonic()
    with (folder / f"{name.replace(' ', '-')}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "langsearch", *command],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        watcher = threading.Thread(target=_watch, args=(process, cost))
        watcher.start()
        process.communicate(_LINES if name == "translate" else "")
    cost.seconds = time.monotonic() - started
    watcher.join()
    if process.returncode:
        print((folder / f"{name.replace(' ', '-')}.log").read_text(), file=sys.stderr)
        raise subprocess.CalledProcessError(process.returncode, command)
    return cost


def _watch(process: "subprocess.Popen[str]", cost: Cost) -> None:
    """Looks at a process and all below it until it has ended."""
    while process.returncode is None:
        own = _kilobytes(Path(f"/proc/{process.pid}/status"))
        cost.driver = max(cost.driver, 1024 * own.get("VmHWM", 0))
        cost.driver_own = max(cost.driver_own, 1024 * own.get("RssAnon", 0))
        found = [_kilobytes(Path(f"/proc/{pid}/smaps_rollup")) for pid in _tree(process.pid)]
        cost.together = max(cost.together, 1024 * sum(one.get("Pss", 0) for one in found))
        held = 1024 * sum(one.get("Pss", 0) - one.get("Pss_File", 0) for one in found)
        cost.together_held = max(cost.together_held, held)
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _tree(root: int) -> Iterator[int]:
    """Yields a process and all that it has started, directly or not."""
    yield root
    for tasks in Path(f"/proc/{root}/task").glob("*/children"):
        with suppress(OSError):
            for child in tasks.read_text().split():
                yield from _tree(int(child))


def _kilobytes(path: Path) -> dict[str, int]:
    """Returns the sizes in a file of /proc by their names; none of a process that has ended."""
    found = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith(" kB"):
                found[name] = int(value.split()[0])
    return found


if __name__ == "__main__":
    main()
