from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.mixed_sides import MixedSides, SideWeights
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import Checkpoint
from langsearch.train.loop import TrainingData, train

pytest_plugins = ["cipher_fixtures"]

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = [Direction("en", "fr"), Direction("sw", "en"), Direction("fr", "de"), Direction("de", "sw")]
Architect = Callable[..., Architecture]
CipherTask = Callable[..., TrainingData]


@pytest.fixture
def batch(tiny_base: Base, quickstart_store: TokenStore) -> Batch:
    """Four sentences, each in another direction."""
    rows = torch.tensor([[index, 3 * index] for index in range(4)], dtype=torch.int32).numpy()
    return collate(quickstart_store, DIRECTIONS, rows, tiny_base.vocabulary(LANGUAGES), LANGUAGES)


def mix(
    base: Base, architecture: Architecture, languages: Sequence[str] = LANGUAGES, **options: Any
) -> tuple[AdaptedModel, MixedSides]:
    """Returns a base with adapters of both sides in it, and these."""
    mixture = MixedSides(base, architecture, languages, **options)
    return AdaptedModel(base, mixture), mixture


def fill(mixture: MixedSides) -> None:
    """Gives every B and every scalar random values."""
    generator = torch.Generator().manual_seed(0)
    for layer in mixture.layers.values():
        layer.scalars.data.copy_(torch.randn(2, generator=generator))
        for adapter in (layer.by_source, layer.by_target):
            for slot in adapter.slots:
                _, b = adapter.pair(slot)
                b.copy_(torch.randn(b.shape, generator=generator) * 0.3)


def logits(learner: AdaptedModel, batch: Batch) -> Tensor:
    with learner.route(batch.src_lang, batch.tgt_lang):
        found: Tensor = learner.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
    return found


