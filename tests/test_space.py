import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest

from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.sections import TrainerSection
from langsearch.space.settings import (
    DecodingSettings,
    Source,
    TrainerSettings,
)
from tests.space_fixtures import SHAPES, SMALL, TINY, load, problems

FLORES = "train: {flores101: dev, folder: f}"
SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").rglob("*.yaml"))


def test_every_shipped_space_is_found() -> None:
    names = ["flores12", "flores30", "flores8", "grains", "planted", "quickstart", "systems", "verses10"]
    assert [path.stem for path in SHIPPED] == names


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_space_loads_and_fits_its_base(path: Path) -> None:
    space = load_space(path)
    assert space.name == path.stem
    assert space.check(SHAPES[space.base]) == []
    header = path.read_text(encoding="utf-8").partition("name:")[0]
    assert [word for word in ("Command:", "Hardware:", "Time:", "Score:") if word not in header] == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_resolved_text_loads_as_an_equal_space(path: Path, tmp_path: Path) -> None:
    space = load_space(path, ["trainer.seed=3"])
    resolved = load(tmp_path, space.text)
    assert resolved == space
    assert resolved.text == space.text
    assert "seed: 3" in space.text and "clip_norm: 0.0" in space.text


def test_flores12_means_what_it_says() -> None:
    space = load_space(next(path for path in SHIPPED if path.stem == "flores12"))
    assert dict(space.classes)["medium"] == ("nl", "zh", "ja", "ko")
    assert space.data.train == (Source("flores101", "data/flores101", "dev"),)
    assert (space.data.holdout, space.data.validation, space.data.directions) == (100, (), "all")
    assert space.evaluation.spbleu == "flores101"
    assert space.evaluation.search == DecodingSettings(directions=24, sentences=100, beams=1)
    assert space.evaluation.final == DecodingSettings(directions=None, sentences=None, beams=5)
    assert [item.name for item in space.baselines] == ["pretrained", "full_finetuning", "shared_lora", "published"]
    assert space.search.objectives == {"spbleu": "max", "trainable_parameters": "min"}
    assert (space.search.trials, space.search.max_hours, space.search.sampler) == (64, 12.0, "gp")
    assert (space.search.grace_epochs, space.search.reduction_factor) == (1, 3)
    assert (space.resources.gpu, space.resources.cpu, space.resources.max_failures) == (1, 4, 3)


def test_one_override_moves_both_flores_sources() -> None:
    space = load_space(next(path for path in SHIPPED if path.stem == "flores8"), ["data.folder=/elsewhere"])
    assert space.data.train == (Source("flores101", "/elsewhere", "dev"),)
    assert space.data.test == (Source("flores101", "/elsewhere", "devtest"),)


