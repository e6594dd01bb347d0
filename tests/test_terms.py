from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import adapt
from langsearch.data.batches import Batch
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.settings import TrainerSettings
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.train.term import Need, Plain, States, Term

LANGUAGES = ("en", "fr", "de", "sw")
SETTINGS = TrainerSettings(epochs=1, tokens_per_batch=400, accumulation=1, pairs_per_epoch=40, lr=1e-2, seed=1)
Architect = Callable[..., Architecture]


@dataclass(frozen=True)
class Watching(Plain):
    """A term that notes what it is given; its loss pulls some features of the encoder's states to zero."""

    needs: frozenset[Need]
    seen: list[tuple[States, Batch]] = field(default_factory=list)

    def loss(self, model: Any, states: States, batch: Batch) -> Tensor:
        self.seen.append((states, batch))
        if states.encoder is None:
            zero: Tensor = sum(
                (value.sum() * 0 for value in model.parameters() if value.requires_grad), torch.zeros(())
            )
            return zero
        # Of all features the layer norm at the end of the stack would keep the norm as it is.
        return (states.encoder[..., :8] * batch.src_mask[..., None]).square().sum()


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    directions = [Direction("en", "fr"), Direction("sw", "en"), Direction("fr", "de"), Direction("de", "sw")]
    return TrainingData(quickstart_store, directions, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def run(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> Callable[..., list[Progress]]:
    """Trains new adapters with some terms, and returns all progress; calls of the stacks are noted."""

    def go(terms: list[Term] | None, calls: list[str] | None = None, **settings: Any) -> list[Progress]:
        base = new_base()
        learner = adapt(base, make_architecture(), LANGUAGES)
        for name in ("encoder", "decoder"):
            stack = getattr(base.model.model, name)
            stack.register_forward_pre_hook(lambda *_, name=name: None if calls is None else calls.append(name))
        return list(train(learner, data, replace(SETTINGS, **settings), terms=terms, updates_between_yields=1))

    return go


def losses(found: list[Progress]) -> list[float]:
    return [progress.train_loss for progress in found]


def test_without_terms_named_it_is_the_settings_cross_entropy(run: Callable[..., list[Progress]]) -> None:
    assert losses(run(None)) == losses(run([CrossEntropy(SETTINGS.label_smoothing)]))


def test_terms_are_added_up(run: Callable[..., list[Progress]]) -> None:
    once, twice = run([CrossEntropy(0.1)], lr=1e-12), run([CrossEntropy(0.1), CrossEntropy(0.1)], lr=1e-12)
    assert losses(twice) == pytest.approx([2 * loss for loss in losses(once)], rel=1e-5)


@pytest.mark.parametrize(
    ("needs", "called"),
    [(set(), set()), ({"encoder"}, {"encoder"}), ({"decoder"}, {"encoder", "decoder"})],
    ids=["nothing", "encoder", "decoder"],
)
def test_nothing_is_computed_that_no_term_needs(
    needs: set[Need], called: set[str], run: Callable[..., list[Progress]]
) -> None:
    calls: list[str] = []
    term = Watching(frozenset(needs))
    run([term], calls)
    assert set(calls) == called
    for states, batch in term.seen:
        assert (states.encoder is not None) == ("encoder" in needs)
        assert (states.decoder is not None) == (states.labels is not None) == ("decoder" in needs)
        assert batch.sentences is None


def test_one_term_gets_what_another_one_needs_computed_once(run: Callable[..., list[Progress]]) -> None:
    calls: list[str] = []
    term = Watching(frozenset({"encoder"}))
    found = run([CrossEntropy(0.1), term], calls)
    assert len(calls) == 2 * len(found) == 2 * len(term.seen)
    for states, batch in term.seen:
        assert states.encoder is not None and states.encoder.shape[:2] == batch.src_ids.shape
        assert states.decoder is not None and states.labels is not None
        assert len(states.decoder) == len(states.labels) == batch.num_tgt_tokens


def test_a_term_on_the_encoder_alone_teaches_its_adapters(run: Callable[..., list[Progress]]) -> None:
    # Against untrained adapters on the same batches, whose loss a target token differs by as much as is learned.
    trained, untrained = (
        losses(run([Watching(frozenset({"encoder"}))], epochs=16, schedule="constant", lr=lr))[-1]
        for lr in (SETTINGS.lr, 1e-12)
    )
    assert trained < 0.1 * untrained


def test_sentences_say_which_rows_of_the_store_a_batch_holds(
    run: Callable[..., list[Progress]], data: TrainingData
) -> None:
    term = Watching(frozenset({"decoder", "sentences"}))
    run([term])
    for states, batch in term.seen:
        assert batch.sentences is not None and states.labels is not None
        labels = torch.split(states.labels, (batch.labels >= 0).sum(dim=1).tolist())
        for row, (sentence, tgt) in enumerate(zip(batch.sentences.tolist(), batch.tgt_lang.tolist(), strict=True)):
            assert labels[row][1:-1].tolist() == data.store.tokens(LANGUAGES[tgt], sentence).tolist()
