"""A pool's map finds which languages need the same, and its penalty keeps them from falling into one member."""

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.pool import PooledLoRALinear, PoolMap
from langsearch.adapters.routing import Routing

SEEDS = range(5)
D, NUM_LANGUAGES, NUM_STEPS = 16, 6, 500
GROUP_OF = [0, 1, 0, 1, 1, 0]
"""Which of two planted deltas each language needs."""

LANGUAGES = torch.arange(NUM_LANGUAGES).repeat_interleave(4)
"""Of the rows."""


class Task:
    """A frozen layer, a delta of rank 2 for each group, and a pool that is to find both."""

    def __init__(self, seed: int, size: int, group_of: list[int] = GROUP_OF) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        base = nn.Linear(D, D, bias=False).requires_grad_(False)
        base.weight = nn.Parameter(torch.randn(D, D, generator=self.generator) * D**-0.5, requires_grad=False)
        deltas = torch.randn(2, D, 2, generator=self.generator) @ torch.randn(2, 2, D, generator=self.generator) / D
        self.wanted = torch.stack([base.weight + 3 * deltas[group] for group in group_of])
        self.routing = Routing()
        members = {f"member {number}": 2 for number in range(size)}
        lora = LanguageLoRALinear(
            base,
            self.routing,
            "tgt",
            members,
            ["member 0"] * NUM_LANGUAGES,
            in_features=D,
            out_features=D,
            scales=dict.fromkeys(members, 1.0),
        )
        lora.reset("peft", {name: torch.Generator().manual_seed(seed + index) for index, name in enumerate(members)})
        self.map = PoolMap(NUM_LANGUAGES, size, self.generator, torch.device("cpu"))
        self.layer = PooledLoRALinear(lora, self.map)

    def error(self) -> Tensor:
        x = torch.randn(len(LANGUAGES), 16, D, generator=self.generator)
        with self.routing.languages(LANGUAGES, LANGUAGES):
            found = self.layer(x)
        error: Tensor = (found - torch.bmm(x, self.wanted[LANGUAGES].transpose(1, 2))).square().mean()
        return error

    def train(self, disparity: float = 0.0) -> None:
        """Trains with the schedule that `PooledLoRA` has: soft for 60 %, with hard steps between."""
        optimizer = torch.optim.Adam([value for value in self.layer.parameters() if value.requires_grad], lr=0.02)
        for step in range(NUM_STEPS):
            self.map.is_over.fill_(step >= 0.6 * NUM_STEPS)
            self.map.is_hard = bool(self.map.is_over) or step % 2 == 1
            loss = self.error()
            if disparity and not self.map.is_hard:
                loss = loss + disparity * self.map.shares().sum(dim=0).square().sum() / NUM_LANGUAGES
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()


@pytest.mark.parametrize("seed", SEEDS)
def test_languages_share_a_member_where_they_need_the_same_and_one_member_is_too_few(seed: int) -> None:
    pool, one = Task(seed, 2), Task(seed, 1)
    before = float(pool.error().detach())
    pool.train()
    one.train()
    assert float(pool.error().detach()) <= 0.05 * before
    assert float(one.error().detach()) >= 0.3 * before
    choices = pool.map.choices().tolist()
    assert [choice == choices[0] for choice in choices] == [group == GROUP_OF[0] for group in GROUP_OF]


@pytest.mark.parametrize("seed", SEEDS)
def test_disparity_keeps_languages_that_all_start_towards_one_member_from_staying_there(seed: int) -> None:
    """All need the same, so that the translations do not part them either."""
    largest = {}
    for disparity in (0.0, 0.2):
        task = Task(seed, 2, [0] * NUM_LANGUAGES)
        task.map.weight.data[:, 0] += 3 / 5  # of a parameter that is the logit over 5
        task.train(disparity)
        largest[disparity] = float(task.map.shares().detach().mean(dim=0).max())
    assert largest[0.0] >= 0.95
    assert largest[0.2] <= 0.7
