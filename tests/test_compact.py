from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from langsearch.adapters.compact import compact
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning, Site
from langsearch.space.problems import InputError

LANGUAGES = ("en", "fr", "de", "sw")
SITE = Site("decoder", 0, "fc1")
Architect = Callable[..., Architecture]


def random_model(base: Base, architecture: Architecture) -> AdaptedModel:
    learner = adapt(base, architecture, LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.3)
    return learner


def logits(learner: AdaptedModel, base: Base, src: str = "en", tgt: str = "sw") -> Tensor:
    ids = base.vocabulary(LANGUAGES).language_ids
    index = [torch.tensor([LANGUAGES.index(name)]) for name in (src, tgt)]
    with torch.no_grad(), learner.route(*index):
        found: Tensor = learner.model(
            input_ids=torch.tensor([[ids[src], 100, 7, 250, 31, 2]]),
            decoder_input_ids=torch.tensor([[2, ids[tgt], 77, 300]]),
        ).logits
    return found


def test_dead_columns_are_dropped_and_all_is_computed_the_same(tiny_base: Base, make_architecture: Architect) -> None:
    learner = random_model(tiny_base, make_architecture())
    for layer in learner.lora.layers.values():
        layer.pair("sw")[1][:, 1:3] = 0.0
        layer.pair("fr")[0][0] = 0.0
    expected = logits(learner, tiny_base)
    before = learner.architecture.num_parameters(tiny_base.shape)
    small, compaction = compact(tiny_base, learner)
    assert {(small.architecture.rank(SITE, name)) for name in ("en", "fr", "sw")} == {2}
    assert torch.allclose(logits(small, tiny_base), expected, atol=1e-5)
    after = small.architecture.num_parameters(tiny_base.shape)
    assert (compaction.num_parameters_before, compaction.num_parameters_after) == (before, after)
    assert after * 3 == before * 2  # ranks 2, 3, 4 became 2, 2, 2
    assert (compaction.rank_after * 3, compaction.relative_error) == (compaction.rank_before * 2, 0.0)
    assert compaction.summary.endswith("; nothing is lost")


def test_few_living_rows_are_stored_instead_of_many_columns(tiny_base: Base, make_architecture: Architect) -> None:
    learner = random_model(tiny_base, make_architecture())
    for layer in learner.lora.layers.values():
        layer.pair("sw")[1][1:] = 0.0
    expected = logits(learner, tiny_base)
    small, compaction = compact(tiny_base, learner)
    assert small.architecture.rank(SITE, "sw") == 1
    assert torch.allclose(logits(small, tiny_base), expected, atol=1e-5)
    assert compaction.relative_error == 0.0


def test_a_language_without_a_living_entry_loses_its_adapter(tiny_base: Base, make_architecture: Architect) -> None:
    learner = random_model(tiny_base, make_architecture())
    for layer in learner.lora.layers.values():
        layer.B.data[layer.slots.index("fr")] = 0.0
    small, _ = compact(tiny_base, learner)
    assert all("fr" not in dict(entry.ranks) for entry in small.architecture.adapters)
    for layer in small.lora.layers.values():
        layer.B.data.zero_()
    with pytest.raises(InputError, match="must be left to be stored, but all of them are zero"):
        compact(tiny_base, small)


@pytest.mark.parametrize("scaling", ["none", "alpha/r", "alpha/sqrt_r"])
def test_energy_bounds_what_is_lost(scaling: str, tiny_base: Base, make_architecture: Architect) -> None:
    learner = random_model(tiny_base, make_architecture({"en": 8, "sw": 8}, scaling=scaling, alpha=4.0))
    expected = logits(learner, tiny_base)
    products = {
        site: layer.pair("sw")[1] @ layer.pair("sw")[0] * learner.architecture.scale(8)
        for site, layer in learner.lora.layers.items()
    }
    small, compaction = compact(tiny_base, learner, energy=0.9)
    errors = []
    for site, product in products.items():
        a, b = small.lora.layers[site].pair("sw")
        errors.append(float((b @ a - product).norm() / product.norm()))
    assert max(errors) <= 0.1**0.5 + 1e-6
    assert 0 < compaction.relative_error <= compaction.worst_relative_error <= 0.1**0.5
    assert compaction.worst_relative_error == pytest.approx(max(errors), abs=0.05)
    assert compaction.rank_after < compaction.rank_before
    assert small.architecture.scaling == "none"
    assert "relative error of the products" in compaction.summary
    small.remove()
    whole, exact = compact(tiny_base, random_model(tiny_base, learner.architecture), energy=1.0)
    assert exact.relative_error == 0.0
    assert torch.allclose(logits(whole, tiny_base), expected, atol=1e-4)


def test_a_pruned_model_is_compacted_without_its_pruning(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("sw", 0.95),), start=1, duration=1)
    learner = random_model(tiny_base, make_architecture(pruning=pruning))
    learner.begin_epoch(2)
    expected = logits(learner, tiny_base)
    small, _ = compact(tiny_base, learner)
    assert small.architecture.pruning is None
    assert small.lora.masks is None
    assert torch.allclose(logits(small, tiny_base), expected, atol=1e-5)


@pytest.mark.parametrize("energy", [0.0, 1.5])
def test_an_energy_out_of_range_is_refused(energy: float, tiny_base: Base, make_architecture: Architect) -> None:
    learner = random_model(tiny_base, make_architecture())
    with pytest.raises(InputError, match=rf"must lie in \(0, 1\], but got {energy}"):
        compact(tiny_base, learner, energy)
