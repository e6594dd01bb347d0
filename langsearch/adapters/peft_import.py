"""PEFT LoRA adapters as a start for training: cut to the ranks that an architecture has.

A folder holds one adapter for all languages (adapter_config.json is in it), or one for each language and side, in
folders named as `langsearch export` names them: `src-de`, `tgt-en+fr`, `tgt-all`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lowrank import truncate
from langsearch.adapters.mounting import module_path
from langsearch.adapters.peft_export import read_export, read_rows
from langsearch.adapters.protocol import TOKENS_NAME
from langsearch.space.architecture import MODULES, BaseShape, Side, Site, Stack
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

_FOLDER_NAME = re.compile(r"(src|tgt)-(.+)")
_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
_UNSUPPORTED = ("use_dora", "lora_bias", "fan_in_fan_out", "modules_to_save", "use_qalora", "trainable_token_indices")
"""Options of LoRA in PEFT that add something to B A, or say it otherwise."""

Pair = tuple[Tensor, Tensor]
"""A (rank, in) and B (out, rank), B with the factor on the product."""


@dataclass(frozen=True)
class StoredAdapter:
    """One PEFT adapter of a folder."""

    folder: Path

    side: Side | None
    """The side of the direction that it belongs to; None: to every direction."""

    languages: tuple[str, ...] | None
    """The languages that share it; None: all."""

    pairs: Mapping[Site, Pair]


@dataclass(frozen=True)
class Start:
    """What a model was started with."""

    num_started: int
    """Adapters of the architecture, one a site and slot, that start from stored ones."""
    num_cut: int
    """Those whose rank was less than what was stored: cut by SVD."""
    num_new: int
    """Those that nothing was stored for: they start as without a start."""


def read_adapters(folder: Path, shape: BaseShape) -> tuple[StoredAdapter, ...]:
    """Reads a folder of PEFT LoRA adapters.

    Args:
        folder: As PEFT or `langsearch export` wrote it.
        shape: The sizes of the base that they are for.

    Raises:
        InputError: With all problems: no adapter, an adapter that is no plain LoRA, a torn file, a module or a width
            that the base does not have.
    """
    sites = _sites_by_path(shape)
    if (folder / CONFIG_FILE).exists():
        return (StoredAdapter(folder, None, None, _read_pairs(folder, shape, sites)),)
    found: list[StoredAdapter] = []
    problems: list[str] = []
    for config in sorted(folder.glob(f"*/{CONFIG_FILE}")):
        if config.parent.name == TOKENS_NAME:
            continue  # see `start_rows`
        name = _FOLDER_NAME.fullmatch(config.parent.name)
        if name is None:
            problems.append(f"An adapter's folder must be named src-LANGUAGE or tgt-LANGUAGE, but got {config.parent}.")
            continue
        languages = None if name.group(2) == "all" else tuple(name.group(2).split("+"))
        try:
            pairs = _read_pairs(config.parent, shape, sites)
        except InputError as error:
            problems += error.problems
            continue
        found.append(StoredAdapter(config.parent, "src" if name.group(1) == "src" else "tgt", languages, pairs))
    if problems:
        raise InputError(problems)
    if not found:
        raise InputError(
            f"Adapters to start from must be a PEFT adapter, or a folder of some named src-LANGUAGE and tgt-LANGUAGE, "
            f"but {folder} has no {CONFIG_FILE} in it or in a folder of it."
        )
    return tuple(found)


@torch.no_grad()
def start_from(learner: AdaptedModel, adapters: Sequence[StoredAdapter]) -> Start:
    """Sets a model's adapters to stored ones, each cut or widened to its rank.

    A lower rank than the stored one gets the nearest product of that rank, by SVD; a higher one the same product, with
    further directions that start as new ones do. A slot that several languages share gets the mean of their products
    (a language without an adapter counts as 0). With an `ffn_slice` the part outside it is lost. An adapter of the
    other side than the site has is not used, unless it is for all languages.

    Raises:
        InputError: If there is nothing to start from for any site and slot.
    """
    slots = dict(learner.architecture.slots)
    is_shared = len(set(slots.values())) == 1
    num_started = num_cut = num_new = 0
    for entry in learner.architecture.adapters:
        layer = learner.lora.layers[entry.site]
        usable = [
            adapter
            for adapter in adapters
            if entry.site in adapter.pairs and (is_shared or adapter.languages is None or adapter.side == entry.side)
        ]
        for slot, rank in entry.ranks:
            pairs = [_of_language(usable, entry.site, language) for language, name in slots.items() if name == slot]
            stored = _mean(pairs)
            if stored is None:
                num_new += 1
                continue
            a, b = layer.pair(slot)
            stored_a, stored_b = stored[0][:, : a.shape[1]], stored[1][: b.shape[0]]
            if len(stored_a) > rank:
                stored_a, stored_b = truncate(stored_a, stored_b, rank)
                num_cut += 1
            a[: len(stored_a)] = stored_a.to(a)
            b.zero_()
            b[:, : len(stored_a)] = stored_b.to(b) / learner.architecture.scale(rank)
            num_started += 1
    if not num_started:
        folders = ", ".join(str(adapter.folder) for adapter in adapters[:5])
        raise InputError(
            f"Adapters to start from must fit an architecture's sites, sides and languages, but in {folders} none does."
        )
    return Start(num_started, num_cut, num_new)


@torch.no_grad()
def start_rows(learner: AdaptedModel, folder: Path) -> int:
    """Sets the embedding rows of a model's new languages to those that an export has of them; returns how many.

    Raises:
        InputError: If the export's rows are torn, or of another width.
    """
    if learner.rows is None or not (folder / FORMAT_FILE).exists() or not (folder / TOKENS_NAME).exists():
        return 0
    stored = [language for language, _ in read_export(folder).architecture.new_languages]
    rows = read_rows(folder, (len(stored), learner.rows.weight.shape[1]))
    num_started = 0
    for row, language in zip(learner.rows.weight, learner.rows.languages, strict=True):
        if language.code in stored:
            row.copy_(rows[stored.index(language.code)])
            num_started += 1
    return num_started


def _of_language(adapters: Sequence[StoredAdapter], site: Site, language: str) -> Pair | None:
    """Returns the pair that a language has at a site."""
    for adapter in adapters:
        if adapter.languages is None:
            return adapter.pairs[site]
        try:
            match_code(language, adapter.languages)
        except InputError:
            continue
        return adapter.pairs[site]
    return None


def _mean(pairs: Sequence[Pair | None]) -> Pair | None:
    """Returns the mean of products as one pair, whose rank is the sum of the different ones' ranks."""
    found = {id(pair): pair for pair in pairs if pair is not None}
    if not found:
        return None
    shares = {key: sum(id(pair) == key for pair in pairs) / len(pairs) for key in found}
    a = torch.cat([pair[0] for pair in found.values()])
    b = torch.cat([pair[1] * shares[key] for key, pair in found.items()], dim=1)
    return a, b


