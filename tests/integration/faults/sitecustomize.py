"""Injects faults into the trials that a plan names, in every Python process that has this folder on its PYTHONPATH.

Python imports a module of this name when it starts. The product has no hook for it: the modules are patched when a
worker imports them.
"""

import importlib.abc
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any


class _Finder(importlib.abc.MetaPathFinder):
    """Finds a module, and has it patched behind its import."""

    def __init__(self, name: str, patch: Callable[[ModuleType], None]) -> None:
        self._name, self._patch = name, patch

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            loader, execute = spec.loader, spec.loader.exec_module

            def execute_and_patch(module: ModuleType) -> None:
                execute(module)
                self._patch(module)

            loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _shorten_leases(lease: ModuleType) -> None:
    """Has leases end after so many seconds, where a test will not wait for minutes."""
    seconds = float(os.environ["LANGSEARCH_TEST_LEASE_SECONDS"])
    lease.RemoteLease.__init__.__kwdefaults__.update(refresh_seconds=seconds / 10, dead_after_seconds=seconds)


def _patch_worker(worker: ModuleType) -> None:
    from langsearch.train import loop

    folder = Path(os.environ["LANGSEARCH_TEST_FAULTS"])
    plan = json.loads((folder / "faults.json").read_text(encoding="utf-8"))
    run_trial, update = worker.run_trial, loop._Run._update
    running: list[str] = []

    def run_faulty(base: Any, environment: Any, task: Any, *values: Any, **options: Any) -> Iterator[Any]:
        running[:] = [task.name]
        yield from run_trial(base, environment, task, *values, **options)

    def update_faulty(run: Any, batches: Any) -> None:
        fault = plan.get(running[0]) if running else None
        if fault is not None and run.updates + 1 == fault["update"] and _is_due(folder, running[0], fault["times"]):
            _strike(fault["kind"], folder)
        update(run, batches)

    worker.run_trial = run_faulty  # type: ignore[attr-defined]
    loop._Run._update = update_faulty  # type: ignore[assignment, method-assign]


def _is_due(folder: Path, name: str, times: int) -> bool:
    """Returns whether a fault is still to come, and counts it, over all processes."""
    struck = folder / f"struck-{name}"
    count = len(struck.read_text(encoding="utf-8")) if struck.exists() else 0
    if count >= times:
        return False
    struck.write_text("x" * (count + 1), encoding="utf-8")
    return True


def _strike(kind: str, folder: Path) -> None:
    if kind == "wait":
        while not (folder / "go").exists():
            time.sleep(0.05)
    if kind == "hang":
        time.sleep(600)
    if kind == "memory":
        raise MemoryError("no memory, injected")
    if kind == "cuda":
        raise RuntimeError("CUDA error: an illegal memory access was encountered, injected")
    if kind == "raise":
        raise ValueError("injected")
    if kind == "slow":
        time.sleep(1.5)


if "LANGSEARCH_TEST_FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder("langsearch.search.worker", _patch_worker))
if "LANGSEARCH_TEST_LEASE_SECONDS" in os.environ:
    sys.meta_path.insert(0, _Finder("langsearch.experiment.lease", _shorten_leases))
