"""What must hold on a CUDA device. Skipped where there is none; they need neither Ray nor Optuna nor PEFT."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import Base, to_device
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import TrainingData, train

pytestmark = pytest.mark.gpu

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=3, pairs_per_epoch=60, tokens_per_batch=400, accumulation=2, dropout=0.0, lr=1e-2)
Architect = Callable[..., Architecture]


def cuda(base: Base) -> Base:
    return to_device(base, torch.device("cuda"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_adapters_learn_in_every_precision(
    precision: str, tiny_base: Base, quickstart_store: TokenStore, make_architecture: Architect
) -> None:
    learner = adapt(cuda(tiny_base), make_architecture(), LANGUAGES)
    data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))
    settings = replace(SETTINGS, precision=precision)  # type: ignore[arg-type]
    losses = [progress.train_loss for progress in train(learner, data, settings)]
    assert losses[-1] < losses[0]


def test_a_gpu_gives_the_losses_of_the_cpu(
    new_base: Callable[[], Base], quickstart_store: TokenStore, make_architecture: Architect
) -> None:
    losses = []
    for base in (new_base(), cuda(new_base())):
        learner = adapt(base, make_architecture(), LANGUAGES)
        data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
        settings = replace(SETTINGS, precision="fp32")
        losses.append([progress.train_loss for progress in train(learner, data, settings)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_a_gpu_translates_as_the_cpu(
    embedded_base: Base, quickstart_store: TokenStore, make_architecture: Architect
) -> None:
    architecture = make_architecture()
    rows = [
        DecodingRow(quickstart_store.tokens(direction.src, row), direction.src, direction.tgt)
        for direction in DIRECTIONS
        for row in range(4)
    ]

    def translations(base: Base) -> list[str]:
        learner = adapt(base, architecture, LANGUAGES)
        texts = decode_rows(
            learner,
            rows,
            tokenizer=base.tokenizer,
            vocabulary=base.vocabulary(LANGUAGES),
            languages=LANGUAGES,
            settings=DecodingSettings(),
        ).texts
        learner.remove()
        return texts

    on_cpu = translations(embedded_base)
    on_gpu = translations(cuda(embedded_base))
    # A near tie may fall the other way on other hardware; most sentences have none.
    assert sum(one == other for one, other in zip(on_cpu, on_gpu, strict=True)) >= 0.9 * len(rows)


def test_a_resumed_run_goes_on_with_the_same_losses(
    new_base: Callable[[], Base], quickstart_store: TokenStore, make_architecture: Architect, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, precision="bf16", dropout=0.1)

    def start() -> tuple[AdaptedModel, TrainingData]:
        base = cuda(new_base())
        data = TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, base.vocabulary(LANGUAGES))
        return adapt(base, make_architecture(), LANGUAGES), data

    whole = [progress.train_loss for progress in train(*start(), settings)]
    for progress in train(*start(), settings):
        write_checkpoint(tmp_path, progress.checkpoint())
        break
    resumed = [progress.train_loss for progress in train(*start(), settings, resume=read_newest_checkpoint(tmp_path))]
    # Sums over slots are atomic on a GPU, so that the last bits may differ.
    assert resumed == pytest.approx(whole[1:], rel=1e-3)
