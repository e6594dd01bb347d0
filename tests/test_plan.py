from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.build import build_architecture
from langsearch.space.plan import (
    num_parameters_by_class,
    plan_rows,
    shared_slots,
    show_layers,
    show_modules,
    show_ranks,
)
from langsearch.space.sections import ArchitectureSection

SHAPE = BaseShape(
    encoder_layers=4, decoder_layers=4, d_model=16, encoder_ffn_dim=64, decoder_ffn_dim=64, num_parameters=10_000
)
CLASSES = {"high": ("en", "fr"), "low": ("sw", "wo", "oc")}


def build(**section: object) -> Architecture:
    return build_architecture(ArchitectureSection.model_validate(section), CLASSES, {}, SHAPE)


def test_equal_layers_stand_in_one_row() -> None:
    architecture = build(
        rank={"high": 2, "low": 4},
        encoder={
            "source_layers": 3,
            "overrides": [{"layers": [0, 3], "modules": ["fc1"], "rank": {"languages": {"wo": 9}}}],
        },
        decoder={"modules": ["q_proj"], "layers": {"last": 2}},
    )
    rows = [
        (row.stack, show_layers(row.layers), show_modules(row.modules), row.side, show_ranks(row.ranks, CLASSES))
        for row in plan_rows(architecture)
    ]
    assert rows == [
        ("encoder", "0", "q k v fc2", "src", "2;4"),
        ("encoder", "0", "fc1", "src", "2;4, wo 9"),
        ("encoder", "1-2", "q k v fc1 fc2", "src", "2;4"),
        ("encoder", "3", "q k v fc2", "tgt", "2;4"),
        ("encoder", "3", "fc1", "tgt", "2;4, wo 9"),
        ("decoder", "2-3", "q", "tgt", "2;4"),
    ]


def test_the_rows_name_every_site_once() -> None:
    architecture = build(rank=2, encoder={"overrides": [{"layers": [1], "modules": ["k_proj"], "rank": {"high": 0}}]})
    named = [
        (f"{row.stack}.{layer}.{module}", row.side, row.ranks)
        for row in plan_rows(architecture)
        for layer in row.layers
        for module in row.modules
    ]
    assert len(named) == len(architecture.adapters)
    sides = {str(entry.site): entry.side for entry in architecture.adapters}
    ranks = {str(entry.site): dict(entry.ranks) for entry in architecture.adapters}
    for site, side, row_ranks in named:
        assert side == sides[site]
        assert row_ranks == {language: ranks[site].get(language, 0) for language in architecture.languages}


def test_ranks_are_shown_by_class_and_the_languages_that_differ_apart() -> None:
    assert show_ranks({"en": 2, "fr": 2, "sw": 8, "wo": 8, "oc": 8}, CLASSES) == "2;8"
    assert show_ranks({"en": 2, "fr": 0, "sw": 8, "wo": 4, "oc": 8}, CLASSES) == "0;8, en 2, wo 4"
    assert show_ranks({"en": 2, "fr": 4, "sw": 8, "wo": 4, "oc": 8}, CLASSES) == "2;8, fr wo 4"


def test_layers_are_shown_as_ranges() -> None:
    assert show_layers([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"
    assert show_layers([]) == "-"


def test_parameters_are_counted_by_class() -> None:
    architecture = build(rank={"high": 1, "low": 2}, encoder={"modules": []}, decoder={"modules": ["q_proj"]})
    # 4 layers of 16 + 16, 2 languages of rank 1 and 3 of rank 2.
    assert num_parameters_by_class(architecture, CLASSES, SHAPE) == ({"high": 256, "low": 768}, 0)


def test_what_several_classes_share_is_counted_apart() -> None:
    architecture = build(rank=1, sharing="family", encoder={"modules": []}, decoder={"modules": ["q_proj"]})
    assert shared_slots(architecture) == {"en+fr+oc": ("en", "fr", "oc"), "sw+wo": ("sw", "wo")}
    by_class, shared = num_parameters_by_class(architecture, CLASSES, SHAPE)
    assert (by_class, shared) == ({"high": 0, "low": 128}, 128)
    assert sum(by_class.values()) + shared == architecture.num_parameters(SHAPE)
