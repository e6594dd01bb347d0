from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, IntDistribution
from ruamel.yaml import YAML

from langsearch.adapters.mixed_sides import SideWeights
from langsearch.experiment.environment import CheckedSpace
from langsearch.prior.learning import STACKS
from langsearch.prior.narrowing import (
    demand_of_dimensions,
    narrowed,
    narrowed_space,
    nearest_rank,
    nearest_sides,
)
from langsearch.prior.sides import LearnedSides
from langsearch.prior.subspace import Demand, Kept
from langsearch.space.rules import possible_sites
from langsearch.space.schema import Space, load_space

pytest_plugins = ["search_fixtures"]

Loader = Callable[..., Space]
RANKS = "architecture.rank={high: {choice: [0, 2, 4, 8, 16]}, low: {int: [1, 64], log: true}}"


@pytest.fixture
def load(tmp_path: Path, tiny_space: str) -> Loader:
    """Loads the tiny space with settings."""

    def make(*overrides: str) -> Space:
        path = tmp_path / "tiny.yaml"
        path.write_text(tiny_space, encoding="utf-8")
        return load_space(path, overrides)

    return make


def make_demand(space: Space, checked: CheckedSpace, kept: Mapping[str, float], rank: int = 8) -> Demand:
    """Makes the demand of languages that keep a share of their entries, in the decoder half as much again."""
    cells = [
        Kept(
            language=language,
            stack=stack,
            layer=site.layer,
            module=site.module,
            side="src",
            rank=rank,
            stored=1000,
            kept=round(1000 * share * (1.5 if stack == "decoder" else 1.0)),
        )
        for stack in STACKS
        for site in possible_sites(space.architecture_section, stack, checked.shape.num_layers(stack))
        for language, share in kept.items()
    ]
    return Demand(tuple(cells))


def make_sides(shares: Mapping[str, float]) -> LearnedSides:
    weights = {name: SideWeights(share, 1 - share) for name, share in shares.items()}
    return LearnedSides(by="layer", steps=1, rank=1, weights=weights)


def test_the_demanded_rank_is_the_equal_rank_shared_out_anew(checked: CheckedSpace, load: Loader) -> None:
    space = load(RANKS)
    demand = make_demand(space, checked, {"en": 0.02, "fr": 0.04, "sw": 0.12})
    assert demand.language_ranks() == pytest.approx({"en": 8 / 3, "fr": 16 / 3, "sw": 16})
    assert demand_of_dimensions(space, checked.shape, demand) == pytest.approx({"rank.high": 4, "rank.low": 16})


def test_a_stack_of_its_own_has_a_demand_of_its_own(checked: CheckedSpace, load: Loader) -> None:
    space = load(RANKS, "architecture.decoder.rank={low: {choice: [4, 8, 16, 32]}}")
    demand = make_demand(space, checked, {"en": 0.02, "fr": 0.04, "sw": 0.12})
    found = demand_of_dimensions(space, checked.shape, demand)
    assert found["decoder.rank.low"] == pytest.approx(1.5 * found["rank.low"])


@pytest.mark.parametrize(
    ("distribution", "wanted", "expected"),
    [
        (CategoricalDistribution([0, 2, 4, 8, 16]), 4.0, CategoricalDistribution([2, 4, 8])),
        (CategoricalDistribution([0, 2, 4, 8, 16]), 0.4, CategoricalDistribution([0, 2])),
        (CategoricalDistribution([16, 2, 8, 4]), 100.0, CategoricalDistribution([8, 16])),
        (CategoricalDistribution([2, 64]), 8.0, CategoricalDistribution([2, 64])),
        (IntDistribution(1, 64, log=True), 10.0, IntDistribution(5, 20, log=True)),
        (IntDistribution(0, 64, step=16), 30.0, IntDistribution(16, 48, step=16)),
        (IntDistribution(8, 16), 100.0, IntDistribution(15, 16)),
    ],
)
def test_a_narrowed_range_lies_around_the_demand(distribution: Any, wanted: float, expected: Any) -> None:
    assert narrowed(distribution, wanted, 2.0) == expected


@pytest.mark.parametrize(("wanted", "expected"), [(0.2, 0), (3.0, 4), (2.7, 2), (5.0, 4), (6.0, 8), (900.0, 16)])
def test_the_nearest_rank_is_nearest_by_ratio(wanted: float, expected: int) -> None:
    assert nearest_rank(CategoricalDistribution([0, 2, 4, 8, 16]), wanted) == expected


def ranks_of(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)["architecture"]["rank"]


