from typing import Any

import pytest

from langsearch.space.architecture import (
    MODULES,
    Architecture,
    BaseShape,
    Pruning,
    Side,
    Site,
    SiteAdapters,
    Stack,
    uniform_ranks,
)

M2M124_615M = BaseShape(
    encoder_layers=12,
    decoder_layers=12,
    d_model=1024,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    num_parameters=615_000_000,
)
CLASSES = {"high": "en fr it de", "medium": "nl zh ja ko", "low": "oc or sd wo"}
FC1, Q = Site("encoder", 3, "fc1"), Site("decoder", 0, "cross_q_proj")
LITERAL = (
    '{"adapters": [{"ranks": {"en": 2, "fr": 4}, "side": "src", "sites": ["encoder.3.fc1"]}, '
    '{"ranks": {"fr": 8}, "side": "tgt", "sites": ["decoder.0.cross_q_proj"]}], "alpha": 1.0, "ffn_slice": 16, '
    '"format": 1, "init": "published", "pruning": {"duration": 10, "scope": "language", "start": 2, '
    '"targets": {"fr": 0.9}}, "scaling": "none", "slots": {"en": "en", "fr": "fr"}}'
)


def own_slots(*languages: str) -> tuple[tuple[str, str], ...]:
    return tuple((language, language) for language in languages)


def example(**changes: Any) -> Architecture:
    settings: dict[str, Any] = {
        "slots": own_slots("en", "fr"),
        "adapters": (SiteAdapters(FC1, "src", (("en", 2), ("fr", 4))), SiteAdapters(Q, "tgt", (("fr", 8),))),
        "pruning": Pruning(targets=(("fr", 0.9),), start=2, duration=10),
        "ffn_slice": 16,
    }
    return Architecture(**(settings | changes))


def published(ranks: dict[str, int], ffn_slice: int | None = 1024) -> Architecture:
    sites: list[tuple[Site, Side]] = []
    stacks: tuple[Stack, Stack] = ("encoder", "decoder")
    for stack in stacks:
        modules = [module for module in MODULES[stack] if not module.endswith("out_proj")]
        sites += [(Site(stack, layer, module), "tgt") for layer in range(12) for module in modules]
    by_language = {language: ranks[name] for name, members in CLASSES.items() for language in members.split()}
    return Architecture(slots=own_slots(*by_language), adapters=uniform_ranks(sites, by_language), ffn_slice=ffn_slice)


# Expected numbers: arithmetic on the paper's setting, 156 modules x 2 x 1024 for each language and unit of rank.
@pytest.mark.parametrize(
    ("ranks", "per_class", "total", "percent"),
    [
        ((2, 2, 8), (2_555_904, 2_555_904, 10_223_616), 15_335_424, 2.49),
        ((8, 8, 8), (10_223_616,) * 3, 30_670_848, 4.99),
        ((16, 16, 16), (20_447_232,) * 3, 61_341_696, 9.97),
        ((64, 64, 64), (81_788_928,) * 3, 245_366_784, 39.9),
    ],
)
def test_parameter_counts_agree_with_the_published_setting(
    ranks: tuple[int, int, int], per_class: tuple[int, ...], total: int, percent: float
) -> None:
    architecture = published(dict(zip(CLASSES, ranks, strict=True)))
    assert len(architecture.adapters) == 156
    counts = architecture.num_parameters_by_slot(M2M124_615M)
    assert tuple(sum(counts[lang] for lang in members.split()) for members in CLASSES.values()) == per_class
    assert architecture.num_parameters(M2M124_615M) == total
    assert 100 * total / M2M124_615M.num_parameters == pytest.approx(percent, abs=0.05)


def test_without_the_slice_the_published_ranks_cost_half_as_much_again() -> None:
    counts = published({"high": 2, "medium": 2, "low": 8}, ffn_slice=None).num_parameters_by_slot(M2M124_615M)
    share = {name: sum(counts[lang] for lang in members.split()) / 6.15e6 for name, members in CLASSES.items()}
    assert share == pytest.approx({"high": 0.61, "medium": 0.61, "low": 2.43}, abs=0.005)


def test_json_is_the_literal_and_comes_back_equal() -> None:
    assert example().to_json() == LITERAL
    assert Architecture.from_json(LITERAL) == example()
    assert Architecture.from_json(example(pruning=None).to_json()) == example(pruning=None)


def test_the_fingerprint_is_the_same_on_every_machine() -> None:
    assert example().fingerprint == "cf3d83d251029916"


@pytest.mark.parametrize(
    "same",
    [
        {"slots": own_slots("fr", "en")},
        {"adapters": (SiteAdapters(Q, "tgt", (("fr", 8),)), SiteAdapters(FC1, "src", (("fr", 4), ("en", 2))))},
        {"adapters": (*example().adapters, SiteAdapters(Site("encoder", 0, "q_proj"), "src", (("en", 0),)))},
        {"pruning": Pruning(targets=(("fr", 0.9), ("en", 0)), start=2, duration=10)},
        {"alpha": 16},
    ],
    ids=["order of languages", "order of sites", "rank 0", "target 0", "alpha without scaling"],
)
def test_what_changes_nothing_leaves_the_fingerprint(same: dict[str, Any]) -> None:
    assert example(**same) == example()
    assert example(**same).fingerprint == example().fingerprint


