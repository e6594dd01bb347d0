"""Completely modular fine-tuning: each adapter learns alone, and what it learns depends on no other language."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.batches import Batch
from langsearch.data.directions import Direction, all_directions
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Bridge, LayerNorms, Pruning
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.forward import run_forward
from langsearch.train.loop import TrainingData, train

LANGUAGES = ("en", "fr", "de", "sw")
SETTINGS = TrainerSettings(
    epochs=2,
    pairs_per_epoch=24,
    tokens_per_batch=200,
    accumulation=1,
    lr=1e-2,
    weight_decay=0.1,
    dropout=0.1,
    warmup_updates=3,
    modular_bridge="en",
)
Architect = Callable[..., Architecture]
OWN = ("fr", "de", "sw")
KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "factorized": {"kind": "factorized"},
    "two_sided": {"kind": "two_sided"},
    "lora+layer_norm+bridge": {"layer_norm": LayerNorms(slots=OWN), "bridge": Bridge(slots=OWN, rank=3)},
    "layer_norm by source": {"layer_norm": LayerNorms(slots=OWN, stacks=("encoder",), side="src")},
}


def data_of(store: TokenStore, base: Base, languages: Sequence[str]) -> TrainingData:
    return TrainingData(store, all_directions(languages), languages, base.vocabulary(languages))


def own(learner: AdaptedModel, side: str) -> dict[str, list[Tensor]]:
    return {slot: [view.clone() for view in views] for slot, views in learner.owned(side).items()}  # type: ignore[arg-type]


def same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_moves_the_adapter_alone_whose_pairs_it_has(
    kind: str,
    new_base: Callable[[], Base],
    make_architecture: Architect,
    quickstart_store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = new_base()
    learner = adapt(base, make_architecture({"fr": 3, "de": 2, "sw": 4}, **KINDS[kind]), LANGUAGES)
    seen: list[tuple[set[int], set[int]]] = []

    def watched(learner: AdaptedModel, batch: Batch, *rest: object) -> object:
        seen.append((set(batch.src_lang.tolist()), set(batch.tgt_lang.tolist())))
        return run_forward(learner, batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("langsearch.train.loop.run_forward", watched)
    before = {side: own(learner, side) for side in ("src", "tgt")}
    turns = set()
    for _ in train(learner, data_of(quickstart_store, base, LANGUAGES), SETTINGS, updates_between_yields=1):
        after = {side: own(learner, side) for side in ("src", "tgt")}
        moved = {
            (side, slot) for side in ("src", "tgt") for slot in OWN if not same(after[side][slot], before[side][slot])
        }
        ((src,), (tgt,)) = seen.pop()
        assert not seen and (src == 0) != (tgt == 0)
        turn = ("src", LANGUAGES[src]) if tgt == 0 else ("tgt", LANGUAGES[tgt])
        # Norms that are scaled by the last update's momentum would have moved with every other adapter.
        assert moved == {turn}
        turns.add(turn)
        before = after
    assert turns == {(side, slot) for side in ("src", "tgt") for slot in OWN}


def trained(
    make: Callable[[], Base],
    architecture: Architecture,
    store: TokenStore,
    languages: Sequence[str],
    settings: TrainerSettings = SETTINGS,
) -> AdaptedModel:
    base = make()
    learner = adapt(base, architecture, languages)
    assert list(train(learner, data_of(store, base, languages), settings))
    return learner


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_language_learns_is_the_same_to_the_bit_whoever_else_is_trained(
    kind: str, new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    def learner(languages: Sequence[str]) -> AdaptedModel:
        ranks = {language: 3 for language in languages if language != "en"}
        fields = dict(KINDS[kind])
        for name in ("layer_norm", "bridge"):
            if name in fields:
                fields[name] = replace(fields[name], slots=tuple(ranks))
        architecture = make_architecture(ranks, {language: language for language in languages}, **fields)
        return trained(new_base, architecture, quickstart_store, languages)

    few, more = learner(("en", "fr", "sw")), learner(("sw", "de", "fr", "en"))
    start = adapt(new_base(), few.architecture, few.languages)
    for side in ("src", "tgt"):
        mine, theirs, first = own(few, side), own(more, side), own(start, side)
        for slot in ("fr", "sw"):
            if mine.get(slot):
                assert same(mine[slot], theirs[slot])
                assert not same(mine[slot], first[slot])


def test_a_language_that_is_added_later_learns_what_it_would_have_and_the_old_directions_say_the_same_to_the_bit(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    few, all_ = ("en", "fr", "sw"), LANGUAGES
    ranks = {"fr": 3, "sw": 3}
    old = trained(new_base, make_architecture(ranks, {one: one for one in few}), quickstart_store, few)
    together = trained(new_base, make_architecture({**ranks, "de": 3}), quickstart_store, all_)
    base = new_base()
    later = adapt(base, make_architecture({**ranks, "de": 3}), all_)
    with torch.no_grad():
        for slot in ranks:
            for view, value in zip(later.owned()[slot], old.owned()[slot], strict=True):
                view.copy_(value)
    assert list(train(later, data_of(quickstart_store, base, all_), replace(SETTINGS, train_only=("de",))))
    for name, value in together.state().items():
        assert torch.equal(later.state()[name], value)
    assert together.state()["encoder.0.fc1.B"].abs().max() > 0

    def logits(learner: AdaptedModel, direction: Direction) -> Tensor:
        ids = torch.arange(20, 60).view(2, 20)
        languages = [torch.tensor([learner.languages.index(one)] * 2) for one in (direction.src, direction.tgt)]
        learner.model.eval()
        with torch.no_grad(), learner.route(*languages):
            found: Tensor = learner.model(input_ids=ids, decoder_input_ids=ids.flip(0)).logits
        return found

    for direction in all_directions(few):
        assert torch.equal(logits(later, direction), logits(old, direction))
    assert not torch.equal(logits(later, Direction("de", "sw")), logits(later, Direction("fr", "sw")))


def test_a_smaller_rank_s_padding_changes_rounding_alone(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    learners = [
        trained(new_base, make_architecture({"fr": 3, "sw": rank}), quickstart_store, LANGUAGES) for rank in (3, 7)
    ]
    for side in ("src", "tgt"):
        for mine, theirs in zip(*(own(learner, side)["fr"] for learner in learners), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_equals_one_that_never_stopped(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore, tmp_path: Path
) -> None:
    pruning = Pruning(targets=(("fr", 0.5), ("sw", 0.5)), start=1, duration=1)

    def learner(seed: int) -> AdaptedModel:
        return adapt(new_base(), make_architecture({"fr": 3, "de": 2, "sw": 4}, pruning=pruning), LANGUAGES, seed)

    whole, num_updates, settings = learner(0), 0, replace(SETTINGS, pairs_per_epoch=10)
    data = data_of(quickstart_store, whole.base, LANGUAGES)
    for progress in train(whole, data, settings, updates_between_yields=1):
        num_updates = progress.updates
        write_checkpoint(tmp_path / str(num_updates), progress.checkpoint())
    for stop in (num_updates // 2, num_updates // 2 + 1):
        resumed = learner(5)
        resume = read_newest_checkpoint(tmp_path / str(stop))
        assert list(train(resumed, data, settings, resume=resume))
        for name, value in resumed.state().items():
            assert torch.equal(value, whole.state()[name]), (stop, name)


def test_an_update_is_the_same_in_parts_but_for_rounding(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    settings = replace(SETTINGS, dropout=0.0)
    whole, parts = (
        trained(new_base, make_architecture({"fr": 3}), quickstart_store, LANGUAGES, replace(settings, accumulation=n))
        for n in (1, 3)
    )
    for name, value in whole.state().items():
        torch.testing.assert_close(parts.state()[name], value, rtol=1e-3, atol=1e-4)


def test_each_adapter_s_learning_rate_goes_by_its_own_updates(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    base = new_base()
    learner = adapt(base, make_architecture({"fr": 3, "de": 2, "sw": 4}), LANGUAGES)
    data = data_of(quickstart_store, base, LANGUAGES)
    rates = [progress.lr for progress in train(learner, data, SETTINGS, updates_between_yields=1)]
    # Six adapters warm up, one after the other.
    assert rates[:6] == [SETTINGS.lr / 3] * 6
    assert rates[6:12] == [SETTINGS.lr * 2 / 3] * 6


def test_an_adapter_that_there_is_not_has_no_updates(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    base = new_base()
    learner = adapt(base, make_architecture({"fr": 3}), LANGUAGES)
    data = data_of(quickstart_store, base, LANGUAGES)
    progress = list(train(learner, data, SETTINGS))[-1]
    assert set(progress.checkpoint().state["adapter_updates"]) == {"src-fr", "tgt-fr"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ranks": {"en": 2, "fr": 3}}, "without any of the bridge's, but en has some"),
        ({"slots": dict.fromkeys(LANGUAGES, "all"), "ranks": {"all": 2}}, "but all is shared"),
        ({"ranks": {"fr": 3}, "shared_rank": 2}, "but all is shared"),
    ],
)
def test_adapters_that_cannot_learn_alone_are_told(
    fields: dict[str, Any],
    message: str,
    tiny_base: Base,
    make_architecture: Architect,
    quickstart_store: TokenStore,
) -> None:
    learner = adapt(tiny_base, make_architecture(**fields), LANGUAGES)
    with pytest.raises(InputError, match=message):
        list(train(learner, data_of(quickstart_store, tiny_base, LANGUAGES), SETTINGS))


def test_a_direction_without_sentences_is_told(tiny_base: Base, make_architecture: Architect, tmp_path: Path) -> None:
    sentences: dict[str, Sequence[str | None]] = {
        "en": ["One.", "Two."],
        "fr": ["Un.", "Deux."],
        "sw": [None, None],
    }
    text = ParallelText(("en", "fr", "sw"), sentences, "here")
    tokenizer = tiny_base.tokenizer
    store = TokenStore.build(text, tokenizer.encode, tokenizer.fingerprint, tmp_path)
    learner = adapt(tiny_base, make_architecture({"fr": 3, "sw": 2}), LANGUAGES)
    languages = ("en", "fr", "sw")
    data = TrainingData(
        store, [Direction("fr", "en"), Direction("sw", "en")], languages, tiny_base.vocabulary(languages)
    )
    with pytest.raises(InputError, match=r"sw-en, which is trained by itself: Training needs a pair"):
        list(train(learner, data, SETTINGS))