def test_a_narrowed_space_has_ranks_around_the_demand_and_all_else_as_it_was(
    checked: CheckedSpace, load: Loader, tmp_path: Path
) -> None:
    space = load(RANKS, "prior.subspace.epochs=3")
    text = narrowed_space(space, checked.shape, make_demand(space, checked, {"en": 0.04, "fr": 0.05, "sw": 0.12}))
    assert ranks_of(text) == {"high": {"choice": [4, 8]}, "low": {"int": [7, 27], "log": True}}
    path = tmp_path / "narrowed.yaml"
    path.write_text(text, encoding="utf-8")
    found = load_space(path)
    assert found.name == "tiny-narrowed" and found.prior.subspace is None
    before, after = (YAML(typ="safe", pure=True).load(part) for part in (space.text, found.text))
    for data in (before, after):
        del data["name"], data["architecture"]["rank"]
    del before["prior"]
    assert after == before


def test_a_language_far_from_its_class_gets_ranks_of_its_own(checked: CheckedSpace, load: Loader) -> None:
    space = load("architecture.rank={choice: [0, 2, 4, 8, 16, 32]}")
    text = narrowed_space(space, checked.shape, make_demand(space, checked, {"en": 0.01, "fr": 0.08, "sw": 0.08}))
    assert ranks_of(text) == {
        "high": {"choice": [0, 2]},
        "low": {"choice": [8, 16]},
        "languages": {"fr": {"choice": [8, 16]}},
    }
    shared = load("architecture.rank={choice: [0, 2, 4, 8, 16, 32]}", "architecture.sharing=all")
    text = narrowed_space(shared, checked.shape, make_demand(space, checked, {"en": 0.01, "fr": 0.08, "sw": 0.08}))
    assert ranks_of(text) == {"choice": [4, 8, 16]}, "languages that share an adapter cannot differ"


def test_fixed_ranks_become_choices_where_no_rank_is_searched(checked: CheckedSpace, load: Loader) -> None:
    space = load("architecture.rank={high: 0, low: 8}")
    text = narrowed_space(space, checked.shape, make_demand(space, checked, {"en": 0.02, "fr": 0.02, "sw": 0.02}))
    assert ranks_of(text) == {"high": 0, "low": {"choice": [4, 8, 16]}}
    space = load("architecture.rank={high: 4, low: {choice: [2, 8, 32]}}")
    text = narrowed_space(space, checked.shape, make_demand(space, checked, {"en": 0.02, "fr": 0.02, "sw": 0.02}))
    assert ranks_of(text)["high"] == 4, "what the space fixes beside searched ranks stays"


SHARES = {
    "encoder.0": 0.9,
    "encoder.1": 0.6,
    "encoder.2": 0.1,
    "decoder.0": 0.2,
    "decoder.1": 0.8,
    "decoder.2": 0.3,
}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("encoder.source_layers={int: [0, 3]}",), {"encoder.source_layers": 2}),
        (("encoder.source_layers={choice: [0, all]}",), {"encoder.source_layers": None}),
        (("encoder.source_layers={choice: [1, 3]}",), {"encoder.source_layers": 1}),
        (("decoder.source_layers={int: [0, 3]}",), {"decoder.source_layers": 0}),
        (("encoder.sides={choice: [src, tgt]}",), {}),  # 0.53 over its layers
        (("encoder.sides=[{choice: [tgt, src]}, {choice: [tgt, src]}, tgt]",), {"encoder.sides.0": "src"}),
        (
            ("decoder.sides=[{choice: [tgt, src]}, {choice: [tgt, src]}, tgt]",),
            {"decoder.sides.0": "tgt", "decoder.sides.1": "src"},
        ),
        (
            ("decoder.overrides=[{layers: [1], side: {choice: [src, tgt]}}]",),
            {"decoder.overrides.0.side": "src"},
        ),
    ],
)
def test_the_nearest_sides_agree_most_with_the_learned_ones(
    settings: tuple[str, ...], expected: dict[str, Any], checked: CheckedSpace, load: Loader
) -> None:
    space = load(*(f"architecture.{setting}" for setting in settings))
    assert nearest_sides(space, checked.shape, make_sides(SHARES)) == expected


@pytest.mark.parametrize("setting", ["source_layers={int: [0, 3]}", "sides={choice: [src, tgt]}"])
def test_what_is_not_sure_is_left_to_the_search(setting: str, checked: CheckedSpace, load: Loader) -> None:
    space = load(f"architecture.encoder.{setting}")
    learned = make_sides({"encoder.0": 0.7, "encoder.1": 0.6, "encoder.2": 0.3})
    assert nearest_sides(space, checked.shape, learned) == {}
    assert nearest_sides(space, checked.shape, make_sides(dict.fromkeys(learned.weights, 0.8))) != {}
