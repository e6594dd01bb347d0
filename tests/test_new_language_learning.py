"""A language that a base has no token for is learned, and by its token."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from langsearch.adapters.learners import adapt
from langsearch.model.base import Base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import MODULES, Architecture, Side, Site, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData, train

pytest_plugins = ["cipher_fixtures"]


def architecture_of(slots: dict[str, str], new_languages: tuple[tuple[str, str], ...]) -> Architecture:
    """Returns rank 8 everywhere but in the attention's output projections."""
    sites: list[tuple[Site, Side]] = [
        (Site.parse(f"{stack}.{layer}.{module}"), "tgt")
        for stack, modules in MODULES.items()
        for layer in range(2)
        for module in modules
        if not module.endswith("out_proj")
    ]
    adapters = uniform_ranks(sites, dict.fromkeys(slots.values(), 8))
    return Architecture(slots=tuple(slots.items()), adapters=adapters, new_languages=new_languages)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adapters_that_all_languages_share_tell_a_cipher_by_its_own_token_alone(
    seed: int, copier: Base, make_token_task: Callable[..., TrainingData], cipher_settings: TrainerSettings
) -> None:
    # Both German and French have the one token that all of the copier's languages have.
    losses = {}
    for other, likes in (("tyv", {"tyv": "sw"}), ("de", {})):
        base = with_new_languages(copier, likes)
        data = make_token_task(base, other, seed)
        learner = adapt(
            base, architecture_of(dict.fromkeys(data.languages, "all"), tuple(likes.items())), data.languages
        )
        *_, last = train(learner, data, replace(cipher_settings, epochs=24, seed=seed))
        losses[other] = last.train_loss
        learner.remove()
    # Measured at 16 epochs: 0.07 to 0.27 against 0.50 to 0.66; at 32: 0.03 to 0.04 against 0.38 to 0.53.
    assert losses["tyv"] < 0.5 * losses["de"], losses


def test_a_languages_own_adapters_learn_its_cipher(
    copier: Base, make_token_task: Callable[..., TrainingData], cipher_settings: TrainerSettings
) -> None:
    base = with_new_languages(copier, {"tyv": "sw"})
    data = make_token_task(base, "tyv", 0)
    own = {language: language for language in data.languages}
    learner = adapt(base, architecture_of(own, (("tyv", "sw"),)), data.languages)
    assert learner.rows is not None
    start = learner.rows.weight.detach().clone()
    first, *_, last = train(learner, data, replace(cipher_settings, epochs=8))
    assert last.train_loss < 0.4 < first.train_loss
    assert (learner.rows.weight - start).abs().max() > 0.01