@pytest.mark.parametrize("scaling", ["none", "alpha/r"])
def test_a_layer_equals_the_mixture_of_its_adapters_outputs(
    scaling: Any, tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    architecture = make_architecture(scaling=scaling, alpha=3.0)
    learner, mixture = mix(tiny_base, architecture, scalar_lr_factor=2.0)
    fill(mixture)
    for site, layer in mixture.layers.items():
        x = torch.randn(4, 5, layer.by_source.base.in_features, requires_grad=True)
        weights = torch.softmax(2.0 * layer.scalars, dim=0)
        expected = layer.by_source.base(x).detach()
        for adapter, languages, weight in (
            (layer.by_source, batch.src_lang, weights[0]),
            (layer.by_target, batch.tgt_lang, weights[1]),
        ):
            rows = []
            for row, language in enumerate(languages.tolist()):
                rank = architecture.rank(site, LANGUAGES[language])
                if rank == 0:
                    rows.append(torch.zeros_like(expected[row]))
                    continue
                index = adapter.slots.index(LANGUAGES[language])
                hidden = x[row] @ adapter.A[index].T
                rows.append(architecture.scale(rank) * hidden @ adapter.B[index].T)
            expected = expected + weight * torch.stack(rows)
        with learner.route(batch.src_lang, batch.tgt_lang):
            found = layer(x)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        parameters = [layer.scalars, layer.by_source.A, layer.by_source.B, layer.by_target.A, layer.by_target.B]
        ours = torch.autograd.grad(found.square().sum(), parameters)
        wanted = torch.autograd.grad(expected.square().sum(), parameters)
        for one, other in zip(ours, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)
    learner.remove()


def test_a_decided_mixture_equals_the_adapters_of_its_sides(
    new_base: Callable[[], Base], batch: Batch, make_architecture: Architect
) -> None:
    learner, mixture = mix(new_base(), make_architecture())
    fill(mixture)
    for site, layer in mixture.layers.items():
        layer.scalars.data = torch.tensor([50.0, 0.0] if site.layer == 0 else [0.0, 50.0])
    architecture = make_architecture()
    sides = [replace(entry, side="src" if entry.site.layer == 0 else "tgt") for entry in architecture.adapters]
    plain = adapt(new_base(), replace(architecture, adapters=tuple(sides)), LANGUAGES)
    for site, adapter in plain.lora.layers.items():
        mixed = mixture.layers[site]
        source = mixed.by_source if site.layer == 0 else mixed.by_target
        adapter.A.data, adapter.B.data = source.A.data, source.B.data
    torch.testing.assert_close(logits(learner, batch), logits(plain, batch), atol=1e-5, rtol=1e-5)
    assert {value.side for name, value in mixture.weights().items() if ".0" in name} == {"src"}


@pytest.mark.parametrize(("by", "num_groups"), [("layer", 4), ("module", 26)])
def test_a_new_mixture_changes_nothing_and_leaves_the_base_as_it_was(
    by: Any, num_groups: int, tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    modules = dict(tiny_base.model.named_modules())
    with torch.no_grad():
        before = tiny_base.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
        learner, mixture = mix(tiny_base, make_architecture(), by=by)
        torch.testing.assert_close(logits(learner, batch), before, atol=1e-5, rtol=1e-5)
    assert len(mixture.weights()) == num_groups
    assert set(mixture.weights().values()) == {SideWeights(0.5, 0.5)}
    assert learner.num_nonzero() == 2 * make_architecture().num_parameters(tiny_base.shape) + 2 * num_groups
    torch.autograd.backward(logits(learner, batch).sum())
    trained = {id(value) for value in learner.parameters().values()}
    for name, parameter in tiny_base.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained), name
    learner.remove()
    assert dict(tiny_base.model.named_modules()) == modules


def test_the_scalars_have_a_learning_rate_of_their_own(
    tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    moved = {}
    for factor in (1.0, 20.0):
        learner, mixture = mix(tiny_base, make_architecture(), scalar_lr_factor=factor)
        for name, value in learner.parameters().items():
            if name.endswith(".B"):
                value.data.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
        optimizer = torch.optim.Adam(learner.parameters().values(), lr=1e-3, eps=1e-20)
        torch.autograd.backward(logits(learner, batch).square().mean())
        optimizer.step()
        weights = mixture.weights().values()
        moved[factor] = [abs(torch.logit(torch.tensor(weight.src)).item()) for weight in weights]
        learner.remove()
    # One step of Adam moves both scalars by the learning rate, in opposite directions.
    assert moved[1.0] == pytest.approx([2e-3] * 4, rel=1e-2)
    assert moved[20.0] == pytest.approx([4e-2] * 4, rel=1e-2)


def test_the_state_takes_a_mixture_to_another_one(
    new_base: Callable[[], Base], batch: Batch, make_architecture: Architect
) -> None:
    one, one_mixture = mix(new_base(), make_architecture())
    fill(one_mixture)
    other, other_mixture = mix(new_base(), make_architecture(), seed=1)
    other.load_state({name: value.clone() for name, value in one.state().items()})
    assert torch.equal(logits(one, batch), logits(other, batch))
    assert one_mixture.weights() == other_mixture.weights()
    state = dict(one.state())
    del state["scalars/encoder.0"]
    with pytest.raises(KeyError, match=r"scalars/encoder\.0"):
        other.load_state(state)


def test_both_sides_start_apart(tiny_base: Base, make_architecture: Architect) -> None:
    learner, mixture = mix(tiny_base, make_architecture(), seed=3)
    for layer in mixture.layers.values():
        for slot in layer.by_source.slots:
            assert not torch.equal(layer.by_source.pair(slot)[0], layer.by_target.pair(slot)[0])
    learner.remove()


def test_a_side_is_sure_if_its_share_is_three_times_the_others() -> None:
    assert [SideWeights(src, 1 - src).is_sure for src in (0.0, 0.25, 0.26, 0.5, 0.74, 0.75)] == [1, 1, 0, 0, 0, 1]
    assert SideWeights(0.3, 0.7).margin == pytest.approx(0.4)


# Where an adapter can do the task: in the encoder if the source is in cipher, in the last decoder layer if the
# target is. The index of the other side is the same in all directions, and cannot tell the ciphers apart.
PLACES = {"src": [("encoder", 0), ("encoder", 1)], "tgt": [("decoder", 1)]}

UPDATES = 80
"""After 30 a rate of 20 to 22 of 24 was right, by machine and number of threads: what both sides can do is learned
first. From 60 on all 24 were, on four bases that were trained to copy with other seeds: 96 of 96, the least share of
the right side 0.56, of the mean over a task's layers 0.71, and none was sure of the wrong side."""

SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.integration) for seed in range(3, 12))]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("side", ["src", "tgt"])
def test_the_planted_side_is_found(
    side: str,
    seed: int,
    copier: Base,
    make_cipher_task: CipherTask,
    equal_ranks: Architect,
    cipher_settings: TrainerSettings,
) -> None:
    data = make_cipher_task(side, seed)
    architecture = equal_ranks(data.languages, PLACES[side], rank=4)
    learner, mixture = mix(copier, architecture, data.languages, seed=seed, scalar_lr_factor=5.0)
    for progress in train(learner, data, replace(cipher_settings, seed=seed), updates_between_yields=1):
        if progress.updates == UPDATES:
            break
    found = mixture.weights()
    assert list(found) == [f"{stack}.{layer}" for stack, layer in PLACES[side]]
    # Two layers can share a task so that one of them is left with little to say.
    shares = [getattr(weights, side) for weights in found.values()]
    assert sum(shares) / len(shares) > 0.6, found
    assert not any(weights.is_sure and weights.side != side for weights in found.values()), found


def test_a_resumed_mixture_equals_one_that_never_stopped(
    copier: Base, make_cipher_task: CipherTask, equal_ranks: Architect, cipher_settings: TrainerSettings
) -> None:
    data = make_cipher_task("src", 0)
    architecture = equal_ranks(data.languages, PLACES["src"], rank=2)
    settings = replace(cipher_settings, epochs=2, pairs_per_epoch=150)

    def run(resume: Checkpoint | None) -> tuple[list[Checkpoint], dict[str, SideWeights]]:
        learner, mixture = mix(copier, architecture, data.languages, scalar_lr_factor=5.0)
        kept = []
        for progress in train(learner, data, settings, resume=resume):
            state = progress.checkpoint()
            kept.append(Checkpoint({name: value.clone() for name, value in state.tensors.items()}, state.state))
        found = mixture.weights()
        learner.remove()
        return kept, found

    checkpoints, expected = run(None)
    assert run(checkpoints[0])[1] == expected
    assert len({weights.src for weights in expected.values()}) == 2
