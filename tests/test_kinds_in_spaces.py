"""Kinds of adapters as a space says them: their words, dimensions, sizes and mistakes."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from langsearch.adapters.peft_limits import adapter_slots, why_no_peft
from langsearch.experiment.task import summarize
from langsearch.space.architecture import Architecture, Bridge, LayerNorms
from langsearch.space.reach import parameter_bounds
from langsearch.space.values import options
from tests.space_fixtures import M2M100_418M, SMALL, TINY, load, problems


def built(folder: Path, adapter: str, *more: str) -> Architecture:
    return load(folder, SMALL, f"architecture.adapter={adapter}", *more).architecture({}, TINY)


@pytest.mark.parametrize(
    ("word", "usual"),
    [
        ("lora", "lora"),
        ("bridge+lora", "lora+bridge"),
        ("layer_norm+factorized", "factorized+layer_norm"),
        ("bridge+layer_norm+lora", "lora+layer_norm+bridge"),
    ],
)
def test_the_parts_of_a_word_may_stand_in_any_order(word: str, usual: str, tmp_path: Path) -> None:
    found = built(tmp_path, word)
    assert found.word == usual
    assert found == built(tmp_path, usual)
    assert Architecture.from_json(found.to_json()) == found


def test_plain_lora_is_written_as_ever(tmp_path: Path) -> None:
    assert not {"kind", "layer_norm", "bridge"} & set(built(tmp_path, "lora").to_dict())


def test_every_word_is_an_architecture_of_its_own(tmp_path: Path) -> None:
    words = ["lora", "factorized", "lora+layer_norm", "lora+bridge", "factorized+bridge", "lora+layer_norm+bridge"]
    assert len({built(tmp_path, word).fingerprint for word in words}) == len(words)


def test_factorized_of_a_rank_has_as_many_parameters_as_lora_of_it(tmp_path: Path) -> None:
    lora, factorized = built(tmp_path, "lora"), built(tmp_path, "factorized")
    assert factorized.num_parameters(TINY) == lora.num_parameters(TINY)
    assert factorized.pair_rank(4) == 3


def test_scales_alone_have_no_start_and_no_pruning_to_differ_by(tmp_path: Path) -> None:
    plain = built(tmp_path, "factorized", "architecture.rank=1")
    same = built(
        tmp_path, "factorized", "architecture.rank=1", "architecture.init=peft", "architecture.pruning={target: 0.5}"
    )
    assert same == plain


@pytest.mark.parametrize(
    ("word", "more", "count"),
    [
        # 3 layers of 2 norms and one of the encoder, 3 of 3 and one of the decoder, scale and offset of 128 each.
        ("layer_norm", (), 3 * 17 * 256),
        ("layer_norm", ("architecture.layer_norm.stacks=encoder",), 3 * 7 * 256),
        ("layer_norm", ("architecture.layer_norm.classes=[low]",), 17 * 256),
        ("bridge", (), 3 * 128 * 128),
        ("bridge", ("architecture.bridge={rank: 8, classes: [high]}",), 2 * 2 * 8 * 128),
        ("bridge", ("architecture.bridge.rank=8", "architecture.sharing=class"), 2 * 2 * 8 * 128),
    ],
)
def test_what_stands_beside_is_counted_by_slot(word: str, more: tuple[str, ...], count: int, tmp_path: Path) -> None:
    text = SMALL.replace("\n  rank: 4\n", " {}\n")
    found = load(tmp_path, text, f"architecture.adapter={word}", *more).architecture({}, TINY)
    assert found.num_parameters(TINY) == sum(found.num_parameters_by_slot(TINY).values()) == count
    assert found.adapters == ()


_FULL, _OF_RANK_8 = ("architecture.bridge.rank=full",), ("architecture.bridge.rank=8",)
_LORA = 4 * 319_488


@pytest.mark.parametrize(
    ("option", "figure", "word", "overrides", "count"),
    [
        ("adapter: lora", "319,488 a rank with `ffn_slice: 1024`", "lora", (), _LORA),
        ("adapter: factorized", "as LoRA of that rank", "factorized", (), _LORA),
        ("adapter: two_sided", "twice LoRA", "two_sided", (), 2 * _LORA),
        ("adapter: gated", "LoRA + 159,900", "gated", (), _LORA + 159_900),
        ("adapter: layer_norm", "126,976", "lora+layer_norm", (), _LORA + 126_976),
        ("adapter: bridge", "1,048,576, or 2,048 a rank", "lora+bridge", _FULL, _LORA + 1_048_576),
        ("adapter: bridge", "1,048,576, or 2,048 a rank", "lora+bridge", _OF_RANK_8, _LORA + 8 * 2_048),
        ("encoder_znorm", "none (2,048 moments)", "lora", ("architecture.encoder_znorm={}",), _LORA),
    ],
)
def test_the_page_of_systems_counts_a_language_s_parameters_as_an_architecture_does(
    option: str, figure: str, word: str, overrides: tuple[str, ...], count: int, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[1] / "search_spaces" / "systems.md").read_text(encoding="utf-8")
    (row,) = [line.split(" | ") for line in page.splitlines() if line.startswith(f"| `{option}` |")]
    assert row[2] == figure
    settings = (f"architecture.adapter={word}", "architecture.ffn_slice=1024", *overrides)
    found = load(tmp_path, SMALL, *settings).architecture({}, M2M100_418M)
    assert set(found.num_parameters_by_slot(M2M100_418M).values()) == {count}


def test_the_bounds_of_a_space_hold_every_point_of_it(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        SMALL,
        "architecture.adapter={choice: [lora, layer_norm, factorized+bridge, lora+layer_norm+bridge]}",
        "architecture.rank={choice: [2, 4]}",
        "architecture.bridge.rank={choice: [full, 4]}",
        "architecture.layer_norm.stacks={choice: [encoder, both]}",
    )
    names = space.dimensions()
    assert list(names) == ["rank", "adapter", "layer_norm.stacks", "bridge.rank"]
    section = space.architecture_section
    low, high = parameter_bounds(section, space.classes, "language", None, TINY)
    choices = [[2, 4], options(section.adapter), ["encoder", "both"], [None, 4]]
    counts = [
        space.architecture(dict(zip(names, values, strict=True)), TINY).num_parameters(TINY)
        for values in product(*choices)
    ]
    assert low <= min(counts)
    assert max(counts) == high


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["architecture.adapter=lorra"],
            "must be lora, gated, factorized, two_sided, layer_norm or bridge, or one of",
        ),
        (["architecture.bridge.rank=8"], "`architecture.bridge` touches nothing: no `adapter` has bridge. Write"),
        (["architecture.layer_norm.side=src"], "`architecture.layer_norm` touches nothing: no `adapter` has"),
        (
            ["architecture.adapter=bridge"],
            "`architecture.rank` touches nothing: `adapter` is 'bridge', which adapts no",
        ),
        (["architecture.adapter=lora+bridge", "architecture.bridge.rank=0"], "whole number of at least 1 or full"),
        (
            ["architecture.adapter=lora+bridge", "architecture.bridge.classes=[hihg]"],
            "must name a class, but 'hihg' is none. Did you mean high?",
        ),
        (
            ["architecture.adapter=lora+bridge", "architecture.bridge.classes=[low]", "architecture.sharing=all"],
            "must be left out where languages of several classes share",
        ),
        (
            ["architecture.adapter={choice: [lora, factorized]}", "trainer.init_from=somewhere"],
            "must start LoRA alone, but `architecture` can have other adapters",
        ),
        (
            [
                "architecture.adapter=lora+layer_norm",
                "architecture.sharing=all",
                "architecture.layer_norm.side={choice: [src, tgt]}",
            ],
            "touches nothing: all languages share one, as source and as target",
        ),
    ],
)
def test_a_mistake_is_told(overrides: list[str], message: str, tmp_path: Path) -> None:
    assert message in "\n".join(problems(tmp_path, SMALL, *overrides))


def test_a_pool_is_counted_with_its_maps_and_stands_in_one_slot(tmp_path: Path) -> None:
    pool = ["architecture.sharing={choice: [language, pool]}", "architecture.pool={size: {int: [2, 5]}}"]
    space = load(tmp_path, SMALL, *pool)
    point = {"sharing": "pool", "pool.size": 3}
    found, one = (space.architecture({**point, "pool.size": size}, TINY) for size in (3, 5))
    shared = load(tmp_path, SMALL, "architecture.sharing=all").architecture({}, TINY)
    # One map for sources, who index the encoder, and one for targets; three languages each.
    assert found.num_parameters(TINY) == 3 * (shared.num_parameters(TINY) + 2 * 3)
    assert found.num_parameters_by_slot(TINY) == {"all": found.num_parameters(TINY)}
    assert {entry.side for entry in found.adapters} == {"src", "tgt"}
    assert Architecture.from_json(found.to_json()) == found != one
    low, high = parameter_bounds(space.architecture_section, space.classes, "pool", None, TINY)
    assert low <= space.architecture({**point, "pool.size": 2}, TINY).num_parameters(TINY)
    assert high == one.num_parameters(TINY)
    assert space.architecture({**point, "sharing": "language"}, TINY).pool is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["architecture.pool.size=3"], "`architecture.pool` touches nothing: `sharing` is never pool."),
        (["architecture.sharing=pool", "architecture.pool.size=1"], "must be a whole number of at least 2"),
        (
            ["architecture.sharing=pool", "architecture.rank={high: 2, low: 4}"],
            "one value for all where sharing can be",
        ),
        (["architecture.sharing=pool", "architecture.adapter=factorized"], "can be pool only with LoRA"),
        (["architecture.sharing=pool", "architecture.shared_rank=2"], "`architecture.shared_rank` must be left out"),
        (["architecture.sharing=pool", "architecture.pruning.target=0.5"], "a pool's pairs are not pruned"),
        (["architecture.sharing=all", "architecture.shared_rank=2"], "pairs are shared already"),
        (
            ["architecture.adapter=factorized", "architecture.shared_rank=2"],
            "`architecture.shared_rank` touches nothing",
        ),
    ],
)
def test_a_mistake_in_what_is_shared_is_told(overrides: list[str], message: str, tmp_path: Path) -> None:
    assert message in "\n".join(problems(tmp_path, SMALL, *overrides))


def test_a_missing_rank_is_told_where_one_is_needed(tmp_path: Path) -> None:
    text = SMALL.replace("\n  rank: 4\n", " {}\n")
    assert "`architecture.rank` must be given, but is missing." in "\n".join(problems(tmp_path, text))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer_norm": LayerNorms(slots=("en",), side="up")}, "A side must be src or tgt, but the layer norms have"),  # type: ignore[arg-type]
        ({"layer_norm": LayerNorms(slots=("xx",))}, "A slot must be used by a language, but the layer norms name xx"),
        ({"bridge": Bridge(slots=("en",), rank=0)}, "A bridge's rank must be a whole number, 1 or more, or None"),
        ({"kind": "gates"}, "`kind` must be one of lora, gated, factorized, two_sided, but got 'gates'"),
    ],
)
def test_a_wrong_value_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Architecture(slots=(("en", "en"), ("sw", "sw")), adapters=(), **changes)


def test_peft_s_limits_are_known_beforehand(tmp_path: Path) -> None:
    source_read = "architecture.decoder={source_layers: 3}"
    assert why_no_peft(built(tmp_path, "lora+layer_norm")) is None
    assert why_no_peft(built(tmp_path, "lora+bridge", "architecture.bridge.rank=4")) is None
    assert "full bridge" in (why_no_peft(built(tmp_path, "lora+bridge")) or "")
    by_source = built(tmp_path, "lora+bridge", "architecture.bridge.rank=4", source_read)
    assert "the source picks" in (why_no_peft(by_source) or "")
    assert "factorized" in (why_no_peft(built(tmp_path, "factorized")) or "")
    norms = load(tmp_path, SMALL.replace("\n  rank: 4\n", " {}\n"), "architecture.adapter=layer_norm")
    assert adapter_slots(norms.architecture({}, TINY)) == {("tgt", "en"), ("tgt", "fr"), ("tgt", "sw")}


def test_a_summary_names_what_there_is(tmp_path: Path) -> None:
    text = SMALL.replace("\n  rank: 4\n", " {}\n")
    alone = load(tmp_path, text, "architecture.adapter=layer_norm+bridge").architecture({}, TINY)
    assert summarize(alone, {"high": ["en", "fr"], "low": ["sw"]}) == "layer norms tgt · bridge full"
    beside = built(tmp_path, "factorized+layer_norm", "architecture.layer_norm.stacks=decoder")
    assert summarize(beside, {"high": ["en", "fr"], "low": ["sw"]}).endswith("· factorized · layer norms decoder tgt")