def test_a_small_space_has_the_defaults(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert space.name == "small"
    assert space.languages == ("en", "fr", "sw")
    assert space.dimensions() == {}
    assert space.trainer({}) == TrainerSettings()
    assert space.evaluation.final == DecodingSettings(beams=5)
    assert [item.name for item in space.baselines] == ["pretrained", "shared_lora"]
    assert "baselines:\n- pretrained\n- shared_lora: {init: published}\n" in space.text
    assert load(tmp_path, SMALL + "baselines: []\n").baselines == ()
    assert space.data.validation == (Source("embedded", "quickstart", "validation"),)


def test_the_trainer_section_has_every_setting_with_its_default() -> None:
    # Of `two_stage`, `back_translation` and `loss`, which no baseline has.
    own = [f.name for f in fields(TrainerSettings) if "first_s" in f.name or "back_" in f.name]
    own += ["freeze_first", "modular_bridge", "merge_src", "merge_tgt", "train_only", "loss", "nesting", "start_cut"]
    assert list(TrainerSection.model_fields) == [f.name for f in fields(TrainerSettings) if f.name not in own]
    assert TrainerSettings(**TrainerSection().model_dump()) == TrainerSettings()


def test_encoding_once_is_true_or_false_and_of_baselines_too(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL + "trainer: {encode_once: true}\n")
    assert space.trainer({}) == TrainerSettings(encode_once=True)
    assert space.baseline_trainer("shared_lora").encode_once
    with pytest.raises(InputError, match=r"`trainer\.encode_once` must be true or false, but got 1"):
        load(tmp_path, SMALL + "trainer: {encode_once: 1}\n")


def test_a_space_can_be_sent_to_another_process(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert pickle.loads(pickle.dumps(space)) == space  # noqa: S301


# Taken from the version before ranks by side and overrides: what it trained is found again under these names.
@pytest.mark.parametrize(
    ("name", "point", "fingerprint", "baselines"),
    [
        (
            "quickstart",
            {"encoder.source_layers": 3, "decoder.layers.start": 1, "decoder.layers.length": 3, "trainer.lr": 0.02},
            "377554392462a4b4",
            ["f4312e61b4f8dfec", "517e22d025f53a68", "d663efbc4c4f7b0f"],
        ),
        (
            "flores12",
            {
                "rank.wo": 64,
                "encoder.source_layers": 12,
                **{f"encoder.modules.{module}": True for module in ("q_proj", "k_proj", "v_proj", "fc1", "fc2")},
                "decoder.layers.start": 1,
                "decoder.layers.length": 12,
                "pruning.target.high": 0.95,
                "pruning.target.medium": 0.95,
                "trainer.lr": 0.01,
            },
            "5afa105893202908",
            ["520eff57abf1912d", "55395051a71d465b", "361d5e5bb86a6ca8"],
        ),
    ],
)
def test_the_fingerprints_of_shipped_spaces_stay(
    name: str, point: dict[str, object], fingerprint: str, baselines: list[str]
) -> None:
    # A shared LoRA of that version started as PEFT does.
    baselines_then = {"baselines": ["pretrained", {"shared_lora": {"init": "peft"}}, "published"]}
    space = load_space(next(path for path in SHIPPED if path.stem == name), baselines_then)
    ranks = {"rank.high": 8, "rank.medium": 8, "rank.low": 16 if name == "quickstart" else 32}
    shape = SHAPES[space.base]
    assert space.architecture({**ranks, **point}, shape).fingerprint == fingerprint
    found = [space.baseline_architecture(baseline, shape) for baseline in ("published", "shared_lora", "pretrained")]
    assert [architecture and architecture.fingerprint for architecture in found] == baselines


def test_a_source_may_be_a_list_and_directions_may_be_listed(tmp_path: Path) -> None:
    text = SMALL.replace(
        "train: {embedded: quickstart, part: train}",
        "train: [{tsv: a.tsv}, {parquet: b.parquet}, {files: c}]\n  directions: [en-fr, sw-en]",
    )
    space = load(tmp_path, text)
    assert space.data.train == (
        Source("tsv", "a.tsv", None),
        Source("parquet", "b.parquet", None),
        Source("files", "c", None),
    )
    assert space.data.directions == ("en-fr", "sw-en")


def test_norwegian_is_a_language_and_not_a_boolean(tmp_path: Path) -> None:
    assert load(tmp_path, SMALL.replace("[sw]", "[no]")).languages == ("en", "fr", "no")


def test_all_problems_are_told_at_once_with_line_and_key(tmp_path: Path) -> None:
    text = """\
base: 3
languages: {high: [en, fr, eng], low: [sw]}
data:
  train: {flores101: dv}
  validation: {holdout: 0}
  tst: {flores101: devtest}
architecture:
  rank: {high: {choise: [1]}, low: 2}
  encoder: {modules: [q_prj]}
trainer:
  epoch: 3
  epochs: 2.5
baselines: [publishd]
search: {sampler: tpo}
serch: {}
"""
    assert problems(tmp_path, text, "trainer.seed=x") == [
        "small.yaml:15: `serch` must be a section of a space, but is none. Did you mean search?",
        "small.yaml:1: `base` must be text, but got 3.",
        "small.yaml:4: `data.train.flores101` must be one of dev, devtest, but got 'dv'. Did you mean dev?",
        "small.yaml:5: `data.validation.holdout` must be a whole number of at least 1, but got 0",
        "small.yaml:3: `data.test` must be given, but is missing. It is scored once, in the end: rows of their own, "
        "that nothing is trained on or chosen by.",
        "small.yaml:6: `data.tst` must be a key of `data`, but is none. Did you mean test?",
        "small.yaml:8: `architecture.rank.high` must be a whole number of at least 0, or one of choice, int, float, "
        "but got 'choise'. Did you mean choice?",
        "small.yaml:9: `architecture.encoder.modules` must name modules of the encoder, but got 'q_prj'. "
        "Did you mean q_proj, v_proj, k_proj?",
        "small.yaml:12: `trainer.epochs` must be a whole number of at least 1, but got 2.5",
        "--set trainer.seed=x: `trainer.seed` must be a whole number of at least 0, but got 'x'",
        "small.yaml:11: `trainer.epoch` must be a key of `trainer`, but is none. Did you mean epochs, pairs_per_epoch?",
        "small.yaml:13: `baselines[0]` must be a baseline, but 'publishd' is none. Did you mean published?",
        "small.yaml:14: `search.sampler` must be one of tpe, gp, nsga2, random, grid, but got 'tpo'. Did you mean tpe?",
        "small.yaml:2: `languages.high[2]` must name each language once, but 'en' is the same as 'eng'",
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[sw]", "[]", "`languages.low` must have at least one language"),
        ("low: [sw]", "choice: [sw]", "`languages.choice` is no name for a class"),
        ("low: [sw]", "en: [sw]", "`languages.en` must not be named as a language is"),
        ("[sw]", "[s-w]", "must be a language code of letters, digits and _, but got 's-w'"),
        ("train: {embedded: quickstart, part: train}", "train: {}", "must name one of flores101, .*, but got none"),
        ("train: {embedded: quickstart, part: train}", "train: {flores101: dev}", "needs a folder"),
        ("train: {embedded: quickstart, part: train}", "train: {tsv: a, files: b}", "must name one of"),
        ("part: train}", "part: train, folder: x}", "`data.train.folder` belongs to flores101"),
        ("part: train}", "part: train}\n  folder: x", "`data.folder` reaches no source"),
        ("{embedded: quickstart, part: train}", "{holdout: 3}", "`data.train.holdout` belongs to data.validation"),
        ("part: validation}", "part: test}", "`data.test` must not share a source with data.validation"),
        ("part: test}", "part: test}\n  directions: [en-de]", r"directions\[0\]` must read SRC-TGT .* 'de' is none of"),
        ("part: test}", "part: test}\n  directions: [en-fr]", "must use every language, but none has sw"),
        ("rank: 4", "rank: 0", "`architecture.rank` must be above 0 somewhere"),
        ("rank: 4", "rank: {high: 4}", "`architecture.rank.low` must be given for every class, but is missing"),
        ("rank: 4", "rank: {high: 4, low: 1, hihg: 2}", "must name a class, but 'hihg' is none. Did you mean high"),
        ("rank: 4", "rank: {high: 4, low: 1, languages: {sv: 2}}", "but 'sv' is none. Did you mean sw"),
        ("rank: 4", "rank: {high: 4, low: 1, languages: {sw: 2}}", "`architecture.rank.low` touches nothing"),
        ("rank: 4", "rank: {choice: [2, 2]}", "must list each choice once"),
        ("rank: 4", "rank: {int: [4, 2]}", "must have low <= high, but got low=4, high=2"),
        ("rank: 4", "rank: {float: [4, 8]}", "must be a whole number of at least 0, but got the range"),
        ("rank: 4", "rank: {int: [0, 8], log: true}", "must have low > 0 and `log: true`"),
        ("rank: 4", "rank: {choice: [2], int: [1, 2]}", "must name one of choice, int, float"),
        ("rank: 4", "rank: true", "`architecture.rank` must be a whole number of at least 0, but got true"),
        (
            "rank: 4",
            "rank: 4\n  sharing: all\n  encoder: {source_layers: {int: [0, 3]}}",
            "source_layers` touches noth",
        ),
        ("rank: 4", "rank: {high: 4, low: 8}\n  sharing: all", "`architecture.rank` must be one value for all"),
        ("rank: 4", "rank: {high: 4, low: 8, languages: {en: 2}}\n  sharing: class", "needs sharing language"),
        ("rank: 4", "rank: 4\n  alpha: 8", "`architecture.alpha` is read by scaling"),
        (
            "rank: 4",
            "rank: 4\n  pruning: {target: 0.5, start: 4, duration: 12}",
            r"at most trainer.epochs \(15\), .* 16",
        ),
        (
            "rank: 4",
            "rank: 4\n  pruning: {target: {high: 0.5, low: 0.1}, scope: layer}",
            "`architecture.pruning.target` must be one value for all with scope layer",
        ),
        (
            "rank: 4",
            "rank: 4\n  encoder: {modules: [], source_layers: 2}",
            "`architecture.encoder.source_layers` touches nothing",
        ),
        ("rank: 4", "rank: 4\n  encoder: {modules: []}\n  decoder: {layers: []}", "must adapt at least one module"),
        (
            "rank: 4",
            "rank: 4\n  ffn_slice: 64\n  encoder: {modules: [q_proj]}\n  decoder: {modules: [q_proj]}",
            "`architecture.ffn_slice` touches nothing",
        ),
        ("rank: 4", "rank: 4\n  decoder: {layers: {window: [0]}}", r"must read {window: \[low, high\]}"),
        ("rank: 4", "rank: 4\n  decoder: {layers: some}", "must be all, a list, {first: n}"),
        ("rank: 4", "rank: 4\ntrainer: {epochs: {int: [1, 3]}}", "`trainer.epochs` must be .*, and cannot be searched"),
        ("rank: 4", "rank: 4\nbaselines: [pretrained, pretrained]", "must list each baseline once"),
        ("rank: 4", "rank: 4\nbaselines: [{shared_lora: {lr: {choice: [1, 2]}}}]", "of a baseline is in its `tune`"),
        ("rank: 4", "rank: 4\nbaselines: [{pretrained: {tune: 6}}]", "no options, since the base is scored as it is"),
        ("rank: 4", "rank: 4\nbaselines: [{published: {tune: 1}}]", "tries of at least 2, .* but got 1. One try is"),
        ("rank: 4", "rank: 4\nbaselines: [{published: {tune: {lr: {choice: [1, 2]}}}}]", "tune.trials` must be given"),
        (
            "rank: 4",
            "rank: 4\nbaselines: [{shared_lora: {tune: {trials: 3, lr: 0.01}}}]",
            "values to search, such as .* but got 0.01. A fixed one is `lr` beside `tune`",
        ),
        (
            "rank: 4",
            "rank: 4\nbaselines: [{published: {pruning: true, tune: {trials: 3, epochs: {int: [3, 15]}}}}]",
            r"published.pruning` needs at least 12 epochs, but got 3",
        ),
        (
            "rank: 4",
            "rank: 4\nbaselines: [{published: {pruning: true, epochs: 3}}]",
            "needs at least 12 epochs, but got 3",
        ),
        ("rank: 4", "rank: 4\nsearch: {grace_epochs: 20}", "must be at most trainer.epochs, but got 20"),
        ("rank: 4", "rank: 4\nresources: {trials_per_gpu: 2}", "needs resources.gpu above 0"),
        ("rank: 4", "rank: 4\nevaluation: {spbleu: bleu}", "must be flores101, flores200, base or spm:FILE"),
        ("rank: 4", "rank: 4\nsearch:", "`search` must be a mapping, but got nothing"),
        ("base: tiny-m2m", "base: tiny-m2m\nname: a/b", "`name` must be letters, digits"),
    ],
)
def test_a_wrong_space_is_refused(old: str, new: str, message: str, tmp_path: Path) -> None:
    assert old in SMALL
    text = SMALL.replace(old, new)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path, text)
    assert len(caught.value.problems) == 1


