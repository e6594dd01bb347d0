"""The section `baselines`: options, starts, and how a baseline is tuned."""

from pathlib import Path

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from langsearch.space.baseline_settings import Baseline
from langsearch.space.settings import TrainerSettings
from tests.space_fixtures import SMALL, TINY, load


def test_a_baseline_is_tuned_over_rates_around_its_own_or_over_the_values_that_it_says(tmp_path: Path) -> None:
    text = (
        SMALL
        + """\
baselines:
- full_finetuning: {tune: 6}
- shared_lora: {lr: 0.002, tune: {trials: 4, epochs: {int: [2, 4]}}}
- published: {tune: {trials: 9, lr: {choice: [0.01, 0.001]}, epochs: {choice: [3, 5]}}}
"""
    )
    space = load(tmp_path, text)
    rates = space.baseline_dimensions("full_finetuning")["trainer.lr"]
    assert isinstance(rates, FloatDistribution)
    assert (rates.low, rates.high, rates.log) == (pytest.approx(3e-5), pytest.approx(3e-3), True)
    shared = space.baseline_dimensions("shared_lora")
    assert list(shared) == ["trainer.lr", "trainer.epochs"]
    assert shared["trainer.lr"] == FloatDistribution(2e-4, 2e-2, log=True)
    assert space.baseline_dimensions("published")["trainer.lr"] == CategoricalDistribution((0.01, 0.001))
    # Of four different points there are no more tries.
    assert [space.num_tries(baseline.name) for baseline in space.baselines] == [6, 4, 4]
    tried = space.baseline_trainer("published", {"trainer.lr": 0.01, "trainer.epochs": 5})
    assert (tried.lr, tried.epochs) == (0.01, 5)
    assert load(tmp_path, space.text).baselines == space.baselines
    assert load(tmp_path).num_tries("shared_lora") == 0


def test_baselines_take_options(tmp_path: Path) -> None:
    text = SMALL + "baselines: [{shared_lora: {rank: 16, lr: 0.01}}, {published: {pruning: true}}, full_finetuning]\n"
    space = load(tmp_path, text, "trainer.lr={float: [1e-4, 1e-2]}", "trainer.clip_norm=1")
    assert space.baselines == (
        Baseline(name="shared_lora", trainer=(("lr", 0.01),), rank=16),
        Baseline(name="published", is_pruned=True),
        Baseline(name="full_finetuning"),
    )
    assert space.baseline_trainer("shared_lora") == TrainerSettings(lr=0.01, clip_norm=1)
    assert space.baseline_trainer("published") == TrainerSettings(clip_norm=1)
    assert space.baseline_trainer("full_finetuning") == TrainerSettings(lr=3e-4, clip_norm=1)
    with pytest.raises(ValueError, match=r"must be one of .*, but got 'pretrained'"):
        space.baseline_trainer("pretrained")


@pytest.mark.parametrize(
    ("start", "options", "init"),
    [
        ("published", "", "published"),
        ("peft", "", "peft"),
        ("{choice: [peft, published]}", "", "published"),
        ("published", ": {init: peft}", "peft"),
        ("peft", ": {init: published, rank: 2}", "published"),
    ],
)
def test_a_shared_lora_starts_as_the_adapters_of_its_space_unless_it_says_otherwise(
    start: str, options: str, init: str, tmp_path: Path
) -> None:
    text = (
        SMALL.replace("rank: 4", f"rank: 4\n  init: {start}") + f"baselines: [pretrained, {{shared_lora{options}}}]\n"
    )
    if not options:
        text = text.replace("{shared_lora}", "shared_lora")
    space = load(tmp_path, text)
    architecture = space.baseline_architecture("shared_lora", TINY)
    assert architecture is not None
    assert architecture.init == init
    assert load(tmp_path, space.text).baselines == space.baselines
