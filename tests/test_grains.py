"""Every grain of ranks and placement: the adapted model against a dense reference that loops over the languages."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.mounting import module_path
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.build import build_architecture
from langsearch.space.sections import ArchitectureSection
from langsearch.space.sites import Site

LANGUAGES = ("en", "fr", "de", "sw")
CLASSES = {"high": ("en", "fr"), "low": ("de", "sw")}
DIRECTIONS = [Direction("en", "fr"), Direction("sw", "en"), Direction("fr", "de"), Direction("de", "sw")]
Ranks = tuple[int, int, int, int]


@dataclass(frozen=True)
class Grain:
    """A section of a space, and what it must mean, said a second time without the code under test."""

    section: dict[str, Any]
    expected: Callable[[Site], tuple[str, Ranks]]
    """Side of a site, and its rank for each of LANGUAGES."""

    shared: tuple[tuple[str, ...], ...] = ()
    """The languages that have their adapters in common."""

    point: tuple[tuple[str, Any], ...] = ()


def plain(site: Site) -> str:
    return "src" if site.stack == "encoder" else "tgt"


def by_side(site: Site) -> tuple[str, Ranks]:
    is_src = site.layer == (0 if site.stack == "encoder" else 1)
    return ("src", (2, 2, 0, 0)) if is_src else ("tgt", (0, 0, 5, 1))


def by_override(site: Site) -> tuple[str, Ranks]:
    is_cross = site.module in ("cross_k_proj", "cross_v_proj")
    ranks = (2, 2, 4, 4)
    if site.stack == "encoder" and site.layer == 1 and site.module in ("fc1", "fc2"):
        ranks = (2, 7, 6, 6)
    if site.stack == "encoder" and site.module == "k_proj":
        ranks = (0, 0, 0, 0) if site.layer == 0 else (2, 2, 4, 4)
    if site.stack == "decoder":
        ranks = (3, 3, 4, 0)
    if is_cross:
        ranks = (1, 1, 1, 1)
    return ("src" if is_cross and site.layer == 0 else plain(site)), ranks


def by_side_in_overrides(site: Site) -> tuple[str, Ranks]:
    if site.stack == "decoder":
        return "tgt", (1, 1, 1, 1)
    return ("tgt", (1, 1, 6, 1)) if site.module == "q_proj" else ("src", (1, 1, 3, 1))


def searched(site: Site) -> tuple[str, Ranks]:
    side = "src" if site.stack == "encoder" and site.layer == 1 else "tgt"
    return side, (8, 8, 2, 2) if site.stack == "encoder" and site.module == "fc1" else (3, 3, 2, 2)


GRAINS = {
    "class": Grain({"rank": {"high": 2, "low": 5}}, lambda site: (plain(site), (2, 2, 5, 5))),
    "language, one without": Grain(
        {"rank": {"high": 3, "low": 0, "languages": {"de": 6}}}, lambda site: (plain(site), (3, 3, 6, 0))
    ),
    "side": Grain(
        {
            "rank": {
                "high": {"src": 2, "tgt": 0},
                "low": {"src": 0, "tgt": 5},
                "languages": {"sw": {"src": 0, "tgt": 1}},
            },
            "encoder": {"sides": ["src", "tgt"]},
            "decoder": {"source_layers": [1]},
        },
        by_side,
    ),
    "stacks apart": Grain(
        {"rank": 2, "encoder": {"rank": {"low": 4}}, "decoder": {"rank": {"high": 1, "languages": {"sw": 0}}}},
        lambda site: (plain(site), (2, 2, 4, 4) if site.stack == "encoder" else (1, 1, 2, 0)),
    ),
    "overrides": Grain(
        {
            "rank": {"high": 2, "low": 4},
            "encoder": {
                "overrides": [
                    {"layers": {"last": 1}, "modules": ["fc1", "fc2"], "rank": {"low": 6, "languages": {"fr": 7}}},
                    {"layers": [0], "modules": ["k_proj"], "rank": 0},
                ]
            },
            "decoder": {
                "overrides": [
                    {"rank": {"high": 3, "languages": {"sw": 0}}},
                    {"modules": ["cross_k_proj", "cross_v_proj"], "rank": 1},
                    {"layers": {"first": 1}, "modules": ["cross_k_proj", "cross_v_proj"], "side": "src"},
                ]
            },
        },
        by_override,
    ),
    "side in overrides": Grain(
        {
            "rank": 1,
            "encoder": {
                "overrides": [
                    {"modules": ["q_proj"], "side": "tgt"},
                    {"rank": {"languages": {"de": {"src": 3, "tgt": 6}}}},
                ]
            },
        },
        by_side_in_overrides,
    ),
    "searched": Grain(
        {
            "rank": {"high": {"choice": [3, 4]}, "low": 2},
            "encoder": {
                "sides": ["tgt", {"choice": ["src", "tgt"]}],
                "overrides": [
                    {"modules": {"subset": ["q_proj", "fc1"]}, "rank": {"high": {"choice": [8, 16]}}},
                ],
            },
        },
        searched,
        point=(
            ("rank.high", 3),
            ("encoder.sides.1", "src"),
            ("encoder.overrides.0.modules.q_proj", False),
            ("encoder.overrides.0.modules.fc1", True),
            ("encoder.overrides.0.rank.high", 8),
        ),
    ),
    "shared by class": Grain(
        {"rank": {"high": 2, "low": {"src": 3, "tgt": 1}}, "sharing": "class", "encoder": {"source_layers": 1}},
        lambda site: ("src", (2, 2, 3, 3)) if site.stack == "encoder" and site.layer == 0 else ("tgt", (2, 2, 1, 1)),
        shared=(("en", "fr"), ("de", "sw")),
    ),
    "shared by family": Grain(
        {"rank": 3, "sharing": "family", "decoder": {"overrides": [{"layers": {"last": 1}, "rank": 5}]}},
        lambda site: (plain(site), (5,) * 4 if site.stack == "decoder" and site.layer == 1 else (3,) * 4),
        shared=(("en", "fr", "de"),),
    ),
    "shared by all": Grain({"rank": 3, "sharing": "all"}, lambda site: ("tgt", (3,) * 4), shared=(LANGUAGES,)),
    "slice and scale": Grain(
        {"rank": {"high": 2, "low": 5}, "ffn_slice": 40, "scaling": "alpha/r", "alpha": 3},
        lambda site: (plain(site), (2, 2, 5, 5)),
    ),
}


class LanguageLoop(nn.Module):
    """A linear layer that adds each language's product to all rows and keeps it where the row is of that language."""

    def __init__(self, base: nn.Module, side: str, pairs: dict[str, tuple[Tensor, Tensor, float]]) -> None:
        super().__init__()
        self.base, self.side, self.pairs = base, side, pairs
        self.languages: dict[str, list[str]] = {}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for language, (a, b, scale) in self.pairs.items():
            rows = torch.tensor([own == language for own in self.languages[self.side]])
            update = scale * x[..., : a.shape[1]] @ a.T @ b.T
            update = nn.functional.pad(update, (0, y.shape[-1] - update.shape[-1]))
            y = y + rows[:, None, None] * update
        return y


