"""What every kind of adapter must hold; a kind is tested by being listed in `langsearch.adapters.kinds`."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor, nn

from langsearch.adapters.kinds import KINDS
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.mounting import mount
from langsearch.adapters.peft_export import peft_config, peft_tensors
from langsearch.adapters.peft_limits import active_adapters
from langsearch.adapters.protocol import Adapters
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import Direction, all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.problems import InputError
from langsearch.train.dropout import set_dropout
from tests.adapter_cases import CASES

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
NUM_ROWS = 2
"""Sentences of each direction."""

Architect = Callable[..., Architecture]
NewBase = Callable[[], Base]


def batch_of(store: TokenStore, base: Base, directions: list[Direction], num_rows: int = NUM_ROWS) -> Batch:
    """Returns the first sentences in each direction."""
    rows = [[index, row] for index in range(len(directions)) for row in range(num_rows)]
    pairs = torch.tensor(rows, dtype=torch.int32).numpy()
    return collate(store, directions, pairs, base.vocabulary(LANGUAGES), LANGUAGES)


@pytest.fixture(scope="module")
def batch(new_base: NewBase, quickstart_store: TokenStore) -> Batch:
    """Sentences in all twelve directions."""
    return batch_of(quickstart_store, new_base(), list(DIRECTIONS))


def logits(model: Any, batch: Batch) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
    return found


def routed_logits(learner: AdaptedModel, batch: Batch) -> Tensor:
    with learner.route(batch.src_lang, batch.tgt_lang):
        return logits(learner.model, batch)


def train_steps(learner: AdaptedModel, batch: Batch, num_steps: int = 3) -> None:
    set_dropout(learner.model, 0.0)
    learner.model.train()
    optimizer = torch.optim.Adam(learner.parameters().values(), lr=0.01, eps=1e-30)
    learner.begin_epoch(1)
    for _ in range(num_steps):
        with learner.route(batch.src_lang, batch.tgt_lang):
            found = learner.model(
                input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
            ).logits
        torch.autograd.backward(nn.functional.cross_entropy(found.flatten(0, 1), batch.labels.flatten()))
        optimizer.step()
        optimizer.zero_grad()
        learner.after_update()
    learner.model.eval()


def note(reached: Tensor, gradient: Tensor) -> None:
    """Marks the entries that a gradient has reached."""
    reached.logical_or_(gradient != 0)


def traces(base: Base) -> tuple[dict[str, nn.Module], dict[str, Tensor]]:
    """Returns a base's modules and its weights, to be compared later."""
    return dict(base.model.named_modules()), {name: value.clone() for name, value in base.model.state_dict().items()}


def assert_as_it_was(base: Base, before: tuple[dict[str, nn.Module], dict[str, Tensor]]) -> None:
    modules, weights = before
    assert dict(base.model.named_modules()) == modules
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in base.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())


