"""Languages that are new to a base go out as PEFT's and as merged models, for every family, and are read back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from langsearch.adapters.compact import compact
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.merged_export import export_merged, marked_language, merge
from langsearch.adapters.peft_export import export_peft, load_export, read_export
from langsearch.adapters.peft_import import read_adapters, start_from, start_rows
from langsearch.adapters.protocol import TOKENS_NAME
from langsearch.adapters.tokenizer_export import setting_lines
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import Direction
from langsearch.data.embedded import read_embedded
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.model.base import Base, attach_base, load_base, share_base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture, SiteAdapters
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings

pytest_plugins = ["family_fixtures"]

LANGUAGES = ("en", "alt", "de", "tyv")
LIKES = {"tyv": "sw", "alt": "fr"}
PAIRS = [("en", "tyv"), ("tyv", "en"), ("tyv", "alt"), ("de", "en")]
TEXTS = ["bonjour", "la maison", "une rue"]
Architect = Callable[..., Architecture]


@pytest.fixture
def base(family_folder: Path) -> Base:
    return with_new_languages(load_base(str(family_folder)), LIKES)


@pytest.fixture
def store(base: Base, tmp_path: Path) -> TokenStore:
    text = read_embedded("quickstart", "train", ("en", "fr", "de", "sw")).select(range(16))
    files = TokenStore.build(text, base.tokenizer.encode, base.tokenizer.fingerprint, tmp_path / "store").files
    return TokenStore.open({"en": files["en"], "alt": files["fr"], "de": files["de"], "tyv": files["sw"]})


@pytest.fixture
def architecture(make_architecture: Architect) -> Architecture:
    slots = {language: language for language in LANGUAGES}
    return make_architecture(
        {"en": 2, "alt": 3, "tyv": 4}, slots, skipped="nothing", new_languages=tuple(LIKES.items())
    )


def trained(base: Base, architecture: Architecture) -> AdaptedModel:
    """A model whose adapters and rows are all random, as after much training."""
    learner = adapt(base, architecture, LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator))
    assert learner.rows is not None
    learner.rows.weight.data += 0.2 * torch.randn(learner.rows.weight.shape, generator=generator)
    return learner


def batch_of(store: TokenStore, base: Base, pair: tuple[str, str]) -> Batch:
    rows = np.array([[0, 1], [0, 2]], np.int32)
    return collate(store, [Direction(*pair)], rows, base.vocabulary(LANGUAGES), LANGUAGES)


def inputs(batch: Batch) -> dict[str, Tensor]:
    return {
        "input_ids": batch.src_ids,
        "attention_mask": batch.src_mask,
        "decoder_input_ids": batch.decoder_input_ids,
    }


def logits(learner: AdaptedModel, batch: Batch) -> Tensor:
    with torch.no_grad(), learner.route(batch.src_lang, batch.tgt_lang):
        found: Tensor = learner.model(**inputs(batch)).logits
    return found


def test_plain_peft_says_the_same(
    base: Base, store: TokenStore, architecture: Architecture, tmp_path: Path, family_folder: Path
) -> None:
    learner = trained(base, architecture)
    names = export_peft(learner, tmp_path / "out", base.name, "# Card\n", base.tokenizer)
    assert names[-1] == TOKENS_NAME
    config = json.loads((tmp_path / "out" / TOKENS_NAME / "adapter_config.json").read_text())
    ids = base.vocabulary(LANGUAGES).language_ids
    assert config["trainable_token_indices"] == {"shared": [ids["alt"], ids["tyv"]]}
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(family_folder)
    vocab_size = plain.config.vocab_size
    plain.resize_token_embeddings(vocab_size + 2, mean_resizing=False)
    peft: Any = PeftModel.from_pretrained(plain, tmp_path / "out" / names[0], adapter_name=names[0])
    for name in names[1:]:
        peft.load_adapter(tmp_path / "out" / name, adapter_name=name)
    peft.eval()
    for src, tgt in PAIRS:
        peft.base_model.set_adapter([TOKENS_NAME, *(name for name in (f"src-{src}", f"tgt-{tgt}") if name in names)])
        batch = batch_of(store, base, (src, tgt))
        with torch.no_grad():
            found = peft(**inputs(batch)).logits[..., :vocab_size]
        torch.testing.assert_close(found, logits(learner, batch), atol=2e-4, rtol=1e-4)


def test_an_export_is_read_back_and_starts_other_models(
    base: Base, store: TokenStore, architecture: Architecture, tmp_path: Path, family_folder: Path
) -> None:
    learner = trained(base, architecture)
    expected = [logits(learner, batch_of(store, base, pair)) for pair in PAIRS]
    rows = learner.rows.weight.detach().clone() if learner.rows else torch.zeros(0)
    export_peft(learner, tmp_path / "out", base.name, "# Card\n", base.tokenizer)
    learner.remove()
    exported = read_export(tmp_path / "out")
    assert exported.architecture == architecture
    again = adapt(base, exported.architecture, LANGUAGES, seed=5)
    load_export(again, tmp_path / "out")
    assert all(torch.equal(logits(again, batch_of(store, base, pair)), expected[i]) for i, pair in enumerate(PAIRS))
    again.remove()

    # Another space: alt is a language of its own no more, tyv is.
    other = with_new_languages(load_base(str(family_folder)), {"tyv": "en"})
    languages = ("en", "de", "tyv")
    started = adapt(
        other,
        Architecture(
            slots=tuple((language, language) for language in languages),
            adapters=tuple(
                SiteAdapters(entry.site, entry.side, tuple(pair for pair in entry.ranks if pair[0] in languages))
                for entry in architecture.adapters
            ),
            new_languages=(("tyv", "en"),),
        ),
        languages,
    )
    assert start_from(started, read_adapters(tmp_path / "out", other.shape)).num_started > 0
    assert start_rows(started, tmp_path / "out") == 1
    assert started.rows is not None and torch.equal(started.rows.weight[0], rows[1])
    started.remove()

    (tmp_path / "out" / TOKENS_NAME / "adapter_model.safetensors").write_bytes(b"torn")
    broken = adapt(base, architecture, LANGUAGES)
    with pytest.raises(InputError, match=r"must be whole, but .*tokens/adapter_model.safetensors cannot be read"):
        load_export(broken, tmp_path / "out")
    with pytest.raises(InputError, match="must be whole"):
        start_rows(broken, tmp_path / "out")


@pytest.mark.parametrize("pair", [("en", "tyv"), ("tyv", "en"), ("tyv", "alt")])
def test_a_merged_model_says_the_same(
    pair: tuple[str, str],
    base: Base,
    store: TokenStore,
    architecture: Architecture,
    tmp_path: Path,
    family_folder: Path,
) -> None:
    direction = Direction(*pair)
    learner = trained(base, architecture)
    batch = batch_of(store, base, pair)
    vocab_size = base.model.config.vocab_size
    merged: Any = merge(learner, direction)
    assert merged.config.vocab_size == vocab_size + 2
    assert base.model.config.vocab_size == len(base.model.get_input_embeddings().weight) == vocab_size
    with torch.no_grad():
        found = merged(**inputs(batch)).logits[..., :vocab_size]
    torch.testing.assert_close(found, logits(learner, batch), atol=2e-4, rtol=1e-4)

    given = [DecodingRow(np.array(ids, np.int32), *pair) for ids in base.tokenizer.encode(TEXTS)]
    settings = DecodingSettings(beams=1, max_length_factor=0.5)
    expected = decode_rows(
        learner,
        given,
        tokenizer=base.tokenizer,
        vocabulary=base.vocabulary(LANGUAGES),
        languages=LANGUAGES,
        settings=settings,
    )
    export_merged(learner, base, direction, tmp_path / "merged", "# Card\n")
    learner.remove()
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    for line in setting_lines(base.tokenizer, marked_language(base, direction)):
        exec(line, {"tokenizer": tokenizer})
    ids = base.vocabulary(LANGUAGES).language_ids
    for index, row in enumerate(given):
        mark = base.vocabulary(LANGUAGES).src_marks([direction])[0]
        ready = tokenizer([TEXTS[index]], return_tensors="pt")
        if family_folder.name == "m2m124":  # whose tokenizer needs care, merged or not
            ready = {"input_ids": torch.tensor([[mark, *row.tokens.tolist(), 2]])}
        assert ready["input_ids"].tolist() == [[mark, *row.tokens.tolist(), 2]]
        limit = len(row.tokens) // 2 + 10 + (2 if base.tokenizer.family.form.has_tgt_mark else 1)
        said = model.generate(**ready, num_beams=1, max_new_tokens=limit - 1)
        texts = tokenizer.batch_decode(said, skip_special_tokens=True)
        found = base.tokenizer.decode(said.tolist()) if family_folder.name == "m2m124" else texts
        assert found == [expected.texts[index]]
        assert not {ids["tyv"], ids["alt"]} & set(said[0, 2:].tolist())


def test_a_merged_model_is_a_base_that_has_the_language(base: Base, architecture: Architecture, tmp_path: Path) -> None:
    learner = trained(base, architecture)
    export_merged(learner, base, Direction("en", "tyv"), tmp_path / "merged", "# Card\n")
    learner.remove()
    merged = load_base(str(tmp_path / "merged"))
    token = base.tokenizer.language_token("tyv")
    assert token in {merged.tokenizer.language_token(code) for code in merged.tokenizer.language_ids}
    with pytest.raises(InputError, match="must be a language that the base has no token for, but it has one"):
        own = next(code for code in merged.tokenizer.language_ids if merged.tokenizer.language_token(code) == token)
        with_new_languages(merged, {own: "en"})


def test_a_merged_model_never_says_a_new_language_by_itself(
    base: Base, architecture: Architecture, tmp_path: Path
) -> None:
    learner = trained(base, architecture)
    assert learner.rows is not None
    learner.rows.weight.data.mul_(50)  # the output projection of the merged model would say nothing else
    export_merged(learner, base, Direction("en", "tyv"), tmp_path / "merged", "# Card\n")
    learner.remove()
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    ids = base.vocabulary(LANGUAGES).language_ids
    source = torch.tensor([[base.vocabulary(LANGUAGES).src_marks([Direction("en", "tyv")])[0], 40, 50, 2]])
    for num_beams in (1, 3):
        said = model.generate(input_ids=source, num_beams=num_beams, max_new_tokens=12)[0].tolist()
        first = 1 if base.tokenizer.family.form.has_tgt_mark else 0
        assert said[1] == ids["tyv"] or not first
        assert not {ids["tyv"], ids["alt"]} & set(said[1 + first :])


def test_the_tokens_folder_has_a_tokenizer_with_the_new_tokens(
    base: Base, architecture: Architecture, tmp_path: Path
) -> None:
    export_peft(trained(base, architecture), tmp_path / "out", base.name, "# Card\n", base.tokenizer)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out" / TOKENS_NAME)
    ids = base.tokenizer.language_ids
    found = {code: tokenizer.convert_tokens_to_ids(base.tokenizer.language_token(code)) for code in ids}
    assert found == ids
    assert set(ids.values()) <= set(tokenizer.all_special_ids)


def test_a_worker_attaches_a_base_of_any_family_with_its_new_languages(
    base: Base, store: TokenStore, architecture: Architecture
) -> None:
    attached = attach_base(share_base(base))
    assert attached.vocabulary(LANGUAGES) == base.vocabulary(LANGUAGES)
    batch = batch_of(store, base, ("tyv", "alt"))
    one, other = trained(attached, architecture), trained(base, architecture)
    assert torch.equal(logits(one, batch), logits(other, batch))


def test_compacted_adapters_keep_the_rows(base: Base, store: TokenStore, architecture: Architecture) -> None:
    learner = trained(base, architecture)
    expected = logits(learner, batch_of(store, base, ("tyv", "alt")))
    compacted, found = compact(base, learner, 0.999999)
    torch.testing.assert_close(logits(compacted, batch_of(store, base, ("tyv", "alt"))), expected, atol=0.2, rtol=0.1)
    assert compacted.rows is not None and learner.rows is not None
    assert torch.equal(compacted.rows.weight, learner.rows.weight)
    assert found.num_parameters_after == compacted.architecture.num_parameters(base.shape)