@pytest.mark.parametrize(
    "other",
    [
        {"adapters": (SiteAdapters(FC1, "tgt", (("en", 2), ("fr", 4))), SiteAdapters(Q, "tgt", (("fr", 8),)))},
        {"adapters": (SiteAdapters(FC1, "src", (("en", 2), ("fr", 4))),)},
        {"pruning": None},
        {"init": "peft"},
        {"scaling": "alpha/r"},
        {"ffn_slice": None},
        {"slots": (*own_slots("en", "fr"), ("de", "de"))},
    ],
    ids=["side", "sites", "pruning", "init", "scaling", "slice", "languages"],
)
def test_what_changes_the_adapters_changes_the_fingerprint(other: dict[str, Any]) -> None:
    assert example(**other).fingerprint != example().fingerprint


def shared(names: str, ranks: dict[str, int], side: Side = "src") -> Architecture:
    slots = tuple(zip(("de", "en", "fr"), names.split(), strict=True))
    return Architecture(slots=slots, adapters=uniform_ranks([(FC1, side)], ranks))


def test_slots_are_named_after_who_shares_them() -> None:
    assert shared("a b b", {"a": 2, "b": 4}) == shared("x high high", {"x": 2, "high": 4})
    assert shared("a b b", {"a": 2, "b": 4}).slots == (("de", "de"), ("en", "en+fr"), ("fr", "en+fr"))
    assert shared("en en en", {"en": 4}).slots == (("de", "all"), ("en", "all"), ("fr", "all"))
    assert shared("fr de en", {"fr": 1, "de": 2, "en": 3}).adapters[0].ranks == (("de", 1), ("en", 2), ("fr", 3))


def test_languages_without_an_adapter_share_nothing() -> None:
    assert shared("a b b", {"a": 2, "b": 0}) == shared("de en fr", {"de": 2})


def test_with_one_slot_for_all_the_side_means_nothing() -> None:
    assert shared("a a a", {"a": 2}, "src") == shared("a a a", {"a": 2}, "tgt")
    assert shared("a a b", {"a": 2}, "src") != shared("a a b", {"a": 2}, "tgt")


def test_no_adapters_is_one_architecture_whatever_else_is_said() -> None:
    nothing = Architecture(slots=own_slots("en", "fr"), adapters=())
    pruning = Pruning(targets=(("en", 0.5),), start=1, duration=1)
    assert example(adapters=(), pruning=pruning, init="peft", scaling="alpha/r", alpha=8) == nothing


def test_a_rank_is_read_by_language() -> None:
    assert shared("a b b", {"a": 2, "b": 4}).rank(FC1, "fr") == 4
    assert example().rank(Q, "en") == 0


def test_the_scale_follows_its_rule() -> None:
    assert example().scale(4) == 1
    assert example(scaling="alpha/r", alpha=8).scale(4) == 2
    assert example(scaling="alpha/sqrt_r", alpha=8).scale(4) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapters": (SiteAdapters(FC1, "src", (("en", -1),)),)}, "A rank must be a whole number, 0 or more"),
        ({"adapters": (SiteAdapters(FC1, "src", (("de", 2),)),)}, "must be used by a language, but .* names de"),
        ({"adapters": example().adapters * 2}, "encoder.3.fc1 is named twice"),
        ({"slots": own_slots("en", "fr", "fr")}, "A language must be named once"),
        ({"pruning": Pruning(targets=(("fr", 1.1),), start=1, duration=1)}, r"must lie in \[0, 1\], but got"),
        ({"pruning": Pruning(targets=(("fr", 0.5),), start=0, duration=1)}, "start >= 1 and duration >= 1"),
        ({"pruning": Pruning(targets=(("xx", 0.5),), start=1, duration=1)}, "for a slot that a language uses.* xx"),
        (
            {"pruning": Pruning(targets=(("fr", 0.5), ("en", 0.4)), start=1, duration=1, scope="layer")},
            "scope layer needs one target for all",
        ),
        ({"init": "zero"}, "`init` must be one of published, peft, but got 'zero'"),
        ({"alpha": 0}, "`alpha` must be above 0"),
        ({"ffn_slice": 0}, "`ffn_slice` must be 1 or more"),
    ],
)
def test_a_wrong_architecture_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        example(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "format must be 1, but got 2"),
        ({"colour": 1}, "An architecture has the keys .*, but got .*colour"),
        ({"adapters": [{"side": "src", "ranks": {}}]}, "A group of adapters has the keys"),
        ({"adapters": [{"side": "up", "ranks": {"en": 1}, "sites": ["encoder.0.fc1"]}]}, "must be src or tgt"),
        ({"adapters": [{"side": "src", "ranks": {"en": 1}, "sites": ["encoder.0.fc3"]}]}, "STACK.LAYER.MODULE"),
        ({"pruning": {"target": 0.5}}, "A pruning has the keys targets, start, duration, scope, over"),
    ],
)
def test_wrong_json_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture.from_dict(example().to_dict() | changes)


def test_what_pruning_ranks_by_is_named_only_where_it_is_not_the_default() -> None:
    pruning = Pruning(targets=(("fr", 0.9),), start=2, duration=10, over="product")
    over_product = example(pruning=pruning)
    text = LITERAL.replace('"duration": 10, ', '"duration": 10, "over": "product", ')
    assert over_product.to_json() == text
    assert Architecture.from_json(text) == over_product
    assert Architecture.from_json(text.replace('"product"', '"b"')) == example()
    assert over_product.fingerprint != example().fingerprint
    with pytest.raises(ValueError, match="Pruning must be over b or product, but got 'ba'"):
        Architecture.from_json(text.replace('"product"', '"ba"'))