@pytest.fixture
def batch(tiny_base: Base, quickstart_store: TokenStore) -> Batch:
    """Four sentences, each in another direction."""
    rows = torch.tensor([[index, 3 * index] for index in range(4)], dtype=torch.int32).numpy()
    return collate(quickstart_store, DIRECTIONS, rows, tiny_base.vocabulary(LANGUAGES), LANGUAGES)


def build(grain: Grain, base: Base) -> Architecture:
    section = ArchitectureSection.model_validate(grain.section)
    return build_architecture(section, CLASSES, dict(grain.point), base.shape)


def fill(learner: AdaptedModel) -> None:
    """Gives every B random values, so that the adapters do something."""
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.1)


def all_sites() -> list[Site]:
    attention = ["q_proj", "k_proj", "v_proj"]
    modules = {"encoder": [*attention, "fc1", "fc2"], "decoder": [*attention, *(f"cross_{name}" for name in attention)]}
    modules["decoder"] += ["fc1", "fc2"]
    return [Site.parse(f"{stack}.{layer}.{name}") for stack in modules for layer in (0, 1) for name in modules[stack]]


@pytest.mark.parametrize("name", GRAINS)
def test_a_grain_means_the_ranks_and_sides_that_it_says(name: str, tiny_base: Base) -> None:
    grain = GRAINS[name]
    architecture = build(grain, tiny_base)
    sides = {entry.site: entry.side for entry in architecture.adapters}
    for site in all_sites():
        side, ranks = grain.expected(site)
        assert tuple(architecture.rank(site, language) for language in LANGUAGES) == ranks, site
        assert sides.get(site, side) == side, site
    slots = dict(architecture.slots)
    together = {language: group for group in grain.shared for language in group}
    for one in LANGUAGES:
        for other in LANGUAGES:
            assert (slots[one] == slots[other]) == (other in together.get(one, (one,)))
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert Architecture.from_json(architecture.to_json()).fingerprint == architecture.fingerprint


