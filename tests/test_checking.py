import io
import json
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from typer.testing import CliRunner

from langsearch.cli.app import app
from langsearch.data.directions import Direction
from langsearch.experiment.environment import check_space
from langsearch.search.checking import (
    _describe_training,
    _print_line,
    check_constraints,
    describe_check,
    print_check,
    print_plan,
    search_summary,
)
from langsearch.search.data_lines import name_directions
from langsearch.search.sizes import parameter_range
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.build import build_architecture
from langsearch.space.languages import all_languages
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.sections import ArchitectureSection
from tests.space_fixtures import SMALL, load

pytest_plugins = ["search_fixtures"]

SHIPPED = Path(__file__).parents[1] / "search_spaces"
SEARCHED_SHARING = [
    "architecture.rank={choice: [2, 4]}",
    "architecture.sharing={choice: [language, class, family, all]}",
]
SEARCHED_SIDES = [
    "architecture.rank={high: {src: 1, tgt: {choice: [2, 4]}}, low: 3}",
    "architecture.encoder={modules: [q_proj], source_layers: {int: [0, 3]}}",
    "architecture.decoder={modules: [fc2], sides: [tgt, src, {choice: [src, tgt]}]}",
]
SEARCHED_OVERRIDES = [
    "architecture.rank={choice: [2, 4]}",
    "architecture.encoder={modules: [q_proj, fc1], overrides: [{modules: {subset: [fc1]}, rank: {high: 0}}]}",
    "architecture.decoder={modules: [q_proj], layers: {window: [0, 3]}, overrides: [{layers: [2], rank: 1}]}",
]
SEARCHED_SLICE = ["architecture.ffn_slice={choice: [none, 64, 256]}"]
SEARCHED_LAYERS = [
    "architecture.encoder={layers: {last: {int: [0, 3]}}, modules: {subset: [q_proj, fc1]}}",
    "architecture.decoder={layers: {window: [0, 3]}, modules: [fc2]}",
]


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        (None, []),
        (None, SEARCHED_SHARING),
        (None, SEARCHED_SLICE),
        (None, SEARCHED_LAYERS),
        (None, SEARCHED_SIDES),
        (None, SEARCHED_OVERRIDES),
        ("quickstart", []),
        ("grains", []),
    ],
    ids=["tiny", "sharing", "ffn_slice", "layers", "sides", "overrides", "quickstart", "grains"],
)
def test_the_parameter_range_contains_every_point_and_is_reached(
    name: str | None, overrides: list[str], space_file: Path
) -> None:
    checked = check_space(load_space(SHIPPED / f"{name}.yaml" if name else space_file, overrides))
    space, shape = checked.space, checked.shape
    low, high = parameter_range(checked)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    dimensions = space.dimensions()

    def count(point: dict[str, Any]) -> int:
        return space.architecture(point, shape).num_parameters(shape)

    counts = [count(study.ask(fixed_distributions=dimensions).params) for _ in range(200)]
    assert low <= min(counts) <= max(counts) <= high
    if name is None:  # few enough points for 200 of them to meet both ends
        assert (low, high) == (min(counts), max(counts))


def test_both_ends_of_the_range_are_those_of_single_points(space_file: Path) -> None:
    checked = check_space(load_space(SHIPPED / "quickstart.yaml"))
    for end, pick in zip(parameter_range(checked), (min, max), strict=True):
        point: dict[str, Any] = {}
        for name, distribution in checked.space.dimensions().items():
            choices = getattr(distribution, "choices", None) or (distribution.low, distribution.high)
            point[name] = min(choices) if name.endswith("layers.start") else pick(choices)
        assert checked.space.architecture(point, checked.shape).num_parameters(checked.shape) == end


