"""What one training step costs over the floor; run it by `python -m tests.benchmarks.step`.

The floor is the frozen base with gradients to its inputs: no adapter can be trained for less. Every round times one
step of each variant in turn, and the ratios are taken within a round, so that a machine whose speed drifts gives the
same answer. M2M-100's shape, d 256, 4+4 layers, 96 rows of 24 tokens a side, rank 8, one thread.

Variants: langsearch with 1, 4, 12 and 30 languages; PEFT's LoRA, one for all; full fine-tuning; a loop over the
languages with a mask, as the published code does it, on plain autograd.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.adapters.learners import adapt
from langsearch.adapters.mounting import module_path
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, BaseShape, Side, Site, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.train.cross_entropy import smoothed_cross_entropy
from langsearch.train.optimizer import make_optimizer

_LAYERS, _WIDTH, _RANK, _VOCAB = 4, 256, 8, 8000
_MODULES = {
    "encoder": ("q_proj", "k_proj", "v_proj", "fc1", "fc2"),
    "decoder": ("q_proj", "k_proj", "v_proj", "cross_q_proj", "cross_k_proj", "cross_v_proj", "fc1", "fc2"),
}


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="timed rounds after two that do not count")
    parser.add_argument("--rows", type=int, default=96, help="rows of a batch")
    parser.add_argument("--length", type=int, default=24, help="tokens of a side")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    device = torch.device(arguments.device)
    steps = _variants(arguments.rows, arguments.length, device)
    seconds = _time(steps, arguments.rounds, device)
    floor = seconds["floor"]
    figures = {}
    print(f"{'variant':<28}{'over the floor':>16}{'min':>8}{'max':>8}{'ms':>10}")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, floor, strict=True)]
        median, milliseconds = statistics.median(ratios), 1000 * statistics.median(times)
        figures[name] = {"ratio": median, "min": min(ratios), "max": max(ratios), "milliseconds": milliseconds}
        print(f"{name:<28}{median:>16.3f}{min(ratios):>8.2f}{max(ratios):>8.2f}{milliseconds:>10.1f}")
    for name, other in (
        ("langsearch, 12 languages", "PEFT, one shared LoRA"),
        ("langsearch, 30 languages", "langsearch, 1 language"),
    ):
        ratio = statistics.median([a / b for a, b in zip(seconds[name], seconds[other], strict=True)])
        figures[f"{name} / {other}"] = {"ratio": ratio}
        print(f"{name} / {other}: {ratio:.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps({"torch": torch.__version__, "figures": figures}, indent=1) + "\n")


def _time(steps: dict[str, Callable[[], None]], num_rounds: int, device: torch.device) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for round_ in range(num_rounds + 2):
        for name, step in steps.items():
            _synchronize(device)
            started = time.perf_counter()
            step()
            _synchronize(device)
            if round_ >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _variants(rows: int, length: int, device: torch.device) -> dict[str, Callable[[], None]]:
    base = _base(device)
    batch = torch.randint(4, _VOCAB, (rows, length), device=device)
    steps: dict[str, Callable[[], None]] = {"floor": _floor(base, batch)}
    for num_languages in (1, 4, 12, 30):
        name = f"langsearch, {num_languages} language{'s' * (num_languages > 1)}"
        steps[name] = _adapted(base, batch, num_languages)
    steps["PEFT, one shared LoRA"] = _peft(base, batch)
    steps["full fine-tuning"] = _full(base, batch)
    steps["mask loop, 12 languages"] = _mask_loop(base, batch, 12)
    return steps


def _base(device: torch.device) -> Base:
    config = M2M100Config(
        vocab_size=_VOCAB,
        d_model=_WIDTH,
        encoder_layers=_LAYERS,
        decoder_layers=_LAYERS,
        encoder_ffn_dim=4 * _WIDTH,
        decoder_ffn_dim=4 * _WIDTH,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        dropout=0.0,
        attention_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    model = M2M100ForConditionalGeneration(config).to(device).eval().requires_grad_(False)
    shape = BaseShape(
        encoder_layers=_LAYERS,
        decoder_layers=_LAYERS,
        d_model=_WIDTH,
        encoder_ffn_dim=4 * _WIDTH,
        decoder_ffn_dim=4 * _WIDTH,
        num_parameters=model.num_parameters(),
    )
    tokenizer: Any = None  # no text here
    return Base("benchmark", model, tokenizer, shape)


def _sites() -> list[tuple[Site, Side]]:
    sites: list[tuple[Site, Side]] = []
    for layer in range(_LAYERS):
        sites += [(Site("encoder", layer, module), "src") for module in _MODULES["encoder"]]
        sites += [(Site("decoder", layer, module), "tgt") for module in _MODULES["decoder"]]
    return sites


def _loss(model: Any, batch: Tensor, **inputs: Tensor) -> Tensor:
    hidden = model.model(
        **(inputs or {"input_ids": batch, "decoder_input_ids": batch}), use_cache=False
    ).last_hidden_state
    return smoothed_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, batch.flatten(), 0.1) / batch.numel()


def _floor(base: Base, batch: Tensor) -> Callable[[], None]:
    embedded = base.model.get_input_embeddings()(batch).requires_grad_()

    def step() -> None:
        embedded.grad = None
        _loss(base.model, batch, inputs_embeds=embedded, decoder_inputs_embeds=embedded).backward()  # type: ignore[no-untyped-call]

    return step


def _stepper(model: Any, parameters: dict[str, nn.Parameter], batch: Tensor) -> Callable[[], None]:
    optimizer = make_optimizer(parameters, TrainerSettings(lr=1e-4))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _loss(model, batch).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def _adapted(base: Base, batch: Tensor, num_languages: int) -> Callable[[], None]:
    own = Base(base.name, deepcopy(base.model), base.tokenizer, base.shape)
    names = [f"l{index}" for index in range(num_languages)]
    architecture = Architecture(
        slots=tuple((name, name) for name in names), adapters=uniform_ranks(_sites(), dict.fromkeys(names, _RANK))
    )
    learner = adapt(own, architecture, names)
    src = torch.randint(num_languages, (len(batch),), device=batch.device)
    tgt = torch.randint(num_languages, (len(batch),), device=batch.device)
    step = _stepper(own.model, learner.parameters(), batch)

    def routed() -> None:
        with learner.route(src, tgt):
            step()

    return routed


def _peft(base: Base, batch: Tensor) -> Callable[[], None]:
    from peft import LoraConfig, get_peft_model

    targets = [module_path(site) for site, _ in _sites()]
    config = LoraConfig(r=_RANK, lora_alpha=_RANK, target_modules=targets, lora_dropout=0.0)
    model = get_peft_model(deepcopy(base.model), config)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return _stepper(model.base_model.model, parameters, batch)


def _full(base: Base, batch: Tensor) -> Callable[[], None]:
    model = deepcopy(base.model).requires_grad_(True)
    return _stepper(model, dict(model.named_parameters()), batch)


class _MaskLoopLinear(nn.Module):
    def __init__(self, base: nn.Linear, num_languages: int, languages: Tensor) -> None:
        super().__init__()
        self.base, self.languages = base, languages
        device = base.weight.device
        self.A = nn.ParameterList([torch.randn(_RANK, base.in_features, device=device) for _ in range(num_languages)])
        self.B = nn.ParameterList([torch.zeros(base.out_features, _RANK, device=device) for _ in range(num_languages)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for language, (a, b) in enumerate(zip(self.A, self.B, strict=True)):
            mask = self.languages == language
            if mask.any():
                y = y.index_add(0, mask.nonzero().squeeze(1), F.linear(F.linear(x[mask], a), b))
        return y


def _mask_loop(base: Base, batch: Tensor, num_languages: int) -> Callable[[], None]:
    model = deepcopy(base.model)
    languages: Sequence[Tensor] = [
        torch.randint(num_languages, (len(batch),), device=batch.device) for _ in ("src", "tgt")
    ]
    for site, side in _sites():
        parent, _, name = module_path(site).rpartition(".")
        linear = model.get_submodule(module_path(site))
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), name, _MaskLoopLinear(linear, num_languages, languages[side == "tgt"]))
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return _stepper(model, parameters, batch)


if __name__ == "__main__":
    main()
