"""A small space to change, and the shapes of bases."""

from pathlib import Path

import pytest

from langsearch.space.architecture import BaseShape
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space

ODD_SIGNS = "50% a?b#c%41{d}[e]"
"""A folder's name whose signs mean something in a URL, a pattern, a shell, a template or the terminal's markup."""

M2M100_418M = BaseShape(
    encoder_layers=12,
    decoder_layers=12,
    d_model=1024,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    num_parameters=483_905_536,
)
TINY = BaseShape(
    encoder_layers=3,
    decoder_layers=3,
    d_model=128,
    encoder_ffn_dim=512,
    decoder_ffn_dim=512,
    num_parameters=2_430_000,
)
VERSES = BaseShape(
    encoder_layers=3, decoder_layers=3, d_model=192, encoder_ffn_dim=768, decoder_ffn_dim=768, num_parameters=4_654_080
)
PLANTED = BaseShape(
    encoder_layers=1, decoder_layers=2, d_model=64, encoder_ffn_dim=128, decoder_ffn_dim=128, num_parameters=137_856
)
SHAPES = {
    "tiny-m2m": TINY,
    "facebook/m2m100_418M": M2M100_418M,
    "../shared/models/verses-nllb": VERSES,
    "data/planted/base": PLANTED,
}
SMALL = """\
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
  rank: 4
"""


def load(folder: Path, text: str = SMALL, *overrides: str) -> Space:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(InputError, match=r".") as caught:
        load(folder, text, *overrides)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]
