"""Adapters as plain PEFT LoRA, and back: one PEFT adapter for each slot and side.

A translation from de to cy activates the adapters `src-de` and `tgt-cy` together. PEFT scales by alpha / r; here
alpha equals r everywhere, and any other factor is folded into B.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from langsearch.adapters.export_folder import FORMAT_FILE, export_folder
from langsearch.adapters.learners import AdaptedModel, module_path
from langsearch.space.architecture import Architecture, Side
from langsearch.space.problems import InputError

__all__ = ["FORMAT_FILE", "ExportedAdapters", "adapter_name", "export_peft", "load_export", "read_export"]


@dataclass(frozen=True)
class ExportedAdapters:
    """What an export's folder says of itself."""

    folder: Path
    base: str
    languages: tuple[str, ...]
    architecture: Architecture


def adapter_name(side: Side, slot: str) -> str:
    """Returns the folder of a slot's adapter: "src-de"."""
    return f"{side}-{slot}"


def export_peft(learner: AdaptedModel, folder: Path, base: str, card: str) -> list[str]:
    """Writes a model's adapters as PEFT adapters; the folder appears whole or not at all.

    Args:
        learner: The model with its trained weights.
        folder: Where to; replaced if it is an earlier export.
        base: The base's name, for PEFT's `base_model_name_or_path`.
        card: The text of README.md.

    Returns:
        The names of the adapters written, each a folder that `PeftModel.from_pretrained` takes.

    Raises:
        InputError: If the folder is there and is no export.
    """
    names = []
    with export_folder(folder) as aside:
        for side, slot in _sides_and_slots(learner.architecture):
            tensors, ranks = _peft_tensors(learner, side, slot)
            target = aside / adapter_name(side, slot)
            target.mkdir()
            save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
            _write(target / "adapter_config.json", _peft_config(ranks, base))
            names.append(target.name)
        _write(
            aside / FORMAT_FILE,
            {"base": base, "languages": list(learner.languages), "architecture": learner.architecture.to_dict()},
        )
        (aside / "README.md").write_text(card, encoding="utf-8")
    return names


def read_export(folder: Path) -> ExportedAdapters:
    """Reads what an export's folder says of itself.

    Raises:
        InputError: If the folder is no export of langsearch.
    """
    path = folder / FORMAT_FILE
    if not path.exists():
        raise InputError(
            f"Adapters must be a folder that `langsearch export` wrote, but {folder} has no {FORMAT_FILE}."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        architecture = Architecture.from_dict(value["architecture"])
        return ExportedAdapters(folder, value["base"], tuple(value["languages"]), architecture)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be as `langsearch export` wrote it, but cannot be read: {error}") from error


@torch.no_grad()
def load_export(learner: AdaptedModel, folder: Path) -> None:
    """Loads exported adapters into a model of the same architecture.

    Raises:
        InputError: If a file is missing or does not fit the architecture.
    """
    problems = []
    for side, slot in _sides_and_slots(learner.architecture):
        path = folder / adapter_name(side, slot) / "adapter_model.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            problems.append(f"An adapter's file must be whole, but {path} cannot be read: {error}")
            continue
        for entry, site_side in _entries(learner.architecture, slot):
            if site_side != side:
                continue
            layer = learner.layers[entry]
            a, b = layer.pair(slot)
            scale = learner.architecture.scale(a.shape[0])
            key = f"base_model.model.{module_path(entry)}"
            stored_a, stored_b = tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")
            if stored_a is None or stored_b is None or stored_a.shape[0] != a.shape[0]:
                problems.append(f"{path} must have rank {a.shape[0]} at {entry}, but has {_shape(stored_a)}.")
                continue
            sizes = layer.base.in_features, layer.base.out_features
            if stored_a.shape[1:] != sizes[:1] or stored_b.shape != (sizes[1], a.shape[0]):
                rule = f"{path} must fit a layer of {sizes[0]} inputs and {sizes[1]} outputs at {entry}"
                problems.append(
                    f"{rule}, but is for {stored_a.shape[-1]} and {stored_b.shape[0]}. Is the base the same?"
                )
                continue
            a.copy_(stored_a[:, : a.shape[1]])
            b.copy_(stored_b[: b.shape[0]] / scale)
    if problems:
        raise InputError(problems)


def _sides_and_slots(architecture: Architecture) -> list[tuple[Side, str]]:
    pairs = {(entry.side, slot) for entry in architecture.adapters for slot, _ in entry.ranks}
    return sorted(pairs)


def _entries(architecture: Architecture, slot: str) -> Sequence[tuple[Any, Side]]:
    return [(entry.site, entry.side) for entry in architecture.adapters if slot in dict(entry.ranks)]


def _peft_tensors(learner: AdaptedModel, side: Side, slot: str) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Returns PEFT's tensors, A (rank, in) and B (out, rank), and the rank of each module by its full name."""
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for site, site_side in _entries(learner.architecture, slot):
        if site_side != side:
            continue
        layer = learner.layers[site]
        a, b = layer.pair(slot)
        rank = a.shape[0]
        full_a = torch.zeros(rank, layer.base.in_features)
        full_b = torch.zeros(layer.base.out_features, rank)
        full_a[:, : a.shape[1]] = a
        full_b[: b.shape[0]] = b * learner.architecture.scale(rank)
        path = module_path(site)
        tensors[f"base_model.model.{path}.lora_A.weight"] = full_a
        tensors[f"base_model.model.{path}.lora_B.weight"] = full_b
        ranks[path] = rank
    return tensors, ranks


def _peft_config(ranks: Mapping[str, int], base: str) -> dict[str, Any]:
    """Returns adapter_config.json: every module by its full name, its rank, and alpha equal to the rank."""
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    pattern = {path: rank for path, rank in ranks.items() if rank != common}
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": base,
        "r": common,
        "lora_alpha": common,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "target_modules": sorted(ranks),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "modules_to_save": None,
    }


def _write(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"rank {tensor.shape[0]}"
