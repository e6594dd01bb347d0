"""What must hold on a CUDA device. They need neither Ray nor Optuna nor PEFT.

`pytest -m gpu` runs them on a GPU and skips them where there is none. The same tests run on the CPU by default, where
they say less, but show that they run.
"""

import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.adapters.lora_linear import JointInput, LanguageLoRALinear
from langsearch.adapters.routing import Routing
from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import Base
from langsearch.model.device import Compute, Resident, allow_tf32, product_dtype, require_gpu, settle
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.trial.failures import OUT_OF_MEMORY, failure_cause
from langsearch.trial.monitor import peak_memory_bytes, reset_peak_memory
from tests.weight_copies import WeightCopies, copies_in_a_step

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=3, pairs_per_epoch=60, tokens_per_batch=400, accumulation=2, dropout=0.0, lr=1e-2)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Architect = Callable[..., Architecture]
Start = Callable[[Resident], tuple[AdaptedModel, TrainingData]]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Where the test runs."""
    return torch.device(request.param)


@pytest.fixture
def compute(device: torch.device) -> Compute:
    """What a space with a GPU, or without one, has its trials compute on."""
    return Compute(gpu=0.0 if device.type == "cpu" else 1.0)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """TF32 as every process begins."""
    yield
    allow_tf32(torch.device("cuda"), is_full=False)


@pytest.fixture
def start(new_base: Callable[[], Base], quickstart_store: TokenStore, make_architecture: Architect) -> Start:
    """Makes new adapters in a new base that is resident somewhere, and what they are trained on."""

    def make(resident: Resident) -> tuple[AdaptedModel, TrainingData]:
        base = settle(new_base(), resident)
        data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
        return adapt(base, make_architecture(), LANGUAGES), data

    return make


def losses_of(learner: Learner, data: TrainingData, settings: TrainerSettings, **options: Any) -> list[float]:
    return [progress.train_loss for progress in train(learner, data, settings, **options)]


def last_of(learner: Learner, data: TrainingData, settings: TrainerSettings, **options: Any) -> Progress:
    return list(train(learner, data, settings, **options))[-1]


def rows_of(store: TokenStore, num_sentences: int) -> list[DecodingRow]:
    return [
        DecodingRow(store.tokens(direction.src, row), direction.src, direction.tgt)
        for direction in DIRECTIONS
        for row in range(num_sentences)
    ]


def texts_of(learner: Learner, base: Base, rows: list[DecodingRow], beams: int = 1) -> list[str]:
    return decode_rows(
        learner,
        rows,
        tokenizer=base.tokenizer,
        vocabulary=base.vocabulary(LANGUAGES),
        languages=LANGUAGES,
        settings=DecodingSettings(beams=beams, max_length_factor=2.0),
    ).texts


def test_a_trial_computes_where_the_space_says(
    device: torch.device, compute: Compute, start: Start, quickstart_store: TokenStore, tiny_base: Base
) -> None:
    """Also on a machine with a GPU that it was not given: nothing is put there then."""
    require_gpu(compute.gpu)
    before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    learner, data = start(compute.resident("auto"))
    places = [*learner.model.parameters(), *learner.model.buffers(), *learner.parameters().values()]
    assert {value.device.type for value in places} == {device.type}
    last = last_of(learner, data, replace(SETTINGS, epochs=1))
    state = last.checkpoint().tensors
    assert {value.device.type for name, value in state.items() if "exp_avg" in name} == {device.type}
    texts_of(learner, tiny_base, rows_of(quickstart_store, 1))
    after = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    assert (after > before) == (device.type == "cuda")


@pytest.mark.gpu
def test_auto_is_a_type_that_this_card_multiplies_in_hardware() -> None:
    major, _ = torch.cuda.get_device_capability()
    expected = torch.bfloat16 if torch.version.hip or major >= 8 else torch.float16
    assert product_dtype("auto", torch.device("cuda")) is expected


@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_adapters_learn_in_every_precision(precision: str, compute: Compute, start: Start) -> None:
    learner, data = start(compute.resident(precision))
    losses = losses_of(learner, data, replace(SETTINGS, precision=precision))  # type: ignore[arg-type]
    assert losses[-1] < losses[0]
    assert {value.dtype for value in learner.parameters().values()} == {torch.float32}


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_base_is_there_once_and_in_the_type_of_its_products(
    precision: str, device: torch.device, compute: Compute, start: Start, quickstart_store: TokenStore
) -> None:
    if device.type == "cpu" and precision == "fp16":
        pytest.skip("a CPU keeps a base in fp32 or bf16")
    dtype = DTYPES[precision]
    learner, data = start(compute.resident(precision))
    learner.model.train()
    trained = {id(parameter) for parameter in learner.parameters().values()}
    assert {value.dtype for value in learner.model.parameters() if id(value) not in trained} == {dtype}
    rows = torch.tensor([[index, index] for index in range(12)], dtype=torch.int32).numpy()
    batch = collate(quickstart_store, DIRECTIONS, rows, data.vocabulary, LANGUAGES).to(device)
    assert copies_in_a_step(learner, batch, dtype) == WeightCopies()


def test_weights_adapters_and_adam_take_the_memory_that_the_readme_computes(
    device: torch.device, compute: Compute, new_base: Callable[[], Base], make_architecture: Architect, start: Start
) -> None:
    resident = compute.resident("bf16")
    on_card = device.type == "cuda"
    gc.collect()
    before = torch.cuda.memory_allocated() if on_card else 0
    base = settle(new_base(), resident)
    num_tensors = len(list(base.model.parameters())) + 2
    weights = 2 * base.shape.num_parameters
    positions = sum(buffer.numel() * buffer.element_size() for buffer in base.model.buffers())
    if on_card:  # every tensor is rounded up to 512 bytes
        held = torch.cuda.memory_allocated() - before
        assert weights + positions <= held <= weights + positions + 512 * num_tensors
    assert sum(value.numel() * value.element_size() for value in base.model.parameters()) == weights
    learner, data = start(resident)
    state = last_of(learner, data, replace(SETTINGS, epochs=1)).checkpoint().tensors
    trained = sum(value.numel() for value in learner.parameters().values())
    of_adam = [value for name, value in state.items() if name.startswith("optimizer/") and "exp_avg" in name]
    of_model = [value for name, value in state.items() if name.startswith("model/")]
    assert sum(value.numel() * value.element_size() for value in (*of_model, *of_adam)) == 12 * trained
    # A and B are as high as the largest rank at their place, so that padding counts.
    assert trained > make_architecture().num_parameters(base.shape)


def test_a_gpu_gives_the_losses_of_the_cpu(compute: Compute, start: Start) -> None:
    settings = replace(SETTINGS, precision="fp32")
    on_cpu = losses_of(*start(Compute().resident("fp32")), settings)
    assert losses_of(*start(compute.resident("fp32")), settings) == pytest.approx(on_cpu, rel=1e-3)


def test_lower_precision_gives_nearly_the_losses_of_fp32(compute: Compute, start: Start) -> None:
    settings = replace(SETTINGS, epochs=2)
    exact = losses_of(*start(compute.resident("fp32")), replace(settings, precision="fp32"))
    for precision in ("bf16", "fp16"):
        found = losses_of(*start(compute.resident(precision)), replace(settings, precision=precision))
        assert found == pytest.approx(exact, rel=0.03), precision


@pytest.mark.parametrize("beams", [1, 5])
def test_a_gpu_translates_as_the_cpu(
    beams: int,
    compute: Compute,
    embedded_base: Base,
    quickstart_store: TokenStore,
    make_architecture: Architect,
) -> None:
    rows = rows_of(quickstart_store, 2)

    def translations(base: Base) -> list[str]:
        learner = adapt(base, make_architecture(), LANGUAGES)
        texts = texts_of(learner, base, rows, beams)
        learner.remove()
        return texts

    on_cpu = translations(embedded_base)
    there = translations(settle(embedded_base, compute.resident("fp32")))
    # A near tie may fall the other way on other hardware; most sentences have none.
    assert sum(one == other for one, other in zip(on_cpu, there, strict=True)) >= 0.9 * len(rows)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("beams", [1, 2])
def test_decoding_is_in_the_type_of_training(
    precision: str, beams: int, compute: Compute, start: Start, tiny_base: Base, quickstart_store: TokenStore
) -> None:
    resident = compute.resident(precision)
    learner, data = start(resident)
    losses_of(learner, data, replace(SETTINGS, epochs=1, precision=precision))  # type: ignore[arg-type]
    seen = set()
    learner.model.lm_head.register_forward_hook(lambda *values: seen.add(values[2].dtype))
    texts_of(learner, tiny_base, rows_of(quickstart_store, 1), beams)
    assert seen == {resident.dtype}


def test_a_resumed_run_goes_on_with_the_same_losses(compute: Compute, start: Start, tmp_path: Path) -> None:
    resident = compute.resident("bf16")
    settings = replace(SETTINGS, precision="bf16", dropout=0.1)
    whole = losses_of(*start(resident), settings)
    for progress in train(*start(resident), settings):
        write_checkpoint(tmp_path, progress.checkpoint())
        break
    resumed = losses_of(*start(resident), settings, resume=read_newest_checkpoint(tmp_path))
    # Sums over slots are atomic on a GPU, so that the last bits may differ.
    assert resumed == pytest.approx(whole[1:], rel=1e-3)


def test_fp16_scales_its_loss_and_halves_a_scale_that_is_too_large(compute: Compute, start: Start) -> None:
    settings = replace(SETTINGS, epochs=1, precision="fp16", tokens_per_batch=10_000, accumulation=1)
    resident = compute.resident("fp16")
    learner, data = start(resident)
    first = last_of(learner, data, settings).checkpoint()
    assert first.state["updates"] == 1
    assert 2.0**8 <= first.state["scaler"]["scale"] <= 2.0**16  # PyTorch's start
    # 2 ** 40 makes every gradient of the base infinite in fp16: nothing is updated, and the next is half.
    broken = {**first.state, "epoch": 1, "scaler": {**first.state["scaler"], "scale": 2.0**40}}
    before = {name: value.clone() for name, value in learner.state().items()}
    resumed = last_of(learner, data, settings, resume=Checkpoint(first.tensors, broken)).checkpoint()
    assert resumed.state["scaler"]["scale"] == 2.0**39
    assert all(torch.equal(value, before[name]) for name, value in learner.state().items())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_types_scale_nothing(precision: str, compute: Compute, start: Start) -> None:
    settings = replace(SETTINGS, epochs=1, precision=precision)  # type: ignore[arg-type]
    assert last_of(*start(compute.resident(precision)), settings).checkpoint().state["scaler"] == {}


@pytest.mark.parametrize("rank", [2, 16])  # all slots at once on a GPU, and copies of each row's pair
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapted_layers_give_the_cpu_s_gradients_and_the_same_ones_each_time(
    dtype: torch.dtype, rank: int, device: torch.device
) -> None:
    def gradients(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        routing, ranks, scales = Routing(), dict.fromkeys(LANGUAGES, rank), dict.fromkeys(LANGUAGES, 0.5)
        layers = []
        for _ in range(2):
            base = torch.nn.Linear(64, 48, bias=False, device=device, dtype=dtype).requires_grad_(False)
            base.weight.copy_(torch.randn(48, 64, generator=generator) / 8)
            layer = LanguageLoRALinear(
                base, routing, "tgt", ranks, list(LANGUAGES), in_features=64, out_features=48, scales=scales
            )
            layer.A.data.copy_(torch.randn(layer.A.shape, generator=generator) / 8)
            layer.B.data.copy_(torch.randn(layer.B.shape, generator=generator) / 8)
            layers.append(layer)
        JointInput(layers)
        x = torch.randn(40, 8, 64, generator=generator).to(device, dtype).requires_grad_()
        languages = torch.randint(len(LANGUAGES), (40,), generator=generator).to(device)
        with routing.languages(languages, languages):
            torch.autograd.backward(sum(layer(x).float().square().mean() for layer in layers))
        found = [x.grad, *(matrix.grad for layer in layers for matrix in (layer.A, layer.B))]
        return [gradient.float().cpu() for gradient in found if gradient is not None]

    first, second = (gradients(device, dtype) for _ in range(2))
    assert len(first) == 5 and all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    for found, wanted in zip(first, gradients(torch.device("cpu"), torch.float32), strict=True):
        scale = wanted.abs().max()
        atol = 1e-5 if dtype is torch.float32 else 0.05
        torch.testing.assert_close(found / scale, wanted / scale, atol=atol, rtol=0)


def test_tf32_is_for_full_fine_tuning_alone(device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(512, 512, generator=generator) for _ in range(2))
    exact = one.double() @ other.double()

    def error() -> float:
        found = (one.to(device) @ other.to(device)).cpu().double()
        return float((found - exact).norm() / exact.norm())

    allow_tf32(device, is_full=False)
    assert error() < 5e-6
    allow_tf32(device, is_full=True)
    assert torch.get_float32_matmul_precision() == ("high" if device.type == "cuda" else "highest")
    has_tf32 = device.type == "cuda" and not torch.version.hip and torch.cuda.get_device_capability()[0] >= 8
    assert (5e-5 if has_tf32 else 0) < error() < 1e-2


def test_full_fine_tuning_is_in_fp32_with_products_in_the_card_s_type(
    compute: Compute, new_base: Callable[[], Base], quickstart_store: TokenStore
) -> None:
    allow_tf32(compute.device(), is_full=True)
    resident = compute.resident("bf16", is_full=True)
    assert resident.dtype is torch.float32
    learner = FullModel(settle(new_base(), resident))
    data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, new_base().vocabulary(LANGUAGES))
    losses = losses_of(learner, data, replace(SETTINGS, precision="bf16", lr=1e-3))
    assert losses[-1] < losses[0]
    assert {value.dtype for value in learner.parameters().values()} == {torch.float32}


def test_parts_of_a_microbatch_give_the_same_losses_in_less_memory(
    device: torch.device, compute: Compute, start: Start
) -> None:
    settings = replace(SETTINGS, epochs=2, precision="fp32", tokens_per_batch=4000, accumulation=1)
    losses, peaks = [], []
    for num_parts in (1, 4):
        learner, data = start(compute.resident("fp32"))
        losses_of(learner, data, replace(settings, epochs=1))  # what is allocated once
        del learner, data
        gc.collect()
        reset_peak_memory(device)
        learner, data = start(compute.resident("fp32"))
        losses.append(losses_of(learner, data, settings, num_parts=num_parts))
        peaks.append(peak_memory_bytes(device))
        del learner, data
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    if device.type == "cuda":
        assert peaks[1] < peaks[0]


def test_training_goes_on_where_memory_has_run_out(device: torch.device, compute: Compute, start: Start) -> None:
    learner, data = start(compute.resident("auto"))

    def take_all() -> bool:
        torch.empty(1 << 46, device=device)
        return False

    with pytest.raises(RuntimeError) as raised:
        losses_of(learner, data, SETTINGS, should_yield=take_all)
    assert failure_cause(raised.value) == OUT_OF_MEMORY
    del learner, raised
    if device.type == "cuda":
        torch.cuda.empty_cache()
    learner, data = start(compute.resident("auto"))
    losses = losses_of(learner, data, SETTINGS, num_parts=2)
    assert losses[-1] < losses[0]


CAUSES = """
import sys, torch
from langsearch.trial.failures import failure_cause, spends
table = torch.zeros(4, 4, device=sys.argv[1])
for index in (9, 1):
    try:
        torch.nn.functional.embedding(torch.tensor([index], device=sys.argv[1]), table).sum().item()
        print("none")
    except Exception as error:
        print(failure_cause(error), spends(failure_cause(error)), flush=True)
"""
"""An index that is out of range, then one that is not. On a GPU the first is an assertion on the device, which is
reported when somebody waits for it, and after which nothing works in this process."""


def test_the_cause_of_an_error_on_the_device_is_told(device: torch.device) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CAUSES, device.type], capture_output=True, text=True, timeout=200, check=False
    )
    told = result.stdout.splitlines()
    assert told == (["CUDA error True"] * 2 if device.type == "cuda" else ["IndexError True", "none"]), result.stderr
