from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.pruned_size import num_nonzero, pruned_share

LANGUAGES = ("en", "fr", "de", "sw")
Architect = Callable[..., Architecture]


def pruned_model(base: Base, make: Architect, pruning: Pruning, ranks: dict[str, int] | None = None) -> AdaptedModel:
    """A model whose B are all random, as after some training."""
    learner = adapt(base, make(ranks, pruning=pruning), LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator))
    return learner


def num_entries(learner: AdaptedModel, slot: str) -> int:
    return sum(layer.pair(slot)[1].numel() for layer in learner.lora.layers.values() if slot in layer.slots)


def num_zero(learner: AdaptedModel, slot: str) -> int:
    return sum(int((layer.pair(slot)[1] == 0).sum()) for layer in learner.lora.layers.values() if slot in layer.slots)


def test_the_cubic_law_gives_the_published_shares() -> None:
    # METHOD section 4: p = 0.9, t1 = 2, t2 = 10, e = 1 to 15
    expected = [0, 0, 0.244, 0.439, 0.591, 0.706, 0.787, 0.842, 0.876, 0.893, 0.899, 0.900, 0.900, 0.900, 0.900]
    assert [pruned_share(epoch, 0.9, 2, 10) for epoch in range(1, 16)] == pytest.approx(expected, abs=5e-4)
    assert [pruned_share(epoch, 0.5, 1, 1) for epoch in (1, 2, 3)] == [0.0, 0.5, 0.5]


def test_each_epoch_prunes_up_to_its_share_of_each_language(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("en", 0.9), ("fr", 0.5)), start=2, duration=3)
    learner = pruned_model(tiny_base, make_architecture, pruning)
    stored = learner.architecture.num_parameters(tiny_base.shape)
    for epoch in range(1, 8):
        learner.begin_epoch(epoch)
        pruned = {slot: round(pruned_share(epoch, p, 2, 3) * num_entries(learner, slot)) for slot, p in pruning.targets}
        assert {slot: num_zero(learner, slot) for slot in pruned} == pruned
        assert num_zero(learner, "sw") == 0, "a slot without a target loses nothing"
        assert learner.num_nonzero() == stored - sum(pruned.values())
        assert learner.num_nonzero() == num_nonzero(learner.architecture, tiny_base.shape, epoch)
    assert round(0.9 * num_entries(learner, "en")) == pruned["en"]


