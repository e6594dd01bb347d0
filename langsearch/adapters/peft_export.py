"""Adapters as plain PEFT LoRA, and back: one PEFT adapter for each slot and side.

A translation from de to cy activates the adapters `src-de` and `tgt-cy` together, and `tokens` where languages are new
to the base: their embedding rows, as PEFT's `trainable_token_indices`. PEFT scales by alpha / r; here
alpha equals r everywhere, and any other factor is folded into B.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from langsearch.adapters.export_folder import BASE_FOLDER, FORMAT_FILE, export_folder
from langsearch.adapters.language_rows import LanguageRows
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lora import sites_by_adapter
from langsearch.adapters.mounting import module_path
from langsearch.adapters.peft_limits import is_plain, why_no_peft
from langsearch.adapters.protocol import TOKENS_NAME, PeftAdapter, adapter_name, zero_pair
from langsearch.adapters.tokenizer_export import write_tokenizer
from langsearch.model.base import BaseTokenizer
from langsearch.model.finding import base_files, find_base, is_embedded
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

_ROWS_KEY = "base_model.model.model.shared.token_adapter.trainable_tokens_delta"
STATE_FILE = "adapters.safetensors"
"""The adapters as langsearch keeps them, where PEFT's files would not say all of them."""


@dataclass(frozen=True)
class ExportedAdapters:
    """What an export's folder says of itself."""

    folder: Path
    base: str
    languages: tuple[str, ...]
    architecture: Architecture
    source: BaseSource
    """The base at the commit, and of the family, that the adapters were trained with."""

    directions: tuple[str, ...] = ()
    """Those that they were trained on, "en-sw" each. Empty: not known."""


def export_peft(
    learner: AdaptedModel,
    folder: Path,
    base: BaseSource | str,
    card: str,
    tokenizer: BaseTokenizer | None = None,
    directions: Sequence[str] = (),
) -> list[str]:
    """Writes a model's adapters as PEFT adapters; the folder appears whole or not at all.

    Adapters of other kinds than LoRA are also written as they are, for langsearch itself, and only so where PEFT cannot
    hold them (`why_no_peft`). Beside PEFT's lies the base if it is one that travels with the package: plain
    transformers loads it from there.

    Args:
        learner: The model with its trained weights.
        folder: Where to; replaced if it is an earlier export.
        base: The base's name, for PEFT's `base_model_name_or_path`, or all that tells it.
        card: The text of README.md.
        tokenizer: The base's; written beside the rows of new languages, whose tokens it has. None: not written.
        directions: Those that the adapters were trained on. Empty: not known.

    Returns:
        The names of the adapters written, each a folder that `PeftModel.from_pretrained` takes; that with the rows of
        new languages stands last, as PEFT must load it. Where PEFT cannot hold the adapters, `STATE_FILE` stands for
        them.

    Raises:
        InputError: If the folder is there and is no export.
    """
    why_not = why_no_peft(learner.architecture)
    adapters = () if why_not else learner.adapters.to_peft()
    source = BaseSource(base) if isinstance(base, str) else base
    more = {"revision": source.revision, "family": source.family}
    about: dict[str, Any] = {"base": source.id} | {key: value for key, value in more.items() if value is not None}
    about |= {"languages": list(learner.languages), "architecture": learner.architecture.to_dict()}
    about |= {"directions": list(directions)} if directions else {}
    with export_folder(folder) as aside:
        for adapter in adapters:
            config = peft_config(adapter, source.id, source.revision)
            _write_adapter(aside / adapter.name, peft_tensors(adapter), config)
        if not is_plain(learner.architecture):
            # What PEFT's files do not tell apart, or cannot hold.
            state = {name: value.contiguous() for name, value in learner.adapters.state().items()}
            save_file(state, aside / STATE_FILE, metadata={"format": "pt"})
        if learner.rows:
            _write_adapter(aside / TOKENS_NAME, *peft_tokens(learner.rows, source.id, source.revision))
            if tokenizer is not None:
                write_tokenizer(tokenizer, aside / TOKENS_NAME, learner.languages[0], learner.rows.languages[0].code)
        if adapters and is_embedded(source.id):
            _copy_base(find_base(source.id), aside / BASE_FOLDER)
        (aside / FORMAT_FILE).write_text(_text(about), encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")
    names = [adapter.name for adapter in adapters]
    return [*names, *([STATE_FILE] if why_not else []), *([TOKENS_NAME] if learner.rows else [])]


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
        source = BaseSource(value["base"], value.get("revision"), value.get("family"))
        directions = tuple(map(str, value.get("directions", ())))
        return ExportedAdapters(folder, source.id, tuple(value["languages"]), architecture, source, directions)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} must be as `langsearch export` wrote it, but cannot be read: {error}") from error


