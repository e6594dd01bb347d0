from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.prepared import PreparedLinear
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from tests.adapter_cases import CASES

LANGUAGES = ("en", "fr", "de", "sw")
JOINT = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.v_proj", "self_attn.out_proj"),
    ("self_attn.out_proj",),
    ("fc1",),
    ("fc2",),
)


@pytest.mark.parametrize("kind", ["lora", "mixed_sides", "shared_lora", "pool", "gated", "factorized"])
@pytest.mark.parametrize("fields", [{}, {"scaling": "alpha/r", "alpha": 3.0, "ffn_slice": 40}])
@pytest.mark.parametrize("paths", JOINT)
def test_prepared_layers_say_what_each_says_by_itself(
    kind: str,
    fields: dict[str, Any],
    paths: tuple[str, ...],
    tiny_base: Base,
    make_architecture: Callable[..., Architecture],
) -> None:
    build, own = CASES[kind]
    learner = AdaptedModel(tiny_base, build(tiny_base, make_architecture(**(fields | own)), LANGUAGES, 0))
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    layers = [tiny_base.model.get_submodule(f"model.encoder.layers.1.{path}") for path in paths]
    prepared = PreparedLinear(layers)
    with torch.inference_mode():
        for src, tgt in ([0, 1, 2, 3, 3], [1, 0, 0, 0, 2]), ([2, 2], [0, 3]):  # prepared anew for other rows
            x = torch.randn(len(src), 4, 64 if paths == ("fc2",) else 32, generator=generator)
            with learner.route(torch.tensor(src), torch.tensor(tgt)):
                prepared.route(len(src))
                expected = torch.cat([layer(x) for layer in layers], dim=-1)
            close(prepared(x), expected)
            source_of = torch.tensor([0, 0, 1, 1, 0])[: len(src)]
            with learner.route(torch.tensor(src), torch.tensor(tgt)):
                expected = torch.cat([layer(x[source_of]) for layer in layers], dim=-1)
            close(prepared(x[:2], source_of), expected)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), atol=1e-5, rtol=0)


def test_a_single_plain_layer_is_not_copied() -> None:
    layer = nn.Linear(3, 2)
    assert PreparedLinear([layer])._weight is layer.weight