def _sites_by_path(shape: BaseShape) -> dict[str, Site]:
    stacks: tuple[Stack, ...] = ("encoder", "decoder")
    sites = [
        Site(stack, layer, module)
        for stack in stacks
        for layer in range(shape.num_layers(stack))
        for module in MODULES[stack]
    ]
    return {module_path(site): site for site in sites}


def _read_pairs(folder: Path, shape: BaseShape, sites: Mapping[str, Site]) -> dict[Site, Pair]:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"An adapter must have a whole {CONFIG_FILE} and {WEIGHTS_FILE}, but in {folder}: {error}"
        ) from error
    options = [name for name in _UNSUPPORTED if config.get(name)]
    options += [f"bias={config['bias']}"] if config.get("bias", "none") != "none" else []
    if config.get("peft_type") != "LORA" or options:
        got = ", ".join(options) or repr(config.get("peft_type"))
        raise InputError(f"An adapter to start from must be a plain LoRA of PEFT, but {folder} has {got}.")
    matrices: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        if match is None or match.group(1) not in sites:
            problems.append(f"An adapter must be for layers of the base's attention or feed-forward, but got {key!r}.")
            continue
        matrices.setdefault(match.group(1), {})[match.group(2)] = tensor.float()
    pairs = {}
    for path, found in matrices.items():
        site = sites[path]
        a, b = found.get("A"), found.get("B")
        in_features, out_features = shape.features(site.stack, site.module)
        if a is None or b is None or a.shape != (len(a), in_features) or b.shape != (out_features, len(a)):
            got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in sorted(found.items()))
            rule = f"An adapter at {site} must have A (rank, {in_features}) and B ({out_features}, rank)"
            problems.append(f"{rule}, but {folder} has {got}. Is the base the same?")
            continue
        pairs[site] = a, b * _factor(config, path, len(a))
    if problems:
        raise InputError(problems)
    return pairs


def _factor(config: Mapping[str, Any], path: str, rank: int) -> float:
    """Returns the factor on B A: alpha / r, or alpha / sqrt(r) with rsLoRA. Patterns match as in `get_pattern_key`."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    return float(alpha / (rank**0.5 if config.get("use_rslora") else rank))