def test_check_shows_what_a_search_would_do(space_file: Path) -> None:
    stream = io.StringIO()
    print_check(Console(file=stream, width=200), check_space(load_space(space_file)))
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    lines = [line for line in lines if not line.startswith("memory ")]
    assert lines[: lines.index("the sample's plan") - 1] == [
        "tiny: the space is right. Nothing was started.",
        "base        tiny-m2m, m2m100: 3+3 layers, d 128, 2,427,264 parameters",
        "base files  model.safetensors, 5 MB",
        "class       high: en, fr",
        "class       low: sw",
        "unknown     of a language's pieces the base's tokenizer does not know: fr 0.1 %",
        "directions  6 in 3 class pairs",
        "sentences   train 364 · validation 52 · test 104",
        "train       embedded train in quickstart: 364 rows",
        "validation  embedded validation in quickstart: 52 rows",
        "test        embedded test in quickstart: 104 rows",
        "rows        train 364 · validation 52 · test 104: en-fr and back, en-sw and back, fr-sw and back",
        "spBLEU      tokenizer spm:base (a stand-in: not comparable with published spBLEU)",
        "trials      3 searched by random, baselines: pretrained, full_finetuning, shared_lora, published",
        "objectives  spbleu max, trainable_parameters min",
        "stopping    none: every trial is trained to its end",
        "scores      search 2 directions x 3 sentences, greedy · final 2 directions x 4 sentences, greedy",
        (
            "failures    stalled retry after 30 min, out of memory halve, non-finite loss fail, "
            "disk full stop, other fail; 5 in a row stop the run"
        ),
        "weights     kept of the front, no limit",
        "training    lr falls as 1 / sqrt(update) after 1 warmup updates, label smoothing 0.2, dropout 0.1, "
        "products in fp32",
        "tracking    TensorBoard: event files in the experiment's folder",
        "3 dimensions",
        "dimension   values",
        "rank.high   0, 2",
        "rank.low    2, 4",
        "trainer.lr  0.001 to 0.01, log",
        # 3 layers of 3 projections 128 + 128 and one 128 + 512; ranks 0 + 0 + 2 and 2 + 2 + 4.
        "adapters    8,448 to 33,792 parameters (0.35 to 1.39 % of the base)",
    ]
    assert lines[lines.index("the sample's plan") - 1].startswith("a sample    rank ")


def test_check_says_which_baselines_are_tuned_in_how_many_tries_and_in_what(space_file: Path) -> None:
    tuned = "baselines=[pretrained, {full_finetuning: {tune: 6}}, {published: {tune: {trials: 9, %s}}}]"
    values = "lr: {choice: [0.01, 0.003]}, epochs: {choice: [1, 2]}"
    checked = check_space(load_space(space_file, [tuned % values]))
    stream = io.StringIO()
    print_check(Console(file=stream, width=200), checked)
    text = stream.getvalue()
    assert "baselines: pretrained, full_finetuning (6 tries), published (4 tries)\n" in text
    assert "\ntuned       full_finetuning: lr 3e-05 to 0.003, log\n" in text
    assert "\ntuned       published: lr 0.01, 0.003; epochs 1, 2\n" in text
    assert "kept of the front and of each tuned baseline's best try, no limit" in text
    assert describe_check(checked)["tries"] == {"full_finetuning": 6, "published": 4}


def test_check_fits_80_columns_and_wraps_below_its_labels(space_file: Path) -> None:
    stream = io.StringIO()
    print_check(Console(file=stream, width=80), check_space(load_space(space_file)))
    lines = stream.getvalue().splitlines()
    assert max(len(line) for line in lines) <= 80
    place = next(place for place, line in enumerate(lines) if line.startswith("trials"))
    assert lines[place : place + 2] == [
        "trials      3 searched by random, baselines: pretrained, full_finetuning,",
        "            shared_lora, published",
    ]
    for width in range(40, 60):
        stream = io.StringIO()
        _print_line(
            Console(file=stream, width=width), "unknown", "so many of a language's pieces: en 0.018 %, sw 0.05 %"
        )
        assert not any(line.lstrip().startswith("%") for line in stream.getvalue().splitlines())


def test_directions_are_named_as_they_were_written() -> None:
    pairs = ("en-cy", "cy-en", "sw-en", "fr-sw", "en-sw")
    directions = [Direction(*pair.split("-")) for pair in pairs]
    assert name_directions(directions) == "en-cy and back, sw-en and back, fr-sw"


def test_one_rung_is_an_epoch_and_several_are_epochs(space_file: Path) -> None:
    asha = ["search.scheduler=asha", "search.reduction_factor=2"]
    stopping = [search_summary(load_space(space_file, [*asha, f"trainer.epochs={num}"]))["stopping"] for num in (2, 4)]
    assert stopping == ["1 in 2 goes on after epoch 1", "1 in 2 goes on after epochs 1, 2"]


def test_check_of_a_space_without_searched_values_shows_one_size(space_file: Path) -> None:
    stream = io.StringIO()
    fixed = ["architecture.rank=2", "trainer.lr=0.001"]
    print_check(Console(file=stream, width=200), check_space(load_space(space_file, fixed)))
    assert "0 dimensions" in stream.getvalue()
    assert "adapters    25,344 to 25,344 parameters" in stream.getvalue()
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert lines[-10:] == [
        "summary     rank 2;2 · enc 0-2 dec 0-2 · 6 src 6 tgt: 25,344 parameters",
        "the plan",
        "layers       modules  side  rank high;low",
        "encoder 0-2  q v      src   2;2",
        "decoder 0-2  q fc1    tgt   2;2",
        "parameters",
        "class  languages  parameters  % of the base",
        "high           2      16,896          0.696",
        "low            1       8,448          0.348",
        "all            3      25,344           1.04",
    ]


