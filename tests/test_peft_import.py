import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import export_peft
from langsearch.adapters.peft_import import Start, read_adapters, start_from
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Site
from langsearch.space.problems import InputError

LANGUAGES = ("en", "fr", "de", "sw")
ALL_RANKS = {"en": 4, "fr": 4, "de": 4, "sw": 4}
SITE = Site("decoder", 1, "fc2")
Architect = Callable[..., Architecture]


def random_model(base: Base, architecture: Architecture) -> AdaptedModel:
    learner = adapt(base, architecture, LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.3)
    return learner


def product(learner: AdaptedModel, site: Site, slot: str) -> Tensor:
    a, b = learner.lora.layers[site].pair(slot)
    return b @ a * learner.architecture.scale(a.shape[0])


def products(learner: AdaptedModel, slot: str) -> dict[Site, Tensor]:
    return {site: product(learner, site, slot) for site, layer in learner.lora.layers.items() if slot in layer.slots}


@pytest.fixture
def exported(
    tiny_base: Base, make_architecture: Architect, tmp_path: Path
) -> tuple[Path, dict[str, dict[Site, Tensor]]]:
    """Adapters of rank 4 for four languages, and the products of each."""
    learner = random_model(tiny_base, make_architecture(ALL_RANKS, scaling="alpha/r", alpha=8.0))
    found = {slot: products(learner, slot) for slot in LANGUAGES}
    export_peft(learner, tmp_path / "adapters", tiny_base.name, "# Card\n")
    learner.remove()
    return tmp_path / "adapters", found


def started(base: Base, folder: Path, architecture: Architecture) -> tuple[AdaptedModel, Start]:
    learner = adapt(base, architecture, LANGUAGES)
    return learner, start_from(learner, read_adapters(folder, base.shape))


def test_equal_ranks_start_with_the_same_products(
    tiny_base: Base, exported: tuple[Path, Any], make_architecture: Architect
) -> None:
    folder, expected = exported
    learner, start = started(tiny_base, folder, make_architecture(ALL_RANKS))
    for slot in LANGUAGES:
        for site, found in products(learner, slot).items():
            assert torch.allclose(found, expected[slot][site], atol=1e-6), (slot, site)
    assert start == Start(num_started=4 * len(learner.lora.layers), num_cut=0, num_new=0)


def test_smaller_ranks_get_the_nearest_products(
    tiny_base: Base, exported: tuple[Path, Any], make_architecture: Architect
) -> None:
    folder, expected = exported
    learner, start = started(tiny_base, folder, make_architecture({"en": 2, "sw": 4}, scaling="alpha/r", alpha=3.0))
    for site, found in products(learner, "en").items():
        u, values, v = torch.linalg.svd(expected["en"][site], full_matrices=False)
        assert torch.allclose(found, u[:, :2] * values[:2] @ v[:2], atol=1e-5)
    assert start.num_cut * 2 == start.num_started == 2 * len(learner.lora.layers)


def test_larger_ranks_start_with_the_same_products_and_room_to_learn(
    tiny_base: Base, exported: tuple[Path, Any], make_architecture: Architect
) -> None:
    folder, expected = exported
    learner, _ = started(tiny_base, folder, make_architecture({"en": 6}))
    a, b = learner.lora.layers[SITE].pair("en")
    assert torch.allclose(b @ a, expected["en"][SITE], atol=1e-6)
    assert bool(a[4:].any())
    assert not bool(b[:, 4:].any())


def test_a_shared_slot_starts_with_the_mean(
    tiny_base: Base, exported: tuple[Path, Any], make_architecture: Architect
) -> None:
    folder, expected = exported
    slots = {"en": "a", "fr": "a", "de": "de", "sw": "sw"}
    learner, _ = started(tiny_base, folder, make_architecture({"a": 8, "sw": 2}, slots))
    mean = (expected["en"][SITE] + expected["fr"][SITE]) / 2
    assert torch.allclose(product(learner, SITE, "en+fr"), mean, atol=1e-6)


def test_a_slice_takes_its_part(tiny_base: Base, exported: tuple[Path, Any], make_architecture: Architect) -> None:
    folder, expected = exported
    learner, _ = started(tiny_base, folder, make_architecture({"en": 4}, ffn_slice=16))
    assert torch.allclose(product(learner, SITE, "en"), expected["en"][SITE][:, :16], atol=1e-6)


