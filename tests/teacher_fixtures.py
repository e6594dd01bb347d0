"""A base that teaches, on the disk."""

import shutil
from pathlib import Path

import torch
from transformers import M2M100ForConditionalGeneration

from langsearch.model.base import TOKENIZER_FILES, Base


def write_teacher(folder: Path, base: Base, seed: int = 1) -> Path:
    """Writes a random base of twice the width with the tokenizer of another."""
    folder.mkdir(parents=True)
    for name in TOKENIZER_FILES:
        if (base.tokenizer.folder / name).exists():
            shutil.copy(base.tokenizer.folder / name, folder)
    config = type(base.model.config).from_dict({**base.model.config.to_dict(), "d_model": 64, "encoder_layers": 3})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder
