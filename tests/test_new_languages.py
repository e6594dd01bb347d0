"""Languages that a base has no token for: a token and an embedding row of their own, trained beside the frozen base."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters.kinds import KINDS
from langsearch.adapters.language_rows import STATE_NAME
from langsearch.adapters.learners import AdaptedModel, FullModel, Learner, adapt
from langsearch.data.batches import IGNORED_LABEL, Batch, collate
from langsearch.data.directions import Direction, all_directions
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_batches
from langsearch.model.base import Base, attach_base, share_base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture, Bridge, LayerNorms, Pool, Pruning
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.checkpoint import Checkpoint
from langsearch.train.loop import TrainingData, train

LANGUAGES = ("en", "fr", "de", "tyv")
LIKES = {"tyv": "sw"}
SETTINGS = TrainerSettings(
    epochs=2, pairs_per_epoch=24, tokens_per_batch=500, accumulation=1, lr=0.05, precision="fp32", dropout=0.0
)
Architect = Callable[..., Architecture]
NewBase = Callable[[], Base]


@pytest.fixture
def base(tiny_base: Base) -> Base:
    """A base that knows Tuvan by a token of its own, which starts as Swahili's."""
    return with_new_languages(tiny_base, LIKES)


@pytest.fixture
def store(quickstart_store: TokenStore) -> TokenStore:
    """The quickstart's sentences, the Swahili ones once more as Tuvan."""
    files = {**quickstart_store.files, "tyv": quickstart_store.files["sw"]}
    return TokenStore.open(files)


@pytest.fixture(scope="session")
def new_architecture(make_architecture: Architect) -> Architect:
    def make(**fields: Any) -> Architecture:
        given = {"ranks": {"en": 2, "fr": 3, "tyv": 4}, "slots": {language: language for language in LANGUAGES}}
        return make_architecture(**{**given, "new_languages": tuple(LIKES.items()), **fields})

    return make


FIELDS: dict[str, dict[str, Any]] = {
    "gated": {"kind": "gated"},
    "factorized": {"kind": "factorized"},
    "shared_lora": {"shared_rank": 2},
    "layer_norm": {"layer_norm": LayerNorms(slots=LANGUAGES)},
    "bridge": {"bridge": Bridge(slots=LANGUAGES, rank=2)},
    "pool": {"slots": dict.fromkeys(LANGUAGES, "all"), "ranks": {"all": 2}, "pool": Pool(size=2)},
}
"""What the architectures of kinds other than plain pairs have."""


def learner_of(kind: str, base: Base, new_architecture: Architect) -> Learner:
    if kind == "full":
        return FullModel(base)
    return AdaptedModel(base, KINDS[kind](base, new_architecture(**FIELDS.get(kind, {})), LANGUAGES, 0))


def batch_of(store: TokenStore, base: Base, *directions: Direction, languages: Sequence[str] = LANGUAGES) -> Batch:
    rows = np.array([[index, row] for index in range(len(directions)) for row in range(2)], np.int32)
    return collate(store, directions, rows, base.vocabulary(languages), languages)


def logits(learner: Learner, batch: Batch) -> Tensor:
    with torch.no_grad(), learner.route(batch.src_lang, batch.tgt_lang):
        found: Tensor = learner.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
    return found


def loss(learner: Learner, batch: Batch) -> Tensor:
    with learner.route(batch.src_lang, batch.tgt_lang):
        found = learner.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
    return torch.nn.functional.cross_entropy(found.flatten(0, 1), batch.labels.flatten(), ignore_index=IGNORED_LABEL)


@pytest.mark.parametrize("kind", [*KINDS, "full"])
@pytest.mark.parametrize("pair", [("tyv", "en"), ("en", "tyv")])
def test_at_the_start_a_new_language_says_what_the_one_it_is_like_says_to_the_bit(
    kind: str, pair: tuple[str, str], base: Base, store: TokenStore, new_architecture: Architect
) -> None:
    learner = learner_of(kind, base, new_architecture)
    batch = batch_of(store, base, Direction(*pair))
    stands_in = tuple("sw" if language == "tyv" else language for language in LANGUAGES)
    direction = Direction(*("sw" if language == "tyv" else language for language in pair))
    like = batch_of(store, base, direction, languages=stands_in)
    assert not torch.equal(batch.src_ids, like.src_ids) or not torch.equal(
        batch.decoder_input_ids, like.decoder_input_ids
    )
    assert torch.equal(logits(learner, batch), logits(learner, like))


