import pickle
import re
from dataclasses import fields
from pathlib import Path

import pytest

from langsearch.space.architecture import BaseShape
from langsearch.space.document import dump, read_document
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.space.search_sections import CheckpointSection, FailureSection
from langsearch.space.sections import TrainerSection
from langsearch.space.settings import (
    Baseline,
    CheckpointSettings,
    Constraint,
    DecodingSettings,
    FailureSettings,
    Plateau,
    Source,
    TrainerSettings,
)

SHIPPED = sorted((Path(__file__).parent.parent / "search_spaces").rglob("*.yaml"))
M2M100_418M = BaseShape(
    encoder_layers=12,
    decoder_layers=12,
    d_model=1024,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    num_parameters=483_905_536,
)
TINY = BaseShape(
    encoder_layers=3,
    decoder_layers=3,
    d_model=128,
    encoder_ffn_dim=512,
    decoder_ffn_dim=512,
    num_parameters=2_430_000,
)
SHAPES = {"tiny-m2m": TINY, "facebook/m2m100_418M": M2M100_418M}
SMALL = """\
base: tiny-m2m
languages: {high: [en, fr], low: [sw]}
data:
  train: {embedded: quickstart, part: train}
  validation: {embedded: quickstart, part: validation}
  test: {embedded: quickstart, part: test}
architecture:
  rank: 4
"""


