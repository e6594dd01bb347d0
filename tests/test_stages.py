"""Two stages: what the first leaves alone, what the second does, and that a resumed run does the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.batches import Batch
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.forward import run_forward
from langsearch.train.loop import TrainingData, train
from langsearch.train.stages import Stages
from tests.adapter_cases import CASES
from tests.space_fixtures import SMALL, load, problems

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(
    epochs=4,
    pairs_per_epoch=24,
    tokens_per_batch=200,
    accumulation=1,
    lr=1e-2,
    weight_decay=0.1,
    first_stage=("en", "fr"),
    first_share=0.5,
)
Architect = Callable[..., Architecture]


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


def owned(learner: AdaptedModel, slot: str) -> list[Tensor]:
    return [view.clone() for view in learner.owned()[slot]]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", ["lora", "gated", "factorized", "lora+layer_norm+bridge"])
@pytest.mark.parametrize("freeze_first", [False, True])
def test_the_first_stage_leaves_the_others_own_alone_and_the_second_what_is_frozen(
    kind: str,
    freeze_first: bool,
    new_base: Callable[[], Base],
    make_architecture: Architect,
    data: TrainingData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    learner = adapt(new_base(), make_architecture(**CASES[kind][1]), LANGUAGES)
    seen: list[set[int]] = []

    def watched(learner: AdaptedModel, batch: Batch, *rest: object) -> object:
        seen.append(set(batch.src_lang.tolist()) | set(batch.tgt_lang.tolist()))
        return run_forward(learner, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("langsearch.train.loop.run_forward", watched)
    start = {slot: owned(learner, slot) for slot in ("en", "fr", "sw")}
    after: dict[int, dict[str, list[Tensor]]] = {}
    for progress in train(learner, data, replace(SETTINGS, freeze_first=freeze_first)):
        after[progress.epoch] = {slot: owned(learner, slot) for slot in start}
        if progress.epoch == 2:
            assert all(languages <= {0, 1} for languages in seen)
            seen.clear()
    assert {3} <= set().union(*seen)
    # Weight decay and momentum would have moved it.
    assert same(after[2]["sw"], start["sw"])
    assert not same(after[2]["en"], start["en"])
    assert not same(after[4]["sw"], start["sw"])
    for slot in ("en", "fr"):
        assert same(after[4][slot], after[2][slot]) == freeze_first


def test_a_run_that_is_resumed_in_either_stage_equals_one_that_never_stopped(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, freeze_first=True, dropout=0.1)
    pruning = Pruning(targets=(("en", 0.5), ("sw", 0.5)), start=1, duration=2)

    def learner(seed: int) -> AdaptedModel:
        return adapt(new_base(), make_architecture(pruning=pruning), LANGUAGES, seed)

    whole = learner(0)
    num_updates = 0
    for progress in train(whole, data, settings, updates_between_yields=1):
        num_updates = progress.updates
        write_checkpoint(tmp_path / str(num_updates), progress.checkpoint())
    expected = {name: value.clone() for name, value in whole.state().items()}
    for stop in (1, num_updates // 2, num_updates // 2 + 1, num_updates - 1):
        resumed = learner(5)
        resume = read_newest_checkpoint(tmp_path / str(stop))
        assert list(train(resumed, data, settings, resume=resume))
        assert all(torch.equal(value, expected[name]) for name, value in resumed.state().items())
    # What pruning took stays away, frozen or not.
    for site, alive in whole.lora.masks.alive.items() if whole.lora.masks else ():
        assert not whole.lora.layers[site].B[~alive].any()


def test_the_optimizer_forgets_the_first_stage(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData
) -> None:
    learner, counts = adapt(new_base(), make_architecture(), LANGUAGES), {}
    for progress in train(learner, data, SETTINGS):
        tensors = progress.checkpoint().tensors
        counts[progress.epoch] = max(float(value) for name, value in tensors.items() if name.endswith("/step"))
    per_epoch = counts[1]
    assert list(counts.values()) == [per_epoch, 2 * per_epoch, per_epoch, 2 * per_epoch]


@pytest.mark.parametrize(("share", "epochs", "num_first"), [(0.4, 5, 2), (0.0, 5, 1), (1.0, 5, 4), (0.5, 2, 1)])
def test_either_stage_has_an_epoch(share: float, epochs: int, num_first: int) -> None:
    stages = Stages.of(replace(SETTINGS, epochs=epochs, first_share=share))
    assert stages.num_first == num_first
    assert [stages.starts_anew(epoch) for epoch in range(1, epochs + 1)].index(True) == num_first
    assert Stages.of(replace(SETTINGS, first_stage=())).directions(1, DIRECTIONS) == DIRECTIONS


def test_what_is_owned_is_all_that_is_trained_and_no_slot_s_twice(
    new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    for kind, (build, fields) in CASES.items():
        base = new_base()
        learner = AdaptedModel(base, build(base, make_architecture(**fields), LANGUAGES, 0))
        views = [view for owned in learner.owned().values() for view in owned]
        # The scalars that mix sides are nobody's.
        in_common = 2 * 4 if kind == "mixed_sides" else 0
        assert sum(view.numel() for view in views) + in_common == learner.adapters.num_parameters(), kind
        for number, view in enumerate(views):
            view.fill_(float(number))
        assert all(bool((view == number).all()) for number, view in enumerate(views)), kind


def test_a_space_names_classes(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.two_stage={first: [high], share: {float: [0.2, 0.6]}}", "trainer.epochs=5")
    assert list(space.dimensions()) == ["trainer.two_stage.share"]
    settings = space.trainer({"trainer.two_stage.share": 0.4})
    assert (settings.first_stage, settings.first_share, settings.freeze_first) == (("en", "fr"), 0.4, False)
    assert load(tmp_path, space.text) == space
    assert space.baseline_trainer("shared_lora").first_stage == ()
    assert np.isclose(TrainerSettings().first_share, 0.4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.two_stage={first: [hihg]}"], "must name a class, but 'hihg' is none. Did you mean high?"),
        (["trainer.two_stage={first: []}"], "`trainer.two_stage.first` must name a class, but is empty"),
        (["trainer.two_stage={first: [high, low]}"], "must leave a class for the second stage, but names all"),
        (["trainer.two_stage={first: [low]}"], "must have a direction between its languages, but sw have none"),
        (["trainer.two_stage={first: [high]}", "trainer.epochs=1"], "needs two epochs at least, one for each stage"),
        (
            ["trainer.two_stage={first: [high], freeze_first: true}", "architecture.sharing=all"],
            "`trainer.two_stage.freeze_first` touches nothing where sharing can be all or pool",
        ),
        (["trainer.two_stage={first: [high]}", "data.directions=[en-sw, sw-en]"], "must have a direction between"),
        (
            [
                "trainer.two_stage={first: [low]}",
                "languages={high: [en], low: [sw, tyv], new: {tyv: {like: sw}}}",
                "data.directions=english",
            ],
            "must have a direction between its languages, but sw, tyv have none",
        ),
    ],
)
def test_a_mistake_is_told(overrides: list[str], message: str, tmp_path: Path) -> None:
    assert message in "\n".join(problems(tmp_path, SMALL, *overrides))
