"""Tiny random bases of every family go the whole way: load, train, prune, resume, share, decode, export, merge."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Tokenizer,
    MBart50Tokenizer,
    NllbTokenizer,
)

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.merged_export import export_merged, merge
from langsearch.adapters.peft_export import export_peft, load_export, read_export
from langsearch.data.batches import collate
from langsearch.data.directions import Direction, all_directions
from langsearch.data.embedded import read_embedded
from langsearch.data.store import TokenStore
from langsearch.evaluate.decoding import DecodingRow, decode_batches, decode_rows
from langsearch.model.base import Base, attach_base, load_base, share_base
from langsearch.model.families import find_family
from langsearch.space.architecture import Architecture, Pruning
from langsearch.space.problems import InputError
from langsearch.space.settings import DecodingSettings, TrainerSettings
from langsearch.train.checkpoint import Checkpoint
from langsearch.train.loop import TrainingData, train
from tests.family_fixtures import LANGUAGES, write_base

pytest_plugins = ["family_fixtures"]

TEXTS = ["bonjour", "la maison", "une rue"]
SETTINGS = TrainerSettings(
    epochs=2, pairs_per_epoch=24, tokens_per_batch=500, accumulation=1, lr=0.05, precision="fp32", dropout=0.0
)
Architect = Callable[..., Architecture]


@pytest.fixture
def base(family_folder: Path) -> Base:
    return load_base(str(family_folder))


@pytest.fixture
def store(base: Base, tmp_path: Path) -> TokenStore:
    text = read_embedded("quickstart", "train", LANGUAGES).select(range(16))
    return TokenStore.build(text, base.tokenizer.encode, base.tokenizer.fingerprint, tmp_path / "store")


def training_data(base: Base, store: TokenStore) -> TrainingData:
    return TrainingData(store, all_directions(LANGUAGES), LANGUAGES, base.vocabulary(LANGUAGES))


def adapted(base: Base, architecture: Architecture) -> AdaptedModel:
    """A model whose B are all random, as after much training."""
    learner = adapt(base, architecture, LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator))
    return learner


def rows(base: Base, *pairs: tuple[str, str]) -> list[DecodingRow]:
    tokens = base.tokenizer.encode(TEXTS[: len(pairs)])
    return [DecodingRow(np.array(ids, np.int32), *pair) for ids, pair in zip(tokens, pairs, strict=True)]


def translate(learner: AdaptedModel, base: Base, given: list[DecodingRow], beams: int = 1) -> list[str]:
    return decode_rows(
        learner,
        given,
        tokenizer=base.tokenizer,
        vocabulary=base.vocabulary(LANGUAGES),
        languages=LANGUAGES,
        settings=DecodingSettings(beams=beams, max_length_factor=0.5),
    ).texts


def logits(base: Base, store: TokenStore) -> Tensor:
    batch = collate(
        store, [Direction("en", "fr")], np.array([[0, 0], [0, 1]], np.int32), base.vocabulary(LANGUAGES), LANGUAGES
    )
    with torch.no_grad():
        found: Tensor = base.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
    return found


def test_a_base_is_known_by_its_files(family_folder: Path, base: Base) -> None:
    expected = "m2m100" if family_folder.name == "m2m124" else family_folder.name
    assert base.tokenizer.family.name == find_family(family_folder).name == expected
    ids = base.tokenizer.language_ids
    vocab_size = base.model.config.vocab_size
    assert all(index < vocab_size for index in ids.values())
    assert len(set(ids.values())) == len(ids)
    known = {"m2m100": ("kk", 100), "small100": ("kk", 100), "nllb": ("swh_Latn", 4), "mbart50": ("sw_KE", 52)}
    code, count = known.get(family_folder.name, ("kea", 7))
    assert code in ids
    if family_folder.name == "m2m124":
        own = json.loads((family_folder / "vocab.json").read_text())
        assert ids["en"] == own["__en__"], "not where the class M2M100Tokenizer believes it to be"
        ids = {code: index for code, index in ids.items() if f"__{code}__" in own}
    assert len(ids) == count
    vocabulary = base.vocabulary(["eng", "fra_Latn", "de", "swh"])
    assert list(vocabulary.language_ids) == ["eng", "fra_Latn", "de", "swh"]
    with pytest.raises(InputError, match=r"must be among the \d+ known here, but got 'qq'"):
        base.vocabulary(["qq"])


def test_batches_have_the_form_of_the_familys_own_tokenizer(family_folder: Path, base: Base, store: TokenStore) -> None:
    direction = Direction("en", "fr")
    vocabulary = base.vocabulary(LANGUAGES)
    batch = collate(store, [direction], np.array([[0, 3]], np.int32), vocabulary, LANGUAGES)
    source, target = store.text("en", 3), store.text("fr", 3)
    src, tgt = store.tokens("en", 3).tolist(), store.tokens("fr", 3).tolist()
    en, fr = vocabulary.language_ids["en"], vocabulary.language_ids["fr"]
    if family_folder.name == "small100":
        # the model card of alirezamsh/small100: [tgt_lang_code] + src_tokens + [EOS], tgt_tokens + [EOS]
        assert batch.src_ids.tolist() == [[fr, *src, 2]]
        assert batch.labels.tolist() == [[*tgt, 2]]
    elif family_folder.name == "m2m124":
        assert batch.src_ids.tolist() == [[en, *src, 2]]
        assert batch.labels.tolist() == [[fr, *tgt, 2]]
    else:
        classes: dict[str, tuple[Any, str, str]] = {
            "m2m100": (M2M100Tokenizer, "en", "fr"),
            "nllb": (NllbTokenizer, "eng_Latn", "fra_Latn"),
            "mbart50": (MBart50Tokenizer, "en_XX", "fr_XX"),
        }
        tokenizer_class, src_lang, tgt_lang = classes[family_folder.name]
        own = tokenizer_class.from_pretrained(family_folder, src_lang=src_lang, tgt_lang=tgt_lang)
        made = own(source, text_target=target)
        assert batch.src_ids.tolist() == [made["input_ids"]]
        assert batch.labels.tolist() == [made["labels"]]
        assert batch.src_ids[0, 0] == en
        assert batch.labels[0, 0] == fr
    assert batch.decoder_input_ids.tolist() == [[2, *batch.labels[0, :-1].tolist()]]
    assert base.tokenizer.decode(batch.labels.tolist()) == base.tokenizer.decode([tgt])


def test_an_attached_base_says_the_same(base: Base, store: TokenStore) -> None:
    attached = attach_base(share_base(base))
    assert torch.equal(logits(attached, store), logits(base, store))
    assert attached.vocabulary(LANGUAGES) == base.vocabulary(LANGUAGES)


def test_training_prunes_and_resumes_bitwise(base: Base, store: TokenStore, make_architecture: Architect) -> None:
    pruning = Pruning(targets=tuple((name, 0.5) for name in ("en", "fr", "sw")), start=1, duration=1)
    architecture = make_architecture(pruning=pruning)
    data = training_data(base, store)
    learner = adapt(base, architecture, LANGUAGES)
    run = train(learner, data, SETTINGS, updates_between_yields=1)
    first = next(run)
    taken = first.checkpoint()
    checkpoint = Checkpoint({name: tensor.clone() for name, tensor in taken.tensors.items()}, taken.state)
    *_, last = run
    expected = {name: tensor.clone() for name, tensor in learner.state().items()}
    learner.remove()
    again = adapt(base, architecture, LANGUAGES, seed=5)
    *_, resumed = train(again, data, SETTINGS, resume=checkpoint)
    assert resumed.train_loss == last.train_loss
    assert resumed.updates == last.updates > 2
    for name, tensor in again.state().items():
        assert torch.equal(tensor, expected[name]), name
    num_entries = sum(layer.pair(slot)[1].numel() for layer in again.lora.layers.values() for slot in layer.slots)
    lost = again.architecture.num_parameters(base.shape) - again.num_nonzero()
    assert lost == pytest.approx(num_entries / 2, abs=3)


def test_training_lowers_the_loss(base: Base, store: TokenStore, make_architecture: Architect) -> None:
    learner = adapt(base, make_architecture(), LANGUAGES)
    settings = replace(SETTINGS, epochs=12, lr=0.02)
    losses = [progress.train_loss for progress in train(learner, training_data(base, store), settings)]
    assert losses[-1] < losses[0] - 0.05


@pytest.mark.parametrize("beams", [1, 3])
def test_mixed_directions_decode_as_each_alone(
    beams: int, family_folder: Path, base: Base, store: TokenStore, make_architecture: Architect
) -> None:
    learner = adapted(base, make_architecture())
    given = rows(base, ("en", "fr"), ("sw", "en"), ("fr", "de"))
    together = translate(learner, base, given, beams)
    assert together == [translate(learner, base, [row], beams)[0] for row in given]
    vocabulary = base.vocabulary(LANGUAGES)
    (_, hypotheses), *_ = decode_batches(
        learner,
        given[:1],
        vocabulary=vocabulary,
        languages=LANGUAGES,
        settings=DecodingSettings(beams=beams, max_length_factor=0.5),
    )
    assert (hypotheses[0][0] == vocabulary.language_ids["fr"]) == (family_folder.name != "small100")


def test_exported_adapters_load_in_plain_peft(
    base: Base, store: TokenStore, make_architecture: Architect, tmp_path: Path, family_folder: Path
) -> None:
    base.model.double()  # in fp32 the sums of plain PEFT and of layers in one differ by up to 2e-5 from rounding alone
    learner = adapted(base, make_architecture(skipped="nothing"))
    batch = collate(store, [Direction("en", "sw")], np.array([[0, 1]], np.int32), base.vocabulary(LANGUAGES), LANGUAGES)
    inputs = {"input_ids": batch.src_ids, "decoder_input_ids": batch.decoder_input_ids}
    with torch.no_grad(), learner.route(batch.src_lang, batch.tgt_lang):
        expected = learner.model(**inputs).logits
    names = export_peft(learner, tmp_path / "out", base.name, "# Card\n")
    learner.remove()
    again = adapt(base, read_export(tmp_path / "out").architecture, LANGUAGES)
    load_export(again, tmp_path / "out")
    with torch.no_grad(), again.route(batch.src_lang, batch.tgt_lang):
        assert torch.equal(again.model(**inputs).logits, expected)
    again.remove()
    assert {"src-en", "tgt-sw"} <= set(names)
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(family_folder)
    peft = PeftModel.from_pretrained(plain, str(tmp_path / "out" / "src-en"), adapter_name="src-en")
    peft.load_adapter(str(tmp_path / "out" / "tgt-sw"), adapter_name="tgt-sw")
    peft.base_model.set_adapter(["src-en", "tgt-sw"])
    peft.double().eval()
    with torch.no_grad():
        assert torch.allclose(peft(**inputs).logits, expected, atol=1e-5)


def test_a_merged_model_translates_as_the_adapters_do(
    base: Base, store: TokenStore, make_architecture: Architect, tmp_path: Path, family_folder: Path
) -> None:
    learner = adapted(base, make_architecture())
    given = rows(base, ("fr", "sw"), ("fr", "sw"), ("fr", "sw"))
    expected = translate(learner, base, given)
    assert len(set(expected)) > 1
    assert expected != translate(learner, base, rows(base, *[("fr", "en")] * 3)), "the adapters of the direction decide"
    weights = {name: tensor.clone() for name, tensor in learner.model.state_dict().items()}
    export_merged(learner, base, Direction("fr", "sw"), tmp_path / "merged", "# Card\n")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in learner.model.state_dict().items())
    twin: Any = merge(learner, Direction("fr", "sw"))
    assert twin.model.shared.weight.data_ptr() == base.model.model.shared.weight.data_ptr(), "no second copy is made"
    assert twin.model.shared.weight is not base.model.model.shared.weight
    learner.remove()

    merged = load_base(str(tmp_path / "merged"))
    assert merged.tokenizer.family is base.tokenizer.family
    bare = adapt(merged, Architecture(slots=tuple((name, name) for name in LANGUAGES), adapters=()), LANGUAGES)
    assert translate(bare, merged, given) == expected

    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert list((tmp_path / "merged").glob("*.bin")) == []
    for index, row in enumerate(given):
        inputs = tokenizer([TEXTS[index]], return_tensors="pt")
        if family_folder.name == "m2m124":  # whose tokenizer needs care, merged or not
            mark = base.vocabulary(LANGUAGES).language_ids["fr"]
            inputs = {"input_ids": torch.tensor([[mark, *row.tokens.tolist(), 2]])}
        limit = len(row.tokens) // 2 + 10 + (2 if base.tokenizer.family.form.has_tgt_mark else 1)
        ids = model.generate(**inputs, num_beams=1, max_new_tokens=limit - 1)
        found = tokenizer.batch_decode(ids, skip_special_tokens=True)
        if family_folder.name == "m2m124":
            found = base.tokenizer.decode(ids.tolist())
        assert found == [expected[index]]


def test_a_merged_model_names_its_files_as_converters_expect(
    base: Base, store: TokenStore, make_architecture: Architect, tmp_path: Path, family_folder: Path
) -> None:
    learner = adapt(base, make_architecture(), LANGUAGES)
    for _ in islice(range(2), 2):  # an earlier export is replaced
        export_merged(learner, base, Direction("fr", "sw"), tmp_path / "merged", "# Card\n")
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "sentencepiece.bpe.model"} <= names
    assert {"tokenizer_config.json", "langsearch_merged.json", "README.md"} <= names
    assert ("vocab.json" in names) == (family_folder.name in ("m2m100", "m2m124", "small100"))
    origin = json.loads((tmp_path / "merged" / "langsearch_merged.json").read_text())
    assert origin["direction"] == "fr-sw"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(InputError, match="must be new or an earlier export"):
        export_merged(learner, base, Direction("fr", "sw"), tmp_path / "mine", "# Card\n")


def test_other_families_are_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "mbart"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MBartTokenizer"}))
    with pytest.raises(InputError, match=r"must be an mBART-50, .* but .* has MBartTokenizer: mBART-25"):
        find_family(tmp_path)
    config.write_text(json.dumps({"model_type": "nllb-moe"}))
    with pytest.raises(InputError, match=r"M2M-100 family .* or an mBART-50, but .* is 'nllb-moe'"):
        find_family(tmp_path)


def test_a_config_names_a_small100_whose_tokenizer_does_not(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "m2m_100", "tokenizer_class": "SMALL100Tokenizer"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "M2M100Tokenizer"}))
    assert find_family(tmp_path).name == "small100"


def test_an_mbart_with_a_bias_on_its_logits_is_refused(tmp_path: Path, spm_models: dict[str, bytes]) -> None:
    write_base("mbart50", tmp_path, spm_models)
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    model.final_logits_bias += 1.0
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="final_logits_bias must be 0"):
        load_base(str(tmp_path))
