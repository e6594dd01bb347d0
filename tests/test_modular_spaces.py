"""`trainer.modular` in a space: what it means, what it goes with, and what check and cards say of it."""

from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]

from langsearch.data.directions import all_directions
from langsearch.experiment.task import searched_task
from langsearch.space.architecture import Architecture
from langsearch.space.modular_checks import alone_words, modular_lines
from langsearch.space.plan import plan_rows
from langsearch.space.schema import load_space
from langsearch.space.settings import TrainerSettings
from langsearch.space.trainer_document import trainer_document
from tests.space_fixtures import SMALL, TINY, load, problems

TWO = "architecture.adapter=two_sided"


def test_a_space_names_a_bridge_which_has_no_adapters(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        SMALL,
        "trainer.modular={bridge: en}",
        "architecture.adapter=lora+layer_norm+bridge",
        "architecture.pruning={target: 0.5, duration: 3}",
    )
    assert not space.dimensions()
    settings, architecture = space.trainer({}), space.architecture({}, TINY)
    assert settings.modular_bridge == "en"
    assert {slot for entry in architecture.adapters for slot, _ in entry.ranks} == {"fr", "sw"}
    assert architecture.layer_norm is not None and architecture.layer_norm.slots == ("fr", "sw")
    assert architecture.bridge is not None and architecture.bridge.slots == ("fr", "sw")
    assert architecture.pruning is not None and dict(architecture.pruning.targets) == {"fr": 0.5, "sw": 0.5}
    assert load(tmp_path, space.text) == space
    assert space.baseline_trainer("shared_lora").modular_bridge is None
    written = trainer_document(settings, space.classes)
    assert load_space({**yaml.safe_load(SMALL), "trainer": written}).trainer({}) == settings


def test_ratios_are_tried_after_training_and_are_no_dimensions(tmp_path: Path) -> None:
    space = load(
        tmp_path,
        SMALL,
        "trainer.modular={bridge: en, merge_ratio: {src: [0.5, 1.0], tgt: 0.7}}",
        "architecture.adapter=two_sided",
    )
    settings, architecture = space.trainer({}), space.architecture({}, TINY)
    assert not space.dimensions()
    assert (settings.merge_src, settings.merge_tgt) == ((0.5, 1.0), (0.7,))
    assert load(tmp_path, space.text) == space
    written = trainer_document(settings, space.classes)
    again = load_space(
        {**yaml.safe_load(SMALL), "architecture": {"rank": 4, "adapter": "two_sided"}, "trainer": written}
    )
    assert again.trainer({}) == settings
    lora = load(tmp_path, SMALL, "trainer.modular={bridge: en}").architecture({}, TINY)
    assert architecture.num_parameters(TINY) == 2 * lora.num_parameters(TINY)
    assert {row.side for row in plan_rows(architecture)} == {"both"}
    none = load(tmp_path, SMALL, "trainer.modular={bridge: en}", "architecture.adapter=two_sided")
    tasks = [searched_task(one, TINY, 0, {}) for one in (space, none)]
    assert tasks[0].fingerprint != tasks[1].fingerprint
    assert Architecture.from_json(architecture.to_json()) == architecture


