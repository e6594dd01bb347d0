from copy import deepcopy
from typing import Any

import pytest
import torch

from langsearch.adapters.learners import FullModel
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.settings import TrainerSettings
from langsearch.train.dropout import set_dropout
from langsearch.train.loop import TrainingData, train
from tests.conftest import LANGUAGES


@pytest.fixture
def own() -> float:
    """The base's own dropout of attention and activations."""
    return 0.1


@pytest.fixture
def base(tiny_base: Base, own: float) -> Base:
    """A base as the published ones are: with dropout in its configuration and in its layers."""
    config: Any = tiny_base.model.config
    config.dropout = config.attention_dropout = config.activation_dropout = own
    weights = tiny_base.model.state_dict()
    model = type(tiny_base.model)(deepcopy(config))
    model.load_state_dict(weights)
    model.requires_grad_(False)
    tiny_base.model.__dict__.update(model.__dict__)
    return tiny_base


def losses(base: Base, store: TokenStore, dropout: float, seed: int) -> list[float]:
    vocabulary = base.vocabulary(LANGUAGES)
    data = TrainingData(store, all_directions(LANGUAGES), LANGUAGES, vocabulary)
    settings = TrainerSettings(
        epochs=1, pairs_per_epoch=24, tokens_per_batch=200, accumulation=1, dropout=dropout, lr=1e-3
    )
    learner = FullModel(base)
    found = [progress.train_loss for progress in train(learner, data, settings, updates_between_yields=1)]
    set_dropout(learner.model, dropout)
    learner.model.train()
    torch.manual_seed(seed)
    ids = torch.tensor([[8021, 7, 50, 2]])
    with torch.no_grad():
        return [*found, float(learner.model(input_ids=ids, decoder_input_ids=ids).logits.sum())]


def test_dropout_0_is_deterministic_whatever_the_base_has(base: Base, quickstart_store: TokenStore) -> None:
    assert losses(base, quickstart_store, 0.0, seed=1) == losses(base, quickstart_store, 0.0, seed=2)
    assert losses(base, quickstart_store, 0.1, seed=1) != losses(base, quickstart_store, 0.1, seed=2)


def rates(base: Base) -> set[tuple[str, float]]:
    model: Any = base.model
    found = set()
    for stack in (model.model.encoder, model.model.decoder):
        found |= {("residual", stack.dropout), ("layerdrop", stack.layerdrop)}
        for layer in stack.layers:
            found |= {("residual", layer.dropout), ("activation", layer.activation_dropout)}
            found |= {("attention", module.dropout) for name, module in layer.named_children() if "attn" in name[-4:]}
    return found


@pytest.mark.parametrize(("dropout", "attention"), [(0.0, 0.0), (0.05, 0.05), (0.1, 0.1), (0.3, 0.1)])
def test_attention_and_activations_keep_the_bases_rate_but_never_above_the_settings(
    base: Base, dropout: float, attention: float
) -> None:
    set_dropout(base.model, 0.0)  # an earlier trial in the same process
    set_dropout(base.model, dropout)
    assert rates(base) == {
        ("residual", dropout),
        ("layerdrop", 0.0),
        ("attention", attention),
        ("activation", attention),
    }


def test_a_base_without_dropout_in_its_attention_gets_none(tiny_base: Base) -> None:
    set_dropout(tiny_base.model, 0.3)
    assert {("attention", 0.0), ("activation", 0.0), ("residual", 0.3)} <= rates(tiny_base)
