from typing import Any

import pytest
import torch
from torch import nn

from langsearch.space.settings import TrainerSettings
from langsearch.train.optimizer import (
    _is_fused,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)


def new_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        "encoder.0.fc1.A": nn.Parameter(torch.randn(3, 4, generator=generator)),
        "encoder.0.fc1.B": nn.Parameter(torch.randn(4, generator=generator)),
        "never.used": nn.Parameter(torch.zeros(2)),
    }


def step(optimizer: torch.optim.Optimizer, parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name in ("encoder.0.fc1.A", "encoder.0.fc1.B"):
        parameters[name].grad = torch.randn(parameters[name].shape, generator=generator)
    optimizer.step()


@pytest.mark.parametrize(
    ("schedule", "warmup", "expected"),
    [
        ("inverse_sqrt", 1, {1: 1.0, 2: 0.5**0.5, 4: 0.5, 100: 0.1}),  # as published: warmup of 1 update
        ("inverse_sqrt", 4, {1: 0.25, 2: 0.5, 4: 1.0, 16: 0.5, 400: 0.1}),
        ("inverse_sqrt", 0, {1: 1.0, 4: 0.5}),
        ("constant", 1, {1: 1.0, 1000: 1.0}),
        ("constant", 10, {1: 0.1, 9: 0.9, 10: 1.0, 11: 1.0}),
    ],
)
def test_the_learning_rate_warms_up_and_falls(schedule: Any, warmup: int, expected: dict[int, float]) -> None:
    settings = TrainerSettings(lr=3e-3, schedule=schedule, warmup_updates=warmup)
    found = {update: learning_rate(update, settings) for update in expected}
    assert found == pytest.approx({update: 3e-3 * share for update, share in expected.items()})


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_the_optimizer_is_the_published_one(name: Any, kind: type[torch.optim.Optimizer]) -> None:
    optimizer = make_optimizer(new_parameters(), TrainerSettings(optimizer=name, weight_decay=0.03, lr=0.5))
    (group,) = optimizer.param_groups
    assert type(optimizer) is kind
    assert (group["betas"], group["eps"], group["weight_decay"], group["lr"]) == ((0.9, 0.98), 1e-8, 0.03, 0.5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_an_optimizers_state_goes_into_another(name: Any) -> None:
    settings = TrainerSettings(optimizer=name, lr=0.1, weight_decay=0.1)
    parameters = new_parameters()
    optimizer = make_optimizer(parameters, settings)
    assert optimizer_state(optimizer, parameters) == {}
    step(optimizer, parameters, 1)
    state = {key: value.clone() for key, value in optimizer_state(optimizer, parameters).items()}
    assert set(state) == {
        f"encoder.0.fc1.{matrix}/{key}" for matrix in "AB" for key in ("step", "exp_avg", "exp_avg_sq")
    }
    others = {key: nn.Parameter(value.detach().clone()) for key, value in parameters.items()}
    other = make_optimizer(others, settings)
    load_optimizer_state(other, others, state)
    for seed in (2, 3):
        step(optimizer, parameters, seed)
        step(other, others, seed)
    assert all(torch.equal(parameters[key], others[key]) for key in parameters)
    assert float(state["encoder.0.fc1.A/step"]) == 1, "what was given is not changed by later steps"


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize(("before", "after"), [(False, True), (True, False), (True, True)])
def test_a_fused_optimizer_goes_on_where_another_stopped(
    name: Any, before: bool, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainerSettings(optimizer=name, lr=0.1, weight_decay=0.1)

    def made(is_fused: bool) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
        monkeypatch.setattr("langsearch.train.optimizer._is_fused", lambda _: is_fused)
        parameters = new_parameters()
        return parameters, make_optimizer(parameters, settings)

    plain, plain_optimizer = made(is_fused=False)
    parameters, optimizer = made(before)
    for seed in (1, 2):
        step(plain_optimizer, plain, seed)
        step(optimizer, parameters, seed)
    state = {key: value.clone() for key, value in optimizer_state(optimizer, parameters).items()}
    resumed, optimizer = made(after)
    for key, parameter in resumed.items():
        parameter.data.copy_(parameters[key].data)
    load_optimizer_state(optimizer, resumed, state)
    step(plain_optimizer, plain, 3)
    step(optimizer, resumed, 3)
    assert bool(optimizer.defaults["fused"]) == after
    for key, parameter in plain.items():
        torch.testing.assert_close(resumed[key].data, parameter.data, atol=1e-6, rtol=1e-6)


def test_an_optimizer_is_fused_on_a_gpu_alone() -> None:
    assert not make_optimizer(new_parameters(), TrainerSettings()).defaults["fused"]
    assert _is_fused({"cuda"}) and not _is_fused({"cpu"}) and not _is_fused({"cuda", "cpu"})