def test_a_plan_of_thirty_languages_and_twentyfour_layers_fits_eighty_columns() -> None:
    languages = [info.flores101 for info in all_languages() if info.flores101][:30]
    classes = {"high": tuple(languages[:10]), "medium": tuple(languages[10:20]), "low": tuple(languages[20:])}
    shape = BaseShape(
        encoder_layers=24,
        decoder_layers=24,
        d_model=1024,
        encoder_ffn_dim=8192,
        decoder_ffn_dim=8192,
        num_parameters=1_370_638_336,
    )
    apart = {language: 3 + index for index, language in enumerate(languages[20:])}
    section = ArchitectureSection.model_validate(
        {
            "rank": {"high": 2, "medium": 2, "low": 8},
            "encoder": {"source_layers": 18, "overrides": [{"layers": {"last": 2}, "rank": {"languages": apart}}]},
        }
    )
    architecture = build_architecture(section, classes, {}, shape)
    stream = io.StringIO()
    print_plan(Console(file=stream, width=80), architecture, classes, shape)
    lines = stream.getvalue().splitlines()
    assert len(lines) < 30
    assert max(len(line) for line in lines) <= 80
    assert [re.sub(r"\s+", " ", line).strip() for line in lines[2:4]] == [
        "encoder 0-17 q k v fc1 fc2 src 2;2;8",
        "encoder 18-21 q k v fc1 fc2 tgt 2;2;8",
    ]
    assert set(list(apart)[1:]) <= set(stream.getvalue().split())


SEARCH = [
    "trainer.epochs=10",
    "search.objectives=[spbleu, chrf]",
    "search.constraints=[trainable_parameters <= 2%, worst_loss.all <= 0.5]",
    "search.scheduler=asha",
    "search.plateau={trials: 8}",
    "evaluation.rungs=[{directions: 1, sentences: 2}, {directions: 1}]",
    "failures={stall_minutes: none, error: retry}",
    "checkpoints={keep: all, max_gigabytes: 20}",
]


def test_check_shows_what_a_search_keeps_to_stops_and_survives(space_file: Path) -> None:
    assert search_summary(load_space(space_file, SEARCH)) == {
        "objectives": "spbleu max, chrf max",
        "constraints": "trainable_parameters <= 2 %, worst_loss.all <= 0.5",
        "stopping": "1 in 3 goes on after epochs 1, 3, 9",
        "plateau": "ends when 8 trials gain less than 1 %",
        "scores": "to epoch 1 1 direction x 2 sentences, greedy · to epoch 3 1 direction x 3 sentences, greedy · "
        "search 2 directions x 3 sentences, greedy · final 2 directions x 4 sentences, greedy",
        "failures": "out of memory halve, non-finite loss fail, disk full stop, other retry; 5 in a row stop the run",
        "weights": "kept of every trial, at most 20 GB",
    }


def test_check_says_what_a_search_does_as_json(space_file: Path) -> None:
    settings = [part for item in SEARCH for part in ("--set", item)]
    found = CliRunner().invoke(app, ["check", str(space_file), "--no-measure", "--json", *settings])
    assert found.exit_code == 0
    value = json.loads(found.stdout)
    search = value["search"]
    assert search["objectives"] == {"spbleu": "max", "chrf": "max"}
    assert search["constraints"] == ["trainable_parameters <= 2 %", "worst_loss.all <= 0.5"]
    assert (search["plateau"], search["rung_epochs"]) == ({"trials": 8, "min_gain": 0.01}, [1, 3, 9])
    assert [rung["sentences"] for rung in value["evaluation"]["rungs"]] == [2, 3]
    assert (value["failures"]["stall_minutes"], value["failures"]["error"]) == (None, "retry")
    assert value["checkpoints"] == {"keep": "all", "max_gigabytes": 20.0}


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            "trainable_parameters <= 8447",
            "must be met by some architecture, but got trainable_parameters <= 8447, and the smallest has 8,448 "
            "parameters",
        ),
        (
            "trainable_parameters <= 0.3 %",
            r"must be met by .* <= 0\.3 %, and the smallest has 8,448 parameters \(0\.348 %\)",
        ),
        (
            "worst_loss.low <= 1",
            r"needs a direction between its languages among those that are scored, but got worst_loss\.low <= 1 with "
            r"1 of 6 directions\. Raise `evaluation\.search\.directions`\.",
        ),
    ],
)
def test_a_constraint_that_cannot_be_kept_or_measured_is_refused(
    constraint: str, message: str, space_file: Path
) -> None:
    overrides = [f"search.constraints=['{constraint}']", "evaluation.search.directions=1"]
    overrides += ["languages={high: [en], low: [fr, sw]}"] if constraint.startswith("worst_loss") else []
    checked = check_space(load_space(space_file, overrides))
    with pytest.raises(InputError, match=rf"`search\.constraints\[0\]` {message}$"):
        check_constraints(checked)


