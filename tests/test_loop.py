from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import FullModel, Learner, adapt
from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.epochs import plan_epoch
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import Checkpoint, read_newest_checkpoint, write_checkpoint
from langsearch.train.cross_entropy import smoothed_cross_entropy
from langsearch.train.loop import Progress, TrainingData, train
from langsearch.train.losses import NonFiniteLossError
from tests.adapter_cases import CASES

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
Architect = Callable[..., Architecture]

PRUNING = Pruning(targets=(("en", 0.5), ("fr", 0.5), ("sw", 0.5)), start=1, duration=2)
SETTINGS = TrainerSettings(epochs=3, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, dropout=0.1, lr=1e-2)


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def copy_data(tiny_base: Base, tmp_path: Path) -> TrainingData:
    """64 rows of 3 to 6 of 24 words; every language says the same, so translating is copying."""
    rng = np.random.default_rng(0)
    rows = tuple(" ".join(str(word) for word in rng.integers(24, size=rng.integers(3, 7))) for _ in range(64))

    def tokenize(sentences: Sequence[str]) -> list[list[int]]:
        return [[100 + int(word) for word in sentence.split()] for sentence in sentences]

    text = ParallelText(LANGUAGES, dict.fromkeys(LANGUAGES, rows), "copies")
    store = TokenStore.build(text, tokenize, "numbers", tmp_path / "store")
    return TrainingData(store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture(params=["adapters", "full", "pool", "factorized+layer_norm", "lora+layer_norm+bridge"])
def new_learner(
    request: pytest.FixtureRequest, new_base: Callable[[], Base], make_architecture: Architect
) -> Callable[[int], Learner]:
    """Makes learners of one kind; the seed sets the adapters' start."""

    def make(seed: int) -> Learner:
        if request.param == "full":
            return FullModel(new_base())
        if request.param in CASES:
            return adapt(new_base(), make_architecture(**CASES[request.param][1]), LANGUAGES, seed)
        return adapt(new_base(), make_architecture(pruning=PRUNING), LANGUAGES, seed)

    return make


def outcome(progress: Progress) -> tuple[object, ...]:
    place = progress.epoch, progress.microbatch, progress.num_microbatches, progress.updates
    return *place, progress.train_loss, progress.lr, progress.is_epoch_end


def copies(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stop", ["first update", "end of epoch 1", "within epoch 2", "end of epoch 2"])
def test_a_resumed_run_equals_one_that_never_stopped(
    stop: str, new_learner: Callable[[int], Learner], data: TrainingData, tmp_path: Path
) -> None:
    whole = new_learner(0)
    expected = [outcome(progress) for progress in train(whole, data, SETTINGS, updates_between_yields=1)]
    ends = [index + 1 for index, entry in enumerate(expected) if entry[-1]]
    assert len(ends) == 3 and ends[0] > 2
    num_before = {
        "first update": 1,
        "end of epoch 1": ends[0],
        "within epoch 2": ends[0] + 2,
        "end of epoch 2": ends[1],
    }

    found = []
    for progress in train(new_learner(0), data, SETTINGS, updates_between_yields=1):
        found.append(outcome(progress))
        if len(found) == num_before[stop]:
            write_checkpoint(tmp_path, progress.checkpoint())
            break
    torch.manual_seed(99)
    resumed = new_learner(5)  # all that matters must come from the checkpoint
    checkpoint = read_newest_checkpoint(tmp_path)
    for progress in train(resumed, data, SETTINGS, resume=checkpoint, updates_between_yields=1):
        found.append(outcome(progress))
    assert found == expected
    assert equal(copies(resumed), copies(whole))


def test_a_resumed_run_keeps_its_loss_scale(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, precision="fp16")
    expected, found = [], []
    for progress in train(adapt(new_base(), make_architecture(), LANGUAGES), data, settings):
        expected.append(outcome(progress))
        if progress.epoch == 1:
            checkpoint = progress.checkpoint()
            write_checkpoint(tmp_path / "whole", checkpoint)
            state = {**checkpoint.state, "scaler": {**checkpoint.state["scaler"], "scale": 8.0}}
            write_checkpoint(tmp_path / "changed", Checkpoint(checkpoint.tensors, state))
    learner = adapt(new_base(), make_architecture(), LANGUAGES)
    for progress in train(learner, data, settings, resume=read_newest_checkpoint(tmp_path / "whole")):
        found.append(outcome(progress))
    assert found == expected[1:]
    changed = read_newest_checkpoint(tmp_path / "changed")
    last = list(train(learner, data, replace(settings, epochs=2), resume=changed))[-1]
    assert last.checkpoint().state["scaler"]["scale"] == 8.0


def test_yields_within_epochs_and_what_the_caller_does_change_nothing(
    new_learner: Callable[[int], Learner], data: TrainingData
) -> None:
    quiet, watched = new_learner(0), new_learner(0)
    expected = [outcome(progress) for progress in train(quiet, data, SETTINGS)]
    assert [entry[0] for entry in expected] == [1, 2, 3]
    found = []
    for progress in train(watched, data, SETTINGS, updates_between_yields=1):
        assert not watched.model.training, "at a yield the model is ready to be evaluated"
        torch.rand(7)
        torch.manual_seed(progress.updates)
        watched.model.train()
        progress.checkpoint()
        if progress.is_epoch_end:
            found.append(outcome(progress))
    assert found == expected
    assert equal(copies(watched), copies(quiet))


def test_a_finished_run_resumes_to_nothing(new_learner: Callable[[int], Learner], data: TrainingData) -> None:
    last: Checkpoint | None = None
    settings = replace(SETTINGS, epochs=1)
    for progress in train(new_learner(0), data, settings):
        last = progress.checkpoint()
    assert last is not None
    assert (last.state["epoch"], last.state["microbatch"]) == (2, 0)
    assert list(train(new_learner(0), data, settings, resume=last)) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_two_runs_of_one_seed_are_equal_and_of_two_seeds_are_not(
    precision: Any, new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> None:
    def run(seed: int) -> tuple[list[float], dict[str, Tensor]]:
        learner = adapt(new_base(), make_architecture(), LANGUAGES)
        settings = replace(SETTINGS, epochs=1, seed=seed, precision=precision)
        return [progress.train_loss for progress in train(learner, data, settings)], copies(learner)

    first, again, other = run(0), run(0), run(1)
    assert first[0] == again[0] != other[0]
    assert equal(first[1], again[1])
    assert not equal(first[1], other[1])


def test_half_microbatches_accumulated_equal_one_update(
    new_base: Callable[[], Base], make_architecture: Architect, copy_data: TrainingData, tmp_path: Path
) -> None:
    # Rows of equal length, so that an epoch is one microbatch of 16 rows or two of 8.
    rows = tuple(" ".join(str((row * step) % 24) for step in range(1, 5)) for row in range(16))
    text = ParallelText(("en", "fr"), {"en": rows, "fr": rows[::-1]}, "rows of 4")
    store = TokenStore.build(
        text, lambda part: [[100 + int(word) for word in row.split()] for row in part], "numbers", tmp_path
    )
    short = TrainingData(store, all_directions(("en", "fr"))[:1], LANGUAGES, copy_data.vocabulary)
    updates = {}
    for accumulation in (1, 2):
        learner = adapt(new_base(), make_architecture(), LANGUAGES)
        settings = TrainerSettings(
            epochs=1, tokens_per_batch=16 * 6, accumulation=accumulation, dropout=0.0, lr=1.0, clip_norm=1e9
        )
        (progress,) = train(learner, short, settings)
        assert (progress.num_microbatches, progress.updates) == (accumulation, 1)
        # Adam's first moment after one update is a tenth of the gradient; its step would hide the gradient's size.
        moments = progress.checkpoint().tensors
        updates[accumulation] = (
            progress.train_loss,
            {name: value.clone() for name, value in moments.items() if name.endswith("exp_avg")},
        )
    assert updates[2][0] == pytest.approx(updates[1][0], rel=1e-5)
    for name, wanted in updates[1][1].items():
        torch.testing.assert_close(updates[2][1][name], wanted, atol=1e-6, rtol=1e-4)


def test_split_microbatches_make_the_updates_of_whole_ones_also_from_within_an_epoch(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, dropout=0.0, epochs=2, lr=1e-3)
    whole = adapt(new_base(), make_architecture(), LANGUAGES)
    expected = list(map(outcome, train(whole, data, settings, updates_between_yields=1)))
    split = adapt(new_base(), make_architecture(), LANGUAGES)
    shapes: list[int] = []
    for progress in train(split, data, settings, updates_between_yields=1):
        if progress.updates == 2:
            assert not progress.is_epoch_end
            write_checkpoint(tmp_path, progress.checkpoint())
            break

    def watch(batch: Any) -> Any:
        shapes.append(batch.src_ids.shape[0])
        return batch

    resume = read_newest_checkpoint(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("langsearch.train.loop.collate", lambda *values, **options: watch(collate(*values, **options)))
        rest = train(split, data, settings, resume=resume, updates_between_yields=1, num_parts=2)
        found = list(map(outcome, rest))
    assert [entry[:4] for entry in found] == [entry[:4] for entry in expected[2:]], "the place is counted as before"
    assert [entry[4] for entry in found] == pytest.approx([entry[4] for entry in expected[2:]], rel=1e-4)
    for name, value in copies(whole).items():
        torch.testing.assert_close(copies(split)[name], value, atol=2e-4, rtol=1e-2)
    plan = [
        len(rows)
        for epoch in (0, 1)
        for rows in plan_epoch(
            data.store,
            data.directions,
            epoch=epoch,
            seed=settings.seed,
            temperature=settings.temperature,
            max_tokens=(settings.tokens_per_batch or 0) // settings.accumulation,
            pairs_per_epoch=settings.pairs_per_epoch,
            max_length=settings.max_length,
        ).microbatches
    ][2 * settings.accumulation :]
    assert sum(shapes) == sum(plan)
    assert max(shapes) == -(-max(plan) // 2), "no part is larger than half the largest microbatch"


def test_training_yields_where_it_is_asked_to_and_is_asked_after_every_update(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> None:
    asked = 0

    def ask() -> bool:
        nonlocal asked
        asked += 1
        return asked == 2

    learner = adapt(new_base(), make_architecture(), LANGUAGES)
    found = [outcome(progress) for progress in train(learner, data, replace(SETTINGS, epochs=1), should_yield=ask)]
    assert [(entry[3], entry[-1]) for entry in found] == [(2, False), (asked, True)]


def losses(runs: Iterator[Progress]) -> list[float]:
    return [progress.train_loss for progress in runs]


def test_adapters_learn_to_copy(embedded_base: Base, make_architecture: Architect, copy_data: TrainingData) -> None:
    learner = adapt(embedded_base, make_architecture(dict.fromkeys(LANGUAGES, 8), num_layers=3), LANGUAGES)
    settings = TrainerSettings(
        epochs=3, pairs_per_epoch=200, tokens_per_batch=128, accumulation=1, lr=3e-3, label_smoothing=0.0, dropout=0.0
    )
    found = losses(train(learner, copy_data, replace(settings, schedule="constant")))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5 * found[0]


def test_full_finetuning_learns_and_keeps_ties(tiny_base: Base, copy_data: TrainingData) -> None:
    learner = FullModel(tiny_base)
    settings = TrainerSettings(
        epochs=6, pairs_per_epoch=300, tokens_per_batch=128, accumulation=1, lr=1e-2, label_smoothing=0.0, dropout=0.1
    )
    found = losses(train(learner, copy_data, replace(settings, schedule="constant")))
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5 * found[0]
    model = learner.model
    assert model.lm_head.weight is model.model.shared.weight is model.model.decoder.embed_tokens.weight


def test_bf16_trains_like_fp32_and_makes_the_largest_product_in_bf16(
    new_base: Callable[[], Base],
    make_architecture: Architect,
    data: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def watch(hidden: Tensor, *rest: Any) -> Tensor:
        seen.append(hidden.dtype)
        return smoothed_cross_entropy(hidden, *rest)

    monkeypatch.setattr("langsearch.train.cross_entropy.smoothed_cross_entropy", watch)
    found = {}
    for precision in ("fp32", "bf16"):
        learner = adapt(new_base(), make_architecture(), LANGUAGES)
        settings = replace(SETTINGS, epochs=2, dropout=0.0, precision=precision)
        found[precision] = losses(train(learner, data, settings))
        assert all(value.dtype is torch.float32 for value in learner.parameters().values())
    assert found["bf16"] == pytest.approx(found["fp32"], rel=0.02)
    assert set(seen[: len(seen) // 2]) == {torch.float32} and set(seen[len(seen) // 2 :]) == {torch.bfloat16}


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_ends_the_run(
    value: float, tiny_base: Base, make_architecture: Architect, data: TrainingData
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    runs = train(learner, data, SETTINGS, updates_between_yields=1)
    next(runs)
    for parameter in learner.parameters().values():
        parameter.data.fill_(value)
    with pytest.raises(NonFiniteLossError, match=r"must stay finite, but it is nan at update 2 \(epoch 1.*Lower"):
        next(runs)


def test_clipping_bounds_the_gradient(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> None:
    norms = {}
    for clip_norm in (0.0, 0.01):
        learner = adapt(new_base(), make_architecture(), LANGUAGES)
        progress = next(train(learner, data, replace(SETTINGS, clip_norm=clip_norm), updates_between_yields=1))
        moments = [value for name, value in progress.checkpoint().tensors.items() if name.endswith("exp_avg")]
        norms[clip_norm] = 10 * float(torch.stack([moment.norm() for moment in moments]).norm())
    assert norms[0.01] == pytest.approx(0.01, rel=1e-3)
    assert norms[0.0] > 0.02


def test_the_learning_rate_and_the_seconds_are_reported(
    tiny_base: Base, make_architecture: Architect, data: TrainingData
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    found = list(train(learner, data, replace(SETTINGS, epochs=1), updates_between_yields=1))
    assert [progress.lr for progress in found] == pytest.approx([1e-2 / n**0.5 for n in range(1, len(found) + 1)])
    seconds = [progress.train_seconds for progress in found]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_the_bases_own_dropout_does_not_matter_and_the_settings_does(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> None:
    found = {}
    for own, ours in ((0.0, 0.0), (0.4, 0.0), (0.0, 0.4)):
        base = new_base()
        for stack in (base.model.model.encoder, base.model.model.decoder):
            stack.dropout, stack.layerdrop = own, own
            for layer in stack.layers:
                layer.dropout = own
        learner = adapt(base, make_architecture(), LANGUAGES)
        found[own, ours] = losses(train(learner, data, replace(SETTINGS, epochs=1, dropout=ours)))
    assert found[0.4, 0.0] == found[0.0, 0.0] != found[0.0, 0.4]