def test_flores_needs_languages_of_its_table(tmp_path: Path) -> None:
    text = SMALL.replace("train: {embedded: quickstart, part: train}", FLORES).replace("[sw]", "[tlh]")
    assert problems(tmp_path, text) == [
        "small.yaml:2: `languages.low[0]` must be one of FLORES-200's, by code, but got 'tlh'. "
        "Did you mean tl, th, tha?"
    ]


def test_flores_dev_in_two_editions_is_one_source(tmp_path: Path) -> None:
    text = SMALL.replace("train: {embedded: quickstart, part: train}", FLORES).replace(
        "test: {embedded: quickstart, part: test}", "test: {flores200: dev, folder: g}"
    )
    assert "must not share a source with data.train" in problems(tmp_path, text)[0]


def test_english_directions_need_english(tmp_path: Path) -> None:
    text = SMALL.replace("part: test}", "part: test}\n  directions: english")
    assert load(tmp_path, text).data.directions == "english"
    assert "needs English" in problems(tmp_path, text.replace("[en, fr]", "[de, fr]"))[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ("rank: 200", "architecture.rank` must be at most the narrowest adapted layer's width, 128, but got 200"),
        ("rank: {high: 2, low: {int: [1, 129]}}", "architecture.rank.low` must be at most .* 128, but got 129"),
        ("rank: {high: 2, low: 1, languages: {en: 300}}", "architecture.rank.languages.en` must be at most"),
        ("rank: 40\n  ffn_slice: 32", "layer's width, 32, but got 40"),
        ("rank: 4\n  ffn_slice: 600", "ffn_slice` must be at most the feed-forward block's hidden width, 512"),
        ("rank: 4\n  encoder: {layers: [0, 3]}", r"encoder.layers` must lie within the base's 3 layers.* got \[3\]"),
        ("rank: 4\n  decoder: {layers: {last: {int: [1, 4]}}}", "decoder.layers.last` must lie within .* but got 4"),
        (
            "rank: 4\n  decoder: {layers: {window: [0, 4]}}",
            r"decoder.layers.window` must lie within .* but got \[0, 4\]",
        ),
        ("rank: 4\n  encoder: {source_layers: 5}", "encoder.source_layers` must lie within .* but got 5"),
        (
            "rank: 4\nbaselines: [{shared_lora: {rank: 129}}]",
            "shared_lora.rank` must be at most the width 128, but got 129",
        ),
    ],
)
def test_what_the_base_does_not_have_is_a_problem(changes: str, message: str, tmp_path: Path) -> None:
    (problem,) = load(tmp_path, SMALL.replace("rank: 4", changes)).check(TINY)
    assert re.search(message, problem)
    assert re.search(r"small.yaml:\d+: `", problem)


def test_a_missing_test_set_is_told_with_a_way_to_make_one(tmp_path: Path) -> None:
    text = "".join(line for line in SMALL.splitlines(keepends=True) if not line.startswith("  test:"))
    (problem,) = problems(tmp_path, text)
    assert "`data.test` must be given, but is missing. It is scored once, in the end" in problem