@pytest.mark.parametrize("constraint", ["trainable_parameters <= 8448", "worst_loss.high <= 1", "worst_loss.all <= 0"])
def test_a_constraint_that_some_trial_can_keep_is_taken(constraint: str, space_file: Path) -> None:
    overrides = [f"search.constraints=['{constraint}']", "evaluation.search.directions=all"]
    check_constraints(check_space(load_space(space_file, overrides)))


def test_check_says_everything_as_json(space_file: Path) -> None:
    found = CliRunner().invoke(
        app, ["check", str(space_file), "--no-measure", "--json", "--set", "architecture.rank=2"]
    )
    assert found.exit_code == 0
    value = json.loads(found.stdout)
    assert (value["name"], value["base"]["name"], value["base"]["d_model"]) == ("tiny", "tiny-m2m", 128)
    assert value["classes"] == {"high": ["en", "fr"], "low": ["sw"]}
    assert value["sentences"] == {"train": 364, "validation": 52, "test": 104}
    assert len(value["directions"]) == 6
    assert value["spbleu"] == {"tokenizer": "spm:base", "is_stand_in": True}
    assert value["dimensions"] == {
        "trainer.lr": {
            "name": "FloatDistribution",
            "attributes": {"low": 0.001, "high": 0.01, "log": True, "step": None},
        }
    }
    assert value["adapter_parameters"] == {"at_least": 25_344, "at_most": 25_344}
    sample = value["sample"]
    assert set(sample["point"]) == {"trainer.lr"}
    assert sample["plan"] == [
        {
            "stack": stack,
            "layers": [0, 1, 2],
            "modules": modules,
            "side": side,
            "ranks": {"en": 2, "fr": 2, "sw": 2},
        }
        for stack, modules, side in (("encoder", ["q_proj", "v_proj"], "src"), ("decoder", ["q_proj", "fc1"], "tgt"))
    ]
    assert sample["parameters"]["by_class"] == {"high": 16_896, "low": 8_448}
    assert sample["parameters"]["total"] == 25_344 and sample["parameters"]["shared"] == 0
    architecture = Architecture.from_dict(sample["architecture"])
    assert architecture.fingerprint == sample["fingerprint"]


def test_a_range_with_too_many_ends_is_bounded(space_file: Path) -> None:
    searched = "{modules: {subset: [q_proj, k_proj, v_proj, fc1, fc2]}, rank: {high: 1}}"
    overrides = [
        "architecture.rank=2",
        f"architecture.encoder={{overrides: [{searched}, {{layers: {{last: {{int: [1, 3]}}}}, rank: {{low: 0}}}}]}}",
        f"architecture.decoder={{overrides: [{searched}]}}",
    ]
    checked = check_space(load_space(space_file, overrides))
    low, high = parameter_range(checked)
    # A layer's modules cost 3 x 256 + 2 x 640 = 2,048 a unit of rank, the decoder's cross-attention 768 more.
    # The two high languages lie between 1 and 2, where an override can speak; in the encoder the low one has 0 in the
    # last layer and 0 to 2 in the others.
    assert low == 3 * 2 * 2_048 + 3 * 2 * (2_048 + 2 * 768) + 3 * 2 * 2_816
    assert high == 3 * 4 * 2_048 + 2 * 2 * 2_048 + 3 * 6 * 2_816


def test_a_check_says_how_a_rate_falls_and_what_a_loss_is_smoothed_with(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.label_smoothing={float: [0, 0.2]}", "trainer.precision=fp32")
    assert _describe_training(space) == (
        "lr falls as 1 / sqrt(update) after 1 warmup updates, label smoothing 0 to 0.2, dropout 0.1, products in fp32"
    )
    constant = load(tmp_path, SMALL, "trainer.schedule=constant", "resources.gpu=1")
    assert _describe_training(constant).startswith("lr stays after 1 warmup updates")
    assert _describe_training(constant).endswith("products in bf16 or fp16, as the card has it")
