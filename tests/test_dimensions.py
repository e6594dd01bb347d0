from collections.abc import Mapping
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.space.architecture import Architecture, BaseShape, Pruning, Site
from langsearch.space.baseline_settings import Baseline
from langsearch.space.build import baseline_architecture, build_architecture, published_ranks
from langsearch.space.dimensions import search_dimensions, trainer_settings
from langsearch.space.problems import InputError
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection
from langsearch.space.settings import TrainerSettings

SHAPE = BaseShape(
    encoder_layers=4, decoder_layers=4, d_model=16, encoder_ffn_dim=64, decoder_ffn_dim=64, num_parameters=10_000
)
CLASSES = {"high": ("en", "fr"), "low": ("sw", "wo")}
FC1 = Site("encoder", 0, "fc1")


def dimensions(**section: Any) -> dict[str, Any]:
    return search_dimensions(ArchitectureSection(**section), SearchTrainerSection())


def build(point: Mapping[str, Any] | None = None, shape: BaseShape = SHAPE, **section: Any) -> Architecture:
    return build_architecture(ArchitectureSection(**section), CLASSES, point or {}, shape)


def layers(architecture: Architecture, stack: str) -> list[int]:
    return sorted({entry.site.layer for entry in architecture.adapters if entry.site.stack == stack})


def test_fixed_values_are_no_dimensions() -> None:
    assert dimensions(rank=4, pruning={"target": 0.5}) == {}
    assert dimensions(rank={"choice": [4]}, encoder={"source_layers": {"int": [2, 2]}}) == {}


def test_each_searched_value_is_a_dimension_with_a_flat_name() -> None:
    section: dict[str, Any] = {
        "rank": {
            "high": {"choice": [0, 2]},
            "low": {"int": [1, 64], "log": True},
            "languages": {"wo": {"choice": [8, 9]}},
        },
        "encoder": {"layers": {"first": {"int": [1, 4]}}, "source_layers": {"int": [0, 4], "step": 2}},
        "decoder": {"layers": {"window": [1, 4]}, "modules": {"subset": ["q_proj", "cross_q_proj"]}},
        "pruning": {
            "target": {"high": {"float": [0.0, 0.9]}, "low": 0},
            "start": {"choice": [1, 2]},
            "duration": {"int": [1, 3]},
        },
        "init": {"choice": ["published", "peft"]},
        "ffn_slice": {"choice": ["none", 8]},
    }
    trainer = SearchTrainerSection.model_validate(
        {"lr": {"float": [1e-4, 1e-2], "log": True}, "dropout": {"float": [0, 0.3]}}
    )
    found = search_dimensions(ArchitectureSection.model_validate(section), trainer)
    assert found == {
        "rank.high": CategoricalDistribution((0, 2)),
        "rank.low": IntDistribution(1, 64, log=True),
        "rank.wo": CategoricalDistribution((8, 9)),
        "encoder.layers.first": IntDistribution(1, 4),
        "encoder.source_layers": IntDistribution(0, 4, step=2),
        "decoder.layers.start": IntDistribution(1, 3),
        "decoder.layers.length": IntDistribution(1, 3),
        "decoder.modules.q_proj": CategoricalDistribution((False, True)),
        "decoder.modules.cross_q_proj": CategoricalDistribution((False, True)),
        "pruning.target.high": FloatDistribution(0.0, 0.9),
        "pruning.start": CategoricalDistribution((1, 2)),
        "pruning.duration": IntDistribution(1, 3),
        "init": CategoricalDistribution(("published", "peft")),
        "ffn_slice": CategoricalDistribution((None, 8)),
        "trainer.lr": FloatDistribution(1e-4, 1e-2, log=True),
        "trainer.dropout": FloatDistribution(0.0, 0.3),
    }