def test_scope_language_ranks_all_sites_of_a_language_together(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("en", 0.5),), start=1, duration=1)
    learner = pruned_model(tiny_base, make_architecture, pruning)
    sites = list(learner.lora.layers)
    for site in sites[: len(sites) // 2]:
        learner.lora.layers[site].pair("en")[1].mul_(1e-3)
    before = torch.cat([layer.pair("en")[1].abs().flatten() for layer in learner.lora.layers.values()])
    learner.begin_epoch(2)
    after = torch.cat([layer.pair("en")[1].flatten() for layer in learner.lora.layers.values()])
    assert before[after == 0].max() <= before[after != 0].min()
    shares = [float((learner.lora.layers[site].pair("en")[1] == 0).float().mean()) for site in sites]
    assert min(shares[: len(sites) // 2]) > 0.9
    assert max(shares[len(sites) // 2 :]) < 0.2


def test_scope_layer_lets_the_languages_of_a_layer_compete(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=tuple((slot, 0.6) for slot in ("en", "fr", "sw")), start=1, duration=1, scope="layer")
    learner = pruned_model(tiny_base, make_architecture, pruning, {"en": 4, "fr": 4, "sw": 4})
    for layer in learner.lora.layers.values():
        layer.pair("sw")[1].mul_(10.0)
    learner.begin_epoch(2)
    assert learner.num_nonzero() == num_nonzero(learner.architecture, tiny_base.shape, 2)
    for stack in ("encoder", "decoder"):
        for number in range(2):
            layers = [
                layer for site, layer in learner.lora.layers.items() if (site.stack, site.layer) == (stack, number)
            ]
            entries = torch.cat([layer.pair(slot)[1].flatten() for layer in layers for slot in layer.slots])
            assert int((entries == 0).sum()) == round(0.6 * entries.numel())
    assert num_zero(learner, "sw") < 0.2 * num_entries(learner, "sw")
    assert num_zero(learner, "en") > 0.7 * num_entries(learner, "en")


def test_nothing_pruned_returns_through_momentum(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("en", 0.5), ("fr", 0.5), ("sw", 0.5)), start=1, duration=4)
    learner = pruned_model(tiny_base, make_architecture, pruning)
    optimizer = torch.optim.Adam(learner.parameters().values(), lr=0.1)
    generator = torch.Generator().manual_seed(1)
    gone = {site: torch.zeros_like(layer.B, dtype=torch.bool) for site, layer in learner.lora.layers.items()}
    for epoch in range(1, 7):
        learner.begin_epoch(epoch)
        for site, layer in learner.lora.layers.items():
            assert not layer.B[gone[site]].any(), "an entry that was pruned is back"
            gone[site] = ~learner.state()[f"{site}.alive"]
        for _ in range(3):
            for layer in learner.lora.layers.values():
                layer.B.grad = torch.randn(layer.B.shape, generator=generator)
            optimizer.step()
            learner.after_update()
            for site, layer in learner.lora.layers.items():
                assert not layer.B[gone[site]].any()
    assert all(mask.any() for mask in gone.values())


def test_entries_that_were_pruned_count_in_later_epochs(tiny_base: Base, make_architecture: Architect) -> None:
    learner = pruned_model(tiny_base, make_architecture, Pruning(targets=(("en", 0.5),), start=1, duration=2))
    learner.begin_epoch(2)
    first = num_zero(learner, "en")
    learner.begin_epoch(2)
    assert num_zero(learner, "en") == first, "beginning an epoch twice prunes once"
    learner.begin_epoch(3)
    assert num_zero(learner, "en") == round(0.5 * num_entries(learner, "en"))


def test_masks_are_part_of_the_state(new_base: Callable[[], Base], make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("en", 0.5),), start=1, duration=4)
    one = pruned_model(new_base(), make_architecture, pruning)
    one.begin_epoch(3)
    state = {name: value.clone() for name, value in one.state().items()}
    assert {name for name in state if name.endswith(".alive")} == {f"{site}.alive" for site in one.lora.layers}
    other = pruned_model(new_base(), make_architecture, pruning)
    other.load_state(state)
    assert other.num_nonzero() == one.num_nonzero()
    for layer in other.lora.layers.values():
        layer.B.data += 1.0
    other.after_update()
    assert num_zero(other, "en") == num_zero(one, "en") > 0


@pytest.mark.parametrize("scaling", ["none", "alpha/r"])
def test_over_the_product_an_entry_counts_as_much_as_the_product_loses_with_it(
    scaling: str, tiny_base: Base, make_architecture: Architect
) -> None:
    pruning = Pruning(
        targets=(("en", 0.4), ("fr", 0.4), ("sw", 0.4)), start=1, duration=1, scope="layer", over="product"
    )
    learner = adapt(
        tiny_base,
        make_architecture(pruning=pruning, scaling=scaling, alpha=6.0),
        LANGUAGES,
    )
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        layer.A.data *= torch.rand(layer.A.shape[:2], generator=generator)[..., None]
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator))
    site = next(site for site in learner.lora.layers if site.stack == "decoder" and site.layer == 1)
    losses = {}
    for other, layer in learner.lora.layers.items():
        for slot in layer.slots:
            if (other.stack, other.layer) != (site.stack, site.layer):
                continue
            a, b = layer.pair(slot)
            scale = learner.architecture.scale(a.shape[0])
            whole = scale * b @ a
            for row, column in [(row, column) for row in range(0, b.shape[0], 7) for column in range(b.shape[1])]:
                without = b.clone()
                without[row, column] = 0
                losses[other, slot, row, column] = float((scale * without @ a - whole).norm())
    learner.begin_epoch(2)
    kept = [
        loss
        for (other, slot, row, column), loss in losses.items()
        if bool(learner.lora.layers[other].pair(slot)[1][row, column] != 0)
    ]
    lost = sorted(losses.values())[: len(losses) - len(kept)]
    assert lost[-1] <= min(kept) + 1e-6
    assert len(lost) == pytest.approx(0.4 * len(losses), rel=0.15)


def test_over_b_the_rows_of_a_do_not_count(tiny_base: Base, make_architecture: Architect) -> None:
    pruning = Pruning(targets=(("en", 0.5),), start=1, duration=1)
    survivors: list[torch.Tensor] = []
    for setting in (pruning, pruning, replace(pruning, over="product")):
        learner = pruned_model(tiny_base, make_architecture, setting)
        for index, layer in enumerate(learner.lora.layers.values()):
            layer.A.data *= index + 1 if len(survivors) else 1
        learner.begin_epoch(2)
        survivors.append(torch.cat([layer.pair("en")[1].flatten() != 0 for layer in learner.lora.layers.values()]))
        learner.remove()
    assert torch.equal(survivors[0], survivors[1])
    assert not torch.equal(survivors[0], survivors[2])
    assert survivors[0].sum() == survivors[2].sum()
