"""What a GPU's pace changes in a training: nothing that is learned. As far as that is seen on a CPU."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.embedded import read_embedded
from langsearch.data.store import TokenStore
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import Architecture
from langsearch.space.settings import TrainerSettings
from langsearch.train import optimizer
from langsearch.train.checkpoint import Checkpoint
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.forward import by_target, ready, run_forward
from langsearch.train.loop import TrainingData, _Run, train
from langsearch.train.losses import EpochLosses, NonFiniteLossError, UpdateLoss
from langsearch.train.pace import Pace
from langsearch.train.term import Need
from langsearch.train.terms import make_terms
from tests.benchmarks.launches import as_on_a_gpu

pytest_plugins = ["family_fixtures"]

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=2, pairs_per_epoch=36, tokens_per_batch=300, accumulation=2, dropout=0.1, lr=1e-2)
GPU = Pace.of(torch.device("cuda"))


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def new_learner(
    new_base: Callable[[], Base], make_architecture: Callable[..., Architecture]
) -> Callable[[], AdaptedModel]:
    return lambda: adapt(new_base(), make_architecture(), LANGUAGES)


@contextmanager
def pace(monkeypatch: pytest.MonkeyPatch, found: Pace) -> Iterator[None]:
    with monkeypatch.context() as patched:
        patched.setattr(Pace, "of", lambda _: found)
        yield


@contextmanager
def apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Gives a context in which this thread takes the CPU for a device that it would have to wait for."""
    with monkeypatch.context() as patched, as_on_a_gpu():
        patched.setattr(optimizer, "_is_fused", lambda _: True)
        yield


def state(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state().items()}


def test_a_cpu_makes_batches_when_they_are_needed_and_reads_losses_at_once() -> None:
    assert Pace.of(torch.device("cpu")) == Pace(batches_ahead=0, losses_behind=0, length_multiple=1)
    assert GPU.batches_ahead > 0 and GPU.losses_behind > 0 and GPU.length_multiple > 1