def test_each_grain_has_its_flat_names() -> None:
    pair, two = {"choice": [1, 2]}, CategoricalDistribution((1, 2))
    sides, side = {"choice": ["src", "tgt"]}, CategoricalDistribution(("src", "tgt"))
    found = dimensions(
        rank={"high": {"src": 1, "tgt": pair}, "low": pair, "languages": {"wo": {"src": pair, "tgt": 3}}},
        encoder={
            "sides": ["src", sides, "tgt"],
            "rank": {"low": pair},
            "overrides": [
                {"rank": 3},
                {"layers": {"window": [0, 3]}, "modules": {"subset": ["fc1"]}, "side": sides, "rank": {"high": pair}},
                {"layers": {"last": {"int": [1, 2]}}, "rank": {"src": pair}},
            ],
        },
        decoder={"sides": sides, "overrides": [{"rank": pair}]},
        sharing={"choice": ["language", "class", "family", "all"]},
    )
    assert found == {
        "rank.high.tgt": two,
        "rank.low": two,
        "rank.wo.src": two,
        "encoder.sides.1": side,
        "encoder.rank.low": two,
        "encoder.overrides.1.layers.start": IntDistribution(0, 2),
        "encoder.overrides.1.layers.length": IntDistribution(1, 3),
        "encoder.overrides.1.modules.fc1": CategoricalDistribution((False, True)),
        "encoder.overrides.1.side": side,
        "encoder.overrides.1.rank.high": two,
        "encoder.overrides.2.layers.last": IntDistribution(1, 2),
        "encoder.overrides.2.rank.src": two,
        "decoder.sides": side,
        "decoder.overrides.0.rank": two,
        "sharing": CategoricalDistribution(("language", "class", "family", "all")),
    }


def test_one_searched_value_for_all_is_one_dimension() -> None:
    assert dimensions(rank={"choice": [4, 8]}) == {"rank": CategoricalDistribution((4, 8))}
    assert build({"rank": 8}, rank={"choice": [4, 8]}).rank(FC1, "wo") == 8


def test_a_language_may_differ_from_its_class() -> None:
    rank = {"high": 2, "low": {"choice": [4, 8]}, "languages": {"wo": {"choice": [16, 32]}}}
    architecture = build({"rank.low": 4, "rank.wo": 16}, rank=rank)
    assert [architecture.rank(FC1, language) for language in ("en", "fr", "sw", "wo")] == [2, 2, 4, 16]


@pytest.mark.parametrize(
    ("spec", "point", "expected"),
    [
        ("all", {}, [0, 1, 2, 3]),
        ([3, 0], {}, [0, 3]),
        ({"first": 3}, {}, [0, 1, 2]),
        ({"last": 3}, {}, [1, 2, 3]),
        ({"first": {"int": [0, 4]}}, {"decoder.layers.first": 0}, []),
        ({"last": {"int": [0, 4]}}, {"decoder.layers.last": 1}, [3]),
        ({"window": [1, 4]}, {"decoder.layers.start": 1, "decoder.layers.length": 2}, [1, 2]),
        ({"window": [1, 4]}, {"decoder.layers.start": 3, "decoder.layers.length": 3}, [3]),
        ({"window": [2, 3]}, {}, [2]),
    ],
)
def test_layers_mean_what_they_say(spec: Any, point: dict[str, Any], expected: list[int]) -> None:
    assert layers(build(point, rank=1, decoder={"layers": spec}), "decoder") == expected


def test_the_lowest_layers_are_indexed_by_source() -> None:
    section: dict[str, Any] = {
        "rank": 1,
        "encoder": {"source_layers": {"int": [0, 4]}, "modules": ["fc1"]},
        "decoder": {"modules": ["fc1"]},
    }
    architecture = build({"encoder.source_layers": 3}, **section)
    sides = {str(entry.site): entry.side for entry in architecture.adapters}
    assert [sides[f"encoder.{layer}.fc1"] for layer in range(4)] == ["src", "src", "src", "tgt"]
    assert [sides[f"decoder.{layer}.fc1"] for layer in range(4)] == ["tgt"] * 4


