"""A base of random weights in the layout of a published NLLB-200-distilled-600M, in a hub's cache on the disk.

Its sizes are the published ones, and so are its files: `pytorch_model.bin`, `tokenizer.json` and the SentencePiece
model. Its pieces are not: a few thousand of the embedded sentences', and made-up ones up to the published number.
"""

import hashlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from sentencepiece import sentencepiece_model_pb2
from torch import nn
from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer

from langsearch.data.embedded import read_embedded

BASE = "someone/nllb-600M"
LANGUAGES = ("en", "fr", "sw")
"""Those of the embedded sentences that the benchmark's space has."""

_CODES = ["eng_Latn", "fra_Latn", "swh_Latn"]
_NUM_LANGUAGES, _NUM_PIECES, _VOCAB_SIZE = 202, 256_000, 256_206
_COMMIT = "0" * 40


def write_published_base(cache: Path, *, is_small: bool = False) -> Path:
    """Writes the base into a hub's cache as `huggingface_hub` lays it out, and returns its snapshot's folder.

    Args:
        cache: The hub's cache.
        is_small: With a width of 16, to try what goes on around it.
    """
    folder = cache / f"models--{BASE.replace('/', '--')}"
    snapshot, blobs = folder / "snapshots" / _COMMIT, folder / "blobs"
    for part in (snapshot, blobs, folder / "refs"):
        part.mkdir(parents=True)
    (folder / "refs" / "main").write_text(_COMMIT)
    _write_tokenizer(snapshot)
    config = _config(is_small=is_small)
    (snapshot / "config.json").write_text(config.to_json_string())
    aside = blobs / "pytorch_model.bin"
    torch.save(_published_state(config), aside)
    with aside.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    aside.rename(blobs / digest)
    (snapshot / "pytorch_model.bin").symlink_to(Path(os.path.relpath(blobs / digest, snapshot)))
    return snapshot


def _config(*, is_small: bool) -> Any:
    """Returns the configuration of facebook/nllb-200-distilled-600M."""
    return M2M100Config(
        architectures=["M2M100ForConditionalGeneration"],
        tokenizer_class="NllbTokenizer",
        vocab_size=_VOCAB_SIZE,
        d_model=16 if is_small else 1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=64 if is_small else 4096,
        decoder_ffn_dim=64 if is_small else 4096,
        max_position_embeddings=1024,
        max_length=200,
        attention_dropout=0.1,
        dropout=0.1,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        scale_embedding=True,
        decoder_start_token_id=2,
    )


def _published_state(config: Any) -> dict[str, torch.Tensor]:
    """Returns random weights by the names of a published file, which has the embedding four times as one storage."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = M2M100ForConditionalGeneration(config)
    state: dict[str, torch.Tensor] = {}
    for name, parameter in nn.Module.named_parameters(model):
        values = torch.zeros(parameter.shape)
        if values.dim() == 2:
            values.normal_(std=config.init_std)
        elif name.endswith("norm.weight"):
            values.fill_(1.0)
        state[name] = values
    shared = state["model.shared.weight"]
    for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight"):
        state[name] = shared
    return state


def _write_tokenizer(folder: Path) -> None:
    """Writes the files of an NLLB tokenizer; its languages stand behind the pieces, as in published ones."""
    raw = folder / "raw"
    raw.mkdir()
    (raw / "sentencepiece.bpe.model").write_bytes(_pieces())
    others = [f"{code}_Latn" for code in _other_codes()]
    codes = sorted([*_CODES, *others])
    tokenizer: Any = NllbTokenizer.from_pretrained(raw, extra_special_tokens=codes)
    tokenizer.save_pretrained(folder)
    (raw / "sentencepiece.bpe.model").rename(folder / "sentencepiece.bpe.model")
    raw.rmdir()
    ids = tokenizer.convert_tokens_to_ids(_CODES)
    assert min(ids) > _NUM_PIECES - 10 and max(ids) < _VOCAB_SIZE, ids


def _other_codes() -> list[str]:
    """Returns made-up codes of three letters, as many as the published base has languages more."""
    number = _NUM_LANGUAGES - len(_CODES)
    return [f"q{chr(97 + index // 26)}{chr(97 + index % 26)}" for index in range(number)]


def _pieces() -> bytes:
    """Returns a SentencePiece model of as many pieces as the published one."""
    text = read_embedded("quickstart", "train", LANGUAGES)
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for lines in text.sentences.values() for line in lines if line]),
        model_writer=written,
        vocab_size=2000,
        model_type="bpe",
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    model: Any = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(written.getvalue())
    lowest = model.pieces[-1].score
    for index in range(len(model.pieces), _NUM_PIECES):
        # In circled digits, which no sentence has.
        piece = "".join(chr(0x2460 + int(digit)) for digit in str(index))
        model.pieces.add(piece=piece, score=lowest - 1)
    return bytes(model.SerializeToString())


if __name__ == "__main__":
    print(json.dumps(str(write_published_base(Path(sys.argv[1]), is_small="--small" in sys.argv))))