@pytest.mark.parametrize("kind", CASES)
class TestKind:
    """The promises of `langsearch.adapters.protocol.Adapters`."""

    @staticmethod
    def adapters(kind: str, base: Base, architecture: Architecture, seed: int = 0) -> Adapters:
        found: Adapters = CASES[kind][0](base, architecture, LANGUAGES, seed)
        return found

    @staticmethod
    def architecture(kind: str, make_architecture: Architect, **fields: Any) -> Architecture:
        return make_architecture(**(fields | CASES[kind][1]))

    def test_new_adapters_change_nothing_to_the_bit(
        self, kind: str, tiny_base: Base, batch: Batch, make_architecture: Architect
    ) -> None:
        before = logits(tiny_base.model, batch)
        learner = AdaptedModel(tiny_base, self.adapters(kind, tiny_base, self.architecture(kind, make_architecture)))
        assert torch.equal(routed_logits(learner, batch), before)
        train_steps(learner, batch)
        assert (routed_logits(learner, batch) - before).abs().max() > 0.01

    def test_only_the_adapters_train(
        self, kind: str, tiny_base: Base, batch: Batch, make_architecture: Architect
    ) -> None:
        learner = AdaptedModel(tiny_base, self.adapters(kind, tiny_base, self.architecture(kind, make_architecture)))
        trained = {id(parameter): name for name, parameter in learner.parameters().items()}
        assert {id(value) for value in tiny_base.model.parameters() if value.requires_grad} == set(trained)
        frozen = {name: value for name, value in tiny_base.model.named_parameters() if id(value) not in trained}
        before = {name: value.clone() for name, value in frozen.items()}
        start = {name: value.detach().clone() for name, value in learner.parameters().items()}
        train_steps(learner, batch)
        assert all(torch.equal(frozen[name], value) and value.grad is None for name, value in before.items())
        assert not [name for name, value in learner.parameters().items() if torch.equal(value, start[name])]

    def test_the_counts_are_exact(self, kind: str, tiny_base: Base, batch: Batch, make_architecture: Architect) -> None:
        adapters = self.adapters(
            kind, tiny_base, self.architecture(kind, make_architecture, ranks={"en": 1, "fr": 5, "sw": 2})
        )
        learner = AdaptedModel(tiny_base, adapters)
        for layer in (*tiny_base.model.model.encoder.layers, *tiny_base.model.model.decoder.layers):
            layer.activation_fn = nn.GELU()  # no hidden unit is dead
        reached = {name: torch.zeros_like(value, dtype=torch.bool) for name, value in learner.parameters().items()}
        for name, value in learner.parameters().items():
            value.register_hook(partial(note, reached[name]))  # type: ignore[no-untyped-call]
        train_steps(learner, batch, num_steps=2)
        # What no gradient ever reaches is padding, and not stored.
        assert sum(int(value.sum()) for value in reached.values()) == adapters.num_parameters()
        assert learner.num_nonzero() == adapters.num_parameters()

    @pytest.mark.parametrize("is_pruned", [False, True])
    def test_the_state_goes_round_bit_by_bit(
        self, kind: str, is_pruned: bool, new_base: NewBase, batch: Batch, make_architecture: Architect
    ) -> None:
        pruning = Pruning(targets=(("en", 0.5), ("sw", 0.25)), start=1, duration=1) if is_pruned else None
        architecture = self.architecture(kind, make_architecture, pruning=pruning)
        bases = new_base(), new_base()
        one, other = (
            AdaptedModel(base, self.adapters(kind, base, architecture, seed)) for seed, base in enumerate(bases)
        )
        train_steps(one, batch)
        one.begin_epoch(2)
        state = {name: value.clone() for name, value in one.state().items()}
        assert set(one.parameters()) <= set(state)
        other.load_state(state)
        assert {name: value.tolist() for name, value in other.state().items()} == {
            name: value.tolist() for name, value in state.items()
        }
        assert torch.equal(routed_logits(one, batch), routed_logits(other, batch))
        assert one.num_nonzero() == other.num_nonzero()
        for learner in (one, other):  # both go on alike
            train_steps(learner, batch, num_steps=1)
        assert torch.equal(routed_logits(one, batch), routed_logits(other, batch))

    def test_removed_adapters_leave_the_base_as_it_was(
        self, kind: str, tiny_base: Base, batch: Batch, make_architecture: Architect
    ) -> None:
        before, expected = traces(tiny_base), logits(tiny_base.model, batch)
        learner = AdaptedModel(tiny_base, self.adapters(kind, tiny_base, self.architecture(kind, make_architecture)))
        train_steps(learner, batch)
        learner.remove()
        assert_as_it_was(tiny_base, before)
        assert torch.equal(logits(tiny_base.model, batch), expected)

    @pytest.mark.parametrize("step", ["register_parameter", "register_buffer", "set_submodule"])
    def test_a_failure_half_way_leaves_the_base_as_it_was(
        self, kind: str, step: str, tiny_base: Base, make_architecture: Architect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = traces(tiny_base)
        original = getattr(nn.Module, step)
        calls, failing_calls = count(1), set[int]()

        def failing(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            if next(calls) in failing_calls:
                raise MemoryError("no memory is left")
            original(module, *args, **kwargs)

        monkeypatch.setattr(nn.Module, step, failing)
        architecture = self.architecture(kind, make_architecture)
        AdaptedModel(tiny_base, self.adapters(kind, tiny_base, architecture)).remove()
        num_calls = (next(calls) - 1) // (2 if step == "set_submodule" else 1)  # it is called once more to remove them
        assert num_calls or step == "register_buffer", "nothing could fail"
        for call in {1, 2, 4, num_calls // 2, num_calls} & set(range(1, num_calls + 1)):
            calls, failing_calls = count(1), {call}
            with pytest.raises(MemoryError, match="no memory is left"):
                AdaptedModel(tiny_base, self.adapters(kind, tiny_base, architecture))
            assert_as_it_was(tiny_base, before)

    @pytest.mark.parametrize("fields", [{}, {"scaling": "alpha/r", "alpha": 3.0, "ffn_slice": 40}])
    def test_a_merged_model_equals_the_routed_one(
        self,
        kind: str,
        fields: dict[str, Any],
        new_base: NewBase,
        batch: Batch,
        quickstart_store: TokenStore,
        make_architecture: Architect,
    ) -> None:
        base = new_base()
        learner = AdaptedModel(base, self.adapters(kind, base, self.architecture(kind, make_architecture, **fields)))
        train_steps(learner, batch)
        for direction in (Direction("en", "fr"), Direction("fr", "en"), Direction("sw", "de"), Direction("de", "sw")):
            one = batch_of(quickstart_store, base, [direction], num_rows=4)
            try:
                merged = learner.adapters.merged(direction)
            except InputError as error:
                assert re.fullmatch(r"[A-Z].*\.", "\n".join(error.problems), re.DOTALL)
                return
            plain = new_base()
            mount(plain.model, merged)
            assert not any(value.requires_grad for value in plain.model.parameters())
            torch.testing.assert_close(logits(plain.model, one), routed_logits(learner, one), atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("fields", [{}, {"scaling": "alpha/sqrt_r", "alpha": 2.0, "ffn_slice": 40}])
    def test_plain_peft_says_the_same_or_a_sentence_says_why_it_cannot(
        self,
        kind: str,
        fields: dict[str, Any],
        new_base: NewBase,
        batch: Batch,
        quickstart_store: TokenStore,
        make_architecture: Architect,
        tmp_path: Path,
    ) -> None:
        base = new_base()
        learner = AdaptedModel(base, self.adapters(kind, base, self.architecture(kind, make_architecture, **fields)))
        train_steps(learner, batch)
        try:
            adapters = learner.adapters.to_peft()
        except InputError as error:
            assert re.fullmatch(r"[A-Z].*\.", "\n".join(error.problems), re.DOTALL)
            return
        peft: Any = None
        for adapter in adapters:
            folder = tmp_path / adapter.name
            folder.mkdir()
            save_file(peft_tensors(adapter), folder / "adapter_model.safetensors", metadata={"format": "pt"})
            (folder / "adapter_config.json").write_text(peft_config(adapter, base.name), encoding="utf-8")
            if peft is None:
                peft = PeftModel.from_pretrained(new_base().model, folder, adapter_name=adapter.name)
            else:
                peft.load_adapter(folder, adapter_name=adapter.name)
        peft.eval()
        for src, tgt in (("en", "fr"), ("fr", "en"), ("sw", "de"), ("de", "sw")):
            one = batch_of(quickstart_store, base, [Direction(src, tgt)], num_rows=4)
            active = active_adapters(learner.architecture, Direction(src, tgt))
            names = [one.name for one in adapters if (one.side, one.slot) in active]
            if names:
                peft.base_model.set_adapter(names)
            # PEFT cannot activate none of its adapters, but can turn them all off.
            with nullcontext() if names else peft.disable_adapter():
                found = logits(peft, one)
            torch.testing.assert_close(found, routed_logits(learner, one), atol=1e-4, rtol=1e-4)


def test_every_file_of_a_kind_is_listed() -> None:
    folder = Path(__file__).parents[1] / "langsearch" / "adapters"
    claim = "one of the kinds of `Adapters`"
    claimed = {path.stem for path in folder.glob("*.py") if claim in path.read_text(encoding="utf-8")}
    assert claimed == set(KINDS)


def test_every_kind_has_a_case() -> None:
    assert set(KINDS) <= set(CASES)
