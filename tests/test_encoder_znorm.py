"""What a language's encodings have for themselves is taken out, and what is merged and exported says the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from langsearch.adapters.encoder_znorm import EncoderZNorm, coloured
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.merged_export import merge
from langsearch.adapters.together import Together
from langsearch.data.directions import Direction, all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Bridge, LayerNorms, ZNorm
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData
from langsearch.train.moments import measure_moments
from tests.space_fixtures import SMALL, TINY, load, problems
from tests.test_adapter_kinds import batch_of, logits, routed_logits

LANGUAGES = ("en", "fr", "de", "sw")
OWNERS = ("en", "fr", "sw")
SEEDS = range(5)
Architect = Callable[..., Architecture]


def moments(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of states (languages, n, d)."""
    return states.mean(dim=1), states.var(dim=1, correction=0), torch.ones(len(states), dtype=torch.bool)


def accuracy(states: Tensor, classes: Tensor, head: Tensor) -> float:
    nearest = states @ head.T - head.square().sum(dim=1) / 2
    return float(nearest.argmax(dim=-1).eq(classes).float().mean())


class Meaning:
    """Classes in a space where language bb says all with shifted and scaled coordinates, and a head of language aa."""

    def __init__(self, seed: int, share_of_first: float | None = None) -> None:
        generator = torch.Generator().manual_seed(seed)
        d, num_classes, n = 24, 6, 3000
        self.centres = torch.randn(num_classes, d, generator=generator)
        self.centres -= self.centres.mean(dim=0)
        self.classes = torch.randint(num_classes, (2, n), generator=generator)
        if share_of_first is not None:
            is_first = torch.rand(n, generator=generator) < share_of_first
            self.classes[1] = torch.where(is_first, 0, self.classes[1])
        self.pure = self.centres[self.classes] + torch.randn(2, n, d, generator=generator)
        self.scale = torch.randn(d, generator=generator).mul(0.5).exp()
        self.shift = 8 * torch.randn(d, generator=generator)

    def said(self) -> Tensor:
        return torch.stack([self.pure[0], self.pure[1] * self.scale + self.shift])

    def after(self, states: Tensor) -> float:
        """How well the head of aa reads bb, once bb has aa's moments."""
        gain, shift = coloured(*moments(states), ZNorm(pivot="aa"), ("aa", "bb"))
        return accuracy(states[1] * gain[1] + shift[1], self.classes[1], self.centres)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_head_of_the_pivot_reads_a_language_that_differs_by_its_moments(seed: int) -> None:
    task = Meaning(seed)
    states = task.said()
    assert accuracy(states[0], task.classes[0], task.centres) >= 0.95
    assert accuracy(states[1], task.classes[1], task.centres) <= 0.5
    assert task.after(states) >= 0.9


@pytest.mark.parametrize("seed", SEEDS)
def test_meaning_is_taken_away_where_a_language_speaks_of_other_things(seed: int) -> None:
    task = Meaning(seed, share_of_first=0.9)
    assert accuracy(task.pure[1], task.classes[1], task.centres) >= 0.95
    assert task.after(task.pure) <= 0.75


