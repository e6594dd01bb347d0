"""Products of two thin matrices, B A, as few directions as one wants.

Shapes: A (rank, in), B (out, rank). All is computed in float64, and returned in the type of B.
"""

import torch
from torch import Tensor


def singular_factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns U (out, k), the singular values (k,) descending, and V (k, in) of B A, without making the product.

    k is the least of rank, in and out.
    """
    q_out, r_out = torch.linalg.qr(b.double())
    q_in, r_in = torch.linalg.qr(a.double().T)
    u, values, v = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return q_out @ u, values, v @ q_in.T


def truncate(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Returns (A, B) of a smaller rank whose product is nearest to B A (Eckart and Young 1936).

    Each singular value is split evenly between the two.
    """
    u, values, v = singular_factors(a, b)
    roots = values[:rank].sqrt()
    return (roots[:, None] * v[:rank]).to(b.dtype), (u[:, :rank] * roots).to(b.dtype)


def rank_for_energy(values: Tensor, energy: float) -> int:
    """Returns the least rank that keeps a share of the squared Frobenius norm.

    Args:
        values: The singular values, descending, (k,).
        energy: The share, in (0, 1]. 1 keeps all but what is rounding.
    """
    squares = values.double().square()
    if not squares.sum() > 0:
        return 0
    # The tolerance, a millionth of the norm, is what float32 factors are exact to.
    enough = squares.cumsum(0) >= energy * squares.sum() * (1 - 1e-12)
    return int(enough.int().argmax()) + 1
