"""What `langsearch check` says of memory: what a trial needs, and whether this machine has it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

from langsearch.cluster.resources import amounts, num_fit
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.try_tasks import num_tries
from langsearch.model.cpus import available_cpus
from langsearch.model.families import read_config
from langsearch.model.memory import total_bytes
from langsearch.space.baseline_settings import Baseline
from langsearch.space.dimensions import baseline_trainer_settings
from langsearch.space.schema import Space
from langsearch.space.values import Value, extremes, options
from langsearch.train.fitting import MAX_TOKENS
from langsearch.train.need import MemoryNeed, training_need


def memory_needs(checked: CheckedSpace, most_parameters: int) -> dict[str, MemoryNeed]:
    """Returns what a trial needs at most, and full fine-tuning, at the largest batch of the space.

    Args:
        checked: The space.
        most_parameters: The most adapter parameters of the space.
    """
    space, shape = checked.space, checked.shape
    config = read_config(checked.base.folder)
    section = space.trainer_section
    arguments: dict[str, Any] = {
        "num_parameters": shape.num_parameters,
        "longest": checked.lengths.max_length,
        "dropout": max(extremes(section.dropout)),
        "is_cuda": space.resources.gpu > 0,
    }
    adapters = training_need(
        config,
        num_trained=most_parameters,
        is_full=False,
        bytes_per_value=_bytes_per_value(space),
        tokens=_largest_batch(section.tokens_per_batch) // section.accumulation,
        **arguments,
    )
    named = [baseline for baseline in space.baselines if baseline.name == "full_finetuning"]
    trainer = baseline_trainer_settings(section, named[0] if named else Baseline(name="full_finetuning"))
    full = training_need(
        config,
        num_trained=shape.num_parameters,
        is_full=True,
        tokens=(trainer.tokens_per_batch or MAX_TOKENS) // trainer.accumulation,
        **(arguments | {"dropout": trainer.dropout}),
    )
    return {"a trial": adapters, "full fine-tuning": full}


_PROCESS_BYTES = 0.8e9
_PROCESS = "the process itself, some 0.8 GB with its libraries"
"""Measured: of the quickstart's base, the pretrained entry, which trains nothing, peaks at 0.74 GiB, trials at 0.88."""


def memory_lines(checked: CheckedSpace, needs: Mapping[str, MemoryNeed]) -> list[str]:
    """Returns the needs in words, and whether the device of this machine has as much."""
    lines = [_line(name, need) for name, need in needs.items()]
    room = _room(checked)
    if room is None:
        return [*lines, "this machine shows no GPU; the one that trials get must have as much"]
    if checked.space.resources.gpu == 0:
        # What a trial's peak is told as later, in tables and reports, is that of its whole process.
        lines.append(f"each beside {_PROCESS}, which a trial's reported peak counts too")
    has = f"this machine's {room[0]} has {_gigabytes(room[1])}"
    short = [name for name, need in needs.items() if need.total > room[1]]
    if not short:
        return [*lines, f"{has}: {_enough(checked, needs, room[1])}"]
    hopeless = [name for name in short if needs[name].fixed > room[1]]
    way_out = "Raise `trainer.accumulation`, or set `trainer.tokens_per_batch: auto`"
    if hopeless:
        way_out = f"{' and '.join(hopeless)} fits with no batch, however small"
    return [*lines, f"{has}, which is too little for {' and '.join(short)}. {way_out}."]


def num_at_once(space: Space) -> int:
    """Returns how many trials of a space this machine runs at once, at least one."""
    here = {"CPU": float(available_cpus()), "GPU": float(torch.cuda.device_count() if space.resources.gpu else 0)}
    planned = space.search.trials + len(space.baselines) + num_tries(space)
    return max(1, min(num_fit([here], amounts(space.resources)), planned))


def _enough(checked: CheckedSpace, needs: Mapping[str, MemoryNeed], room: int) -> str:
    """Returns for how many trials a device's memory is enough, beside how many share it."""
    space, trial = checked.space, needs["a trial"].total
    beside = 0.0 if space.resources.gpu else _PROCESS_BYTES
    sharing = num_at_once(space)
    if space.resources.gpu:
        sharing = min(sharing, num_fit([{"GPU": 1.0}], {"GPU": amounts(space.resources)["GPU"]}))
    # Tries of full fine-tuning may train beside each other.
    num_full = sum(max(1, space.num_tries(one.name)) for one in space.baselines if one.name == "full_finetuning")
    num_full = min(num_full, sharing)
    full = max(trial, needs["full fine-tuning"].total)
    if sharing == 1:
        return "enough for the one trial that runs at a time"
    if num_full * full + (sharing - num_full) * trial + sharing * beside <= room:
        return f"enough for the {sharing} trials that share it"
    return (
        f"enough for one, but {sharing} trials share it, and may run out of memory together. Have fewer of them at a "
        f"time: {'lower `resources.trials_per_gpu`' if space.resources.gpu else 'raise `resources.cpu`'}"
    )


def describe_needs(checked: CheckedSpace, needs: Mapping[str, MemoryNeed]) -> dict[str, Any]:
    """Returns the needs in bytes, and what this machine has, as JSON data."""
    room = _room(checked)
    found: dict[str, Any] = {
        name.replace(" ", "_"): asdict(need) | {"total": need.total} for name, need in needs.items()
    }
    return found | {"device": None if room is None else {"name": room[0], "total": room[1]}}


def _largest_batch(tokens_per_batch: Value) -> int:
    """Returns the largest batch that a space may try; `auto` is no larger than `MAX_TOKENS`."""
    automatic = MAX_TOKENS if None in options(tokens_per_batch) else 0
    return max(automatic, int(max(extremes(tokens_per_batch))))


def _bytes_per_value(space: Space) -> int:
    """Returns the bytes of a weight of the frozen base: what `auto` means on a CPU is measured later, so 4 at most."""
    precision = space.trainer_section.precision
    halved = ("auto", "bf16", "fp16") if space.resources.gpu > 0 else ("bf16",)
    return 2 if precision in halved else 4


def _room(checked: CheckedSpace) -> tuple[str, int] | None:
    if checked.space.resources.gpu == 0:
        return "CPU", total_bytes(torch.device("cpu"))
    if not torch.cuda.is_available():
        return None
    return "GPU", total_bytes(torch.device("cuda"))


def _line(name: str, need: MemoryNeed) -> str:
    parts = {
        "base": need.base,
        "trained": need.trained,
        "gradients": need.gradients,
        "optimizer": need.optimizer,
        "activations": need.activations,
    }
    listed = ", ".join(f"{part} {_gigabytes(size)}" for part, size in parts.items())
    return f"{name} about {_gigabytes(need.total)}: {listed}"


def _gigabytes(size: float) -> str:
    if size < 1e9:
        return f"{size / 1e6:.0f} MB"
    return f"{size / 1e9:.1f} GB" if size < 1e10 else f"{size / 1e9:.0f} GB"
