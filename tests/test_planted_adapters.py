"""Each kind of adapter does what it is for, on a task made for it, and loses where another one's task is.

The tasks and their controls are small linear ones whose solution is known; every claim holds over five seeds.
"""

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.bridge import BridgedNorm
from langsearch.adapters.factorized import FactorizedLinear
from langsearch.adapters.layer_norm import LanguageLayerNorm
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.routing import Routing

SEEDS = range(5)
LANGUAGES = ["aa", "bb"]
"""Both have an adapter of their own, and the planted target of each is another."""

NUM_ROWS, LENGTH = 8, 32
"""Rows, half of each language, and tokens of a row: more than any adapter has parameters to remember them by."""


def frozen(d: int, generator: torch.Generator) -> nn.Linear:
    linear = nn.Linear(d, d, bias=False)
    linear.weight = nn.Parameter(torch.randn(d, d, generator=generator) * d**-0.5, requires_grad=False)
    return linear


def error_left(
    build: Callable[[Routing], nn.Module], x: Tensor, target: Callable[[Tensor, int], Tensor], lr: float = 0.05
) -> float:
    """Fits a module by Adam; returns its squared error on fresh inputs over that of the module as it starts."""
    routing = Routing()
    module = build(routing)
    languages = torch.arange(NUM_ROWS) // (NUM_ROWS // 2)
    fresh = torch.randn(x.shape, generator=torch.Generator().manual_seed(99))

    def error(inputs: Tensor) -> Tensor:
        wanted = torch.cat([target(inputs[languages == index], index) for index in range(len(LANGUAGES))])
        with routing.languages(languages, languages):
            found: Tensor = (module(inputs) - wanted).square().mean()
        return found

    with torch.no_grad():
        before = float(error(fresh))
    trained: Iterable[nn.Parameter] = [value for value in module.parameters() if value.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    for _ in range(NUM_STEPS):
        optimizer.zero_grad()
        torch.autograd.backward(error(x))
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        return float(error(fresh)) / before


NUM_STEPS = 400


def lora(base: nn.Linear, rank: int, seed: int) -> Callable[[Routing], nn.Module]:
    def build(routing: Routing) -> nn.Module:
        d = base.in_features
        ranks = dict.fromkeys(LANGUAGES, rank)
        layer = LanguageLoRALinear(
            base, routing, "tgt", ranks, LANGUAGES, in_features=d, out_features=d, scales=dict.fromkeys(LANGUAGES, 1.0)
        )
        layer.reset("peft", {name: torch.Generator().manual_seed(seed + index) for index, name in enumerate(LANGUAGES)})
        return layer

    return build


def scales(base: nn.Linear) -> Callable[[Routing], nn.Module]:
    d = base.in_features
    return lambda routing: FactorizedLinear(
        base, routing, "tgt", LANGUAGES, LANGUAGES, in_features=d, out_features=d, pair=None
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_scales_find_a_scaled_matrix_that_lora_of_their_size_and_of_eight_times_it_misses(seed: int) -> None:
    d, generator = 32, torch.Generator().manual_seed(seed)
    base = frozen(d, generator)
    x = torch.randn(NUM_ROWS, LENGTH, d, generator=generator)
    gains = torch.randn(len(LANGUAGES), 2, d, generator=generator).mul(0.5).exp()  # log-normal

    def target(rows: Tensor, language: int) -> Tensor:
        return (rows * gains[language, 0]) @ base.weight.T * gains[language, 1]

    found = error_left(scales(base), x, target)
    assert found <= 0.05 * error_left(lora(base, 1, seed), x, target)
    assert found <= 0.1 * error_left(lora(base, 8, seed), x, target)


@pytest.mark.parametrize("seed", SEEDS)
def test_lora_finds_a_sum_of_rank_one_that_scales_miss(seed: int) -> None:
    d, generator = 32, torch.Generator().manual_seed(seed)
    base = frozen(d, generator)
    x = torch.randn(NUM_ROWS, LENGTH, d, generator=generator)
    pairs = torch.randn(len(LANGUAGES), 2, d, generator=generator) * d**-0.5

    def target(rows: Tensor, language: int) -> Tensor:
        added = (rows @ pairs[language, 0])[..., None] * pairs[language, 1] * 4
        found: Tensor = rows @ base.weight.T + added
        return found

    assert error_left(lora(base, 1, seed), x, target) <= 0.05
    assert error_left(scales(base), x, target) >= 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_language_s_layer_norm_finds_planted_scales_and_offsets_that_lora_of_its_size_misses(seed: int) -> None:
    d, generator = 32, torch.Generator().manual_seed(seed)
    x = torch.randn(NUM_ROWS, LENGTH, d, generator=generator)
    gains = torch.randn(len(LANGUAGES), d, generator=generator).mul(0.5).exp()
    offsets = torch.randn(len(LANGUAGES), d, generator=generator) * 0.5
    norm = nn.LayerNorm(d).requires_grad_(False)
    identity = nn.Linear(d, d, bias=False)
    identity.weight = nn.Parameter(torch.eye(d), requires_grad=False)

    def target(rows: Tensor, language: int) -> Tensor:
        found: Tensor = norm(rows) * gains[language] + offsets[language]
        return found

    def norm_and_lora(routing: Routing) -> nn.Module:
        return nn.Sequential(norm, lora(identity, 1, seed)(routing))

    own = error_left(lambda routing: LanguageLayerNorm(norm, routing, "tgt", LANGUAGES, LANGUAGES), x, target)
    assert own <= 0.01
    assert error_left(norm_and_lora, x, target) >= 0.5


@pytest.mark.parametrize("seed", SEEDS)
def test_a_full_bridge_finds_a_planted_rotation_that_one_of_rank_eight_misses(seed: int) -> None:
    d, generator = 24, torch.Generator().manual_seed(seed)
    x = torch.randn(NUM_ROWS, LENGTH, d, generator=generator)
    rotations = [torch.linalg.qr(torch.randn(d, d, generator=generator)).Q for _ in LANGUAGES]
    norm = nn.LayerNorm(d).requires_grad_(False)

    def target(rows: Tensor, language: int) -> Tensor:
        found: Tensor = norm(rows) @ rotations[language].T
        return found

    def bridge(rank: int | None) -> Callable[[Routing], nn.Module]:
        return lambda routing: BridgedNorm(
            norm, routing, LANGUAGES, LANGUAGES, d_model=d, rank=rank, seed=seed, device=x.device
        )

    assert error_left(bridge(None), x, target) <= 0.01
    assert error_left(bridge(8), x, target) >= 0.3