@pytest.mark.parametrize(
    ("encoder", "point", "expected"),
    [
        ({"source_layers": [0, 3]}, {}, "src tgt tgt src"),
        ({"source_layers": {"choice": ["all", 1]}}, {"encoder.source_layers": None}, "src src src src"),
        ({"sides": ["src", "tgt", "src", "tgt"]}, {}, "src tgt src tgt"),
        ({"sides": "tgt"}, {}, "tgt tgt tgt tgt"),
        ({"sides": {"choice": ["src", "tgt"]}}, {"encoder.sides": "tgt"}, "tgt tgt tgt tgt"),
        ({"source_layers": 2, "overrides": [{"layers": {"last": 1}, "side": "src"}]}, {}, "src src tgt src"),
        (
            {"overrides": [{"layers": {"window": [0, 4]}, "side": {"choice": ["src", "tgt"]}}]},
            {
                "encoder.overrides.0.layers.start": 1,
                "encoder.overrides.0.layers.length": 2,
                "encoder.overrides.0.side": "tgt",
            },
            "src tgt tgt src",
        ),
    ],
)
def test_the_sides_of_layers_can_be_said_one_by_one(
    encoder: dict[str, Any], point: dict[str, Any], expected: str
) -> None:
    architecture = build(point, rank=1, encoder={"modules": ["fc1"], **encoder}, decoder={"modules": []})
    assert [entry.side for entry in architecture.adapters] == expected.split()


def test_a_point_without_a_dimension_of_an_override_is_refused() -> None:
    overrides = [{"layers": {"first": {"int": [1, 2]}}, "rank": {"choice": [1, 2]}}]
    with pytest.raises(ValueError, match=r"encoder\.overrides\.0\.layers\.first is missing"):
        build(rank=1, encoder={"overrides": overrides})
    with pytest.raises(ValueError, match=r"encoder\.overrides\.0\.rank is missing"):
        build({"encoder.overrides.0.layers.first": 1}, rank=1, encoder={"overrides": overrides})


def test_without_source_layers_the_encoder_is_indexed_by_source_and_the_decoder_by_target() -> None:
    assert {(entry.site.stack, entry.side) for entry in build(rank=1).adapters} == {
        ("encoder", "src"),
        ("decoder", "tgt"),
    }
    both = build(rank=1, decoder={"source_layers": 2})
    assert sum(entry.side == "src" and entry.site.stack == "decoder" for entry in both.adapters) == 16


def test_a_subset_takes_the_modules_that_the_point_takes() -> None:
    section: dict[str, Any] = {
        "rank": 1,
        "encoder": {"modules": {"subset": ["fc1", "out_proj"]}},
        "decoder": {"modules": []},
    }
    architecture = build({"encoder.modules.fc1": False, "encoder.modules.out_proj": True}, **section)
    assert {entry.site.module for entry in architecture.adapters} == {"out_proj"}


def test_the_published_modules_are_the_default() -> None:
    modules = {entry.site.module for entry in build(rank=1).adapters}
    assert "out_proj" not in modules and "cross_out_proj" not in modules and len(modules) == 8


def test_pruning_targets_follow_classes_and_languages() -> None:
    pruning = {"target": {"high": {"float": [0, 1]}, "low": 0.0, "languages": {"wo": 0.2}}, "start": 1, "duration": 3}
    architecture = build({"pruning.target.high": 0.5}, rank=1, pruning=pruning)
    assert architecture.pruning == Pruning(targets=(("en", 0.5), ("fr", 0.5), ("wo", 0.2)), start=1, duration=3)


def test_sharing_joins_slots() -> None:
    by_class = build(rank={"high": 2, "low": 4}, sharing="class")
    assert dict(by_class.slots) == {"en": "en+fr", "fr": "en+fr", "sw": "sw+wo", "wo": "sw+wo"}
    assert by_class.rank(FC1, "sw") == 4
    assert set(dict(build({"sharing": "all"}, rank=2, sharing={"choice": ["language", "all"]}).slots).values()) == {
        "all"
    }


def test_the_plain_settings_reach_the_architecture() -> None:
    architecture = build(rank=1, init="peft", scaling="alpha/sqrt r", alpha=16, ffn_slice=8)
    assert (architecture.init, architecture.scaling, architecture.alpha) == ("peft", "alpha/sqrt_r", 16.0)
    assert architecture.ffn_slice == 8


def test_a_slice_that_leaves_nothing_out_is_no_slice() -> None:
    assert build(rank=1, ffn_slice=64) == build(rank=1)


def test_points_that_mean_the_same_adapters_have_one_fingerprint() -> None:
    section: dict[str, Any] = {"rank": 1, "decoder": {"layers": {"window": [0, 4]}}}
    short = build({"decoder.layers.start": 3, "decoder.layers.length": 1}, **section)
    clipped = build({"decoder.layers.start": 3, "decoder.layers.length": 4}, **section)
    assert short.fingerprint == clipped.fingerprint


