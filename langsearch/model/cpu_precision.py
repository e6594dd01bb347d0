"""Whether bf16 is faster than fp32 on this CPU, for a base of this shape: measured, since neither is always.

Processors with AMX or AVX512-BF16 multiply bf16 several times as fast as fp32, others emulate it and are slower.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from langsearch.model.base import Base
from langsearch.model.device import CpuPrecision, Resident, settle
from langsearch.space.architecture import BaseShape

_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}
"""In /proc/cpuinfo: of Intel and AMD, and of Arm."""

_WINS_BELOW = 0.8
"""The ratio of times below which bf16 is taken: a smaller gain is not worth its rounding."""

_ROWS, _LENGTH, _NUM_ROUNDS = 16, 24, 5


@dataclass(frozen=True)
class MeasuredPrecision:
    """What was found."""

    name: CpuPrecision
    ratio: float | None
    """Time of a step in bf16 over one in fp32; None where the processor has no products of bf16."""


def has_bf16_products(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Returns whether the processor multiplies bf16 by itself, as far as the system says."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    lines = [line for line in text.splitlines() if line.partition(":")[0].strip() in ("flags", "Features")]
    return any(_FLAGS & set(line.partition(":")[2].split()) for line in lines)


def measure_cpu_precision(base: Base, num_threads: int) -> MeasuredPrecision:
    """Times a step through one layer of each stack of the base's shape, frozen, in both types.

    Args:
        base: The base; its sizes alone are used.
        num_threads: Of PyTorch, as a trial has them.
    """
    if not has_bf16_products():
        return MeasuredPrecision("fp32", None)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        with torch.random.fork_rng(devices=[]):
            steps = [_step(base, dtype) for dtype in (torch.float32, torch.bfloat16)]
            seconds = [[_seconds(step) for step in steps] for _ in range(_NUM_ROUNDS + 1)][1:]
    finally:
        torch.set_num_threads(before)
    ratio = median(bf16 / fp32 for fp32, bf16 in seconds)
    return MeasuredPrecision("bf16" if ratio < _WINS_BELOW else "fp32", ratio)


def _step(base: Base, dtype: torch.dtype) -> Callable[[], None]:
    from transformers import M2M100Config, M2M100ForConditionalGeneration  # takes a second, and is seldom needed

    shape: BaseShape = base.shape
    config = M2M100Config(
        vocab_size=64,
        d_model=shape.d_model,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=shape.encoder_ffn_dim,
        decoder_ffn_dim=shape.decoder_ffn_dim,
        encoder_attention_heads=base.model.config.encoder_attention_heads,
        decoder_attention_heads=base.model.config.decoder_attention_heads,
        dropout=0.0,
        attention_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    model = M2M100ForConditionalGeneration(config).eval().requires_grad_(False)
    small = settle(Base(base.name, model, base.tokenizer, shape), Resident(torch.device("cpu"), dtype))
    ids = torch.randint(4, 64, (_ROWS, _LENGTH))
    mask = torch.ones_like(ids)
    mask[: _ROWS // 2, _LENGTH // 2 :] = 0
    embedded = small.model.get_input_embeddings()(ids).detach().requires_grad_()

    def step() -> None:
        embedded.grad = None
        hidden = small.model.model(
            inputs_embeds=embedded, attention_mask=mask, decoder_inputs_embeds=embedded, use_cache=False
        ).last_hidden_state
        torch.autograd.backward(hidden.float().square().mean())

    return step


def _seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
