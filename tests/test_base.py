import json
import shutil
import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBartConfig,
    MBartForConditionalGeneration,
)

from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base, BaseTokenizer, attach_base, load_base, share_base
from langsearch.model.finding import EMBEDDED_FOLDER, find_base
from langsearch.model.shape import read_shape
from langsearch.space.problems import InputError

SENTENCES = ["The house is red.", "La maison est rouge.", "Nyumba ni nyekundu."]


def logits(base: Base) -> Tensor:
    ids = torch.tensor([[8021, 100, 7, 250, 2], [8027, 9, 33, 2, 1]])
    with torch.no_grad():
        found: Tensor = base.model(input_ids=ids, attention_mask=(ids != 1).long(), decoder_input_ids=ids).logits
    return found


def test_the_embedded_base_is_frozen_and_ready(embedded_base: Base) -> None:
    assert not embedded_base.model.training
    assert not any(parameter.requires_grad for parameter in embedded_base.model.parameters())
    assert next(embedded_base.model.parameters()).dtype is torch.float32
    assert embedded_base.shape.num_parameters == sum(p.numel() for p in embedded_base.model.parameters())


def test_the_second_embedded_base_has_the_same_pieces_and_translates_better(quickstart_store: TokenStore) -> None:
    first, second = load_base("tiny-m2m"), load_base("tiny-m2m-2")
    assert second.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert (second.shape, second.tokenizer.language_ids) == (first.shape, first.tokenizer.language_ids)
    languages = ("en", "fr", "de", "sw")
    directions = all_directions(languages)
    pairs = np.array([[index, row] for index in range(len(directions)) for row in range(10)], np.int32)
    losses = []
    for base in (first, second):
        batch = collate(quickstart_store, directions, pairs, base.vocabulary(languages), languages)
        model: Any = base.model
        with torch.no_grad():
            given = {"input_ids": batch.src_ids, "attention_mask": batch.src_mask, "labels": batch.labels}
            losses.append(float(model(**given, decoder_input_ids=batch.decoder_input_ids).loss))
    assert losses[1] < losses[0] - 0.5, "nats a target token"


def test_plain_transformers_load_the_second_embedded_base_in_fp32_and_know_its_languages_as_special() -> None:
    folder = EMBEDDED_FOLDER / "tiny-m2m-2"
    model = M2M100ForConditionalGeneration.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, src_lang="en")
    assert model.dtype is torch.float32
    said = model.generate(**tokenizer("Where is it?", return_tensors="pt"), forced_bos_token_id=8027, max_new_tokens=20)
    (text,) = tokenizer.batch_decode(said, skip_special_tokens=True)
    assert text and "__" not in text


def test_a_shape_is_read_without_the_weights(tmp_path: Path) -> None:
    shutil.copy(EMBEDDED_FOLDER / "tiny-m2m" / "config.json", tmp_path)
    shape = read_shape(tmp_path)
    assert (shape.encoder_layers, shape.decoder_layers, shape.d_model) == (3, 3, 128)
    assert (shape.encoder_ffn_dim, shape.decoder_ffn_dim, shape.num_parameters) == (512, 512, 2_427_264)


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(
    ("kind", "model"),
    [(M2M100Config, M2M100ForConditionalGeneration), (MBartConfig, MBartForConditionalGeneration)],
)
def test_a_shape_counts_the_weights_that_the_model_has(kind: Any, model: Any, is_tied: bool, tmp_path: Path) -> None:
    config = kind(
        **{"vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 3, "max_position_embeddings": 30},
        **{"encoder_ffn_dim": 24, "decoder_ffn_dim": 40, "tie_word_embeddings": is_tied},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2, "tokenizer_class": "MBart50Tokenizer"},
    )
    config.save_pretrained(tmp_path)
    with torch.device("meta"):
        parameters = list(model(config).parameters())
    assert read_shape(tmp_path).num_parameters == sum(parameter.numel() for parameter in parameters)


def test_pieces_that_are_remembered_are_those_of_a_fresh_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = ["Where is it?", "Where is it?", "", "Hier.", *(f"Room {number}" for number in range(5))]
    fresh = [BaseTokenizer(EMBEDDED_FOLDER / "tiny-m2m").encode([sentence])[0] for sentence in sentences]
    for most in (0, 3, 100):  # more than are remembered, more than fit beside those of before, all
        monkeypatch.setattr("langsearch.model.base._MAX_KNOWN", most)
        tokenizer = BaseTokenizer(EMBEDDED_FOLDER / "tiny-m2m")
        for start in (0, 2, 7, 0):
            assert tokenizer.encode(sentences[start : start + 4]) == fresh[start : start + 4]
        assert tokenizer.encode(sentences) == tokenizer.encode(sentences) == fresh


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_attached_base_says_the_same_and_copies_nothing(dtype: torch.dtype) -> None:
    base = load_base("tiny-m2m", dtype)
    shared = share_base(base)
    attached = attach_base(shared)
    assert torch.equal(logits(attached), logits(base))
    assert logits(attached).dtype is dtype
    arrays = {array.__array_interface__["data"][0] for array in shared.weights.values()}
    assert {parameter.data_ptr() for parameter in attached.model.parameters()} == arrays
    assert sum(array.nbytes for array in shared.weights.values()) == base.shape.num_parameters * dtype.itemsize
    assert not any(parameter.requires_grad for parameter in attached.model.parameters())
    assert not attached.model.training
    assert (attached.name, attached.shape) == (base.name, base.shape)
    assert attached.tokenizer.fingerprint == base.tokenizer.fingerprint
    assert attached.tokenizer.encode(SENTENCES) == base.tokenizer.encode(SENTENCES)
    assert attached.tokenizer.decode([[8021, 7, 2], [8027, 8]]) == base.tokenizer.decode([[8021, 7, 2], [8027, 8]])
    assert attached.vocabulary(["en", "sw"]) == base.vocabulary(["en", "sw"])