def test_a_point_without_a_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="every dimension, but rank is missing"):
        build(rank={"choice": [1, 2]})
    with pytest.raises(ValueError, match=r"but decoder.layers.length is missing"):
        build({"decoder.layers.start": 1}, rank=1, decoder={"layers": {"window": [0, 4]}})
    with pytest.raises(ValueError, match=r"but encoder.modules.fc1 is missing"):
        build(rank=1, encoder={"modules": {"subset": ["fc1"]}})


def test_a_layer_outside_the_base_is_refused() -> None:
    with pytest.raises(InputError, match=r"`encoder.layers` must lie in the base's 4 layers, but got \[4\]"):
        build(rank=1, encoder={"layers": [3, 4]})


def test_trainer_settings_come_from_the_point() -> None:
    trainer = SearchTrainerSection.model_validate(
        {
            "lr": {"choice": [0.1, 0.2]},
            "optimizer": {"choice": ["adam", "adamw"]},
            "epochs": 3,
            "pairs_per_epoch": "all",
        }
    )
    settings = trainer_settings(trainer, {"trainer.lr": 0.2, "trainer.optimizer": "adamw"}, {})
    assert settings == TrainerSettings(lr=0.2, optimizer="adamw", epochs=3)


M2M124_615M = BaseShape(
    encoder_layers=12,
    decoder_layers=12,
    d_model=1024,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    num_parameters=615_000_000,
)
TWELVE = {"high": ("en", "fr", "it", "de"), "medium": ("nl", "zh", "ja", "ko"), "low": ("oc", "or", "sd", "wo")}


def test_the_published_baseline_is_the_release() -> None:
    architecture = baseline_architecture(Baseline(name="published"), TWELVE, M2M124_615M)
    assert architecture is not None
    assert architecture.num_parameters(M2M124_615M) == 15_335_424
    assert (architecture.init, architecture.scaling, architecture.ffn_slice) == ("published", "none", 1024)
    sides = {entry.site.layer: entry.side for entry in architecture.adapters if entry.site.stack == "encoder"}
    assert [layer for layer, side in sides.items() if side == "src"] == list(range(9))
    assert architecture.pruning is None
    assert architecture.rank(FC1, "wo") == 8


def test_the_published_baseline_prunes_if_it_is_asked_to() -> None:
    architecture = baseline_architecture(Baseline(name="published", is_pruned=True), TWELVE, M2M124_615M)
    assert architecture is not None and architecture.pruning is not None
    assert (architecture.pruning.start, architecture.pruning.duration, architecture.pruning.scope) == (
        2,
        10,
        "language",
    )
    assert set(architecture.pruning.targets) == {(lang, 0.9) for members in TWELVE.values() for lang in members}


def test_other_class_names_get_the_published_ranks_by_order() -> None:
    assert published_ranks({"high": ("en",), "low": ("wo",)}) == {"high": 2, "low": 8}
    assert published_ranks({"a": ("en",), "b": ("fr",), "c": ("wo",)}) == {"a": 2, "b": 2, "c": 8}


def test_the_other_baselines_are_one_shared_adapter_none_and_the_base_itself() -> None:
    shared = baseline_architecture(Baseline(name="shared_lora", rank=4, init="peft"), CLASSES, SHAPE)
    assert shared is not None
    assert set(dict(shared.slots).values()) == {"all"}
    assert (shared.rank(FC1, "en"), shared.init, shared.scale(4)) == (4, "peft", 1.0)
    pretrained = baseline_architecture(Baseline(name="pretrained"), CLASSES, SHAPE)
    assert pretrained is not None and pretrained.adapters == ()
    assert baseline_architecture(Baseline(name="full_finetuning"), CLASSES, SHAPE) is None


def test_what_pruning_ranks_by_can_be_searched() -> None:
    pruning = {"target": 0.5, "over": {"choice": ["b", "product"]}, "start": 1, "duration": 3}
    found = [build({"pruning.over": over}, rank=1, pruning=pruning).pruning for over in ("b", "product")]
    assert [pruning.over for pruning in found if pruning] == ["b", "product"]