@pytest.mark.parametrize("kind", [*KINDS, "full"])
def test_only_rows_of_directions_with_the_language_train_its_row(
    kind: str, base: Base, store: TokenStore, new_architecture: Architect
) -> None:
    learner = learner_of(kind, base, new_architecture)
    (row,) = [value for name, value in learner.parameters().items() if name.endswith("rows")]
    assert row.shape == (1, base.shape.d_model)
    for pair, has_gradient in (
        (("en", "fr"), False),
        (("tyv", "en"), True),
        (("en", "tyv"), True),
        (("de", "en"), False),
    ):
        torch.autograd.backward(loss(learner, batch_of(store, base, Direction(*pair))))
        assert row.grad is not None
        assert bool(row.grad.any()) == has_gradient, pair
        row.grad = None


def test_a_new_language_is_no_label_and_its_batches_count_no_more_than_they_train(
    base: Base, store: TokenStore
) -> None:
    batch = batch_of(store, base, Direction("en", "tyv"), Direction("en", "fr"))
    vocabulary = base.vocabulary(LANGUAGES)
    tyv, fr = vocabulary.language_ids["tyv"], vocabulary.language_ids["fr"]
    assert tyv == base.model.config.vocab_size == vocabulary.first_new_id
    assert batch.decoder_input_ids[:, 1].tolist() == [tyv, tyv, fr, fr]
    assert batch.labels[:, 0].tolist() == [IGNORED_LABEL, IGNORED_LABEL, fr, fr]
    assert batch.num_tgt_tokens == int((batch.labels != IGNORED_LABEL).sum())
    sentences = [store.text("en", 0)]
    assert base.tokenizer.decode([[tyv, *base.tokenizer.encode(sentences)[0], 2]]) == sentences


def test_the_row_is_counted_and_never_pruned(base: Base, store: TokenStore, new_architecture: Architect) -> None:
    pruning = Pruning(targets=tuple((name, 1.0) for name in ("en", "fr", "tyv")), start=1, duration=1)
    architecture = new_architecture(pruning=pruning)
    plain = replace(architecture, new_languages=())
    d_model = base.shape.d_model
    assert architecture.num_parameters(base.shape) == plain.num_parameters(base.shape) + d_model
    by_slot = architecture.num_parameters_by_slot(base.shape)
    assert by_slot["tyv"] == plain.num_parameters_by_slot(base.shape)["tyv"] + d_model
    learner = adapt(base, architecture, LANGUAGES)
    assert learner.num_nonzero() == architecture.num_parameters(base.shape)
    data = TrainingData(store, all_directions(LANGUAGES), LANGUAGES, base.vocabulary(LANGUAGES))
    *_, _ = train(learner, data, SETTINGS)
    lost = sum(layer.pair(slot)[1].numel() for layer in learner.lora.layers.values() for slot in layer.slots)
    assert learner.num_nonzero() == architecture.num_parameters(base.shape) - lost
    assert learner.rows is not None and bool(learner.rows.weight.all())


@pytest.mark.parametrize("kind", ["adapters", "full"])
def test_a_stopped_training_goes_on_bitwise(
    kind: str, new_base: NewBase, store: TokenStore, new_architecture: Architect
) -> None:
    base = with_new_languages(new_base(), LIKES)

    def make(seed: int) -> Learner:
        return FullModel(base) if kind == "full" else adapt(base, new_architecture(), LANGUAGES, seed)

    settings = replace(SETTINGS, lr=0.001 if kind == "full" else 0.05)
    data = TrainingData(store, all_directions(LANGUAGES), LANGUAGES, base.vocabulary(LANGUAGES))
    learner = make(0)
    start = {name: value.clone() for name, value in learner.state().items()}
    run = train(learner, data, settings, updates_between_yields=1)
    taken = next(run).checkpoint()
    checkpoint = Checkpoint({name: value.clone() for name, value in taken.tensors.items()}, taken.state)
    *_, last = run
    expected = {name: value.clone() for name, value in learner.state().items()}
    (name,) = [name for name in expected if name.endswith("rows")]
    assert not torch.equal(expected[name], start[name])
    if isinstance(learner, AdaptedModel):
        assert name == STATE_NAME
        learner.remove()
    again = make(5)
    *_, resumed = train(again, data, settings, resume=checkpoint)
    assert resumed.train_loss == last.train_loss
    assert all(torch.equal(value, expected[name]) for name, value in again.state().items())


