"""The page on GPUs: its space, and the numbers that it computes."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.adapters import lora_linear
from langsearch.model.device import Resident
from langsearch.space.architecture import BaseShape
from langsearch.space.baseline_settings import Baseline
from langsearch.space.build import baseline_architecture
from langsearch.space.schema import load_space
from langsearch.space.settings import TrainerSettings
from langsearch.train.need import training_need
from tests.benchmarks.step_variants import Size, adapted_model, random_base

PAGE = (Path(__file__).parents[1] / "cluster" / "gpu.md").read_text(encoding="utf-8")

SHAPES = {
    "M2M-100 418M": (1024, 12, 4096, 128_112),
    "NLLB-200 600M": (1024, 12, 4096, 256_206),
    "NLLB-200 1.3B": (1024, 24, 8192, 256_206),
    "NLLB-200 3.3B": (2048, 24, 8192, 256_206),
}
"""Width, layers of a stack, feed-forward width and vocabulary of the published config.json."""


def base_shape(name: str) -> BaseShape:
    """A base's sizes; its parameters are counted without memory."""
    width, layers, ffn, vocab = SHAPES[name]
    config = M2M100Config(
        vocab_size=vocab,
        d_model=width,
        encoder_layers=layers,
        decoder_layers=layers,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
    )
    with torch.device("meta"):
        num_parameters = M2M100ForConditionalGeneration(config).num_parameters()
    return BaseShape(
        encoder_layers=layers,
        decoder_layers=layers,
        d_model=width,
        encoder_ffn_dim=ffn,
        decoder_ffn_dim=ffn,
        num_parameters=num_parameters,
    )


def activations(width: int, layers: int, ffn: int, tokens: int) -> int:
    """The page's formula, in bytes."""
    return layers * tokens * (50 * width + 4 * ffn)


def test_the_space_is_one_and_fits_the_bases_that_it_names(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "nllb.yaml").write_text(text, encoding="utf-8")
    space = load_space(tmp_path / "nllb.yaml")
    assert space.base == "facebook/nllb-200-distilled-600M"
    assert (space.resources.gpu, space.resources.trials_per_gpu) == (1.0, 1)
    for name in SHAPES:
        assert space.check(base_shape(name)) == []


@pytest.mark.parametrize("name", SHAPES)
def test_memory_is_as_computed(name: str) -> None:
    shape = base_shape(name)
    num = shape.num_parameters
    one = baseline_architecture(Baseline(name="shared_lora", rank=8), {"all": ("en", "fr")}, shape)
    assert one is not None
    trainer = TrainerSettings()
    weights, adapters = 2 * num, 16 * 12 * one.num_parameters(shape)
    assert trainer.tokens_per_batch is not None
    tokens = trainer.tokens_per_batch // trainer.accumulation
    working = activations(shape.d_model, shape.encoder_layers, shape.encoder_ffn_dim, tokens)
    expected = (
        f"{num:,}",
        *(f"{value / 1e9:.2f}" for value in (weights, adapters)),
        *(f"{value / 1e9:.1f}" for value in (working, weights + adapters + working, 22 * num)),
    )
    (row,) = re.findall(rf"^\| {name} \| (.*) \|$", PAGE, flags=re.MULTILINE)
    assert tuple(row.split(" | ")) == expected


_ROWS, _LENGTH = 4, 40


def kept(width: int, layers: int, ffn: int, num_languages: int) -> int:
    """Bytes that a forward pass keeps for the backward pass, of four rows of 40 tokens a side."""
    base = random_base(Size(width, layers, ffn, 16, 300), Resident(torch.device("cpu"), torch.float32))
    base.model.to(torch.bfloat16)  # fused attention stays, as on a GPU
    learner = adapted_model(base, num_languages)
    learner.model.train()
    values = [*learner.model.parameters(), *learner.model.buffers()]
    own = {value.untyped_storage().data_ptr() for value in values}
    found: dict[int, Tensor] = {}

    def note(saved: Tensor) -> Tensor:
        if saved.untyped_storage().data_ptr() not in own:
            found[saved.untyped_storage().data_ptr()] = saved
        return saved

    batch = torch.randint(4, 300, (_ROWS, _LENGTH))
    languages = torch.randint(num_languages, (_ROWS,))
    model: Any = learner.model.model
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved), learner.route(languages, languages):
        states = model(input_ids=batch, decoder_input_ids=batch, use_cache=False)
        size = sum(saved.untyped_storage().nbytes() for saved in found.values())
    del states
    return size


@pytest.mark.parametrize("ffn", [1024, 2048])
def test_the_formula_of_activations_counts_what_the_backward_pass_needs(ffn: int) -> None:
    """Without dropout, whose masks are the rest: 5 d bytes on a GPU, where one takes a byte."""
    width, tokens = 256, _ROWS * _LENGTH
    without_dropout = activations(width, 2, ffn, tokens) - 2 * tokens * 5 * width
    assert kept(width, 3, ffn, 12) - kept(width, 1, ffn, 12) == pytest.approx(without_dropout, rel=0.1)


def test_the_estimate_has_room_for_what_all_slots_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight languages of rank 8 are a quarter of the width: more is never multiplied at once."""
    width, ffn, num_layers = 256, 1024, 2
    copies = kept(width, num_layers, ffn, 8)
    monkeypatch.setattr(lora_linear, "_wants_few_launches", lambda _: True)
    more = kept(width, num_layers, ffn, 8) - copies
    base = random_base(Size(width, num_layers, ffn, 16, 300), Resident(torch.device("cpu"), torch.float32))
    num_trained = sum(value.numel() for value in adapted_model(base, 8).parameters().values())
    options: dict[str, Any] = {"config": base.model.config, "num_parameters": 0, "num_trained": num_trained}
    options |= {"tokens": _ROWS * _LENGTH, "longest": _LENGTH, "dropout": 0.0, "bytes_per_value": 2, "is_full": False}
    on_a_gpu, full = training_need(**options, is_cuda=True), training_need(**options | {"is_full": True}, is_cuda=True)
    estimated = on_a_gpu.trained - full.trained + on_a_gpu.activations - full.activations
    assert 0.3 * estimated < more < estimated