def load(folder: Path, text: str = SMALL, *overrides: str) -> Space:
    path = folder / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return load_space(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(InputError, match=r".") as caught:
        load(folder, text, *overrides)
    return [problem.replace(f"{folder}/", "") for problem in caught.value.problems]


def test_every_shipped_space_is_found() -> None:
    assert [path.stem for path in SHIPPED] == ["flores12", "flores8", "grains", "quickstart"]


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
    assert (space.search.trials, space.search.max_hours, space.search.sampler) == (64, 12.0, "tpe")
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
    assert space.baselines == ()
    assert space.data.validation == (Source("embedded", "quickstart", "validation"),)


def test_the_trainer_section_has_every_setting_with_its_default() -> None:
    assert list(TrainerSection.model_fields) == [field.name for field in fields(TrainerSettings)]
    assert TrainerSettings(**TrainerSection().model_dump()) == TrainerSettings()


def test_a_space_can_be_sent_to_another_process(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert pickle.loads(pickle.dumps(space)) == space  # noqa: S301


def test_overrides_are_yaml_and_make_their_way(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.epochs=3", "search.trials=5", "trainer.lr={float: [1e-4, 1e-2], log: true}")
    assert space.trainer({"trainer.lr": 0.001}).epochs == 3
    assert space.search.trials == 5
    assert list(space.dimensions()) == ["trainer.lr"]


def test_an_override_may_lead_into_a_list(tmp_path: Path) -> None:
    text = SMALL.replace("rank: 4", "rank: 4\n  encoder: {overrides: [{rank: 2}, {layers: [1], rank: 8}]}")
    space = load(tmp_path, text, "architecture.encoder.overrides.1.rank={choice: [8, 16]}", "languages.low.0=cy")
    assert list(space.dimensions()) == ["encoder.overrides.1.rank"]
    assert space.languages == ("en", "fr", "cy")
    (problem,) = problems(tmp_path, text, "architecture.encoder.overrides.1.rank=-1")
    assert problem.startswith(
        "--set architecture.encoder.overrides.1.rank=-1: `architecture.encoder.overrides[1].rank`"
    )


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
    space = load_space(next(path for path in SHIPPED if path.stem == name))
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
        "small.yaml:3: `data.test` must be given, but is missing.",
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


FLORES = "train: {flores101: dev, folder: f}"


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
        ("part: test}", "part: test}\n  directions: [en-de]", r"directions\[0\]` must read SRC-TGT .* got 'en-de'"),
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
        ("rank: 4", "rank: 4\nbaselines: [{shared_lora: {lr: {choice: [1, 2]}}}]", "a baseline is not searched"),
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


SEARCHED = "rank: {choice: [2, 4]}"
PRETRAINED = "baselines: [pretrained]\n"


def test_a_search_has_one_to_four_objectives_in_their_order(tmp_path: Path) -> None:
    listed = load(tmp_path, SMALL, "search.objectives=[peak_memory, chrf, worst_class_spbleu, train_seconds]")
    assert list(listed.search.objectives.items()) == [
        ("peak_memory", "min"),
        ("chrf", "max"),
        ("worst_class_spbleu", "max"),
        ("train_seconds", "min"),
    ]
    mapped = load(tmp_path, SMALL, "search.objectives={nonzero_parameters: min, spbleu: max}")
    assert list(mapped.search.objectives) == ["nonzero_parameters", "spbleu"]
    assert load(tmp_path, SMALL, "search.objectives=[spbleu]").search.objectives == {"spbleu": "max"}
    assert list(load(tmp_path, mapped.text).search.objectives) == ["nonzero_parameters", "spbleu"]


@pytest.mark.parametrize(
    ("objectives", "message"),
    [
        ("{spbleu: min}", "must be {spbleu: max}, but got 'min'"),
        ("[]", r"must have a score among them \(spbleu, worst_class_spbleu, chrf\), but got \[\]"),
        ("[trainable_parameters]", "must have a score among them"),
        ("{trainable_parameters: min}", "must have a score among them"),
        ("[spbleu, spbleu]", r"must list each objective once, but got \['spbleu', 'spbleu'\]"),
        ("[spbleu, parameters]", "must name objectives, but 'parameters' is none. Did you mean .*_parameters"),
        ("[spbleu, chrf, train_seconds, peak_memory, trainable_parameters]", "must be at most 4, but got 5"),
        ("spbleu", "must be .* or a list of objectives, but got 'spbleu'"),
        (
            "{foo: max, chrf: min, nonzero_parameters: max}",
            "must name objectives, but 'foo' is none.*; must be {chrf: max}, .*; must be {nonzero_parameters: min}",
        ),
    ],
)
def test_wrong_objectives_are_refused(objectives: str, message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, f"search.objectives={objectives}")
    assert re.search(f": `search.objectives` {message}", problem)


def test_constraints_are_read_from_their_texts(tmp_path: Path) -> None:
    texts = ["nonzero_parameters<=2%", "peak_memory <= 8e9", "train_seconds <= 600", "spbleu >= 2.1", "chrf >= 30"]
    texts += ["worst_loss.high <= 0.5", "worst_loss.all <= 1"]
    space = load(tmp_path, SMALL + PRETRAINED, f"search.constraints={texts}")
    assert space.search.constraints[0] == Constraint(
        metric="nonzero_parameters", is_upper=True, bound=2.0, is_percent=True
    )
    assert space.search.constraints[3] == Constraint(metric="spbleu", is_upper=False, bound=2.1)
    assert [str(constraint) for constraint in space.search.constraints] == [
        "nonzero_parameters <= 2 %",
        "peak_memory <= 8000000000",
        "train_seconds <= 600",
        "spbleu >= 2.1",
        "chrf >= 30",
        "worst_loss.high <= 0.5",
        "worst_loss.all <= 1",
    ]
    assert load(tmp_path, space.text) == space


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("peak_memory < 8", "must read METRIC <= NUMBER or METRIC >= NUMBER, but got 'peak_memory < 8'. Example: "),
        ("peak_memory <= 8 GB", "must read METRIC <= NUMBER"),
        ("peak_memory <= nan", "must read METRIC <= NUMBER"),
        ("peak_memory", "must read METRIC <= NUMBER"),
        ("memory <= 8", "must bound a metric, but 'memory' is none. Did you mean peak_memory"),
        ("spbleu <= 8", "must read spbleu >= NUMBER, .*: it would refuse what is better"),
        ("trainable_parameters >= 8", "must read trainable_parameters <= NUMBER"),
        ("worst_loss.high >= 1", "must read worst_loss.high <= NUMBER"),
        ("train_seconds <= 5 %", "takes % for trainable_parameters and nonzero_parameters only"),
        ("train_seconds <= -5", "must have a bound of at least 0"),
        ("worst_loss.hihg <= 1", "must name a class or all after worst_loss., but 'hihg' is none. Did you mean high"),
        ("worst_loss.low <= 1", "needs a direction between two languages of low, but there is none"),
    ],
)
def test_a_wrong_constraint_is_refused(constraint: str, message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL + PRETRAINED, f"search.constraints=['{constraint}']")
    assert re.search(rf": `search.constraints\[0\]` {message}", problem)


def test_constraints_are_a_list_that_bounds_each_metric_once(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, "search.constraints=spbleu >= 2")
    assert "`search.constraints` must be a list of texts such as [" in problem
    first, second = problems(tmp_path, SMALL, "search.constraints=[spbleu >= 2, spbleu >= 3]")
    assert first.endswith("`search.constraints[0]` must bound each metric once, but spbleu stands twice.")
    assert "`search.constraints[1]`" in second


def test_a_loss_is_measured_against_the_pretrained_baseline(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, "search.constraints=[worst_loss.high <= 0.5]")
    assert problem.endswith("needs the scores of the pretrained base, but it is no baseline. Add it to `baselines`.")


@pytest.mark.parametrize(
    ("directions", "is_right"), [("english", True), ("[en-fr, sw-en]", True), ("[en-sw, sw-fr]", False), ("all", True)]
)
def test_a_loss_needs_a_direction_within_its_class(directions: str, is_right: bool, tmp_path: Path) -> None:
    given = [f"data.directions={directions}", "search.constraints=[worst_loss.high <= 0.5]"]
    if is_right:
        load(tmp_path, SMALL + PRETRAINED, *given)
    else:
        assert "needs a direction between two languages of high" in problems(tmp_path, SMALL + PRETRAINED, *given)[0]


def test_a_grid_needs_finitely_many_values_of_each_dimension(tmp_path: Path) -> None:
    ranged = ["trainer.lr={float: [1e-4, 1e-2], log: true}", "trainer.dropout={float: [0, 0.5]}"]
    text = SMALL.replace("rank: 4", SEARCHED)
    assert problems(tmp_path, text, "search.sampler=grid", *ranged) == [
        "--set search.sampler=grid: `search.sampler` grid needs finitely many values of each dimension, "
        f"but {name} is a range. Give it a choice."
        for name in ("trainer.lr", "trainer.dropout")
    ]
    assert load(tmp_path, text, "search.sampler=grid", "trainer.warmup_updates={int: [1, 9]}").search.sampler == "grid"
    (problem,) = problems(tmp_path, text, "search.sampler=grid", "trainer.warmup_updates={int: [1, 100000]}")
    assert problem.endswith("grid must have at most 100,000 points, but has 200,000. Fix some values.")


def test_a_search_may_end_on_a_plateau(tmp_path: Path) -> None:
    assert load(tmp_path).search.plateau is None
    assert load(tmp_path, SMALL, "search.plateau=none").search.plateau is None
    space = load(tmp_path, SMALL, "search.plateau={trials: 20}")
    assert space.search.plateau == Plateau(trials=20, min_gain=0.01)
    assert load(tmp_path, space.text) == space
    assert load(tmp_path, space.text.replace("min_gain: 0.01", "min_gain: 0.5")).search.plateau == Plateau(
        trials=20, min_gain=0.5
    )


@pytest.mark.parametrize(
    ("plateau", "message"),
    [
        ("20", "must read {trials: N, min_gain: SHARE} or none, but got 20"),
        ("{min_gain: 0.1}", "must read {trials: N, min_gain: SHARE} or none"),
        ("{trials: 0}", "has a trials that must be a whole number of at least 1, but got 0"),
        ("{trials: 5, min_gain: 0}", "has a min_gain that must be a number above 0, but got 0"),
    ],
)
def test_a_wrong_plateau_is_refused(plateau: str, message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, f"search.plateau={plateau}")
    assert f"`search.plateau` {message}" in problem


@pytest.mark.parametrize(
    "url", ["postgresql://ada:secret@db/x", "mysql+pymysql://a:secret@h/x", "p://h/x?password=secret"]
)
def test_a_password_is_kept_out_of_the_space(url: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL + f"search: {{storage: '{url}'}}\n")
    assert problem == (
        "small.yaml:9: `search.storage` must hold no password, since the space is kept in the experiment's folder, "
        "but it does. Take it out and give it by PGPASSWORD or ~/.pgpass."
    )
    (problem,) = problems(tmp_path, SMALL, f"search.storage={url}")
    assert "must hold no password" in problem and "secret" not in problem and "***" in problem


@pytest.mark.parametrize("url", ["postgresql://ada@db:5432/x", "postgresql:///x?host=/run/pg", "sqlite:////a:b@c/x.db"])
def test_a_storage_without_a_password_is_taken(url: str, tmp_path: Path) -> None:
    assert load(tmp_path, SMALL, f"search.storage='{url}'").search.storage == url


def test_rungs_say_what_differs_from_the_search_s_scores(tmp_path: Path) -> None:
    search = "evaluation.search={directions: 4, sentences: 50, beams: 2}"
    space = load(
        tmp_path, SMALL, search, "evaluation.rungs=[{directions: 2, sentences: 20, beams: 1}, {sentences: 20}]"
    )
    assert space.evaluation.rungs == (
        DecodingSettings(directions=2, sentences=20, beams=1),
        DecodingSettings(directions=4, sentences=20, beams=2),
    )
    assert load(tmp_path, space.text) == space


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["evaluation.rungs=[{}, {}, {}, {}]"],
            r"rungs` must be at most as many .*, but got 4 for 3, after .*\[1, 3, 9\]",
        ),
        (["evaluation.rungs=[{}]", "search.scheduler=none"], "but got 1 for 0, since no trial is stopped early"),
        (
            ["evaluation.rungs=[{beams: 2}]"],
            r"rungs\[0\].beams` must be at most that of evaluation.search, 1, but got 2",
        ),
        (
            ["evaluation.rungs=[{sentences: 20}, {sentences: 10}]"],
            r"rungs\[0\].sentences` must be at most that of evaluation.rungs\[1\], 10, but got 20",
        ),
        (
            ["evaluation.rungs=[{directions: all}]", "evaluation.search.directions=3"],
            r"rungs\[0\].directions` must be at most that of evaluation.search, 3, but got all",
        ),
        (["evaluation.rungs=[{beam: 2}]"], r"rungs\[0\].beam` must be a key of .*Did you mean beams"),
        (["evaluation.rungs={beams: 2}"], "`evaluation.rungs` must be a list, but got"),
    ],
)
def test_wrong_rungs_are_refused(overrides: list[str], message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, *overrides)
    assert re.search(message, problem)


