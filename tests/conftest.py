"""Fixtures and rules that all tests share."""

import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langsearch.space.architecture import MODULES, Architecture, Side, Site, uniform_ranks

if TYPE_CHECKING:  # torch and transformers take seconds to import, and many tests need neither
    from langsearch.data.store import TokenStore
    from langsearch.model.base import Base

# For models as small as these threads cost more than they bring, and on one sums are always taken in the same order.
# Set before anything imports torch; processes that tests start have it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a terminal, a container or pytest-xdist may have set, and Rich reads once, when it is imported.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
    os.environ.pop(_name, None)

LANGUAGES = ("en", "fr", "de", "sw")
"""The languages of the small stores."""


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with the real data beside the project; a test that needs it carries `@pytest.mark.shared` too."""
    folder = Path(__file__).parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip("needs the folder shared/ beside the project")
    return folder


@pytest.fixture(scope="session")
def _loaded_base() -> "Base":
    from langsearch.model.base import load_base

    return load_base("tiny-m2m")


@pytest.fixture
def embedded_base(_loaded_base: "Base") -> "Base":
    """The embedded base, a copy of its own for each test."""
    return replace(_loaded_base, model=deepcopy(_loaded_base.model))


@pytest.fixture(scope="session")
def new_base(_loaded_base: "Base") -> "Callable[[], Base]":
    """Makes random bases with the embedded tokenizer: d_model 32, feed-forward 64, 2 + 2 layers; all are equal."""
    import torch
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    from langsearch.space.architecture import BaseShape

    embedded = _loaded_base.model.config
    config = M2M100Config(
        vocab_size=embedded.vocab_size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=256,
        dropout=0.0,
        attention_dropout=0.0,
        # In training mode a layer is left out by chance otherwise, which only `set_dropout` ends.
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        init_std=0.1,  # with the default of 0.02 so small a model says nearly the same to everything
        scale_embedding=True,
    )

    def make() -> "Base":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = M2M100ForConditionalGeneration(deepcopy(config))
        model.requires_grad_(False)
        model.eval()
        shape = BaseShape(
            encoder_layers=2,
            decoder_layers=2,
            d_model=32,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        )
        return replace(_loaded_base, name="tiny-random", model=model, shape=shape)

    return make


@pytest.fixture
def tiny_base(new_base: "Callable[[], Base]") -> "Base":
    """A random base."""
    return new_base()


@pytest.fixture(scope="session")
def make_architecture() -> Callable[..., Architecture]:
    """Makes architectures for the first layers of a base; the first encoder layer is indexed by the source.

    Ranks differ, and German has no adapter. Other fields of `Architecture` may be given by name.
    """

    def make(
        ranks: Mapping[str, int] | None = None,
        slots: Mapping[str, str] | None = None,
        num_layers: int = 2,
        skipped: str = "out_proj",
        **fields: Any,
    ) -> Architecture:
        sites: list[tuple[Site, Side]] = [
            (Site.parse(f"{stack}.{layer}.{module}"), "src" if stack == "encoder" and layer == 0 else "tgt")
            for stack, modules in MODULES.items()
            for layer in range(num_layers)
            for module in modules
            if not module.endswith(skipped)
        ]
        return Architecture(
            slots=tuple((slots or {language: language for language in LANGUAGES}).items()),
            adapters=uniform_ranks(sites, {"en": 2, "fr": 3, "sw": 4} if ranks is None else ranks),
            **fields,
        )

    return make


@pytest.fixture(scope="session")
def quickstart_store(_loaded_base: "Base", tmp_path_factory: pytest.TempPathFactory) -> "TokenStore":
    """The 52 validation sentences of the quickstart in four languages."""
    from langsearch.data.embedded import read_embedded
    from langsearch.data.store import TokenStore

    tokenizer = _loaded_base.tokenizer
    text = read_embedded("quickstart", "validation", LANGUAGES)
    return TokenStore.build(text, tokenizer.encode, tokenizer.fingerprint, tmp_path_factory.mktemp("store"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch  # only where a test needs to know

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
