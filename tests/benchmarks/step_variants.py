"""What a training step is compared with: each variant is a function that makes one step on the same random base.

The floor is the frozen base with gradients to its inputs: no adapter can be trained for less. All variants but full
fine-tuning read one copy of the base's weights.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, GenerationConfig, M2M100Config

from langsearch.adapters.learners import AdaptedModel, FullModel, adapt
from langsearch.adapters.mounting import module_path
from langsearch.data.batches import Batch
from langsearch.model.base import Base
from langsearch.model.device import Resident, settle
from langsearch.space.architecture import Architecture, BaseShape, Side, Site, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.train.cross_entropy import smoothed_cross_entropy
from langsearch.train.forward import EncoderSides, ready, run_forward
from langsearch.train.optimizer import make_optimizer

Step = Callable[[], None]

RANK = 8
NUM_MARKS = 4
"""The first ids, which are no words."""

_MODULES = {
    "encoder": ("q_proj", "k_proj", "v_proj", "fc1", "fc2"),
    "decoder": ("q_proj", "k_proj", "v_proj", "cross_q_proj", "cross_k_proj", "cross_v_proj", "fc1", "fc2"),
}


@dataclass(frozen=True)
class Size:
    """The shape of a base."""

    d_model: int
    layers: int
    ffn_dim: int
    heads: int
    vocab: int

    def __str__(self) -> str:
        return f"d {self.d_model}, {self.layers}+{self.layers} layers"


def random_base(size: Size, resident: Resident) -> Base:
    """Returns a frozen base of M2M-100's architecture with random weights, without dropout and without a tokenizer."""
    config = M2M100Config(
        vocab_size=size.vocab,
        d_model=size.d_model,
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        encoder_ffn_dim=size.ffn_dim,
        decoder_ffn_dim=size.ffn_dim,
        encoder_attention_heads=size.heads,
        decoder_attention_heads=size.heads,
        dropout=0.0,
        attention_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
    )
    with torch.device(resident.device):  # in place and in its type: 3 billion weights take minutes otherwise
        model = AutoModelForSeq2SeqLM.from_config(config, dtype=resident.dtype)
    model.eval().requires_grad_(False)
    model.generation_config = GenerationConfig.from_model_config(config)
    shape = BaseShape(
        encoder_layers=size.layers,
        decoder_layers=size.layers,
        d_model=size.d_model,
        encoder_ffn_dim=size.ffn_dim,
        decoder_ffn_dim=size.ffn_dim,
        num_parameters=model.num_parameters(),
    )
    tokenizer: Any = None  # no text here
    return settle(Base("benchmark", model, tokenizer, shape), resident)


def random_batch(size: Size, rows: int, length: int, device: torch.device) -> Tensor:
    """Returns (rows, length) ids that serve as both sides and as labels."""
    return torch.randint(NUM_MARKS, size.vocab, (rows, length), device=device)


def makers(base: Base) -> dict[str, Callable[[Tensor], Step]]:
    """Returns what makes a step of a batch, by the name of the variant: the floor, langsearch's, and PEFT's."""
    made: dict[str, Callable[[Tensor], Step]] = {"floor": partial(floor, base)}
    for num_languages in (1, 4, 12, 30):
        name = f"langsearch, {num_languages} language{'s' * (num_languages > 1)}"
        made[name] = partial(adapted, base, num_languages=num_languages)
    made["langsearch, 12 of rank 32"] = partial(adapted, base, num_languages=12, rank=32)
    made["PEFT, one shared LoRA"] = partial(shared_peft, base)
    return made


def floor(base: Base, batch: Tensor) -> Step:
    """The frozen base, forward and gradients to its inputs."""
    embedded = base.model.get_input_embeddings()(batch).requires_grad_()

    def step() -> None:
        embedded.grad = None
        torch.autograd.backward(_loss(base.model, batch, None, inputs_embeds=embedded, decoder_inputs_embeds=embedded))

    return step


def adapted_model(
    base: Base,
    num_languages: int,
    languages: Sequence[str] = (),
    rank: int = RANK,
    num_by_source: int | None = None,
) -> AdaptedModel:
    """Returns the base with adapters for so many languages, or for these, of its own modules but the base's weights.

    Args:
        base: The base.
        num_languages: How many.
        languages: Their names.
        rank: Of all adapters.
        num_by_source: Encoder layers that are indexed by the source, the lowest. None: all.
    """
    own = Base(base.name, _with_same_weights(base.model), base.tokenizer, base.shape)
    names = list(languages) or [f"l{index}" for index in range(num_languages)]
    architecture = Architecture(
        slots=tuple((name, name) for name in names),
        adapters=uniform_ranks(_sites(base.shape, num_by_source), dict.fromkeys(names, rank)),
    )
    return adapt(own, architecture, names)


def adapted(base: Base, batch: Tensor, num_languages: int, rank: int = RANK) -> Step:
    """Langsearch with so many languages, mixed in the batch, as the trainer makes a step."""
    src, tgt = (torch.randint(num_languages, (len(batch),), device=batch.device) for _ in range(2))
    rows = Batch(batch, torch.ones_like(batch), batch, batch, src, tgt, batch.numel(), is_src_padded=False)
    return _learning(base, adapted_model(base, num_languages, rank=rank), rows)