def check_teacher(folder: Path, languages: Sequence[str], new_languages: AbstractSet[str]) -> ExportedAdapters:
    """Returns an export whose adapters can teach others.

    Args:
        folder: Of the export.
        languages: Of the adapters that learn.
        new_languages: Those of them that are new to the base.

    Raises:
        InputError: If the folder is no export, or is one of other languages.
    """
    exported = read_export(folder)
    if len(set(exported.languages) & set(languages)) < 2:
        raise InputError(
            f"A teacher must have at least two of the languages {', '.join(languages)}, but {folder} has "
            f"{', '.join(exported.languages)}."
        )
    if (theirs := {language for language, _ in exported.architecture.new_languages}) != new_languages:
        raise InputError(
            f"A teacher must have the same languages that are new to the base, which are "
            f"{', '.join(sorted(new_languages)) or 'none'}, but {folder} has {', '.join(sorted(theirs)) or 'none'}."
        )
    return exported


@torch.no_grad()
def load_export(learner: AdaptedModel, folder: Path) -> None:
    """Loads exported adapters into a model of the same architecture.

    Raises:
        InputError: If a file is missing or does not fit the architecture.
    """
    problems = []
    architecture = learner.architecture
    if not is_plain(architecture):
        problems += _load_state(learner, folder / STATE_FILE)
    for (side, slot), sites in sites_by_adapter(architecture).items() if is_plain(architecture) else ():
        path = folder / adapter_name(side, slot) / "adapter_model.safetensors"
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            problems.append(f"An adapter's file must be whole, but {path} cannot be read: {error}")
            continue
        for site in sites:
            layer = learner.lora.layers[site]
            a, b = layer.pair(slot)
            scale = architecture.scale(a.shape[0])
            key = f"base_model.model.{module_path(site)}"
            stored_a, stored_b = tensors.get(f"{key}.lora_A.weight"), tensors.get(f"{key}.lora_B.weight")
            if stored_a is None or stored_b is None or stored_a.shape[0] != a.shape[0]:
                problems.append(f"{path} must have rank {a.shape[0]} at {site}, but has {_shape(stored_a)}.")
                continue
            sizes = layer.base.in_features, layer.base.out_features
            if stored_a.shape[1:] != sizes[:1] or stored_b.shape != (sizes[1], a.shape[0]):
                rule = f"{path} must fit a layer of {sizes[0]} inputs and {sizes[1]} outputs at {site}"
                problems.append(
                    f"{rule}, but is for {stored_a.shape[-1]} and {stored_b.shape[0]}. Is the base the same?"
                )
                continue
            a.copy_(stored_a[:, : a.shape[1]])
            b.copy_(stored_b[: b.shape[0]] / scale)
    if learner.rows:
        try:
            learner.rows.weight.copy_(read_rows(folder, tuple(learner.rows.weight.shape)))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)


