import pytest
import torch
from torch import Tensor

from langsearch.adapters.lowrank import rank_for_energy, singular_factors, truncate


@pytest.fixture
def factors() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 20, generator=generator), torch.randn(30, 6, generator=generator)


def test_singular_values_are_those_of_the_product(factors: tuple[Tensor, Tensor]) -> None:
    a, b = factors
    u, values, v = singular_factors(a, b)
    expected = torch.linalg.svdvals(b.double() @ a.double())[:6]
    assert torch.allclose(values, expected)
    assert torch.allclose(u * values @ v, b.double() @ a.double())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_truncated_product_is_the_nearest_of_its_rank(rank: int, factors: tuple[Tensor, Tensor]) -> None:
    a, b = factors
    small_a, small_b = truncate(a, b, rank)
    assert (small_a.shape, small_b.shape) == ((rank, 20), (30, rank))
    u, values, v = torch.linalg.svd(b @ a, full_matrices=False)
    assert torch.allclose(small_b @ small_a, u[:, :rank] * values[:rank] @ v[:rank], atol=1e-4)


def test_the_rank_is_the_least_that_keeps_the_energy() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0])  # squares 9, 4, 1 of 14
    assert [rank_for_energy(values, energy) for energy in (0.5, 0.64, 0.65, 0.92, 0.93, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert rank_for_energy(torch.zeros(3), 0.9) == 0


def test_full_energy_finds_the_true_rank_in_spite_of_rounding(factors: tuple[Tensor, Tensor]) -> None:
    a, b = factors
    wide_a, wide_b = torch.cat([a, a[:3] * 2 + a[3:]]), torch.cat([b, b[:, :3]], dim=1)
    assert rank_for_energy(singular_factors(wide_a, wide_b)[1], 1.0) == 6