def test_a_bridge_is_searched_and_none_trains_all_together(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.modular={bridge: {choice: [none, en, fr]}}")
    assert list(space.dimensions()) == ["trainer.modular.bridge"]
    plain = load(tmp_path, SMALL)
    tasks = {}
    for bridge, owners in ((None, {"en", "fr", "sw"}), ("en", {"fr", "sw"}), ("fr", {"en", "sw"})):
        tasks[bridge] = searched_task(space, TINY, 0, {"trainer.modular.bridge": bridge})
        architecture = tasks[bridge].architecture
        assert architecture is not None
        assert {slot for entry in architecture.adapters for slot, _ in entry.ranks} == owners
    assert len({task.fingerprint for task in tasks.values()}) == 3
    assert tasks[None].fingerprint == searched_task(plain, TINY, 0, {}).fingerprint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainer.modular={}"], "`trainer.modular.bridge` must be given"),
        (["trainer.modular={bridge: none}"], "must name a language, but is none. Leave `modular` out."),
        (["trainer.modular={bridge: eng}"], "must be one of the languages, but 'eng' is none. Did you mean en"),
        (
            ["trainer.modular={bridge: en, merge_ratio: {src: 0.5, tgt: 0.5}}"],
            "`trainer.modular.merge_ratio` must be left out: a site is indexed by the source or by the target",
        ),
        (["trainer.modular={bridge: en, merge_ratio: {src: 0}}"], "`trainer.modular.merge_ratio.src` must be a number"),
        (["trainer.modular={bridge: en, merge_ratio: {tgt: [1, 1]}}"], "must list each ratio once, but got [1, 1]"),
        (
            ["trainer.modular={bridge: en, merge_ratio: {tgt: {float: [0.3, 1]}}}"],
            "must be a number or a list of those to try",
        ),
        (
            ["architecture.adapter=two_sided", "architecture.sharing=all"],
            "must not be all or pool where",
        ),
        (
            ["architecture.adapter=two_sided", "architecture.pruning={target: 0.5}"],
            "both sides are not pruned",
        ),
        (
            ["architecture.adapter=two_sided", "architecture.encoder={source_layers: 2}"],
            "`architecture.encoder.source_layers` touches nothing: with adapter two_sided a site has both sides.",
        ),
        (
            ["architecture.adapter=two_sided", "architecture.rank={high: {src: 2, tgt: 4}, low: 2}"],
            "`architecture.rank` must be one value for both sides where adapter can be two_sided.",
        ),
        (
            ["trainer.modular={bridge: sw}", "data.directions=english"],
            "must have a direction with every language, but sw has none with fr.",
        ),
        (["data.directions=[en-sw, sw-fr]"], "must have a direction with every language, but en has none with fr."),
        (["architecture.sharing={choice: [language, all]}"], "`architecture.sharing` must be language where"),
        (["architecture.shared_rank=2"], "`architecture.shared_rank` must be left out where"),
        (["architecture.adapter=gated"], "`architecture.adapter` must not be gated where"),
        (["architecture.pruning={target: 0.5, scope: layer}"], "`architecture.pruning.scope` must be language where"),
        (["architecture.encoder_znorm={}"], "`architecture.encoder_znorm.pivot` must be a language where"),
        (["architecture.rank={high: 2, low: 2, languages: {en: 4}}"], "must be left out, since the bridge"),
        (["trainer.two_stage={first: [high]}"], "`trainer.two_stage` must be left out where"),
        (["trainer.back_translation={}"], "`trainer.back_translation` must be left out where"),
        (["trainer.encode_once=true"], "`trainer.encode_once` touches nothing where"),
        (["trainer.loss.language_adversary={}"], "`trainer.loss.language_adversary` must be left out where"),
        (["trainer.loss.distill={teacher: own_best}"], "`trainer.loss.distill.teacher` must not be own_best where"),
        (
            ["languages={high: [en, fr], low: [sw, tyv], new: {tyv: {like: sw}}}"],
            "cannot train languages that the base has no token for, but got tyv",
        ),
        (
            ["languages={high: [en, fr], low: [sw, tyv], new: {tyv: {like: sw}}}", "data.directions=english"],
            "cannot train languages that the base has no token for, but got tyv",
        ),
    ],
)
def test_a_mistake_is_told(overrides: list[str], message: str, tmp_path: Path) -> None:
    given = overrides if "modular" in overrides[0] else ["trainer.modular={bridge: en}", *overrides]
    assert message in "\n".join(problems(tmp_path, SMALL, *given))


def test_check_and_cards_say_how_it_is_trained(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.modular={bridge: {choice: [none, en]}}")
    (line,) = modular_lines(space.trainer_section, all_directions(space.languages))
    assert line.startswith("each language's adapters alone, in 4 of 6 directions, into and out of en, which has none")
    merged = load(
        tmp_path, SMALL, "trainer.modular={bridge: en, merge_ratio: {src: [0.5, 1], tgt: [0.3, 0.5, 1]}}", TWO
    )
    (line,) = modular_lines(merged.trainer_section, all_directions(space.languages))
    assert line.endswith("; 6 merge ratios are tried on validation after the last epoch")
    assert not list(modular_lines(load(tmp_path, SMALL).trainer_section, all_directions(space.languages)))
    assert alone_words(TrainerSettings(modular_bridge="en")).startswith(
        " Each language's adapters learned alone, on pairs with en, which has none;"
    )
    assert alone_words(TrainerSettings()) == ""