def _load_state(learner: AdaptedModel, path: Path) -> list[str]:
    """Loads adapters as they were stored; returns what is wrong with the file."""
    try:
        stored = load_file(path)
    except (OSError, SafetensorError) as error:
        return [f"An adapter's file must be whole, but {path} cannot be read: {error}"]
    state = learner.adapters.state()
    wrong = [name for name in state if name not in stored or stored[name].shape != state[name].shape]
    if wrong or len(stored) != len(state):
        return [f"{path} must fit the architecture beside it, but {', '.join(wrong[:3]) or 'what it has'} does not."]
    for name, value in state.items():
        value.copy_(stored[name])
    return []


def read_rows(folder: Path, shape: tuple[int, ...]) -> Tensor:
    """Returns the rows of new languages in an export's folder, (languages, d).

    Raises:
        InputError: If the file is missing or torn, or the rows are of another shape.
    """
    path = folder / TOKENS_NAME / "adapter_model.safetensors"
    try:
        rows: Tensor = load_file(path)[_ROWS_KEY]
    except (OSError, KeyError, SafetensorError) as error:
        raise InputError(f"An adapter's file must be whole, but {path} cannot be read: {error}") from error
    if tuple(rows.shape) != shape:
        raise InputError(f"{path} must have {shape[0]} rows of {shape[1]}, but has {tuple(rows.shape)}.")
    return rows


def peft_tensors(adapter: PeftAdapter) -> dict[str, Tensor]:
    """Returns what adapter_model.safetensors holds: A (rank, in) and B (out, rank) by PEFT's names."""
    tensors: dict[str, Tensor] = {}
    for path, (a, b) in adapter.pairs.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = a
        tensors[f"base_model.model.{path}.lora_B.weight"] = b
    for path, norm in adapter.norms.items():
        tensors[f"base_model.model.{path}.weight"] = norm.weight.detach()
        tensors[f"base_model.model.{path}.bias"] = norm.bias.detach()
    return tensors


def peft_config(adapter: PeftAdapter, base: str, revision: str | None = None) -> str:
    """Returns adapter_config.json's text: every module by its full name, its rank, and alpha equal to the rank.

    Args:
        adapter: The adapter.
        base: The base's name.
        revision: Its commit on the hub.
    """
    ranks = {path: len(a) for path, (a, _) in adapter.pairs.items()}
    common = max(set(ranks.values()), key=list(ranks.values()).count)
    pattern = {path: rank for path, rank in ranks.items() if rank != common}
    return _text(
        {
            "peft_type": "LORA",
            "task_type": "SEQ_2_SEQ_LM",
            "base_model_name_or_path": base,
            "revision": revision,
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
            "modules_to_save": sorted(adapter.norms) or None,
        }
    )


def peft_tokens(rows: LanguageRows, base: str, revision: str | None = None) -> tuple[dict[str, Tensor], str]:
    """Returns the tensors and adapter_config.json's text of the adapter that has the rows of new languages.

    The embedding must have been widened for it: `model.resize_token_embeddings`.

    Args:
        rows: The rows.
        base: The base's name.
        revision: Its commit, if it is of the hub.
    """
    width = rows.weight.shape[1]
    adapter = PeftAdapter("src", TOKENS_NAME, zero_pair(width))
    tensors = {**peft_tensors(adapter), _ROWS_KEY: rows.weight.detach().clone()}
    # PEFT ties what is tied to this embedding: the encoder's, the decoder's, and the output projection.
    indices = {"shared": [language.index for language in rows.languages]}
    return tensors, _text({**json.loads(peft_config(adapter, base, revision)), "trainable_token_indices": indices})


def _write_adapter(folder: Path, tensors: dict[str, Tensor], config: str) -> None:
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(config, encoding="utf-8")


def _copy_base(place: Path, folder: Path) -> None:
    """Copies what loading a base needs, and its card, which names its licence."""
    folder.mkdir()
    for name in (*base_files(place), "README.md"):
        shutil.copyfile(place / name, folder / name)


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _shape(tensor: Tensor | None) -> str:
    return "nothing" if tensor is None else f"rank {tensor.shape[0]}"