@pytest.mark.parametrize("znorm", [ZNorm(), ZNorm(strength=0.5, parts="mean", pivot="en"), ZNorm(pivot="en")])
def test_moments_become_those_of_the_pivot_or_the_mean_as_far_as_the_strength_says(znorm: ZNorm) -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(4, 500, 8, generator=generator).double() * torch.rand(4, 1, 8, generator=generator) + 1
    means, variances, known = moments(states)
    known[3] = False
    gain, shift = coloured(means, variances, known, znorm, LANGUAGES)
    moved = states * gain[:, None].double() + shift[:, None].double()
    chosen = [0] if znorm.pivot else [0, 1, 2]
    wanted = means[chosen].mean(dim=0), variances[chosen].sqrt().mean(dim=0)
    found = moved.mean(dim=1), moved.std(dim=1, correction=0)
    for language in range(3):
        expected = means[language] + znorm.strength * (wanted[0] - means[language])
        torch.testing.assert_close(found[0][language], expected, atol=1e-5, rtol=1e-5)
        deviation = variances[language].sqrt()
        goal = wanted[1] if znorm.parts == "both" else deviation
        expected = deviation + znorm.strength * (goal - deviation)
        torch.testing.assert_close(found[1][language], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(moved[3], states[3])


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(
        quickstart_store, all_directions(LANGUAGES), LANGUAGES, tiny_base.vocabulary(LANGUAGES), weights=None
    )


def znorm_of(learner: AdaptedModel) -> EncoderZNorm:
    assert isinstance(learner.adapters, Together)
    (found,) = [part for part in learner.adapters.parts if isinstance(part, EncoderZNorm)]
    return found


@pytest.fixture(
    params=[
        {},
        {"bridge": Bridge(slots=OWNERS, rank=2)},
        {"layer_norm": LayerNorms(slots=OWNERS)},
        {"slots": dict.fromkeys(LANGUAGES, "all"), "ranks": {"all": 2}},
    ],
    ids=["alone", "bridge", "layer norms", "shared"],
)
def learner(
    request: pytest.FixtureRequest, new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> AdaptedModel:
    found = adapt(new_base(), make_architecture(**request.param, encoder_znorm=ZNorm(pivot="en")), LANGUAGES)
    measure_moments(found, data, TrainerSettings())
    generator = torch.Generator().manual_seed(1)
    for views in found.owned().values():
        for view in views:
            view.copy_(torch.randn(view.shape, generator=generator) * 0.1)
    return found


def test_the_moments_are_the_base_s_over_the_training_part_without_padding(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, quickstart_store: TokenStore
) -> None:
    base = new_base()
    learner = adapt(base, make_architecture(encoder_znorm=ZNorm(pivot="en")), LANGUAGES)
    measure_moments(learner, data, TrainerSettings())
    plain, deviations, means = new_base(), {}, {}
    for language in LANGUAGES:
        tgt = next(one.tgt for one in data.directions if one.src == language)
        batch = batch_of(
            quickstart_store, plain, [Direction(language, tgt)], num_rows=len(quickstart_store.lengths(language))
        )
        with torch.no_grad():
            states = plain.model.model.encoder(batch.src_ids, attention_mask=batch.src_mask).last_hidden_state
        said = states[batch.src_mask > 0].double()
        means[language], deviations[language] = said.mean(dim=0), (said.var(dim=0, correction=0) + 1e-9).sqrt()
    layer = znorm_of(learner).layer
    for index, language in enumerate(LANGUAGES):
        gain = deviations["en"] / deviations[language]
        torch.testing.assert_close(layer.gain[index].double(), gain, atol=1e-4, rtol=1e-4)
        shift = means["en"] - means[language] * gain
        torch.testing.assert_close(layer.shift[index].double(), shift, atol=1e-4, rtol=1e-4)
    assert torch.equal(znorm_of(learner).layer.gain[0], torch.ones(32)), "the pivot's own states stay"


def test_what_is_merged_says_the_same(learner: AdaptedModel, quickstart_store: TokenStore, tiny_base: Base) -> None:
    for src, tgt in (("en", "fr"), ("fr", "de"), ("sw", "en")):
        batch = batch_of(quickstart_store, tiny_base, [Direction(src, tgt)], num_rows=4)
        expected = routed_logits(learner, batch)
        torch.testing.assert_close(logits(merge(learner, Direction(src, tgt)), batch), expected, atol=1e-4, rtol=1e-4)


def test_strength_zero_is_no_znorm_at_all(make_architecture: Architect) -> None:
    assert make_architecture(encoder_znorm=ZNorm(strength=0.0)) == make_architecture()
    assert make_architecture(encoder_znorm=ZNorm(strength=0.5)).fingerprint != make_architecture().fingerprint


def test_a_space_searches_how_far_states_are_moved(tmp_path: Any) -> None:
    space = load(tmp_path, SMALL, "architecture.encoder_znorm={strength: {float: [0, 1]}, pivot: en}")
    assert list(space.dimensions()) == ["encoder_znorm.strength"]
    found = space.architecture({"encoder_znorm.strength": 0.5}, TINY)
    assert found.encoder_znorm == ZNorm(strength=0.5, pivot="en")
    assert Architecture.from_json(found.to_json()) == found
    assert found.num_parameters(TINY) == load(tmp_path, SMALL).architecture({}, TINY).num_parameters(TINY)
    (problem,) = problems(tmp_path, SMALL, "architecture.encoder_znorm={pivot: fn}")
    assert "must be mean or one of the languages, but got 'fn'. Did you mean fr" in problem
