import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor

from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import STATE_FILE, export_peft, load_export, read_export
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.protocol import adapter_name
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Site, SiteAdapters
from langsearch.space.problems import InputError
from tests.adapter_cases import CASES as KIND_CASES

LANGUAGES = ("en", "fr", "de", "sw")
Architect = Callable[..., Architecture]
CARD = "# Adapters\n"

CASES: dict[str, dict[str, Any]] = {
    "mixed ranks": {},
    "ffn_slice": {"ffn_slice": 48},
    "alpha/r": {"scaling": "alpha/r", "alpha": 16.0},
    "alpha/sqrt_r, sliced": {"scaling": "alpha/sqrt_r", "alpha": 3.0, "ffn_slice": 16},
    "every module": {"skipped": "nothing"},
    "shared by two": {"ranks": {"a": 4, "sw": 2}, "slots": {"en": "a", "fr": "a", "de": "de", "sw": "sw"}},
}


def trained_model(base: Base, architecture: Architecture) -> AdaptedModel:
    learner = adapt(base, architecture, LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for layer in learner.lora.layers.values():
        for slot in layer.slots:
            _, b = layer.pair(slot)
            b.copy_(torch.randn(b.shape, generator=generator) * 0.1)
    return learner


def inputs(base: Base, src: str, tgt: str) -> dict[str, Tensor]:
    ids = base.vocabulary(LANGUAGES).language_ids
    src_ids = torch.tensor([[ids[src], 100, 7, 250, 31, 2]])
    return {"input_ids": src_ids, "decoder_input_ids": torch.tensor([[2, ids[tgt], 77, 300]])}


def routed_logits(learner: AdaptedModel, base: Base, src: str, tgt: str) -> Tensor:
    with torch.no_grad(), learner.route(*(torch.tensor([LANGUAGES.index(name)]) for name in (src, tgt))):
        found: Tensor = learner.model(**inputs(base, src, tgt)).logits
    return found


@pytest.mark.parametrize("case", CASES)
def test_exported_adapters_say_the_same_in_plain_peft(
    case: str, new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path
) -> None:
    architecture = make_architecture(**CASES[case])
    slots = dict(architecture.slots)
    base = new_base()
    learner = trained_model(base, architecture)
    names = export_peft(learner, tmp_path / "out", base.name, CARD)

    peft: Any = PeftModel.from_pretrained(new_base().model, tmp_path / "out" / names[0], adapter_name=names[0])
    for name in names[1:]:
        peft.load_adapter(tmp_path / "out" / name, adapter_name=name)
    peft.eval()
    for src, tgt in [("en", "fr"), ("fr", "en"), ("sw", "fr"), ("en", "sw"), ("de", "sw"), ("en", "de")]:
        pair = [adapter_name("src", slots[src]), adapter_name("tgt", slots[tgt])]
        peft.base_model.set_adapter([name for name in pair if name in names])
        with torch.no_grad():
            found = peft(**inputs(base, src, tgt)).logits
        torch.testing.assert_close(found, routed_logits(learner, base, src, tgt), atol=1e-5, rtol=1e-5)


def test_a_site_whose_slots_have_different_ranks_by_layer_is_exported(
    new_base: Callable[[], Base], tmp_path: Path
) -> None:
    adapters = (
        SiteAdapters(Site("encoder", 0, "fc1"), "src", (("en", 1), ("fr", 5))),
        SiteAdapters(Site("encoder", 1, "q_proj"), "src", (("en", 7),)),
        SiteAdapters(Site("decoder", 1, "cross_k_proj"), "tgt", (("fr", 3), ("sw", 2))),
        SiteAdapters(Site("decoder", 1, "k_proj"), "tgt", (("fr", 2),)),
    )
    architecture = Architecture(slots=tuple((name, name) for name in LANGUAGES), adapters=adapters)
    base = new_base()
    learner = trained_model(base, architecture)
    assert export_peft(learner, tmp_path / "out", base.name, CARD) == ["src-en", "src-fr", "tgt-fr", "tgt-sw"]
    peft: Any = PeftModel.from_pretrained(new_base().model, tmp_path / "out" / "src-en", adapter_name="src-en")
    peft.load_adapter(tmp_path / "out" / "tgt-fr", adapter_name="tgt-fr")
    peft.base_model.set_adapter(["src-en", "tgt-fr"])
    peft.eval()
    with torch.no_grad():
        found = peft(**inputs(base, "en", "fr")).logits
    torch.testing.assert_close(found, routed_logits(learner, base, "en", "fr"), atol=1e-5, rtol=1e-5)
    config = json.loads((tmp_path / "out" / "src-en" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.encoder.layers.0.fc1", "model.encoder.layers.1.self_attn.q_proj"]
    ranks = {**dict.fromkeys(config["target_modules"], config["r"]), **config["rank_pattern"]}
    assert ranks == {"model.encoder.layers.0.fc1": 1, "model.encoder.layers.1.self_attn.q_proj": 7}
    assert config["base_model_name_or_path"] == "tiny-random"


@pytest.mark.parametrize("case", CASES)
def test_an_export_loads_back(
    case: str, new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path
) -> None:
    base = new_base()
    learner = trained_model(base, make_architecture(**CASES[case]))
    export_peft(learner, tmp_path / "out", "tiny-random", CARD)
    export = read_export(tmp_path / "out")
    assert (export.base, export.languages, export.folder) == ("tiny-random", LANGUAGES, tmp_path / "out")
    assert export.architecture == learner.architecture
    assert (tmp_path / "out" / "README.md").read_text() == CARD
    other = adapt(new_base(), export.architecture, export.languages, seed=5)
    load_export(other, tmp_path / "out")
    for name, value in learner.parameters().items():
        torch.testing.assert_close(other.parameters()[name], value, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("case", ["factorized+layer_norm", "lora+layer_norm+bridge", "full bridge", "bridge alone"])
def test_an_export_of_other_kinds_loads_back_to_the_bit(
    case: str, new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path
) -> None:
    learner = adapt(new_base(), make_architecture(**KIND_CASES[case][1]), LANGUAGES)
    generator = torch.Generator().manual_seed(0)
    for parameter in learner.parameters().values():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    names = export_peft(learner, tmp_path / "out", "tiny-random", CARD)
    why_not = why_no_peft(learner.architecture)
    assert names == [STATE_FILE] if why_not else STATE_FILE not in names and "tgt-sw" in names
    export = read_export(tmp_path / "out")
    other = adapt(new_base(), export.architecture, export.languages, seed=5)
    load_export(other, tmp_path / "out")
    for name, value in learner.state().items():
        assert torch.equal(other.state()[name], value)
    (tmp_path / "out" / STATE_FILE).write_bytes(b"torn")
    with pytest.raises(InputError, match=r"An adapter's file must be whole, but .*adapters.safetensors cannot be read"):
        load_export(other, tmp_path / "out")


@pytest.fixture
def export(new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path) -> Path:
    export_peft(trained_model(new_base(), make_architecture()), tmp_path / "out", "tiny-random", CARD)
    return tmp_path / "out"


def test_all_torn_files_of_an_export_are_named(
    export: Path, new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    torn = export / "src-en" / "adapter_model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    (export / "tgt-sw" / "adapter_model.safetensors").unlink()
    learner = adapt(new_base(), make_architecture(), LANGUAGES)
    with pytest.raises(InputError, match=r"must be whole, but .*src-en.*cannot be read") as caught:
        load_export(learner, export)
    assert len(caught.value.problems) == 2
    assert "tgt-sw" in caught.value.problems[1]


def test_an_export_of_another_rank_is_refused(
    export: Path, new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    learner = adapt(new_base(), make_architecture({"en": 4}), LANGUAGES)
    with pytest.raises(InputError, match=r"must have rank 4 at encoder.0.q_proj, but has rank 2"):
        load_export(learner, export)


def test_an_export_for_another_base_is_refused(export: Path, embedded_base: Base, make_architecture: Architect) -> None:
    learner = adapt(embedded_base, make_architecture(), LANGUAGES)
    with pytest.raises(InputError, match=r"must fit a layer of 128 inputs and 128 outputs .*, but .* 32 and 32"):
        load_export(learner, export)


def test_a_folder_with_other_files_is_left_alone(
    new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"must be new or an earlier export, but .* holds other files"):
        export_peft(trained_model(new_base(), make_architecture()), tmp_path, "tiny-random", CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(
    new_base: Callable[[], Base], make_architecture: Architect, tmp_path: Path
) -> None:
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(InputError, match=r"must be a folder, but .*thesis is a file"):
        export_peft(trained_model(new_base(), make_architecture()), tmp_path / "thesis", "tiny-random", CARD)


def test_an_earlier_export_is_replaced_whole(
    export: Path, new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    assert (export / "src-fr").is_dir()
    names = export_peft(trained_model(new_base(), make_architecture({"sw": 1})), export, "tiny-random", CARD)
    assert names == ["src-sw", "tgt-sw"]
    assert {path.name for path in export.iterdir()} == {"src-sw", "tgt-sw", "README.md", FORMAT_FILE}
    assert [path.name for path in export.parent.iterdir()] == ["out"], "nothing is left aside"


def test_a_failed_export_leaves_the_earlier_one(
    export: Path, new_base: Callable[[], Base], make_architecture: Architect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("langsearch.adapters.peft_export.save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        export_peft(trained_model(new_base(), make_architecture({"sw": 1})), export, "tiny-random", CARD)
    assert (export / "src-fr").is_dir()
    assert [path.name for path in export.parent.iterdir()] == ["out"]


def test_a_folder_that_is_no_export_is_an_input_error(export: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has no {FORMAT_FILE}"):
        read_export(tmp_path)
    for text in ("{", "[]", '{"base": "x"}', '{"base": "x", "languages": [], "architecture": {}}'):
        (export / FORMAT_FILE).write_text(text)
        with pytest.raises(InputError, match="must be as `langsearch export` wrote it"):
            read_export(export)