def multi_parallel(base: Base, batch: Tensor, num_languages: int, num_by_source: int, *, once: bool) -> Step:
    """Langsearch with so many languages, each sentence of the batch with all its targets, as far as there are rows.

    Args:
        base: The base.
        batch: As `random_batch` has it; its first rows are the sentences.
        num_languages: How many.
        num_by_source: Encoder layers that are indexed by the source, the lowest.
        once: Encode each sentence once up to the first layer that is indexed by the target.
    """
    num_rows, num_targets = len(batch), num_languages - 1
    source_of = torch.arange(num_rows) // num_targets
    src = source_of % num_languages
    tgt = (src + 1 + torch.arange(num_rows) % num_targets) % num_languages
    # Sources are numbered by their language.
    number = torch.unique(src * num_rows + source_of, return_inverse=True)[1]
    rows = Batch(
        batch[source_of],
        torch.ones_like(batch),
        batch,
        batch,
        src,
        tgt,
        batch.numel(),
        source_of=number if once else None,
        is_src_padded=False,
    )
    return _learning(base, adapted_model(base, num_languages, num_by_source=num_by_source), rows)


def _learning(base: Base, learner: AdaptedModel, rows: Batch) -> Step:
    """Returns a step as the trainer makes it."""
    num_tokens, device = rows.num_tgt_tokens, rows.src_ids.device
    rows, sides, dtype = ready(rows.to("cpu")).to(device), EncoderSides.of(learner), base.model.lm_head.weight.dtype

    def loss() -> Tensor:
        states = run_forward(learner, rows, frozenset({"decoder"}), dtype, sides)
        assert states.decoder is not None and states.labels is not None
        return smoothed_cross_entropy(states.decoder, learner.model.lm_head.weight, states.labels, 0.1) / num_tokens

    return _stepper(loss, learner.parameters(), dtype, device)


def shared_peft(base: Base, batch: Tensor) -> Step:
    """PEFT's LoRA, one for all languages: adapters in fp32; in another type than fp32 the step is under autocast."""
    from peft import LoraConfig, get_peft_model

    targets = [module_path(site) for site, _ in _sites(base.shape)]
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=targets, lora_dropout=0.0)
    model = get_peft_model(_with_same_weights(base.model), config)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    dtype = base.model.lm_head.weight.dtype
    return _plain_stepper(model.base_model.model, parameters, batch, autocast=None if dtype is torch.float32 else dtype)


def full(base: Base, batch: Tensor, autocast: torch.dtype | None = None) -> Step:
    """Full fine-tuning of a copy of a base in fp32, under autocast of another type if there is one."""
    learner = FullModel(base)
    return _plain_stepper(learner.model, learner.parameters(), batch, autocast=autocast)


def mask_loop(base: Base, batch: Tensor, num_languages: int) -> Step:
    """A loop over the languages with a mask, as the published code does it, on plain autograd."""
    model = _with_same_weights(base.model)
    languages: Sequence[Tensor] = [
        torch.randint(num_languages, (len(batch),), device=batch.device) for _ in ("src", "tgt")
    ]
    for site, side in _sites(base.shape):
        parent, _, name = module_path(site).rpartition(".")
        linear = model.get_submodule(module_path(site))
        assert isinstance(linear, nn.Linear)
        setattr(model.get_submodule(parent), name, _MaskLoopLinear(linear, num_languages, languages[side == "tgt"]))
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    return _plain_stepper(model, parameters, batch)


class _MaskLoopLinear(nn.Module):
    def __init__(self, base: nn.Linear, num_languages: int, languages: Tensor) -> None:
        super().__init__()
        self.base, self.languages = base, languages
        device = base.weight.device
        self.A = nn.ParameterList([torch.randn(RANK, base.in_features, device=device) for _ in range(num_languages)])
        self.B = nn.ParameterList([torch.zeros(base.out_features, RANK, device=device) for _ in range(num_languages)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        for language, (a, b) in enumerate(zip(self.A, self.B, strict=True)):
            mask = self.languages == language
            if mask.any():
                y = y.index_add(0, mask.nonzero().squeeze(1), F.linear(F.linear(x[mask], a), b))
        return y


def _sites(shape: BaseShape, num_by_source: int | None = None) -> list[tuple[Site, Side]]:
    sites: list[tuple[Site, Side]] = []
    for layer in range(shape.encoder_layers):
        side: Side = "src" if num_by_source is None or layer < num_by_source else "tgt"
        sites += [(Site("encoder", layer, module), side) for module in _MODULES["encoder"]]
    for layer in range(shape.decoder_layers):
        sites += [(Site("decoder", layer, module), "tgt") for module in _MODULES["decoder"]]
    return sites


def _with_same_weights(model: Any) -> Any:
    """Returns a copy of a model's modules on the same tensors, which a deep copy then takes for copied already."""
    return deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _loss(model: Any, batch: Tensor, autocast: torch.dtype | None, **inputs: Tensor) -> Tensor:
    context: AbstractContextManager[Any] = nullcontext()
    if autocast is not None:
        context = torch.autocast(batch.device.type, dtype=autocast)
    with context:
        hidden = model.model(
            **(inputs or {"input_ids": batch, "decoder_input_ids": batch}), use_cache=False
        ).last_hidden_state
    if autocast is not None:
        hidden = hidden.to(autocast)
    return smoothed_cross_entropy(hidden.flatten(0, 1), model.lm_head.weight, batch.flatten(), 0.1) / batch.numel()


def _stepper(
    loss: Callable[[], Tensor], parameters: dict[str, nn.Parameter], dtype: torch.dtype, device: torch.device
) -> Step:
    """Returns one update, with loss scaling where products are in fp16; no gradients are left behind."""
    optimizer = make_optimizer(parameters, TrainerSettings(lr=1e-4))
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)

    def step() -> None:
        torch.autograd.backward(scaler.scale(loss()))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    return step


def _plain_stepper(
    model: Any, parameters: dict[str, nn.Parameter], batch: Tensor, autocast: torch.dtype | None = None
) -> Step:
    dtype = autocast or model.lm_head.weight.dtype
    return _stepper(lambda: _loss(model, batch, autocast), parameters, dtype, batch.device)
