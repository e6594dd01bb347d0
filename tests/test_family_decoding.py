"""Every family decodes to the tokens that transformers' `generate` gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.decoding import DecodingRow, decode_batches
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import Architecture
from langsearch.space.settings import DecodingSettings
from tests.adapter_cases import CASES
from tests.family_fixtures import LANGUAGES
from tests.generate_reference import ForceLanguageAndEnd

pytest_plugins = ["family_fixtures"]

TEXTS = ("bonjour", "la maison est grande", "une rue", "le chat dort", "non")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["lora", "mixed_sides", "gated", "factorized+layer_norm", "lora+layer_norm+bridge"])
@pytest.mark.parametrize("beams", [1, 5])
def test_every_family_decodes_to_generates_tokens(
    beams: int, kind: str, attention: str, family_folder: Path, make_architecture: Callable[..., Architecture]
) -> None:
    base = load_base(str(family_folder))
    base.model.set_attn_implementation(attention)
    build, fields = CASES[kind]
    learner = AdaptedModel(base, build(base, make_architecture(**fields), LANGUAGES, 0))
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    rows = [
        DecodingRow(np.array(base.tokenizer.encode([text])[0], np.int32), "fr", tgt)
        for text in TEXTS
        for tgt in ("en", "sw", "de")
    ]
    found: dict[int, list[int]] = {}
    for indices, hypotheses in decode_batches(
        learner,
        rows,
        vocabulary=base.vocabulary(LANGUAGES),
        languages=LANGUAGES,
        # Few at once, so that rows come later; three of one sentence come together, and are encoded once.
        settings=DecodingSettings(beams=beams, max_length_factor=1.0, rows_per_batch=7 * beams),
    ):
        found.update(zip(indices, hypotheses, strict=True))
    assert [found[index] for index in range(len(rows))] == [generated(learner, base, row, beams) for row in rows]
    assert len({tuple(tokens) for tokens in found.values()}) > 8


def generated(learner: AdaptedModel, base: Base, row: DecodingRow, beams: int) -> list[int]:
    """What `generate` gives for a row by itself, from its language, if the base has one there, to its end."""
    vocabulary = base.vocabulary(LANGUAGES)
    marks = vocabulary.tgt_marks([row.direction])
    ids = torch.tensor([[*vocabulary.src_marks([row.direction]), *row.tokens.tolist(), vocabulary.eos_id]])
    limit = torch.tensor([len(row.tokens) + 10 + (1 if marks is None else 2)])
    forced = ForceLanguageAndEnd(None if marks is None else torch.tensor(marks), limit, vocabulary.eos_id)
    model: Any = learner.model
    languages = [torch.tensor([LANGUAGES.index(language)]) for language in (row.src, row.tgt)]
    with torch.no_grad(), learner.route(*languages):
        found = model.generate(
            input_ids=ids,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=int(limit),
            logits_processor=LogitsProcessorList([forced]),
        )
    tokens: list[int] = found[0].tolist()
    return tokens[1 : tokens.index(vocabulary.eos_id, 1) + 1]
