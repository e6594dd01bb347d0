"""What `langsearch check` shows of a space."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from rich.console import Console
from rich.table import Table

from langsearch.data.directions import class_pair
from langsearch.search.environment import CheckedSpace
from langsearch.search.task import summarize


def print_check(console: Console, checked: CheckedSpace) -> None:
    """Prints languages, directions, sentences, dimensions, parameters and one sample architecture."""
    space, shape = checked.space, checked.shape
    console.print(f"[bold]{space.name}[/]: the space is right. Nothing was started.")
    console.print(
        f"base        {space.base}: {shape.encoder_layers}+{shape.decoder_layers} layers, d {shape.d_model}, "
        f"{shape.num_parameters:,} parameters"
    )
    for name, languages in space.classes.items():
        console.print(f"class       {name}: {', '.join(languages)}", soft_wrap=True)
    pairs = {class_pair(direction, space.classes) for direction in checked.directions}
    console.print(f"directions  {len(checked.directions)} in {len(pairs)} class pairs")
    corpus = checked.corpus
    console.print(
        f"sentences   train {len(corpus.train):,} · validation {len(corpus.validation):,} · test {len(corpus.test):,}"
    )
    stand_in = " (a stand-in: not comparable with published spBLEU)" if checked.tokenizer.is_stand_in else ""
    console.print(f"spBLEU      tokenizer {checked.tokenizer.name}{stand_in}", soft_wrap=True)
    baselines = ", ".join(baseline.name for baseline in space.baselines) or "none"
    console.print(f"trials      {space.search.trials} searched by {space.search.sampler}, baselines: {baselines}")
    dimensions = space.dimensions()
    console.print(_dimensions_table(dimensions))
    low, high = parameter_range(checked)
    percent = [100 * count / shape.num_parameters for count in (low, high)]
    console.print(f"adapters    {low:,} to {high:,} parameters ({percent[0]:.2f} to {percent[1]:.2f} % of the base)")
    sample = space.architecture(_sample(dimensions), shape)
    console.print(
        f"a sample    {summarize(sample, space.classes)}: {sample.num_parameters(shape):,} parameters",
        soft_wrap=True,
        markup=False,
    )


def parameter_range(checked: CheckedSpace) -> tuple[int, int]:
    """Returns the fewest and the most adapter parameters of the space.

    The count grows with every rank, module and layer, so the two ends of those dimensions give the two ends of it;
    a window starts at its first layer to have room for its longest length. What has no such order is tried in full.
    """
    dimensions = checked.space.dimensions()
    unordered = {name: _choices(dimensions[name]) for name in ("sharing", "ffn_slice") if name in dimensions}
    counts = []
    for values in product(*unordered.values()):
        for end in (min, max):
            point = dict(zip(unordered, values, strict=True))
            for name, distribution in dimensions.items():
                pick = min if name.endswith("layers.start") else end
                point.setdefault(name, pick(_choices(distribution), key=_size))
            counts.append(checked.space.architecture(point, checked.shape).num_parameters(checked.shape))
    return min(counts), max(counts)


def _dimensions_table(dimensions: Mapping[str, BaseDistribution]) -> Table:
    table = Table(
        "dimension",
        "values",
        box=None,
        pad_edge=False,
        title=f"{len(dimensions)} dimensions",
        title_justify="left",
        title_style="bold",
    )
    for name, distribution in dimensions.items():
        table.add_row(name, _describe(distribution))
    return table


def _describe(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    low, high = distribution.low, distribution.high
    log = ", log" if distribution.log else ""
    return f"{low:g} to {high:g}{log}"


def _choices(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    return [distribution.low, distribution.high]


def _size(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _sample(dimensions: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    point: dict[str, Any] = study.ask(fixed_distributions=dict(dimensions)).params
    return point