def test_languages_and_sides_that_nothing_is_stored_for_start_anew(
    tiny_base: Base, make_architecture: Architect, tmp_path: Path
) -> None:
    stored = random_model(tiny_base, make_architecture({"en": 2}))
    export_peft(stored, tmp_path / "out", tiny_base.name, "# Card\n")
    stored.remove()
    learner, start = started(tiny_base, tmp_path / "out", make_architecture({"en": 2, "fr": 2}))
    assert not bool(learner.lora.layers[SITE].pair("fr")[1].any())
    assert start.num_new == start.num_started == len(learner.lora.layers)
    learner.remove()
    with pytest.raises(InputError, match=r"must fit an architecture's sites, sides and languages, but in .* none does"):
        started(tiny_base, tmp_path / "out", make_architecture({"fr": 2}))


def peft_adapter(base: Base, folder: Path, **options: Any) -> Mapping[str, Tensor]:
    """Saves an adapter that PEFT made, with random B, and returns its deltas by module."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "fc1", "fc2"], init_lora_weights=False, **options)
    model = get_peft_model(deepcopy(base.model), config)
    model.save_pretrained(str(folder))
    deltas: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            deltas[name.removeprefix("base_model.model.")] = module.get_delta_weight("default").detach()
    return deltas


@pytest.mark.parametrize(
    "options",
    [
        {"lora_alpha": 16},
        {"lora_alpha": 3, "use_rslora": True},
        {"lora_alpha": 4, "rank_pattern": {"fc1": 2}, "alpha_pattern": {"encoder.layers.0.fc1": 8}},
    ],
)
def test_an_adapter_that_peft_made_starts_every_language(
    options: dict[str, Any], tiny_base: Base, make_architecture: Architect, tmp_path: Path
) -> None:
    deltas = peft_adapter(tiny_base, tmp_path / "plain", **options)
    learner, start = started(tiny_base, tmp_path / "plain", make_architecture(ALL_RANKS))
    encoder = Site("encoder", 0, "fc1")
    for slot in LANGUAGES:
        assert torch.allclose(product(learner, encoder, slot), deltas["model.encoder.layers.0.fc1"], atol=1e-6)
        assert torch.allclose(product(learner, SITE, slot), deltas["model.decoder.layers.1.fc2"], atol=1e-6)
    assert not bool(learner.lora.layers[Site("encoder", 0, "v_proj")].B.any())
    assert start.num_started == 4 * 2 * (3 + 4)  # q, fc1, fc2 of the encoder, and cross_q of the decoder too
    assert start.num_new == 4 * len(learner.lora.layers) - start.num_started


def test_wrong_adapters_are_refused_all_at_once(tiny_base: Base, exported: tuple[Path, Any]) -> None:
    folder, _ = exported
    (folder / "tgt-en" / "adapter_model.safetensors").write_bytes(b"torn")
    config = json.loads((folder / "src-fr" / "adapter_config.json").read_text())
    (folder / "src-fr" / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}))
    (folder / "stray").mkdir()
    (folder / "stray" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError) as caught:
        read_adapters(folder, tiny_base.shape)
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 3
    for part in ("must have a whole adapter_config.json", "must be a plain LoRA of PEFT", "must be named src-LANGUAGE"):
        assert part in text
    assert "use_dora" in text


def test_an_adapter_of_another_base_is_refused(
    tiny_base: Base, embedded_base: Base, exported: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, _ = exported
    with pytest.raises(InputError, match=r"must have A \(rank, 128\).*Is the base the same\?"):
        read_adapters(folder, embedded_base.shape)
    path = folder / "src-en" / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors["base_model.model.model.encoder.layers.7.fc1.lora_A.weight"] = torch.zeros(4, 32)
    save_file(tensors, path)
    with pytest.raises(InputError, match=r"must be for layers of the base's .* but got '.*layers\.7\.fc1"):
        read_adapters(folder, tiny_base.shape)
    with pytest.raises(InputError, match=r"must be a PEFT adapter, or a folder of some named src-LANGUAGE"):
        read_adapters(tmp_path / "nowhere", tiny_base.shape)
