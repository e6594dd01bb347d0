"""A tiny model that copies, and languages that are ciphers of one another: tasks whose needs are known.

Every language writes the same 24 words, each with its own permutation of the words' tokens. All languages have one
language token, so that only a language-specific adapter can know which cipher to undo or to write. A test module asks
for the fixtures by `pytest_plugins = ["cipher_fixtures"]`.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.adapters.learners import FullModel
from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import MODULES, Architecture, BaseShape, Pruning, Side, Site, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData, train

NUM_WORDS = 24
SETTINGS = TrainerSettings(
    epochs=100,
    tokens_per_batch=512,
    accumulation=1,
    lr=1e-2,
    label_smoothing=0.0,
    dropout=0.0,
    schedule="constant",
)
CipherTask = Callable[..., TrainingData]
EqualRanks = Callable[..., Architecture]
_CODES = ("en", "fr", "de", "es", "nl")


def _data(folder: Path, base: Base, ciphers: Mapping[str, np.ndarray], directions: list[Direction]) -> TrainingData:
    rng = np.random.default_rng(0)
    rows = [rng.integers(NUM_WORDS, size=rng.integers(4, 8)) for _ in range(256)]
    sentences = {
        name: tuple(" ".join(str(cipher[word]) for word in row) for row in rows) for name, cipher in ciphers.items()
    }

    def tokenize(lines: Sequence[str]) -> list[list[int]]:
        return [[10 + int(word) for word in line.split()] for line in lines]

    languages = tuple(ciphers)
    store = TokenStore.build(ParallelText(languages, sentences, "ciphers"), tokenize, "numbers", folder)
    return TrainingData(store, directions, languages, base.vocabulary(languages))


@pytest.fixture(scope="session")
def _copier(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A base of d_model 32 and 2 + 2 layers, trained from scratch to copy."""
    embedded = load_base("tiny-m2m")
    tokenizer = copy(embedded.tokenizer)
    tokenizer.language_ids = dict.fromkeys(tokenizer.language_ids, 5)
    config = M2M100Config(
        vocab_size=64,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.1,
        scale_embedding=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = M2M100ForConditionalGeneration(config)
        model.eval()
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        shape = BaseShape(
            encoder_layers=2,
            decoder_layers=2,
            d_model=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_parameters=num_parameters,
        )
        base = replace(embedded, name="copier", model=model, tokenizer=tokenizer, shape=shape)
        same = np.arange(NUM_WORDS)
        directions = [Direction("en", "fr"), Direction("fr", "en")]
        data = _data(tmp_path_factory.mktemp("copies"), base, {"en": same, "fr": same}, directions)
        learner = FullModel(base)
        settings = replace(SETTINGS, lr=5e-3, epochs=20)
        *_, last = train(learner, data, settings)
        assert last.train_loss < 0.4, "the copier must copy before anything can be built on it"
    learner.model.requires_grad_(False)
    learner.model.eval()
    return replace(base, model=learner.model)


@pytest.fixture
def copier(_copier: Base) -> Base:
    """A model that copies; its own for each test."""
    return replace(_copier, model=deepcopy(_copier.model))


@pytest.fixture
def make_cipher_task(_copier: Base, tmp_path: Path) -> CipherTask:
    """Makes tasks whose mapping hangs on one side alone.

    side src: en, fr and de each in a cipher of its own, into plain nl; tgt: the other way round.
    """

    def make(side: str, seed: int) -> TrainingData:
        rng = np.random.default_rng(100 + seed)
        ciphers = {name: rng.permutation(NUM_WORDS) for name in _CODES[:3]} | {"nl": np.arange(NUM_WORDS)}
        directions = [Direction(name, "nl") if side == "src" else Direction("nl", name) for name in _CODES[:3]]
        return _data(tmp_path / f"{side}{seed}", _copier, ciphers, directions)

    return make


@pytest.fixture
def make_demand_task(_copier: Base, tmp_path: Path) -> CipherTask:
    """Makes a task from en into fr, which is the same and needs nothing, and into de, all of whose words differ."""

    def make(seed: int) -> TrainingData:
        same = np.arange(NUM_WORDS)
        ciphers = {"en": same, "fr": same, "de": np.random.default_rng(seed).permutation(NUM_WORDS)}
        directions = [Direction("en", "fr"), Direction("en", "de")]
        return _data(tmp_path / f"demand{seed}", _copier, ciphers, directions)

    return make


@pytest.fixture
def make_token_task(tmp_path: Path) -> CipherTask:
    """Makes tasks from en into fr, which is the same, and into another language of a base, all of whose words differ.

    Shared adapters can only tell the two apart by a token.
    """

    def make(base: Base, other: str, seed: int) -> TrainingData:
        same = np.arange(NUM_WORDS)
        ciphers = {"en": same, "fr": same, other: np.random.default_rng(seed).permutation(NUM_WORDS)}
        directions = [Direction("en", "fr"), Direction("en", other)]
        return _data(tmp_path / f"token-{other}{seed}", base, ciphers, directions)

    return make


@pytest.fixture(scope="session")
def cipher_settings() -> TrainerSettings:
    """Settings that learn a cipher in some dozens of updates."""
    return SETTINGS


@pytest.fixture(scope="session")
def equal_ranks() -> EqualRanks:
    """Makes architectures of one rank for every language, at all modules that the release adapts in some layers."""

    def make(
        languages: Sequence[str], places: Sequence[tuple[str, int]], rank: int, pruning: Pruning | None = None
    ) -> Architecture:
        sites: list[tuple[Site, Side]] = [
            (Site.parse(f"{stack}.{layer}.{module}"), "tgt")
            for stack, layer in places
            for module in MODULES[stack]
            if not module.endswith("out_proj")
        ]
        return Architecture(
            slots=tuple((name, name) for name in languages),
            adapters=uniform_ranks(sites, dict.fromkeys(languages, rank)),
            pruning=pruning,
        )

    return make
