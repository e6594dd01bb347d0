"""A language is added to adapters, and every other direction says what it said, to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml  # type: ignore[import-untyped]
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import export_peft, load_export, read_export
from langsearch.api.conducting import conduct_extension
from langsearch.cli.app import app
from langsearch.model.base import Base, load_base
from langsearch.space.architecture import Architecture, Site, SiteAdapters, uniform_ranks
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.trial.extending import plan_extension

OLD = ("en", "fr", "sw")
SPACE = """\
base: tiny-m2m
languages: {high: [en], low: [cy]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture: {rank: 1}
trainer: {epochs: 2, pairs_per_epoch: 60, tokens_per_batch: 1000, accumulation: 1, lr: 1.0e-2, weight_decay: 0.01}
evaluation: {spbleu: base, search: {sentences: 4, beams: 1}}
tracking: []
"""


def architecture(**fields: Any) -> Architecture:
    sites = [
        (Site.parse("encoder.0.fc1"), "src"),
        (Site.parse("encoder.2.q_proj"), "tgt"),
        (Site.parse("decoder.1.cross_k_proj"), "tgt"),
        (Site.parse("decoder.2.fc2"), "tgt"),
    ]
    found = {
        "slots": tuple((language, language) for language in OLD),
        "adapters": uniform_ranks(sites, {"en": 3, "fr": 2, "sw": 4}),  # type: ignore[arg-type]
    }
    return Architecture(**(found | fields))


def exported(folder: Path, value: Architecture) -> Path:
    """Adapters of some training."""
    base = load_base("tiny-m2m")
    learner = adapt(base, value, value.languages)
    generator = torch.Generator().manual_seed(0)
    for views in learner.owned().values():
        for view in views:
            view.copy_(torch.randn(view.shape, generator=generator) * 0.05)
    export_peft(learner, folder, base.source, "# Ours\n")
    learner.remove()
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(tmp_path_factory.mktemp("start") / "adapters", architecture())


def space(**changes: Any) -> Space:
    return load_space({**yaml.safe_load(SPACE), **changes})


@pytest.fixture(scope="module")
def extended(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, told = conduct_extension(
        Console(quiet=True), start, space(), "sw", tmp_path_factory.mktemp("new") / "cy", languages=["cy"]
    )
    assert told[0] == f"Adapters: {folder / 'extended'}, with src-cy, tgt-cy; the others are as they were"
    return folder / "extended"


def learner_of(folder: Path) -> tuple[Base, AdaptedModel]:
    found = read_export(folder)
    base = load_base("tiny-m2m")
    learner = adapt(base, found.architecture, found.languages)
    load_export(learner, folder)
    base.model.eval()
    return base, learner


def logits(folder: Path, src: str, tgt: str) -> Tensor:
    base, learner = learner_of(folder)
    ids = base.vocabulary(learner.languages).language_ids
    text = base.tokenizer.encode(["The house is small, and the dog sleeps."])[0]
    languages = [torch.tensor([learner.languages.index(language)]) for language in (src, tgt)]
    with torch.no_grad(), learner.route(*languages):
        found: Tensor = learner.model(
            input_ids=torch.tensor([[ids[src], *text, 2]]), decoder_input_ids=torch.tensor([[2, ids[tgt], *text]])
        ).logits
    return found


def test_every_other_direction_says_what_it_said_to_the_bit(start: Path, extended: Path) -> None:
    for src in OLD:
        for tgt in OLD:
            if src != tgt:
                assert torch.equal(logits(extended, src, tgt), logits(start, src, tgt))
    old = {path.relative_to(start): path.read_bytes() for path in start.glob("*/*") if path.is_file()}
    assert old and all((extended / name).read_bytes() == content for name, content in old.items())


def test_the_new_language_has_the_ranks_of_the_one_it_is_like_and_was_trained(start: Path, extended: Path) -> None:
    found = read_export(extended)
    assert found.languages == (*OLD, "cy")
    for entry in found.architecture.adapters:
        assert found.architecture.rank(entry.site, "cy") == found.architecture.rank(entry.site, "sw") == 4
        assert found.architecture.rank(entry.site, "fr") == 2
    _, learner = learner_of(extended)
    for layer in learner.lora.layers.values():
        assert layer.pair("cy")[1].abs().max() > 0
    assert not torch.equal(logits(extended, "en", "cy"), logits(extended, "en", "fr"))
    card = (extended / "README.md").read_text()
    assert card.startswith("# Ours\n") and "cy (src-cy, tgt-cy)" in card


def test_a_finished_training_is_not_trained_again_and_what_is_missing_is_written(start: Path, extended: Path) -> None:
    before = (extended / "src-cy" / "adapter_model.safetensors").read_bytes()
    folder, _ = conduct_extension(Console(quiet=True), start, space(), "sw", extended.parent, resume=True)
    assert (folder / "extended" / "src-cy" / "adapter_model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"like": "swa"}, "--like must be a language of the adapters, but 'swa' is none"),
        ({}, {"languages": ["fr"]}, "of fr the adapters have it already"),
        ({}, {"languages": ["xh"]}, "of xh the space has no such one"),
        ({"languages": {"high": ["en"], "low": ["sw"]}}, {}, "must have a language that"),
        ({"languages": {"high": ["de"], "low": ["cy"]}}, {}, "must pair a new language with one of en, fr, sw"),
        ({"trainer": {"lr": {"choice": [0.1, 0.2]}}}, {}, "Training needs fixed settings, but trainer.lr is searched"),
        ({"base": "tiny-m2m-2"}, {}, "must be that of the adapters, tiny-m2m, but is tiny-m2m-2"),
        ({"trainer": {"modular": {"bridge": "en"}}}, {}, "must be a language without adapters, but en has some in"),
    ],
)
def test_what_does_not_fit_is_told(
    changes: dict[str, Any], arguments: dict[str, Any], message: str, start: Path
) -> None:
    with pytest.raises(InputError) as caught:
        plan_extension(start, space(**changes), **{"like": "sw", **arguments})
    assert message in "\n".join(caught.value.problems)


def test_adapters_that_all_share_or_that_are_of_other_kinds_are_refused(tmp_path: Path) -> None:
    shared = architecture(
        slots=tuple((language, "all") for language in OLD),
        adapters=uniform_ranks([(Site.parse("decoder.1.fc1"), "tgt")], {"all": 2}),
    )
    with pytest.raises(InputError, match="Adapters that all languages share cannot be extended"):
        plan_extension(exported(tmp_path / "shared", shared), space(), "sw")
    with pytest.raises(InputError, match=r"must be of LoRA alone, but .* has factorized"):
        plan_extension(exported(tmp_path / "other", architecture(kind="factorized")), space(), "sw")


def test_two_languages_that_share_keep_their_slot(tmp_path: Path) -> None:
    value = architecture(
        slots=(("en", "en"), ("fr", "both"), ("sw", "both")),
        adapters=uniform_ranks([(Site.parse("decoder.1.fc1"), "tgt")], {"en": 1, "both": 2}),
    )
    plan = plan_extension(exported(tmp_path / "shared", value), space(), "sw")
    assert plan.trainer.train_only == ("cy",)
    assert plan.architecture.rank(Site.parse("decoder.1.fc1"), "cy") == 2
    assert plan.architecture.rank(Site.parse("decoder.1.fc1"), "en") == 1


def test_the_command_tells_all_that_is_wrong(start: Path, tmp_path: Path) -> None:
    (tmp_path / "cy.yaml").write_text(SPACE, encoding="utf-8")
    arguments = ["extend", str(start), str(tmp_path / "cy.yaml"), "--like", "zz", "--to", str(tmp_path / "to")]
    found = CliRunner().invoke(app, [*arguments, "--language", "yo"])
    assert isinstance(found.exception, InputError)
    assert len(found.exception.problems) == 3
    assert not (tmp_path / "to").exists()


def test_a_language_is_added_with_a_bridge_that_has_no_adapters(tmp_path: Path) -> None:
    ranks = {"fr": 2, "sw": 4}
    without = tuple(SiteAdapters(entry.site, entry.side, tuple(ranks.items())) for entry in architecture().adapters)
    start = exported(tmp_path / "adapters", architecture(adapters=without))
    modular = {"trainer": {"modular": {"bridge": "en"}, "epochs": 1, "pairs_per_epoch": 20, "tokens_per_batch": 500}}
    with pytest.raises(InputError, match="--like must be a language with adapters, but en is the bridge"):
        plan_extension(start, space(**modular), "en")
    planned = plan_extension(start, space(**modular), "sw")
    assert (planned.trainer.modular_bridge, planned.trainer.train_only) == ("en", ("cy",))
    folder, _ = conduct_extension(Console(quiet=True), start, space(**modular), "sw", tmp_path / "cy")
    _, learner = learner_of(folder / "extended")
    assert read_export(folder / "extended").architecture.rank(Site.parse("encoder.0.fc1"), "en") == 0
    for layer in learner.lora.layers.values():
        assert layer.pair("cy")[1].abs().max() > 0
    old = {path.relative_to(start): path.read_bytes() for path in start.glob("*/*") if path.is_file()}
    assert old and all((folder / "extended" / name).read_bytes() == content for name, content in old.items())
