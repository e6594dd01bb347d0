"""Gates open where a language needs its own pair and nowhere else, and are binary by the end: over five seeds."""

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.gated import GatedLoRALinear, GateLog
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.routing import Routing, TokenWeights
from langsearch.space.architecture import Gate

SEEDS = range(5)
LANGUAGES = ["aa", "bb"]
D, NUM_ROWS, LENGTH, NUM_STEPS = 16, 8, 24, 1500
OF_ROWS = torch.arange(NUM_ROWS) // (NUM_ROWS // 2)
"""The language of each row."""


class Task:
    """Language aa needs a delta of rank 2 on tokens whose first feature is 1, or on all; bb needs nothing."""

    def __init__(self, seed: int, gate: Gate, *, on_all: bool = False) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        base = nn.Linear(D, D, bias=False)
        base.weight = nn.Parameter(torch.randn(D, D, generator=self.generator) * D**-0.5, requires_grad=False)
        left, right = torch.randn(D, 2, generator=self.generator), torch.randn(2, D, generator=self.generator)
        # Worth more than what the budget charges: one of a third of it is left alone without a hidden layer.
        self.delta = 3 * left @ right / D
        self.on_all = on_all
        self.routing, self.log = Routing(), GateLog(gate)
        ranks, ones = dict.fromkeys(LANGUAGES, 2), dict.fromkeys(LANGUAGES, 1.0)
        pair = LanguageLoRALinear(
            base, self.routing, "tgt", ranks, LANGUAGES, in_features=D, out_features=D, scales=ones
        )
        generators = {name: torch.Generator().manual_seed(seed + index) for index, name in enumerate(LANGUAGES)}
        pair.reset("peft", generators)
        self.layer = GatedLoRALinear(pair, LANGUAGES, "tgt", self.log, generators)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Returns inputs (rows, len, d) and which tokens of aa need the delta, (rows, len)."""
        x = torch.randn(NUM_ROWS, LENGTH, D, generator=self.generator)
        x[..., 0] = (torch.rand(NUM_ROWS, LENGTH, generator=self.generator) < 0.5).float()
        needs = torch.ones_like(x[..., 0]) if self.on_all else x[..., 0]
        return x, needs * (OF_ROWS == 0)[:, None]

    def error(self) -> Tensor:
        x, needs = self.draw()
        wanted = x @ self.layer.base.weight.T + needs[..., None] * (x @ self.delta.T)
        labels = torch.zeros(NUM_ROWS, LENGTH, dtype=torch.long)
        with self.routing.languages(OF_ROWS, OF_ROWS, weights=TokenWeights(None, labels)):
            error: Tensor = (self.layer(x) - wanted).square().mean()
        return error

    def train(self) -> None:
        torch.manual_seed(0)
        self.layer.train()
        optimizer = torch.optim.Adam([value for value in self.layer.parameters() if value.requires_grad], lr=0.02)
        for step in range(NUM_STEPS):
            self.log.noise = self.log.gate.noise * step / NUM_STEPS
            self.log.clear()
            loss = self.error()
            penalty = self.log.over_budget()
            assert penalty is not None
            optimizer.zero_grad()
            torch.autograd.backward(loss + penalty)
            optimizer.step()

    @torch.no_grad()
    def losses(self) -> tuple[float, float]:
        """Returns the loss with soft gates and no noise, and with hard ones."""
        self.log.noise = 0.0
        self.layer.train()
        soft = sum(self.error().item() for _ in range(10))
        self.layer.eval()
        return soft / 10, sum(self.error().item() for _ in range(10)) / 10

    @torch.no_grad()
    def opened(self) -> tuple[float, float, float]:
        """Returns the share of hard gates that are open on aa's tokens in need, on its others, and on bb's."""
        x, _ = self.draw()
        with self.routing.languages(OF_ROWS, OF_ROWS):
            is_open = (self.layer.gates(x) >= 0).float()
        flagged = x[..., 0] > 0
        aa = (OF_ROWS == 0)[:, None].expand_as(flagged)
        return tuple(float(is_open[where].mean()) for where in (aa & flagged, aa & ~flagged, ~aa))  # type: ignore[return-value]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("hidden", [0, 8])
def test_gates_open_on_the_tokens_that_need_them_alone(hidden: int, seed: int) -> None:
    task = Task(seed, Gate(hidden=hidden, budget=0.25, skip=0.0))
    task.train()
    needed, idle, other = task.opened()
    assert needed >= 0.9
    assert idle <= 0.1
    assert other <= 0.1
    soft, hard = task.losses()
    assert hard <= 2 * soft + 1e-5


@pytest.mark.parametrize("seed", SEEDS)
def test_without_noise_gates_stay_half_open_and_lose_when_they_are_made_binary(seed: int) -> None:
    task = Task(seed, Gate(budget=0.25, skip=0.0, noise=0.0))
    task.train()
    soft, hard = task.losses()
    assert hard >= 20 * soft


@pytest.mark.parametrize("seed", SEEDS)
def test_a_language_that_needs_its_pair_on_every_token_has_it_there(seed: int) -> None:
    task = Task(seed, Gate(budget=0.5, skip=0.0), on_all=True)
    task.train()
    needed, also, other = task.opened()
    assert min(needed, also) >= 0.95
    assert other <= 0.05


def test_padding_and_languages_without_a_gate_never_count_in_the_mean() -> None:
    task = Task(0, Gate(budget=0.0, skip=0.0))
    task.layer.train()
    x, _ = task.draw()
    task.layer.c.data[:] = torch.tensor([[20.0], [-20.0]])  # aa is open everywhere, bb nowhere
    labels = torch.full((NUM_ROWS, LENGTH), -100)
    labels[OF_ROWS == 0, :3] = 1
    with task.routing.languages(OF_ROWS, OF_ROWS, weights=TokenWeights(None, labels)):
        task.layer(x)
    found = task.log.over_budget()
    assert found is not None and found.item() == pytest.approx(1.0)
    labels[OF_ROWS == 1, :9] = 1
    with task.routing.languages(OF_ROWS, OF_ROWS, weights=TokenWeights(None, labels)):
        task.layer(x)
    found = task.log.over_budget()
    assert found is not None and found.item() == pytest.approx(0.25)
    assert task.log.over_budget() is None
