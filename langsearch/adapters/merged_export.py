"""One direction's adapters merged into the base: a plain Hugging Face model that CTranslate2's converter takes too."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

from torch import nn
from transformers import GenerationConfig

from langsearch.adapters.export_folder import MERGED_FILE, export_folder
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.mounting import mount
from langsearch.adapters.tokenizer_export import write_tokenizer
from langsearch.data.directions import Direction
from langsearch.model.base import Base, quiet_transformers
from langsearch.model.families import TranslationModel
from langsearch.model.positions import num_positions

NUM_BEAMS = 5
MAX_NEW_TOKENS = 256
"""What `generate` does with the merged model unless told otherwise."""


def export_merged(learner: AdaptedModel, base: Base, direction: Direction, folder: Path, card: str) -> None:
    """Writes a model that translates in one direction without any adapter, with its tokenizer.

    `AutoModelForSeq2SeqLM` and `AutoTokenizer` load it, and `generate` needs no further argument: the tokenizer's
    source language and the token that the target begins with are set; of a source that is new to the base, see
    `tokenizer_export`. The folder appears whole or not at all.

    Args:
        learner: The model with its trained weights; it is left as it is.
        base: The base that the learner is in.
        direction: From and to which of the learner's languages.
        folder: Where to; replaced if it is an earlier export.
        card: The text of README.md.

    Raises:
        InputError: If the folder is there and is no export, or a language is none of the base's.
    """
    vocabulary = base.vocabulary([direction.src, direction.tgt])
    model = merge(learner, direction)
    marks = vocabulary.tgt_marks([direction])
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        pad_token_id=vocabulary.pad_id,
        eos_token_id=vocabulary.eos_id,
        decoder_start_token_id=vocabulary.decoder_start_id,
        forced_bos_token_id=marks[0] if marks else None,
        num_beams=NUM_BEAMS,
        max_new_tokens=most_new_tokens(base),
        # The output projection is the embedding, so that here it has the new languages too; forced ones come through.
        bad_words_ids=[[language.index] for language in base.new_languages] or None,
    )
    family = base.tokenizer.family
    if family.tokenizer_names:
        # Where the family is told by its tokenizer's class, and `AutoTokenizer` reads that of another file first.
        model.config.tokenizer_class = family.tokenizer_names[0]
    with export_folder(folder) as aside, quiet_transformers():
        write_tokenizer(base.tokenizer, aside, marked_language(base, direction), direction.tgt)
        model.save_pretrained(aside)
        for weights in aside.glob("*.safetensors"):
            # Written readable for their owner alone, unlike the files beside them.
            weights.chmod((aside / "config.json").stat().st_mode)
        origin = {
            "base": base.name,
            "revision": base.revision,
            "direction": str(direction),
            "architecture": learner.architecture.to_dict(),
        }
        (aside / MERGED_FILE).write_text(json.dumps(origin, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (aside / "README.md").write_text(card, encoding="utf-8")


def most_new_tokens(base: Base) -> int:
    """Returns how long a translation may get, in tokens, unless told otherwise: the base has positions for it."""
    # Two go to what the decoder starts with.
    return min(MAX_NEW_TOKENS, num_positions(base.model.config) - 2)


def marked_language(base: Base, direction: Direction) -> str:
    """Returns the language whose token a direction's source begins with."""
    return direction.src if base.tokenizer.family.form.src_mark == "src" else direction.tgt


def merge(learner: AdaptedModel, direction: Direction) -> TranslationModel:
    """Returns a model like the base in which a direction's adapters are merged into plain modules.

    What no adapter changes lies in the base's own memory, and must not be written. The embedding goes on with the rows
    of the languages that are new to the base.

    Raises:
        InputError: If adapters of this kind cannot be.
    """
    merged = learner.adapters.merged(direction)
    model = _twin(learner.model)
    mount(model, merged)
    if learner.rows:
        learner.rows.merge(model)
    return model


def _twin(model: TranslationModel) -> TranslationModel:
    """Returns a copy of a model's modules, with parameters of their own in the memory of the model's."""
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        for parameter in model.parameters()
    }
    known |= {id(buffer): buffer for buffer in model.buffers()}
    return deepcopy(model, known)