def test_removed_rows_leave_the_base_as_it_was(base: Base, store: TokenStore, new_architecture: Architect) -> None:
    modules = dict(base.model.named_modules())
    weights = {name: value.clone() for name, value in base.model.state_dict().items()}
    learner = adapt(base, new_architecture(), LANGUAGES)
    data = TrainingData(store, all_directions(LANGUAGES), LANGUAGES, base.vocabulary(LANGUAGES))
    *_, _ = train(learner, data, SETTINGS)
    learner.remove()
    assert dict(base.model.named_modules()) == modules
    assert all(torch.equal(value, weights[name]) for name, value in base.model.state_dict().items())


def test_a_worker_that_attaches_a_shared_base_has_its_new_languages(
    base: Base, store: TokenStore, new_architecture: Architect, embedded_base: Base
) -> None:
    shared = share_base(with_new_languages(embedded_base, LIKES))
    attached = attach_base(shared)
    own = with_new_languages(embedded_base, LIKES)
    assert attached.new_languages == own.new_languages
    assert attached.vocabulary(LANGUAGES) == own.vocabulary(LANGUAGES)
    assert attached.tokenizer.language_token("tyv") == "__tyv__"
    batch = batch_of(store, own, Direction("en", "tyv"))
    one, other = (adapt(found, new_architecture(), LANGUAGES) for found in (attached, own))
    assert torch.equal(logits(one, batch), logits(other, batch))


@pytest.mark.parametrize("beams", [1, 3])
def test_a_new_language_is_forced_and_never_said(
    beams: int, base: Base, store: TokenStore, new_architecture: Architect
) -> None:
    learner = adapt(base, new_architecture(), LANGUAGES)
    assert learner.rows is not None
    learner.rows.weight.data.mul_(50)  # in an output projection it would be the most likely token of all
    vocabulary = base.vocabulary(LANGUAGES)
    tyv = vocabulary.language_ids["tyv"]
    pairs = [("en", "tyv"), ("tyv", "fr"), ("de", "en")]
    rows = [DecodingRow(store.tokens("en", index), *pair) for index, pair in enumerate(pairs)]
    settings = DecodingSettings(beams=beams)

    def decode(given: list[DecodingRow]) -> dict[int, list[int]]:
        found = decode_batches(learner, given, vocabulary=vocabulary, languages=LANGUAGES, settings=settings)
        return {
            index: tokens for indices, hypotheses in found for index, tokens in zip(indices, hypotheses, strict=True)
        }

    together = decode(rows)
    assert together[0][0] == tyv
    assert all(tyv not in tokens[1:] and len(tokens) > 2 for tokens in together.values())
    assert [together[index] for index in range(3)] == [decode([row])[0] for row in rows]


def test_without_a_new_language_nothing_is_put_over_the_embedding(
    tiny_base: Base, make_architecture: Architect
) -> None:
    assert with_new_languages(tiny_base, {}) is tiny_base
    embeddings = [tiny_base.model.get_submodule(path) for path in ("model.shared", "model.encoder.embed_tokens")]
    learner = adapt(tiny_base, make_architecture(), ("en", "fr", "de", "sw"))
    assert [learner.model.get_submodule(path) for path in ("model.shared", "model.encoder.embed_tokens")] == embeddings
    assert learner.rows is None and tiny_base.vocabulary(["en"]).first_new_id is None


def test_problems_of_new_languages_with_a_base_are_told_at_once(tiny_base: Base) -> None:
    with pytest.raises(InputError) as caught:
        with_new_languages(tiny_base, {"sw": "en", "tyv": "qq", "alt": "zz", "x9": "en"})
    assert len(caught.value.problems) == 4
    assert "`sw` must be a language that the base has no token for, but it has one, __sw__." in str(caught.value)
    assert "`tyv.like` must be among the" in str(caught.value)
    assert "`x9` must be a code that makes a token of the base's form, as __en__ is" in str(caught.value)
    tiny_base.model.config.tie_word_embeddings = False
    with pytest.raises(InputError, match=r"share one embedding, but tiny-random has tie_word_embeddings: false"):
        with_new_languages(tiny_base, {"tyv": "en"})