def test_read_only_arrays_serve_as_weights(embedded_base: Base) -> None:
    shared = share_base(embedded_base)
    copies = {name: np.array(array) for name, array in shared.weights.items()}
    for array in copies.values():
        array.flags.writeable = False
    attached = attach_base(replace(shared, weights=copies))
    assert torch.equal(logits(attached), logits(embedded_base))


def test_a_base_without_tied_embeddings_is_shared_whole(new_base: Callable[[], Base]) -> None:
    tied = new_base()
    config = deepcopy(tied.model.config)
    config.tie_word_embeddings = False
    embedded = tied.tokenizer.folder
    model = type(tied.model)(config).requires_grad_(False).eval()
    shared = share_base(replace(tied, model=model))
    assert "lm_head.weight" in shared.weights
    files = {**shared.files, "config.json": config.to_json_string().encode()}
    assert files.keys() == {path.name for path in embedded.iterdir()} - {"README.md", "model.safetensors"}
    assert torch.equal(logits(attach_base(replace(shared, files=files))), logits(replace(tied, model=model)))


def test_weights_that_are_not_there_are_never_filled_with_random_numbers(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path, dirs_exist_ok=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.decoder.layers.1.fc1.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"must be all there, but .* lacks model.decoder.layers.1.fc1.weight"):
        load_base(str(tmp_path))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
def test_weights_in_the_type_that_is_asked_for_are_mapped_and_not_copied(tiny_base: Base, tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path, dirs_exist_ok=True)
    model: Any = tiny_base.model
    model.save_pretrained(tmp_path)
    loaded = load_base(str(tmp_path))
    assert torch.equal(logits(loaded), logits(tiny_base))
    lines = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith("model.safetensors")]
    ranges = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines if str(tmp_path) in line]
    for name, parameter in loaded.model.named_parameters():
        assert any(low <= parameter.data_ptr() < high for low, high in ranges), name


def test_an_attached_base_leaves_no_files_behind_even_in_a_process_that_is_killed(
    embedded_base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    attached = attach_base(share_base(embedded_base))
    assert not list(tmp_path.iterdir())
    assert attached.tokenizer.encode(SENTENCES) == embedded_base.tokenizer.encode(SENTENCES)


def test_the_tokenizer_keeps_text_and_drops_marks(embedded_base: Base) -> None:
    tokenizer = embedded_base.tokenizer
    ids = tokenizer.encode(SENTENCES)
    assert all(set(row).isdisjoint({0, 1, 2, *tokenizer.language_ids.values()}) for row in ids)
    marked = [[tokenizer.language_ids["fr"], *row, 2, 1, 1] for row in ids]
    assert tokenizer.decode(marked) == SENTENCES
    assert tokenizer.encode([""]) == [[]]
    assert tokenizer.decode([[]]) == [""]


def test_languages_are_found_by_any_of_their_codes(embedded_base: Base) -> None:
    vocabulary = embedded_base.vocabulary(["eng_Latn", "fra", "sw"])
    known = embedded_base.tokenizer.language_ids
    assert dict(vocabulary.language_ids) == {"eng_Latn": known["en"], "fra": known["fr"], "sw": known["sw"]}
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.decoder_start_id) == (1, 2, 2)


def test_all_unknown_languages_are_named(embedded_base: Base) -> None:
    with pytest.raises(InputError, match="'qq'") as caught:
        embedded_base.vocabulary(["en", "qq", "xx-nowhere"])
    assert len(caught.value.problems) == 2


def test_a_base_that_is_not_there_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold a config.json, but .* has none"):
        find_base(str(tmp_path))
    with pytest.raises(
        InputError, match=r"embedded name \(tiny-m2m, tiny-m2m-2\), a folder or a hub id, but got 'nothing'"
    ):
        find_base("nothing")
    with pytest.raises(InputError, match=r"a folder or a hub id, but got './no/where'"):
        find_base("./no/where")


def test_a_hub_that_cannot_be_reached_is_an_input_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(InputError, match=r"could not be fetched from the hub \(ConnectError\).*give its folder"):
        find_base("facebook/m2m100_418M")


def test_a_base_of_another_family_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "marian"}))
    with pytest.raises(InputError, match=r"must be of the M2M-100 family .* is 'marian'"):
        load_base(str(tmp_path))


def test_broken_files_of_a_base_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config.json must be a model's configuration"):
        load_base(str(tmp_path))
    shutil.copytree(EMBEDDED_FOLDER / "tiny-m2m", tmp_path, dirs_exist_ok=True)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(InputError, match="must have its tokenizer's files"):
        load_base(str(tmp_path))
    content = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="weights must be whole"):
        load_base(str(tmp_path))
