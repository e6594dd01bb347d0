"""Agreement with the setting of Cao et al. 2024 (arXiv 2409.05224): 12 languages on M2M-124 615M.

The expected counts are arithmetic on the public release: 156 modules x 2 x 1024 for each language and unit of rank.
"""

import io
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.model.shape import read_shape
from langsearch.search.checking import print_plan
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.plan import num_parameters_by_class
from langsearch.space.schema import Space, load_space

SPACE = """\
base: m2m124_615m
languages: {high: [en, fr, it, de], medium: [nl, zh, ja, ko], low: [oc, or, sd, wo]}
data:
  train: {flores101: dev, folder: data/flores101}
  validation: {holdout: 100}
  test: {flores101: devtest, folder: data/flores101}
architecture:
  rank: {high: RANKS, medium: RANKS, low: RANKS}
  encoder: {source_layers: 9}
  ffn_slice: 1024
"""


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> BaseShape:
    """The sizes of M2M-124 615M, from its configuration alone (VityaVitalich/flores101_mm100_615M on the hub)."""
    from transformers import M2M100Config

    folder = tmp_path_factory.mktemp("m2m124_615m")
    M2M100Config(
        vocab_size=256_125,
        d_model=1024,
        encoder_layers=12,
        decoder_layers=12,
        encoder_attention_heads=16,
        decoder_attention_heads=16,
        encoder_ffn_dim=4096,
        decoder_ffn_dim=4096,
    ).save_pretrained(folder)
    return read_shape(folder)


def load(folder: Path, ranks: tuple[int, ...], *overrides: str) -> Space:
    text = SPACE
    for rank in ranks:
        text = text.replace("RANKS", str(rank), 1)
    path = folder / "published.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(path, overrides)


def architecture(space: Space, shape: BaseShape) -> Architecture:
    assert space.check(shape) == []
    assert space.dimensions() == {}
    return space.architecture({}, shape)


def test_the_615m_model_has_as_many_parameters_as_its_name_says(shape: BaseShape) -> None:
    assert shape.num_parameters == 614_990_848


# Ranks high;medium;low, parameters and percent of each class, and of all; the abstract has 0.4 and 1.6 %.
@pytest.mark.parametrize(
    ("ranks", "per_class", "percent_per_class", "total", "percent"),
    [
        ((2, 2, 8), (2_555_904, 2_555_904, 10_223_616), (0.416, 0.416, 1.66), 15_335_424, 2.49),
        ((8, 8, 8), (10_223_616,) * 3, (1.66,) * 3, 30_670_848, 4.99),
        ((16, 16, 16), (20_447_232,) * 3, (3.33,) * 3, 61_341_696, 9.97),
        ((64, 64, 64), (81_788_928,) * 3, (13.3,) * 3, 245_366_784, 39.9),
    ],
    ids=["2;2;8", "8;8;8", "16;16;16", "64;64;64"],
)
def test_the_published_rows_come_out_to_the_last_parameter(
    ranks: tuple[int, ...],
    per_class: tuple[int, ...],
    percent_per_class: tuple[float, ...],
    total: int,
    percent: float,
    shape: BaseShape,
    tmp_path: Path,
) -> None:
    space = load(tmp_path, ranks)
    found = architecture(space, shape)
    by_class, shared = num_parameters_by_class(found, space.classes, shape)
    assert tuple(by_class.values()) == per_class and shared == 0
    assert found.num_parameters(shape) == total
    percents = [100 * count / shape.num_parameters for count in (*by_class.values(), total)]
    # 20,447,232 of 614,990,848 is 3.325 %: the published 3.33 is eight times the rounded 0.416.
    assert percents == pytest.approx([*percent_per_class, percent], rel=2.5e-3)


@pytest.mark.parametrize("ffn_slice", ["none", "4096"])
def test_without_the_slice_half_as_much_again(ffn_slice: str, shape: BaseShape, tmp_path: Path) -> None:
    space = load(tmp_path, (2, 2, 8), f"architecture.ffn_slice={ffn_slice}")
    found = architecture(space, shape)
    by_class, _ = num_parameters_by_class(found, space.classes, shape)
    # 12 layers x (3 + 6 projections of 2048 + 2 x 2 feed-forward of 5120) = 466,944 for a language and unit of rank.
    assert tuple(by_class.values()) == (3_735_552, 3_735_552, 14_942_208)
    percents = [round(100 * count / shape.num_parameters, 2) for count in by_class.values()]
    assert percents == [0.61, 0.61, 2.43]


def test_the_space_of_the_release_is_the_published_baseline(shape: BaseShape, tmp_path: Path) -> None:
    space = load(tmp_path, (2, 2, 8), "baselines=[published]")
    assert architecture(space, shape) == space.baseline_architecture("published", shape)


def test_check_prints_the_published_row_as_a_table(shape: BaseShape, tmp_path: Path) -> None:
    space = load(tmp_path, (2, 2, 8))
    stream = io.StringIO()
    print_plan(Console(file=stream, width=80), space.architecture({}, shape), space.classes, shape)
    assert [line.rstrip() for line in stream.getvalue().splitlines()] == [
        "the plan",
        "layers        modules                                side  rank high;medium;low",
        "encoder 0-8   q k v fc1 fc2                          src   2;2;8",
        "encoder 9-11  q k v fc1 fc2                          tgt   2;2;8",
        "decoder 0-11  q k v cross_q cross_k cross_v fc1 fc2  tgt   2;2;8",
        "parameters",
        "class   languages  parameters  % of the base",
        "high            4   2,555,904          0.416",
        "medium          4   2,555,904          0.416",
        "low             4  10,223,616           1.66",
        "all            12  15,335,424           2.49",
    ]