def test_failures_and_checkpoints_are_plain_settings(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert (space.failures, space.checkpoints) == (FailureSettings(), CheckpointSettings())
    text = """\
failures:
  {stall_minutes: none, stalled: fail, non_finite_loss: retry, out_of_memory: stop, disk_full: fail, error: stop}
checkpoints: {keep: all, max_gigabytes: 20}
"""
    space = load(tmp_path, SMALL + text)
    assert space.failures == FailureSettings(
        stall_minutes=None,
        stalled="fail",
        non_finite_loss="retry",
        out_of_memory="stop",
        disk_full="fail",
        error="stop",
    )
    assert space.checkpoints == CheckpointSettings(keep="all", max_gigabytes=20.0)
    assert load(tmp_path, space.text) == space


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("failures.stalled=halve", "`failures.stalled` must be one of fail, retry, stop, but got 'halve'"),
        ("failures.out_of_memory=retry", "`failures.out_of_memory` must be one of halve, fail, stop, but got 'retry'"),
        ("failures.stall_minutes=0", "`failures.stall_minutes` must be a number above 0 or none, but got 0"),
        ("failures.nan=fail", "`failures.nan` must be a key of `failures`, but is none. "),
        ("checkpoints.keep=best", "`checkpoints.keep` must be one of front, all, but got 'best'"),
        ("checkpoints.max_gigabytes=-1", "`checkpoints.max_gigabytes` must be a number above 0 or none, but got -1"),
    ],
)
def test_wrong_failures_and_checkpoints_are_refused(override: str, message: str, tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, SMALL, override)
    assert message in problem


