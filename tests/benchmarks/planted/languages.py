"""Made-up languages whose needs are known, and a tiny base that copies between the plain ones.

All languages write the same 48 words; a cipher swaps disjoint pairs of them. The base has an embedding for each word
and one for all languages together: only what is a language's own can tell which cipher is read or written. The second
layer of its decoder alone reads the source (the first one's cross-attention adds nothing), so that every word passes
its `v_proj` there once, as a vector.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import torch
from torch.nn import functional
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.model.base import quiet_transformers

WORDS = tuple(consonant + vowel for consonant in "bdfgklmnprst" for vowel in "aeiu")

NUM_PAIRS: Mapping[str, int] = {"hub": 0, "twin": 0, "source_four": 4, "target_two": 2, "target_twelve": 12}
"""How many pairs of words each language swaps; those named after a side are only that."""

NUM_SENTENCES: Mapping[str, int] = {"train": 400, "validation": 50, "test": 50}
LENGTHS = (4, 9)
"""Words of a sentence, both inclusive."""

NUM_UPDATES = 600
"""Updates of 64 sentences that the base is trained for; after a third of them it makes no mistake."""

_MARKS = ("<s>", "<pad>", "</s>", "<unk>")
_PAD, _EOS = 1, 2
_FIRST_WORD = len(_MARKS)
_NUM_ROWS = 64
_PEAK_LR = 3e-3


def swaps(language: str) -> list[tuple[int, int]]:
    """Returns the pairs of words that a language swaps, as indices into `WORDS`."""
    number = list(NUM_PAIRS).index(language)
    drawn = np.random.default_rng(number).permutation(len(WORDS))[: 2 * NUM_PAIRS[language]].tolist()
    return list(zip(drawn[::2], drawn[1::2], strict=True))


def write_sentences(folder: Path) -> None:
    """Writes random sentences in all languages: folder/PART/LANGUAGE.txt, line n the same sentence."""
    rng = np.random.default_rng(0)
    for part, num in NUM_SENTENCES.items():
        rows = [rng.integers(len(WORDS), size=rng.integers(LENGTHS[0], LENGTHS[1] + 1)) for _ in range(num)]
        (folder / part).mkdir(parents=True, exist_ok=True)
        for language in NUM_PAIRS:
            cipher = np.arange(len(WORDS))
            for one, other in swaps(language):
                cipher[[one, other]] = other, one
            lines = [" ".join(WORDS[cipher[word]] for word in row) for row in rows]
            (folder / part / f"{language}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_base(folder: Path, num_updates: int = NUM_UPDATES) -> None:
    """Trains a base of d 64 and 1 + 2 layers to copy, and writes it in M2M-100's format; always the same one.

    Each sentence of its training has few different words, some of them twice: so it finds the next word by its place,
    not by the word before, which a cipher would change.
    """
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _write_tokenizer(folder)
    first_language = vocabulary.index("__hub__")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = M2M100ForConditionalGeneration(_config(len(vocabulary)))
    blind = model.model.decoder.layers[0].encoder_attn.out_proj
    for parameter in blind.parameters():
        parameter.data.zero_()
        parameter.requires_grad_(False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=_PEAK_LR, betas=(0.9, 0.98), weight_decay=0.01)
    rng = np.random.default_rng(0)
    for update in range(num_updates):
        for group in optimizer.param_groups:
            group["lr"] = _PEAK_LR * min(1.0, (update + 1) / 100) * 0.5 * (1 + np.cos(np.pi * update / num_updates))
        length = int(rng.integers(3, LENGTHS[1] + 2))
        known = rng.integers(_FIRST_WORD, _FIRST_WORD + len(WORDS), size=(_NUM_ROWS, length))
        words = np.take_along_axis(known, rng.integers(length, size=known.shape), axis=1)
        sides = np.pad(words, ((0, 0), (1, 1)), constant_values=((0, 0), (first_language, _EOS)))
        ids = torch.from_numpy(sides)
        inputs = torch.cat([torch.full((_NUM_ROWS, 1), _EOS), ids[:, :-1]], dim=1)
        mask = torch.ones_like(ids)
        logits = model(input_ids=ids, attention_mask=mask, decoder_input_ids=inputs).logits
        loss = functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), label_smoothing=0.1)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    with torch.no_grad():
        rows = model.model.shared.weight
        rows[first_language:] = rows[first_language].clone()
    with quiet_transformers():
        model.save_pretrained(folder)


def _config(vocab_size: int) -> M2M100Config:
    return M2M100Config(
        vocab_size=vocab_size,
        d_model=64,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
        dropout=0.0,
        attention_dropout=0.0,
        init_std=0.1,
        scale_embedding=True,
        decoder_start_token_id=_EOS,
    )


def _write_tokenizer(folder: Path) -> list[str]:
    """Writes a tokenizer whose pieces are whole words; returns its vocabulary, the languages last."""
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)]),
        model_writer=written,
        model_type="word",
        vocab_size=2 * len(WORDS),
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        num_threads=1,
        minloglevel=2,
    )
    tokens = [f"__{language}__" for language in NUM_PAIRS]
    vocabulary = [*_MARKS, *(f"▁{word}" for word in WORDS), *tokens]
    added = {str(vocabulary.index(token)): {"content": token, "special": True} for token in tokens}
    settings = {
        "tokenizer_class": "M2M100Tokenizer",
        "added_tokens_decoder": added,
        "additional_special_tokens": tokens,
    }
    (folder / "sentencepiece.bpe.model").write_bytes(written.getvalue())
    numbers = {piece: index for index, piece in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return vocabulary
