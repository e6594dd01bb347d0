from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.adapters.mounting import module_path
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = [Direction("en", "fr"), Direction("sw", "en"), Direction("fr", "de"), Direction("de", "sw")]
Architect = Callable[..., Architecture]


@pytest.fixture
def batch(tiny_base: Base, quickstart_store: TokenStore) -> Batch:
    """Four sentences, each in another direction."""
    rows = torch.tensor([[index, 3 * index] for index in range(4)], dtype=torch.int32).numpy()
    return collate(quickstart_store, DIRECTIONS, rows, tiny_base.vocabulary(LANGUAGES), LANGUAGES)


def logits(learner: Learner | None, model: nn.Module, batch: Batch) -> Tensor:
    inputs = {"input_ids": batch.src_ids, "attention_mask": batch.src_mask}
    inputs["decoder_input_ids"] = batch.decoder_input_ids
    with learner.route(batch.src_lang, batch.tgt_lang) if learner else nullcontext():
        found: Tensor = model(**inputs).logits
    return found


def rows_of(batch: Batch, rows: list[int]) -> Batch:
    names = ("src_ids", "src_mask", "decoder_input_ids", "labels", "src_lang", "tgt_lang")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names})


def fill(learner: AdaptedModel, seed: int = 0) -> None:
    """Gives every B random values, so that the adapters do something."""
    generator = torch.Generator().manual_seed(seed)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.1)


def train_steps(learner: Learner, batch: Batch, num_steps: int = 3) -> None:
    optimizer = torch.optim.Adam(learner.parameters().values(), lr=0.01)
    learner.begin_epoch(1)
    for _ in range(num_steps):
        found = logits(learner, learner.model, batch)
        torch.autograd.backward(nn.functional.cross_entropy(found.flatten(0, 1), batch.labels.flatten()))
        optimizer.step()
        optimizer.zero_grad()
        learner.after_update()


def test_new_adapters_change_nothing(tiny_base: Base, batch: Batch, make_architecture: Architect) -> None:
    with torch.no_grad():
        before = logits(None, tiny_base.model, batch)
        learner = adapt(tiny_base, make_architecture(), LANGUAGES)
        assert torch.equal(logits(learner, tiny_base.model, batch), before)
        fill(learner)
        assert (logits(learner, tiny_base.model, batch) - before).abs().max() > 0.01


def test_only_the_adapters_get_gradients_and_the_base_stays_as_it_was(
    tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    modules = dict(tiny_base.model.named_modules())
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    started = {name: value.detach().clone() for name, value in learner.parameters().items()}
    torch.autograd.backward(logits(learner, tiny_base.model, batch).sum())
    trained = {id(value) for value in learner.parameters().values()}
    for name, parameter in tiny_base.model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained), name
        assert (parameter.grad is not None) == (id(parameter) in trained), name
    train_steps(learner, batch)
    assert any(not torch.equal(value, started[name]) for name, value in learner.parameters().items())
    learner.remove()
    after = tiny_base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert dict(tiny_base.model.named_modules()) == modules


def test_removed_adapters_leave_room_for_others(tiny_base: Base, make_architecture: Architect) -> None:
    first = adapt(tiny_base, make_architecture(), LANGUAGES)
    with pytest.raises(AssertionError, match="carries an adapter already"):
        adapt(tiny_base, make_architecture(), LANGUAGES)
    first.remove()
    adapt(tiny_base, make_architecture({"de": 5}), LANGUAGES).remove()


def test_padding_stays_zero_in_training(tiny_base: Base, batch: Batch, make_architecture: Architect) -> None:
    learner = adapt(tiny_base, make_architecture({"en": 1, "sw": 6}), LANGUAGES)
    train_steps(learner, batch)
    for layer in learner.lora.layers.values():
        assert not layer.A[0, 1:].any() and not layer.B[0, :, 1:].any()
        assert not layer.A[2].any() and not layer.B[2].any()
        assert layer.B[1].any()