@pytest.mark.parametrize(
    ("section", "settings"), [(FailureSection, FailureSettings), (CheckpointSection, CheckpointSettings)]
)
def test_a_section_has_every_setting_with_its_default(
    section: type[FailureSection] | type[CheckpointSection], settings: type[FailureSettings] | type[CheckpointSettings]
) -> None:
    assert list(section.model_fields) == [field.name for field in fields(settings)]
    assert section().settings() == settings()


def test_flores_needs_languages_of_its_table(tmp_path: Path) -> None:
    text = SMALL.replace("train: {embedded: quickstart, part: train}", FLORES).replace("[sw]", "[tlh]")
    assert problems(tmp_path, text) == [
        "small.yaml:2: `languages.low[0]` must be one of FLORES-101's, by code, but got 'tlh'. "
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


def test_baselines_take_options(tmp_path: Path) -> None:
    text = SMALL + "baselines: [{shared_lora: {rank: 16, lr: 0.01}}, {published: {pruning: true}}, full_finetuning]\n"
    space = load(tmp_path, text, "trainer.lr={float: [1e-4, 1e-2]}", "trainer.clip_norm=1")
    assert space.baselines == (
        Baseline(name="shared_lora", trainer=(("lr", 0.01),), rank=16),
        Baseline(name="published", is_pruned=True),
        Baseline(name="full_finetuning"),
    )
    assert space.baseline_trainer("shared_lora") == TrainerSettings(lr=0.01, clip_norm=1)
    assert space.baseline_trainer("published") == TrainerSettings(clip_norm=1)
    assert space.baseline_trainer("full_finetuning") == TrainerSettings(lr=3e-4, clip_norm=1)
    with pytest.raises(ValueError, match=r"must be one of .*, but got 'pretrained'"):
        space.baseline_trainer("pretrained")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: \xff\n", r":2: The file must be UTF-8, but byte 8 is 0xff"),
        (b"a: [1\nb: 2\n", r":2: The file must be YAML, but expected ',' or '\]'"),
        (b"- 1\n", r":1: The file must hold a mapping"),
        (b"", r":1: The file must hold a mapping, but got nothing"),
        (
            b"a: 1\nb: {c: 1, c: 2}\na: 3\n",
            r":2: `b.c` must be written once.*\n.*:3: `a` must be written once, but line 1",
        ),
        (b"a: !!python/object:os.system 1\n", r":1: The file must be YAML, but could not determine a constructor"),
        (b"a: &a [*a]\n", "refers to itself"),
        (b"1: a\n", r":1: `the file` must have text keys, but got 1"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (k, k, b", ".join([b"*%c" % (k - 1)] * 9)) for k in range(98, 106)),
            "holds more than 20000 values",
        ),
    ],
    ids=["utf-8", "syntax", "list", "empty", "twice", "tag", "recursion", "number as key", "billion laughs"],
)
def test_a_file_that_is_no_space_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_document(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be readable, but got: No such file"):
        load_space(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer", "--set must read key.path=value, but got 'trainer'"),
        ("base.x=1", "`base` must be a mapping, but got 'tiny-m2m'"),
        ("languages.low.1=en", r"`languages.low` must have such an item, but got \['sw'\]"),
        ("languages.low.x=en", r"`languages.low` must have such an item, but got \['sw'\]"),
        ("trainer.lr=[1", "The value must be YAML"),
    ],
)
def test_a_wrong_override_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, SMALL, override)


def test_yaml_comes_back_equal_and_in_order(tmp_path: Path) -> None:
    data = {"z": 1, "a": {"no": "no", "x": [1e-8, None, True], "text": "1e-3"}}
    path = tmp_path / "x.yaml"
    path.write_text(dump(data), encoding="utf-8")
    read = read_document(path)
    assert read.data == data and list(read.data) == ["z", "a"]
    assert read.where(("a", "x", 0)).endswith("x.yaml:4")
