import re
from dataclasses import fields
from pathlib import Path

import pytest

from langsearch.space.search_sections import CheckpointSection, FailureSection
from langsearch.space.settings import (
    CheckpointSettings,
    Constraint,
    DecodingSettings,
    FailureSettings,
    Plateau,
)
from tests.space_fixtures import SMALL, load, problems

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
        ("worst_loss.hihg <= 1", "must bound a loss .*, but 'worst_loss.hihg' is none. Valid: worst_loss.high, "),
        ("worst_los.high <= 1", "must bound a loss .*, but 'worst_los.high' is none. Valid: worst_loss.high, "),
        ("worst_loss <= 1", r"must bound a loss that .* Valid: worst_loss\.high, worst_loss\.all\.$"),
        ("worst_loss.low <= 1", r"needs a direction .* of low, .* none. Valid: worst_loss\.high, worst_loss\.all"),
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
    constraint = "search.constraints=[worst_loss.high <= 0.5]"
    assert load(tmp_path, SMALL, constraint).baselines[0].name == "pretrained"
    (problem,) = problems(tmp_path, SMALL + "baselines: []\n", constraint)
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
  {stall_minutes: none, stalled: fail, non_finite_loss: retry, out_of_memory: stop, disk_full: fail, error: stop,
   in_a_row: none}
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
        in_a_row=None,
    )
    assert space.checkpoints == CheckpointSettings(keep="all", max_gigabytes=20.0)
    assert load(tmp_path, space.text) == space


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("failures.stalled=halve", "`failures.stalled` must be one of fail, retry, stop, but got 'halve'"),
        ("failures.out_of_memory=retry", "`failures.out_of_memory` must be one of halve, fail, stop, but got 'retry'"),
        ("failures.stall_minutes=0", "`failures.stall_minutes` must be a number above 0 or none, but got 0"),
        ("failures.in_a_row=0", "`failures.in_a_row` must be a whole number of at least 1 or none, but got 0"),
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


def test_of_four_objectives_a_process_that_encloses_them_all_is_not_asked_for_proposals(tmp_path: Path) -> None:
    four = "search.objectives=[spbleu, chrf, trainable_parameters, nonzero_parameters]"
    assert load(tmp_path, SMALL).search.sampler == "gp"
    assert load(tmp_path, SMALL, "search.objectives=[spbleu, chrf, peak_memory]").search.sampler == "gp"
    assert load(tmp_path, SMALL, four).search.sampler == "tpe"
    assert load(tmp_path, SMALL, four, "search.sampler=gp").search.sampler == "gp"