def test_a_slots_start_does_not_depend_on_the_other_slots(
    new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    one = adapt(new_base(), make_architecture({"fr": 3}), LANGUAGES)
    many = adapt(new_base(), make_architecture({"en": 8, "fr": 3, "sw": 1}), LANGUAGES)
    other_seed = adapt(new_base(), make_architecture({"fr": 3}), LANGUAGES, seed=1)
    starts = []
    for site, layer in one.lora.layers.items():
        assert torch.equal(layer.pair("fr")[0], many.lora.layers[site].pair("fr")[0])
        assert not torch.equal(layer.pair("fr")[0], other_seed.lora.layers[site].pair("fr")[0])
        starts.append(layer.pair("fr")[0].flatten()[:8])
    assert len({tuple(start.tolist()) for start in starts}) == len(starts), "two sites start alike"


def test_a_row_depends_neither_on_the_other_rows_nor_on_their_number(
    tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    learner = adapt(tiny_base, make_architecture(ffn_slice=48), LANGUAGES)
    fill(learner)
    with torch.no_grad():
        together = logits(learner, tiny_base.model, batch)
        for row in range(4):
            alone = logits(learner, tiny_base.model, rows_of(batch, [row]))
            torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-5)
        turned = logits(learner, tiny_base.model, rows_of(batch, [3, 2, 1, 0]))
        torch.testing.assert_close(together, turned.flip(0), atol=1e-4, rtol=1e-5)
        tripled = logits(learner, tiny_base.model, rows_of(batch, [0, 1, 2, 3] * 3))
        torch.testing.assert_close(together, tripled[4:8], atol=1e-4, rtol=1e-5)


def test_a_language_without_an_adapter_passes_as_through_the_base(
    tiny_base: Base, batch: Batch, make_architecture: Architect
) -> None:
    german = rows_of(batch, [2])  # fr-de: the decoder and the second encoder layer are indexed by German
    with torch.no_grad():
        before = logits(None, tiny_base.model, german)
        learner = adapt(tiny_base, make_architecture({"en": 4, "sw": 4}), LANGUAGES)
        fill(learner)
        assert torch.equal(logits(learner, tiny_base.model, german), before)


def test_each_side_indexes_its_own_layers(tiny_base: Base, batch: Batch, make_architecture: Architect) -> None:
    learner = adapt(tiny_base, make_architecture({"fr": 4}), LANGUAGES)
    fill(learner)
    encoder = tiny_base.model.model.encoder
    one = rows_of(batch, [0])
    states = {}
    for src in LANGUAGES[:2]:
        for tgt in LANGUAGES[:2]:
            lang = {name: torch.tensor([LANGUAGES.index(name)]) for name in (src, tgt)}
            with torch.no_grad(), learner.route(lang[src], lang[tgt]):
                found = encoder(one.src_ids, one.src_mask, output_hidden_states=True)
            states[src, tgt] = found.hidden_states[1], found.last_hidden_state
    # The first layer looks at the source alone, the second at the target too.
    assert torch.equal(states["en", "en"][0], states["en", "fr"][0])
    assert not torch.equal(states["en", "en"][0], states["fr", "en"][0])
    assert not torch.equal(states["en", "en"][1], states["en", "fr"][1])


def test_one_slot_equals_a_shared_lora_by_peft(
    new_base: Callable[[], Base], batch: Batch, make_architecture: Architect
) -> None:
    from peft import LoraConfig, get_peft_model

    shared = make_architecture({"all": 4}, dict.fromkeys(LANGUAGES, "all"), scaling="alpha/r", alpha=6.0)
    learner = adapt(new_base(), shared, LANGUAGES)
    fill(learner)
    paths = [module_path(site) for site in learner.lora.layers]
    config = LoraConfig(r=4, lora_alpha=6, lora_dropout=0.0, target_modules=paths)
    peft = get_peft_model(new_base().model, config).eval()
    with torch.no_grad():
        for site, layer in learner.lora.layers.items():
            module = peft.base_model.model.get_submodule(module_path(site))
            a, b = layer.pair("all")
            module.lora_A["default"].weight.copy_(a)
            module.lora_B["default"].weight.copy_(b)
        expected = logits(None, peft, batch)
        torch.testing.assert_close(logits(learner, learner.model, batch), expected, atol=1e-5, rtol=1e-5)
    assert learner.num_nonzero() == peft.get_nb_trainable_parameters()[0]


def test_an_adapted_models_state_goes_into_another(
    new_base: Callable[[], Base], batch: Batch, make_architecture: Architect
) -> None:
    pruning = Pruning(targets=(("en", 0.5), ("sw", 0.5)), start=1, duration=2)
    architecture = make_architecture(pruning=pruning)
    one, other = (adapt(new_base(), architecture, LANGUAGES, seed=seed) for seed in (0, 1))
    train_steps(one, batch)
    one.begin_epoch(3)
    other.load_state({name: value.clone() for name, value in one.state().items()})
    assert one.num_nonzero() == other.num_nonzero() < one.adapters.num_parameters()
    with torch.no_grad():
        assert torch.equal(logits(one, one.model, batch), logits(other, other.model, batch))


def test_a_state_that_does_not_fit_is_refused(new_base: Callable[[], Base], make_architecture: Architect) -> None:
    learner = adapt(new_base(), make_architecture({"en": 2, "fr": 2}), LANGUAGES)
    state = dict(learner.state())
    first = next(iter(state))
    with pytest.raises(KeyError, match=first):
        learner.load_state({name: value for name, value in state.items() if name != first})
    with pytest.raises(RuntimeError, match=r"must have the shape \(3, 2, 32\), but has \(3, 1, 32\)"):
        learner.load_state({**state, first: torch.zeros(3, 1, 32)})
    full = FullModel(new_base())
    state = dict(full.state())
    with pytest.raises(RuntimeError, match=r"must have the shape \(32,\), but has \(1,\)"):
        full.load_state({**state, "model.encoder.layer_norm.weight": torch.zeros(1)})


def test_parameters_come_in_an_order_that_never_changes(
    new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    first, again = (adapt(new_base(), make_architecture(), LANGUAGES) for _ in range(2))
    names = list(first.parameters())
    assert names == list(again.parameters())
    assert names[:4] == ["encoder.0.q_proj.A", "encoder.0.q_proj.B", "encoder.0.k_proj.A", "encoder.0.k_proj.B"]
    assert len(names) == 2 * len(first.lora.layers)


def test_a_full_model_trains_a_copy_and_keeps_ties(tiny_base: Base, batch: Batch) -> None:
    before = {name: value.clone() for name, value in tiny_base.model.state_dict().items()}
    learner = FullModel(tiny_base)
    own = {value.data_ptr() for value in learner.parameters().values()}
    assert own.isdisjoint({value.data_ptr() for value in tiny_base.model.parameters()})
    train_steps(learner, batch)
    assert all(torch.equal(value, before[name]) for name, value in tiny_base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in tiny_base.model.parameters())
    model = learner.model
    tied = [model.model.shared, model.lm_head, model.model.encoder.embed_tokens, model.model.decoder.embed_tokens]
    assert len({module.weight.data_ptr() for module in tied}) == 1
    assert not torch.equal(model.lm_head.weight, tiny_base.model.lm_head.weight)
    assert learner.num_nonzero() == tiny_base.shape.num_parameters


def test_a_full_models_state_goes_into_another(new_base: Callable[[], Base], batch: Batch) -> None:
    one, other = FullModel(new_base()), FullModel(new_base())
    train_steps(one, batch)
    other.load_state({name: value.clone() for name, value in one.state().items()})
    with torch.no_grad():
        assert torch.equal(logits(one, one.model, batch), logits(other, other.model, batch))
