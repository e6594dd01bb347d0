from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.adapters.learners import AdaptedModel, FullModel, adapt
from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import Base
from langsearch.model.cpu_precision import MeasuredPrecision, has_bf16_products, measure_cpu_precision
from langsearch.model.device import Compute, Resident, choose_attention, product_dtype, require_gpu, settle
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.loop import TrainingData, train
from tests.weight_copies import WeightCopies, copies_in_a_step

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BF16 = Resident(CPU, torch.bfloat16)
Architect = Callable[..., Architecture]


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose GPUs this process sees."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.usefixtures("cards")
def test_without_a_gpu_asked_for_a_trial_stays_on_the_cpu_where_cards_are_visible() -> None:
    assert Compute(gpu=0.0).device() == CPU
    assert Compute(gpu=0.25).device() == Compute(gpu=1.0).device() == CUDA


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"`resources\.gpu` 0\.5 needs a usable CUDA device"):
        Compute(gpu=0.5).device()


def test_a_machine_without_a_usable_gpu_says_why_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    require_gpu(0.0)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InputError, match=r"needs a GPU that CUDA can use, but here: this PyTorch \(.*\) was built"):
        require_gpu(1.0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match=r"but here: \w*Error: .*(CUDA|NVIDIA)"):
            require_gpu(1.0)


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize(("really", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_is_bf16_only_on_cards_that_really_have_it(
    really: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: really or including_emulation)
    assert product_dtype("auto", CUDA) is dtype
    assert Compute(gpu=1.0).resident("auto") == Resident(CUDA, dtype)


@pytest.mark.usefixtures("cards")
@pytest.mark.parametrize("gpu", [0.0, 1.0])
@pytest.mark.parametrize("precision", ["auto", "fp32", "bf16", "fp16"])
def test_a_base_that_is_trained_whole_is_kept_in_fp32(gpu: float, precision: str) -> None:
    assert Compute(gpu, "bf16").resident(precision, is_full=True).dtype is torch.float32


def test_on_a_gpu_attention_is_not_planned_anew_for_every_shape() -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    try:
        torch.backends.cuda.enable_cudnn_sdp(True)
        choose_attention(CPU)
        assert torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
        choose_attention(CUDA)
        assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def test_on_a_cpu_auto_is_what_was_measured_and_a_named_precision_is_itself() -> None:
    assert Compute().resident("auto").dtype is torch.float32
    assert Compute(cpu_precision="bf16").resident("auto") == BF16
    assert Compute(cpu_precision="bf16").resident("fp32").dtype is torch.float32
    assert Compute().resident("bf16") == BF16


def test_no_weight_of_a_resident_base_is_cast_or_kept_twice(
    tiny_base: Base, quickstart_store: TokenStore, make_architecture: Architect
) -> None:
    base = settle(tiny_base, BF16)
    learner = adapt(base, make_architecture(), LANGUAGES)
    learner.model.train()
    trained = {id(parameter) for parameter in learner.parameters().values()}
    weights = [value for value in base.model.parameters() if id(value) not in trained]
    assert {value.dtype for value in weights} == {torch.bfloat16}
    assert {value.dtype for value in learner.parameters().values()} == {torch.float32}
    rows = torch.tensor([[index, index] for index in range(12)], dtype=torch.int32).numpy()
    batch = collate(quickstart_store, DIRECTIONS, rows, base.vocabulary(LANGUAGES), LANGUAGES)
    assert copies_in_a_step(learner, batch, torch.bfloat16) == WeightCopies()
    assert not [name for name, value in learner.parameters().items() if value.grad is None]


@pytest.fixture
def run(new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore) -> Any:
    """Trains new adapters in a resident type and returns the model and its losses."""

    def go(resident: Resident, precision: str) -> tuple[AdaptedModel, Base, list[float]]:
        base = settle(new_base(), resident)
        learner = adapt(base, make_architecture(), LANGUAGES)
        data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
        settings = TrainerSettings(
            epochs=3, pairs_per_epoch=100, tokens_per_batch=600, accumulation=1, dropout=0.0, lr=1e-2
        )
        losses = [p.train_loss for p in train(learner, data, replace(settings, precision=precision))]  # type: ignore[arg-type]
        return learner, base, losses

    return go


def test_a_resident_base_in_bf16_trains_like_fp32_and_decodes_in_its_type(
    run: Any, quickstart_store: TokenStore
) -> None:
    learner, base, losses = run(BF16, "auto")
    assert losses == pytest.approx(run(Resident(CPU, torch.float32), "fp32")[2], rel=0.02)
    assert losses[-1] < losses[0]
    assert all(value.dtype is torch.float32 for value in learner.parameters().values())
    seen = set()
    base.model.lm_head.register_forward_hook(lambda *values: seen.add(values[2].dtype))
    for beams in (1, 2):
        decode_rows(
            learner,
            [DecodingRow(quickstart_store.tokens("en", 0), "en", "fr")],
            tokenizer=base.tokenizer,
            vocabulary=base.vocabulary(LANGUAGES),
            languages=LANGUAGES,
            settings=DecodingSettings(beams=beams),
        )
    assert seen == {torch.bfloat16}


def test_all_parameters_are_trained_in_fp32_with_products_in_bf16(
    new_base: Callable[[], Base], quickstart_store: TokenStore
) -> None:
    base = settle(new_base(), Compute().resident("bf16", is_full=True))
    learner = FullModel(base)
    data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
    settings = TrainerSettings(epochs=2, pairs_per_epoch=60, tokens_per_batch=600, accumulation=1, precision="bf16")
    losses = [progress.train_loss for progress in train(learner, data, settings)]
    assert losses[1] < losses[0]
    assert {value.dtype for value in learner.parameters().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 vaes\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16 i8mm\n", True),
        ("flags\t\t: fpu avx2 avx512f\nbugs\t\t: bf16\n", False),
        ("", False),
    ],
)
def test_whether_a_cpu_multiplies_bf16_is_read_from_its_flags(text: str, expected: bool, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    assert has_bf16_products(tmp_path / "cpuinfo") is expected
    assert not has_bf16_products(tmp_path / "absent")


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


def test_without_such_products_fp32_is_taken_unmeasured(tiny_base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langsearch.model.cpu_precision.has_bf16_products", lambda: False)
    assert measure_cpu_precision(tiny_base, 1) == MeasuredPrecision("fp32", None)


@pytest.mark.parametrize(("seconds", "name"), [((1.0, 0.5), "bf16"), ((1.0, 0.9), "fp32"), ((1.0, 3.0), "fp32")])
def test_the_faster_type_is_taken(
    seconds: tuple[float, float], name: str, tiny_base: Base, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langsearch.model.cpu_precision.has_bf16_products", lambda: True)
    times = iter(seconds * 20)

    def timed(step: Callable[[], None]) -> float:
        step()
        return next(times)

    monkeypatch.setattr("langsearch.model.cpu_precision._seconds", timed)
    random = torch.get_rng_state()
    found = measure_cpu_precision(tiny_base, 1)
    assert (found.name, found.ratio) == (name, seconds[1] / seconds[0])
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), random)