@pytest.mark.parametrize("updates_between_yields", [None, 1, 3])
def test_batches_ahead_and_losses_read_later_are_the_same_bitwise(
    updates_between_yields: int | None,
    new_learner: Callable[[], AdaptedModel],
    data: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for one in (Pace(), replace(GPU, length_multiple=1)):
        learner = new_learner()
        with pace(monkeypatch, one):
            runs = train(learner, data, SETTINGS, updates_between_yields=updates_between_yields)
            progress = [(run.epoch, run.microbatch, run.updates, run.train_loss, run.lr) for run in runs]
        found.append((progress, state(learner)))
    (plain, weights), (ahead, weights_ahead) = found
    assert ahead == plain
    assert all(torch.equal(weights_ahead[name], value) for name, value in weights.items())


def test_a_run_resumes_bitwise_from_the_middle_of_what_was_made_ahead(
    new_learner: Callable[[], AdaptedModel], data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pace(monkeypatch, GPU):
        learner = new_learner()
        whole = [run.train_loss for run in train(learner, data, SETTINGS, updates_between_yields=1)]
        expected = state(learner)
        learner = new_learner()
        runs = train(learner, data, SETTINGS, updates_between_yields=1)
        for _ in range(2):
            kept = next(runs).checkpoint()
        tensors = {name: value.clone() for name, value in kept.tensors.items()}
        runs.close()  # type: ignore[attr-defined]
        assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]
        learner = new_learner()
        resumed = train(learner, data, SETTINGS, resume=Checkpoint(tensors, kept.state), updates_between_yields=1)
        assert [run.train_loss for run in resumed] == whole[2:]
    assert all(torch.equal(learner.state()[name], value) for name, value in expected.items())


def test_a_gpus_way_through_a_step_learns_the_same(
    new_learner: Callable[[], AdaptedModel], data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Masks as they are used, no sorting by source, a fused optimizer, lengths in few buckets."""
    settings = replace(SETTINGS, dropout=0.0, clip_norm=1.0)
    for encode_once in (False, True):
        settings = replace(settings, encode_once=encode_once)
        expected = [run.train_loss for run in train(new_learner(), data, settings)]
        with pace(monkeypatch, GPU), apart(monkeypatch):
            found = [run.train_loss for run in train(new_learner(), data, settings)]
        assert found == pytest.approx(expected, rel=1e-4)


class _Looks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes operations that have the host wait for a device: those whose result's value or size it must know."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "aten.equal")
        indices = args[1] if name.startswith("aten.index") and len(args) > 1 and isinstance(args[1], list) else ()
        if any(word in name for word in waits) or any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices
        ):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("is_full", [False, True])
@pytest.mark.parametrize("encode_once", [False, True])
def test_within_an_update_the_host_looks_at_nothing_on_the_device(
    is_full: bool,
    encode_once: bool,
    new_learner: Callable[[], AdaptedModel],
    new_base: Callable[[], Base],
    data: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = replace(SETTINGS, clip_norm=1.0, encode_once=encode_once)
    learner = FullModel(new_base()) if is_full else new_learner()
    rows = np.array([[index, row] for index in range(12) for row in range(2)], np.int32)

    with pace(monkeypatch, GPU):
        with apart(monkeypatch):  # the optimizer is made within
            run = _Run(
                learner, data, settings, make_terms(settings, learner, data.store, data.languages, data.vocabulary), 1
            )
        batches = [run._collated(half) for half in np.array_split(rows, 2)]
        with apart(monkeypatch), _Looks() as seen:
            run._update(batches)
            run.losses = EpochLosses(GPU.losses_behind)
            run._update(batches)
        assert seen.found == []
        with apart(monkeypatch), _Looks() as seen:
            run._update([replace(batch, counted=None) for batch in batches])
        assert seen.found, "what is looked up is seen"


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_every_familys_states_are_those_of_its_own_code(
    attention: str, family_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = load_base(str(family_folder))
    base.model.set_attn_implementation(attention)
    text = read_embedded("quickstart", "validation", LANGUAGES).select(range(4))
    store = TokenStore.build(text, base.tokenizer.encode, base.tokenizer.fingerprint, tmp_path)
    learner = FullModel(base)
    rows = np.array([[index, row] for row in range(4) for index in range(12)], np.int32)
    batch = ready(collate(store, DIRECTIONS, rows, base.vocabulary(LANGUAGES), LANGUAGES, with_sources=True))
    needs = frozenset[Need]({"encoder", "decoder"})
    for given in (batch, replace(batch, first_rows=None)):
        plain = run_forward(learner, given, needs, torch.float32)
        with apart(monkeypatch):
            found = run_forward(learner, given, needs, torch.float32)
        assert plain.decoder is not None and found.decoder is not None and plain.encoder is not None
        torch.testing.assert_close(found.decoder, plain.decoder, atol=1e-5, rtol=1e-5)
        is_token = given.src_mask > 0
        assert found.encoder is not None
        torch.testing.assert_close(found.encoder[is_token], plain.encoder[is_token], atol=1e-5, rtol=1e-5)


def test_lengths_in_few_buckets_change_nothing_but_rounding(
    tiny_base: Base, quickstart_store: TokenStore, make_architecture: Callable[..., Architecture]
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    rows = np.array([[index, row] for index in range(12) for row in range(2)], np.int32)
    found = []
    for multiple, most in ((1, None), (8, None), (64, 50)):
        batch = collate(
            quickstart_store,
            DIRECTIONS,
            rows,
            tiny_base.vocabulary(LANGUAGES),
            LANGUAGES,
            length_multiple=multiple,
            max_length=most,
        )
        lengths = batch.src_ids.shape[1], batch.labels.shape[1]
        assert all(length % multiple == 0 or length == most for length in lengths)
        states = run_forward(learner, ready(batch), frozenset({"decoder"}), torch.float32)
        found.append(CrossEntropy(0.1).loss(tiny_base.model, states, batch))
    assert found[1].item() == pytest.approx(found[0].item(), rel=1e-6)
    assert found[2].item() == pytest.approx(found[0].item(), rel=1e-6)


def test_whether_sources_are_padded_is_told(quickstart_store: TokenStore, tiny_base: Base) -> None:
    def made(rows: list[list[int]], multiple: int = 1) -> Batch:
        vocabulary = tiny_base.vocabulary(LANGUAGES)
        given = np.array(rows, np.int32)
        return collate(quickstart_store, DIRECTIONS, given, vocabulary, LANGUAGES, length_multiple=multiple)

    for batch in (made([[0, 0]]), made([[0, 0], [0, 1], [3, 2]]), made([[0, 0]], multiple=64)):
        assert batch.is_src_padded == (not bool(batch.src_mask.all()))


def test_what_is_looked_up_ahead_gives_the_same_states_bitwise(
    quickstart_store: TokenStore, tiny_base: Base, make_architecture: Callable[..., Architecture]
) -> None:
    learner = adapt(tiny_base, make_architecture(), LANGUAGES)
    rows = np.array([[index, row] for index in range(12) for row in range(2)], np.int32)
    batch = collate(quickstart_store, DIRECTIONS, rows, tiny_base.vocabulary(LANGUAGES), LANGUAGES)
    one, other = (
        run_forward(learner, given, frozenset({"decoder"}), torch.float32) for given in (by_target(batch), ready(batch))
    )
    assert one.decoder is not None and other.decoder is not None and one.labels is not None
    assert torch.equal(one.decoder, other.decoder) and other.labels is not None
    assert torch.equal(one.labels, other.labels) and len(one.labels) == batch.num_tgt_tokens


# Losses


def losses(*values: float, behind: int) -> Iterator[EpochLosses]:
    """Yields the losses of an epoch after each update."""
    found = EpochLosses(behind)
    for update, value in enumerate(values, 1):
        found.add(UpdateLoss(torch.tensor(value), 10, update, epoch=1, lr=0.1 * update))
        yield found


def test_a_loss_is_read_so_many_updates_later_and_all_before_anything_is_kept() -> None:
    assert [(found.loss_sum, found.num_tokens) for found in losses(3.0, 4.0, 5.0, behind=0)][-1] == (12.0, 30)
    seen = []
    for found in losses(3.0, 4.0, 5.0, behind=1):
        seen.append((found.loss_sum, found.num_tokens))
    assert seen == [(0.0, 0), (3.0, 10), (7.0, 20)]
    found.read_all()
    assert (found.loss_sum, found.num_tokens) == (12.0, 30)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("behind", [0, 1, 2])
def test_a_loss_that_is_not_finite_is_named_with_its_own_update(value: float, behind: int) -> None:
    with pytest.raises(NonFiniteLossError, match=rf"it is {value} at update 2 \(epoch 1, learning rate 0.2\)"):
        for found in losses(3.0, value, 5.0, behind=behind):
            last = found
        last.read_all()


def test_nothing_is_kept_of_an_update_whose_loss_is_found_not_finite_later(
    new_learner: Callable[[], AdaptedModel], data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, updates = _Run._update, []

    def broken(self: _Run, batches: list[Batch]) -> None:
        updates.append(self.updates + 1)
        if self.updates == 1:
            for parameter in self.parameters.values():
                parameter.data.fill_(torch.nan)
        whole(self, batches)

    monkeypatch.setattr(_Run, "_update", broken)
    with pace(monkeypatch, GPU):
        runs = train(new_learner(), data, SETTINGS, updates_between_yields=1)
        assert next(runs).updates == 1
        with pytest.raises(NonFiniteLossError, match="at update 2"):
            next(runs)
        assert updates == [1, 2]
        updates.clear()
        with pytest.raises(NonFiniteLossError, match=r"at update 2 .*learning rate 0.01\)"):
            next(train(new_learner(), data, SETTINGS))
        assert updates == [1, 2, 3], "it is found one update later, before the epoch ends"
    assert not [thread for thread in threading.enumerate() if thread.name == "batches ahead"]
