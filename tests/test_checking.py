import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console

from langsearch.search.checking import parameter_range, print_check
from langsearch.search.environment import check_space
from langsearch.space.schema import load_space

pytest_plugins = ["search_fixtures"]

SHIPPED = Path(__file__).parents[1] / "search_spaces"
SEARCHED_SHARING = ["architecture.rank={choice: [2, 4]}", "architecture.sharing={choice: [language, class, all]}"]
SEARCHED_SLICE = ["architecture.ffn_slice={choice: [none, 64, 256]}"]
SEARCHED_LAYERS = [
    "architecture.encoder={layers: {last: {int: [0, 3]}}, modules: {subset: [q_proj, fc1]}}",
    "architecture.decoder={layers: {window: [0, 3]}, modules: [fc2]}",
]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        (None, []),
        (None, SEARCHED_SHARING),
        (None, SEARCHED_SLICE),
        (None, SEARCHED_LAYERS),
        ("quickstart", []),
    ],
    ids=["tiny", "sharing", "ffn_slice", "layers", "quickstart"],
)
def test_the_parameter_range_contains_every_point_and_is_reached(
    name: str | None, overrides: list[str], space_file: Path
) -> None:
    checked = check_space(load_space(SHIPPED / f"{name}.yaml" if name else space_file, overrides))
    space, shape = checked.space, checked.shape
    low, high = parameter_range(checked)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    dimensions = space.dimensions()

    def count(point: dict[str, Any]) -> int:
        return space.architecture(point, shape).num_parameters(shape)

    counts = [count(study.ask(fixed_distributions=dimensions).params) for _ in range(200)]
    assert low <= min(counts) <= max(counts) <= high
    if name is None:  # few enough points for 200 of them to meet both ends
        assert (low, high) == (min(counts), max(counts))


def test_both_ends_of_the_range_are_those_of_single_points(space_file: Path) -> None:
    checked = check_space(load_space(SHIPPED / "quickstart.yaml"))
    for end, pick in zip(parameter_range(checked), (min, max), strict=True):
        point: dict[str, Any] = {}
        for name, distribution in checked.space.dimensions().items():
            choices = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
            point[name] = min(choices) if name.endswith("layers.start") else pick(choices)
        assert checked.space.architecture(point, checked.shape).num_parameters(checked.shape) == end


def test_check_shows_what_a_search_would_do(space_file: Path) -> None:
    stream = io.StringIO()
    print_check(Console(file=stream, width=200), check_space(load_space(space_file)))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[:-1] == [
        "tiny: the space is right. Nothing was started.",
        "base        tiny-m2m: 3+3 layers, d 128, 2,427,264 parameters",
        "class       high: en, fr",
        "class       low: sw",
        "directions  6 in 3 class pairs",
        "sentences   train 364 · validation 52 · test 104",
        "spBLEU      tokenizer spm:base (a stand-in: not comparable with published spBLEU)",
        "trials      3 searched by random, baselines: pretrained, full_finetuning, shared_lora, published",
        "3 dimensions",
        "dimension   values",
        "rank.high   0, 2",
        "rank.low    2, 4",
        "trainer.lr  0.001 to 0.01, log",
        # 3 layers of 3 projections 128 + 128 and one 128 + 512; ranks 0 + 0 + 2 and 2 + 2 + 4.
        "adapters    8,448 to 33,792 parameters (0.35 to 1.39 % of the base)",
    ]
    assert lines[-1].startswith("a sample    rank ")


def test_check_of_a_space_without_searched_values_shows_one_size(space_file: Path) -> None:
    stream = io.StringIO()
    fixed = ["architecture.rank=2", "trainer.lr=0.001"]
    print_check(Console(file=stream, width=200), check_space(load_space(space_file, fixed)))
    assert "0 dimensions" in stream.getvalue()
    assert "adapters    25,344 to 25,344 parameters" in stream.getvalue()