def loss_and_logits(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    found = model(
        input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
    ).logits
    return nn.functional.cross_entropy(found.float().flatten(0, 1), batch.labels.flatten()), found


def reference(base: Base, learner: AdaptedModel, grain: Grain) -> dict[tuple[Site, str], tuple[Tensor, Tensor]]:
    """Puts loops over the languages into a base; returns the matrices of each site and language of its own."""
    owner = {language: group[0] for group in grain.shared for language in group}
    slots = dict(learner.architecture.slots)
    spoken = {
        "src": [direction.src for direction in DIRECTIONS],
        "tgt": [direction.tgt for direction in DIRECTIONS],
    }
    matrices: dict[tuple[Site, str], tuple[Tensor, Tensor]] = {}
    for site in all_sites():
        side, ranks = grain.expected(site)
        pairs = {}
        for language, rank in zip(LANGUAGES, ranks, strict=True):
            if rank == 0:
                continue
            key = site, owner.get(language, language)
            if key not in matrices:
                a, b = learner.lora.layers[site].pair(slots[language])
                assert a.shape[0] == b.shape[1] == rank
                matrices[key] = a.clone().requires_grad_(), b.clone().requires_grad_()
            scale = 3 / rank if "alpha" in grain.section else 1.0
            pairs[language] = (*matrices[key], scale)
        path, _, module = module_path(site).rpartition(".")
        parent = base.model.get_submodule(path)
        loop = LanguageLoop(getattr(parent, module), side, pairs)
        loop.languages = spoken
        setattr(parent, module, loop)
    return matrices


def assert_near(got: Tensor, wanted: Tensor, *, tolerance: float, what: str) -> None:
    error = (got.detach().float() - wanted.detach().float()).abs().max() / wanted.detach().float().abs().max()
    assert float(error) <= tolerance, f"{what}: {float(error):.1e}"


def gradients_of(learner: AdaptedModel, site: Site, slot: str) -> tuple[Tensor, Tensor]:
    """Returns the gradients of a slot's A and B without padding."""
    layer = learner.lora.layers[site]
    index, rank = layer.slots.index(slot), layer.ranks[layer.slots.index(slot)]
    assert layer.A.grad is not None and layer.B.grad is not None
    return layer.A.grad[index, :rank], layer.B.grad[index, :, :rank]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("name", GRAINS)
def test_the_adapted_model_equals_a_loop_over_the_languages(
    name: str, precision: str, tolerance: float, new_base: Callable[[], Base], batch: Batch
) -> None:
    grain = GRAINS[name]
    base, looped = new_base(), new_base()
    learner = adapt(base, build(grain, base), LANGUAGES)
    fill(learner)
    matrices = reference(looped, learner, grain)
    assert set(learner.lora.layers) == {site for site, _ in matrices}
    autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16, enabled=precision == "bf16")
    near = partial(assert_near, tolerance=tolerance)
    with learner.route(batch.src_lang, batch.tgt_lang), autocast():
        loss, logits = loss_and_logits(learner.model, batch)
    with autocast():
        wanted_loss, wanted = loss_and_logits(looped.model, batch)
    near(loss, wanted_loss, what="loss")
    near(logits, wanted, what="logits")
    if precision == "bf16":
        return  # rounding grows through the layers on the way back: the test below looks at each by itself
    torch.autograd.backward([loss, wanted_loss])
    slots = dict(learner.architecture.slots)
    for (site, language), (a, b) in matrices.items():
        got_a, got_b = gradients_of(learner, site, slots[language])
        assert a.grad is not None and b.grad is not None
        near(got_a, a.grad, what=f"gradient of A at {site}")
        near(got_b, b.grad, what=f"gradient of B at {site}")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 2e-2)])
@pytest.mark.parametrize("name", GRAINS)
def test_every_adapted_layer_equals_a_loop_over_the_languages(
    name: str, precision: str, tolerance: float, new_base: Callable[[], Base], batch: Batch
) -> None:
    grain = GRAINS[name]
    base, looped = new_base(), new_base()
    learner = adapt(base, build(grain, base), LANGUAGES)
    fill(learner)
    matrices = reference(looped, learner, grain)
    slots = dict(learner.architecture.slots)
    generator = torch.Generator().manual_seed(1)
    for site, layer in learner.lora.layers.items():
        x = torch.randn(4, 5, layer.base.in_features, generator=generator).requires_grad_()
        wanted_x = x.detach().clone().requires_grad_()
        grad_y = torch.randn(4, 5, layer.base.out_features, generator=generator)
        with (
            learner.route(batch.src_lang, batch.tgt_lang),
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"),
        ):
            y = layer(x)
        wanted = looped.model.get_submodule(module_path(site))(wanted_x)
        torch.autograd.backward([y, wanted], [grad_y.to(y.dtype), grad_y])
        assert x.grad is not None and wanted_x.grad is not None
        near = partial(assert_near, tolerance=tolerance)
        near(y, wanted, what=f"output of {site}")
        near(x.grad, wanted_x.grad, what=f"gradient of the input of {site}")
        for language in LANGUAGES:
            if (site, language) in matrices:
                a, b = matrices[site, language]
                got_a, got_b = gradients_of(learner, site, slots[language])
                assert a.grad is not None and b.grad is not None
                near(got_a, a.grad, what=f"gradient of A at {site}")
                near(got_b, b.grad, what=f"gradient of B at {site}")
