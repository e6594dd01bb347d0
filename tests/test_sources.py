from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel, FullModel, adapt
from langsearch.adapters.mixed_sides import MixedSides
from langsearch.evaluate.sources import SourceEncoder, Sources
from langsearch.model.base import Base, load_base
from langsearch.model.layers import sides_of
from langsearch.space.architecture import MODULES, Architecture, Side, Site, uniform_ranks
from tests.family_fixtures import LANGUAGES

pytest_plugins = ["family_fixtures"]

SRC = [0, 0, 0, 1, 1, 3]
TGT = [1, 2, 3, 0, 2, 0]
SENTENCE = [0, 0, 0, 1, 1, 2]
"""Three sentences, two of them for several targets."""


def sources() -> Sources:
    texts = torch.tensor([[9, 20, 33, 41, 2, 1], [8, 15, 16, 17, 18, 2], [7, 99, 98, 2, 1, 1]])
    ids = texts[SENTENCE]
    return Sources(
        ids=ids,
        mask=(ids != 1).long(),
        src_lang=torch.tensor(SRC),
        tgt_lang=torch.tensor(TGT),
        starts=torch.full((6, 1), 2),
        first_rows=torch.tensor([0, 3, 5]),
        source_of=torch.tensor(SENTENCE),
    )


def architecture(num_by_source: int) -> Architecture:
    """Adapters in two encoder layers, of which so many are indexed by the source."""
    sites: list[tuple[Site, Side]] = [
        (Site("encoder", layer, module), "src" if layer < num_by_source else "tgt")
        for layer in range(2)
        for module in MODULES["encoder"]
    ]
    names = {language: language for language in LANGUAGES}
    return Architecture(slots=tuple(names.items()), adapters=uniform_ranks(sites, {"en": 2, "fr": 3, "sw": 4}))


def randomised(learner: AdaptedModel) -> AdaptedModel:
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return learner


def in_full(learner: Any, given: Sources) -> Tensor:
    """What the model's own encoder says, row by row."""
    with learner.route(given.src_lang, given.tgt_lang):
        found: Tensor = learner.model.model.encoder(input_ids=given.ids, attention_mask=given.mask).last_hidden_state
    return found


@pytest.mark.parametrize(("num_by_source", "rows_by_layer"), [(0, [6, 6]), (1, [3, 6]), (2, [3, 3])])
def test_a_sentence_is_encoded_once_up_to_the_first_layer_that_looks_at_the_target(
    num_by_source: int, rows_by_layer: list[int], family_folder: Path
) -> None:
    base = load_base(str(family_folder))
    learner = randomised(adapt(base, architecture(num_by_source), LANGUAGES))
    given = sources()
    seen: list[int] = []
    with torch.inference_mode():
        expected = in_full(learner, given)
        for layer in base.model.model.encoder.layers:
            layer.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
        encoded = SourceEncoder(learner).encode(given)
    assert seen == rows_by_layer
    states = encoded.states if encoded.source_of is None else encoded.states[encoded.source_of]
    assert (encoded.source_of is None) == (num_by_source < 2)
    is_token = given.mask > 0
    torch.testing.assert_close(states[is_token], expected[is_token], atol=2e-5, rtol=2e-5)


def test_weights_for_both_sides_and_modules_that_do_not_say_look_at_the_target(
    tiny_base: Base, make_architecture: Callable[..., Architecture]
) -> None:
    layers: Any = tiny_base.model.model.encoder.layers
    assert sides_of(layers[0]) == frozenset()
    learner = AdaptedModel(tiny_base, MixedSides(tiny_base, make_architecture(), LANGUAGES))
    assert sides_of(layers[0]) == {"src", "tgt"}
    randomised(learner)
    given = sources()
    with torch.inference_mode():
        encoded = SourceEncoder(learner).encode(given)
        expected = in_full(learner, given)
    assert encoded.source_of is None
    torch.testing.assert_close(encoded.states[given.mask > 0], expected[given.mask > 0], atol=2e-5, rtol=2e-5)
    learner.remove()

    class Unknown(nn.Linear):
        pass

    layers[0].fc1 = Unknown(32, 64)
    assert sides_of(layers[0]) == {"src", "tgt"}


def test_a_model_without_adapters_encodes_each_sentence_once(tiny_base: Base) -> None:
    learner = FullModel(tiny_base)
    given = sources()
    with torch.inference_mode():
        encoded = SourceEncoder(learner).encode(given)
        expected = in_full(learner, given)
    assert len(encoded.states) == 3 and encoded.source_of is not None
    found = encoded.states[encoded.source_of]
    torch.testing.assert_close(found[given.mask > 0], expected[given.mask > 0], atol=2e-5, rtol=2e-5)
