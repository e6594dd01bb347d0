"""Random bases of every family, in folders; a test module asks for them by `pytest_plugins = ["family_fixtures"]`."""

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from transformers import (
    M2M100Config,
    M2M100ForConditionalGeneration,
    MBart50Tokenizer,
    MBartConfig,
    MBartForConditionalGeneration,
    NllbTokenizer,
)

from langsearch.data.embedded import read_embedded

LANGUAGES = ("en", "fr", "de", "sw")
NLLB_CODES = ["deu_Latn", "eng_Latn", "fra_Latn", "swh_Latn"]
FAMILIES = ("m2m100", "m2m124", "small100", "nllb", "mbart50")


@pytest.fixture(scope="module")
def spm_models() -> dict[str, bytes]:
    """SentencePiece models of 300 pieces, as the families have them: BPE, and unigram for mBART-50."""
    text = read_embedded("quickstart", "train", LANGUAGES).select(range(80))
    models = {}
    for kind in ("bpe", "unigram"):
        written = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for lines in text.sentences.values() for line in lines if line]),
            model_writer=written,
            vocab_size=300,
            model_type=kind,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
        models[kind] = written.getvalue()
    return models


def write_m2m_tokenizer(folder: Path, model: bytes, config: dict[str, Any], extra: tuple[str, ...] = ()) -> int:
    """Writes the files of `M2M100Tokenizer` and returns the vocabulary's size, without languages outside it."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    marks = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*marks, *(piece for piece in pieces if piece not in marks), *extra]
    (folder / "sentencepiece.bpe.model").write_bytes(model)
    (folder / "vocab.json").write_text(json.dumps({piece: index for index, piece in enumerate(vocabulary)}))
    if extra:
        tokens = {str(vocabulary.index(token)): {"content": token, "special": True} for token in extra}
        config = {**config, "added_tokens_decoder": tokens, "additional_special_tokens": list(extra)}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(vocabulary)


def write_tokenizer(family: str, folder: Path, models: dict[str, bytes]) -> int:
    """Writes the tokenizer of a family and returns how many embeddings its model needs."""
    if family in ("m2m100", "small100"):
        name = {"m2m100": "M2M100Tokenizer", "small100": "SMALL100Tokenizer"}[family]
        return write_m2m_tokenizer(folder, models["bpe"], {"tokenizer_class": name}) + 100 + 8
    if family == "m2m124":
        tokens = ("__af__", "__de__", "__en__", "__fr__", "__kea__", "__sw__", "__wo__")
        return write_m2m_tokenizer(folder, models["bpe"], {"tokenizer_class": "M2M100Tokenizer"}, tokens) + 2
    raw = folder / "raw"
    raw.mkdir()
    (raw / "sentencepiece.bpe.model").write_bytes(models["bpe" if family == "nllb" else "unigram"])
    if family == "nllb":
        tokenizer: Any = NllbTokenizer.from_pretrained(raw, extra_special_tokens=NLLB_CODES)
    else:
        tokenizer = MBart50Tokenizer.from_pretrained(raw)
    tokenizer.save_pretrained(folder)
    shutil.move(raw / "sentencepiece.bpe.model", folder)
    raw.rmdir()
    return len(tokenizer)


@pytest.fixture(scope="module", params=FAMILIES)
def family_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, spm_models: dict[str, bytes]
) -> Path:
    """A random base as it would lie in a folder; the folder is named after the family."""
    folder: Path = tmp_path_factory.mktemp("bases") / request.param
    folder.mkdir()
    write_base(request.param, folder, spm_models)
    return folder


def write_base(family: str, folder: Path, models: dict[str, bytes]) -> None:
    """Writes a random base of 2 + 2 layers."""
    sizes: dict[str, Any] = {
        "vocab_size": write_tokenizer(family, folder, models),
        "d_model": 16,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 256,
        "attention_dropout": 0.0,
        "init_std": 0.2,
        "scale_embedding": True,
        "decoder_start_token_id": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any
        if family == "mbart50":
            model = MBartForConditionalGeneration(MBartConfig(**sizes))
        else:
            model = M2M100ForConditionalGeneration(M2M100Config(**sizes))
    model.save_pretrained(folder)
