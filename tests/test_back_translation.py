"""Back-translation: what is drawn, what is left out, and that it is the same again."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml  # type: ignore[import-untyped]

from langsearch.adapters.learners import AdaptedModel, Learner, adapt
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_batches, translate_pieces
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.schema import load_space
from langsearch.space.sections import TrainerSection
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.space.trainer_document import trainer_document
from langsearch.train.back_translation import BackTranslation, ToTranslate
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.loop import TrainingData, train
from tests.space_fixtures import SMALL, load, problems

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(
    epochs=2, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, lr=1e-2, dropout=0.1, back_translation_every=2
)
SHORT = DecodingSettings(beams=1, max_length_factor=0.0)
Architect = Callable[..., Architecture]


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore) -> TrainingData:
    return TrainingData(quickstart_store, DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def batch(tiny_base: Base, quickstart_store: TokenStore) -> Batch:
    """Three sentences in each of twelve directions."""
    rows = torch.tensor([[index, row] for index in range(len(DIRECTIONS)) for row in (3, 4, 5)], dtype=torch.int32)
    vocabulary = tiny_base.vocabulary(LANGUAGES)
    return collate(quickstart_store, DIRECTIONS, rows.numpy(), vocabulary, LANGUAGES, with_sentences=True)


def made(
    batch: Batch,
    data: TrainingData,
    learner: Learner,
    say: Callable[[ToTranslate], list[int] | None],
    update: int = 2,
    pivots: tuple[str, ...] = LANGUAGES,
) -> tuple[list[Batch], list[ToTranslate]]:
    asked: list[ToTranslate] = []

    def translate(_: Learner, sentences: Sequence[ToTranslate]) -> list[list[int] | None]:
        asked.extend(sentences)
        return [say(one) for one in sentences]

    back = BackTranslation(every=1, from_epoch=1, pivots=pivots, seed=0, max_length=40)
    found = back.pairs(
        learner,
        [batch],
        update,
        store=data.store,
        languages=LANGUAGES,
        vocabulary=data.vocabulary,
        translate=translate,
    )
    return found, asked


@pytest.fixture
def learner(tiny_base: Base, make_architecture: Architect) -> AdaptedModel:
    return adapt(tiny_base, make_architecture(), LANGUAGES)


def test_targets_are_translated_into_other_languages_drawn_evenly_and_stay_targets(
    batch: Batch, data: TrainingData, learner: AdaptedModel
) -> None:
    pivots: Counter[tuple[str, str]] = Counter()
    for update in range(1, 120):
        (found,), asked = made(batch, data, learner, lambda one: [*one.tokens.tolist(), 77], update)
        pivots.update((one.src, one.tgt) for one in asked)
    assert all(src != tgt for src, tgt in pivots)
    expected = sum(pivots.values()) / 12
    assert len(pivots) == 12 and all(abs(count - expected) < 0.15 * expected for count in pivots.values())
    # The last batch: what was translated is the target, word for word, and its translation is the source.
    for number, one in enumerate(asked):
        assert LANGUAGES[int(found.src_lang[number])] == one.tgt
        assert LANGUAGES[int(found.tgt_lang[number])] == one.src
        labels = found.labels[number][found.labels[number] >= 0].tolist()
        assert labels == [data.vocabulary.language_ids[one.src], *one.tokens.tolist(), data.vocabulary.eos_id]
        source = found.src_ids[number][found.src_mask[number] > 0].tolist()
        assert source[1:-1] == [*one.tokens.tolist(), 77]


def test_what_is_drawn_depends_on_the_update_alone(batch: Batch, data: TrainingData, learner: AdaptedModel) -> None:
    def drawn(update: int) -> list[str]:
        torch.manual_seed(update)
        return [one.tgt for one in made(batch, data, learner, lambda one: [5], update)[1]]

    assert drawn(4) == drawn(4) != drawn(6)


def test_empty_translations_copies_cut_ones_and_long_ones_are_left_out(
    batch: Batch, data: TrainingData, learner: AdaptedModel
) -> None:
    said = {"en": lambda _: [], "fr": lambda one: one.tokens.tolist(), "de": lambda _: None, "sw": lambda _: [9] * 39}
    assert made(batch, data, learner, lambda one: said[one.src](one))[0] == []  # type: ignore[no-untyped-call]
    (found,), asked = made(batch, data, learner, lambda one: [9] * 38 if one.src == "sw" else None)
    assert {LANGUAGES[index] for index in found.tgt_lang.tolist()} == {"sw"}
    assert len(found.src_ids) == sum(one.src == "sw" for one in asked)


def test_only_the_pivots_are_drawn(batch: Batch, data: TrainingData, learner: AdaptedModel) -> None:
    (found,), asked = made(batch, data, learner, lambda _: [9], pivots=("en",))
    assert {one.tgt for one in asked} == {"en"}
    # Targets in the only pivot have nothing to be translated into.
    assert "en" not in {LANGUAGES[index] for index in found.tgt_lang.tolist()}


def by_model(data: TrainingData) -> Callable[[Learner, Sequence[ToTranslate]], list[list[int] | None]]:
    def translate(learner: Learner, sentences: Sequence[ToTranslate]) -> list[list[int] | None]:
        rows = [DecodingRow(one.tokens, one.src, one.tgt) for one in sentences]
        found: list[list[int] | None] = [None] * len(rows)
        # A random base never ends by itself: take what it says in ten tokens.
        for indices, hypotheses in decode_batches(
            learner, rows, vocabulary=data.vocabulary, languages=LANGUAGES, settings=SHORT
        ):
            for index, tokens in zip(indices, hypotheses, strict=True):
                found[index] = tokens[1:-1]
        assert translate_pieces(learner, rows, data.vocabulary, LANGUAGES) == [None] * len(rows)
        return found

    return translate


def test_the_model_s_own_translations_are_trained_on_and_a_resumed_run_makes_the_same(
    new_base: Callable[[], Base], make_architecture: Architect, data: TrainingData, tmp_path: Path
) -> None:
    def run(learner: AdaptedModel, stop: int | None = None, resume: bool = False) -> list[tuple[int, float]]:
        found = []
        checkpoint = read_newest_checkpoint(tmp_path) if resume else None
        for progress in train(
            learner, data, SETTINGS, resume=checkpoint, updates_between_yields=1, translate=by_model(data)
        ):
            found.append((progress.updates, progress.train_loss))
            if progress.updates == stop:
                write_checkpoint(tmp_path, progress.checkpoint())
                break
        return found

    whole = adapt(new_base(), make_architecture(), LANGUAGES)
    expected = run(whole)
    num = len(expected)
    first = run(adapt(new_base(), make_architecture(), LANGUAGES), stop=num // 2)
    resumed = adapt(new_base(), make_architecture(), LANGUAGES, seed=5)
    assert first + run(resumed, resume=True) == expected
    assert all(torch.equal(value, whole.state()[name]) for name, value in resumed.state().items())
    plain = adapt(new_base(), make_architecture(), LANGUAGES)
    for _ in train(plain, data, replace(SETTINGS, back_translation_every=0)):
        pass
    assert not all(torch.equal(value, whole.state()[name]) for name, value in plain.state().items())


@pytest.mark.parametrize(("epoch", "update", "is_due"), [(1, 4, False), (2, 4, True), (2, 5, False), (3, 6, True)])
def test_it_begins_with_its_epoch_and_comes_every_so_many_updates(epoch: int, update: int, is_due: bool) -> None:
    back = BackTranslation.of(replace(SETTINGS, back_translation_from_epoch=2), LANGUAGES)
    assert back.is_due(epoch, update) == is_due
    assert back.pivots == LANGUAGES


def test_a_space_says_how_often(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.back_translation={every: {choice: [2, 4]}, languages: [en]}")
    assert list(space.dimensions()) == ["trainer.back_translation.every"]
    settings = space.trainer({"trainer.back_translation.every": 4})
    assert (settings.back_translation_every, settings.back_translation_pivots) == (4, ("en",))
    assert load(tmp_path, space.text) == space
    assert space.baseline_trainer("shared_lora").back_translation_every == 0


def test_a_trial_s_settings_are_written_as_a_space_has_them(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        SMALL,
        "trainer.back_translation={every: 3, from_epoch: 2, languages: [en]}",
        "trainer.two_stage={first: [high], share: 0.3, freeze_first: true}",
        "trainer.tokens_per_batch=auto",
    )
    written = trainer_document(space.trainer({}), space.classes)
    again = load_space({**yaml.safe_load(SMALL), "trainer": written})
    assert again.trainer({}) == space.trainer({})
    assert trainer_document(TrainerSettings(), {}).keys() == TrainerSection.model_fields.keys()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("{languages: [eng]}", "must name one of the languages, but 'eng' is none"),
        ("{languages: []}", "must name a language, but is empty"),
        ("{from_epoch: 99}", "must be one of the 15 epochs, but can be 99"),
        ("{every: 0}", "`trainer.back_translation.every` must be a whole number of at least 1"),
    ],
)
def test_a_mistake_is_told(override: str, message: str, tmp_path: Path) -> None:
    assert message in "\n".join(problems(tmp_path, SMALL, f"trainer.back_translation={override}"))


def test_pieces_of_translations_that_end_are_without_language_and_end(embedded_base: Base) -> None:
    languages = ("en", "de")
    vocabulary = embedded_base.vocabulary(languages)
    learner = adapt(embedded_base, Architecture(slots=(("en", "en"), ("de", "de")), adapters=()), languages)
    texts = embedded_base.tokenizer.encode(["The house is small.", "Good morning."])
    rows = [DecodingRow(np.array(text, np.int32), "en", "de") for text in texts]
    found = translate_pieces(learner, rows, vocabulary, languages)
    special = {vocabulary.eos_id, vocabulary.pad_id, *vocabulary.language_ids.values()}
    assert any(found)
    for tokens in found:
        assert tokens is None or (tokens and not special & set(tokens))
