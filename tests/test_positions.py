from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import FullModel
from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import Base, load_base
from langsearch.model.positions import num_positions
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.loop import TrainingData, train

pytest_plugins = ["family_fixtures"]

LANGUAGES = ("en", "fr")


@pytest.fixture
def base(family_folder: Path) -> Base:
    return load_base(str(family_folder))


@pytest.mark.parametrize("beams", [1, 2])
def test_every_family_translates_a_source_up_to_its_last_position(beams: int, base: Base) -> None:
    positions = num_positions(base.model.config)
    full = DecodingRow(np.full(positions - 2, 30, np.int32), "en", "fr")
    arguments: dict[str, Any] = {"tokenizer": base.tokenizer, "vocabulary": base.vocabulary(LANGUAGES)}
    settings = DecodingSettings(beams=beams, max_length_factor=50.0)
    learner = FullModel(base)

    def endless(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        logits[..., arguments["vocabulary"].eos_id] = -torch.inf
        return logits

    learner.model.lm_head.register_forward_hook(endless)
    decoded = decode_rows(learner, [full], languages=LANGUAGES, settings=settings, **arguments)
    assert decoded.is_cut == [True], "as long as it can get"


def test_every_family_trains_up_to_its_last_position_and_leaves_out_what_is_longer(base: Base, tmp_path: Path) -> None:
    positions = num_positions(base.model.config)
    counts = [positions - 2, positions - 1, 5000]
    text = ParallelText(LANGUAGES, {name: tuple("x" * count for count in counts) for name in LANGUAGES}, "made")
    store = TokenStore.build(text, lambda part: [[30] * len(sentence) for sentence in part], "made", tmp_path)
    settings = TrainerSettings(epochs=1, tokens_per_batch=10_000, accumulation=1, max_length=6000, dropout=0.0)
    data = TrainingData(store, [Direction("en", "fr")], LANGUAGES, base.vocabulary(LANGUAGES))
    *_, last = train(FullModel(base), data, settings)
    assert last.updates == 1


@pytest.mark.parametrize("beams", [1, 2])
def test_a_hypothesis_that_ends_at_once_is_not_cut(beams: int, base: Base) -> None:
    arguments: dict[str, Any] = {"tokenizer": base.tokenizer, "vocabulary": base.vocabulary(LANGUAGES)}
    learner = FullModel(base)

    def silent(module: Any, inputs: Any, logits: Tensor) -> Tensor:
        logits[..., arguments["vocabulary"].eos_id] = 1e4
        return logits

    learner.model.lm_head.register_forward_hook(silent)
    row = DecodingRow(np.full(5, 30, np.int32), "en", "fr")
    decoded = decode_rows(learner, [row], languages=LANGUAGES, settings=DecodingSettings(beams=beams), **arguments)
    assert (decoded.texts, decoded.is_cut) == ([""], [False])
