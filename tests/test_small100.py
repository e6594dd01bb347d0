"""Which family a base is of where its files leave that open: SMaLL-100 looks like M2M-100."""

import json
from pathlib import Path

import pytest

from langsearch.model.base import attach_base, load_base, share_base
from langsearch.model.families import FAMILIES, find_family
from langsearch.space.problems import InputError
from langsearch.space.settings import FAMILY_NAMES, BaseSource
from tests.family_fixtures import write_base

pytest_plugins = ["family_fixtures"]


@pytest.mark.parametrize(
    ("layers", "has_tokenizer", "told", "family"),
    [
        ((12, 3), True, None, "small100"),
        ((12, 12), False, None, "m2m100"),
        ((2, 2), False, "small100", "small100"),
        ((12, 3), False, "small100", "small100"),
        ((12, 3), False, "m2m100", "m2m100"),
        ((12, 3), True, "m2m100", "m2m100"),
    ],
)
def test_a_small100_that_names_m2m100s_tokenizer_is_told_by_its_files_and_shape_or_by_the_space(
    layers: tuple[int, int], has_tokenizer: bool, told: str | None, family: str, tmp_path: Path
) -> None:
    write_small100_like(tmp_path, layers, has_tokenizer)
    assert find_family(tmp_path, told).name == family


@pytest.mark.parametrize(
    ("layers", "has_tokenizer", "found"),
    [
        ((12, 3), False, "12 . 3 layers, but no tokenization_small100.py"),
        ((6, 6), True, "tokenization_small100.py, but 6 . 6 layers"),
    ],
)
def test_what_may_be_a_small100_is_asked_for_and_not_guessed(
    layers: tuple[int, int], has_tokenizer: bool, found: str, tmp_path: Path
) -> None:
    write_small100_like(tmp_path, layers, has_tokenizer)
    with pytest.raises(InputError, match=rf"has {found}. Say which it is in the space: base: .*family: small100"):
        find_family(tmp_path)


def write_small100_like(folder: Path, layers: tuple[int, int], has_tokenizer: bool) -> None:
    config = {"model_type": "m2m_100", "tokenizer_class": "M2M100Tokenizer"}
    sizes = {"encoder_layers": layers[0], "decoder_layers": layers[1]}
    (folder / "config.json").write_text(json.dumps(config | sizes))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "M2M100Tokenizer"}))
    if has_tokenizer:
        (folder / "tokenization_small100.py").write_text("raise SystemExit('never run')\n")


def test_a_family_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    write_small100_like(tmp_path, (12, 12), False)
    with pytest.raises(InputError, match=r"`base.family` must fit .* got mbart50, which is of 'mbart', .* 'm2m_100'"):
        find_family(tmp_path, "mbart50")
    assert {family.name for family in FAMILIES} == set(FAMILY_NAMES)


def test_a_told_family_goes_the_whole_way(spm_models: dict[str, bytes], tmp_path: Path) -> None:
    write_base("m2m100", tmp_path, spm_models)
    base = load_base(BaseSource(str(tmp_path), family="small100"))
    for found in (base, attach_base(share_base(base))):
        assert found.tokenizer.family.name == found.source.family == "small100"
        assert found.vocabulary(["en", "fr"]).form.src_mark == "tgt"
    assert load_base(str(tmp_path)).tokenizer.family.name == "m2m100"
