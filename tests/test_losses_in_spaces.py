"""Loss terms in spaces: searched, checked, told, and part of what a trial is."""

import re
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from langsearch.experiment.environment import CheckedSpace, Environment, check_space
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.model.base import Base
from langsearch.space.loss_checks import loss_lines
from langsearch.space.loss_section import LossSection
from langsearch.space.loss_settings import TERMS, DistillSettings, LanguageAdversarySettings, LossSettings
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.trial.training import training_space
from langsearch.trial.trial import run_trial

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

POINT: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.002}


def loaded(space_file: Path, loss: str, more: Sequence[str] = ()) -> Space:
    """Returns the tiny space with a section `trainer.loss`."""
    text = space_file.read_text(encoding="utf-8").replace("  lr: {", f"  loss: {loss}\n  lr: {{")
    space_file.write_text(text, encoding="utf-8")
    return load_space(space_file, more)


def test_a_term_is_searched_by_its_name(space_file: Path) -> None:
    space = loaded(
        space_file,
        "{distill: {weight: {float: [0.1, 0.9]}, kind: {choice: [kl, js]}, "
        "teacher: {choice: [base, own_best, {adapters: one}]}}}",
        ["trainer.epochs=4"],
    )
    found = {name: value for name, value in space.dimensions().items() if "loss" in name}
    assert found == {
        "trainer.loss.distill.weight": FloatDistribution(0.1, 0.9),
        "trainer.loss.distill.teacher": CategoricalDistribution(("base", "own_best", "adapters:one")),
        "trainer.loss.distill.kind": CategoricalDistribution(("kl", "js")),
    }
    point = POINT | {
        "trainer.loss.distill.weight": 0.3,
        "trainer.loss.distill.kind": "js",
        "trainer.loss.distill.teacher": "adapters:one",
    }
    distill = space.trainer(point).loss.distill
    assert distill == DistillSettings(weight=0.3, kind="js", teacher=f"adapters:{Path('one').absolute()}")
    assert distill.folder == Path("one").absolute()


def test_a_term_that_is_only_named_has_its_defaults_and_the_resolved_space_shows_them(space_file: Path) -> None:
    space = loaded(space_file, "{distill: {}}")
    assert space.trainer(POINT).loss == LossSettings(distill=DistillSettings())
    again = space_file.with_name("again.yaml")
    again.write_text(space.text, encoding="utf-8")
    assert "temperature: 1.0" in space.text
    assert load_space(again).trainer(POINT) == space.trainer(POINT)


@pytest.mark.parametrize("term", TERMS)
def test_what_an_experiment_records_of_a_term_is_read_again(term: str, space_file: Path) -> None:
    space = loaded(space_file, f"{{{term}: {{weight: {{choice: [0, 0.1]}}}}}}")
    recorded = space_file.with_name("space.yaml")
    recorded.write_text(space.text, encoding="utf-8")
    assert load_space(recorded).text == space.text
    # As versions wrote it that recorded a scale which means nothing.
    recorded.write_text(space.text.replace("kind: mse", "kind: mse\n      scale: 20.0"), encoding="utf-8")
    assert load_space(recorded, is_recorded=True).text == space.text


def test_the_loss_sections_have_every_setting_with_its_default() -> None:
    assert list(LossSection.model_fields) == [field.name for field in fields(LossSettings)] == list(TERMS)
    every = LossSection.model_validate({name: {} for name in TERMS})
    assert every.settings({}) == LossSettings(**{name: settings() for name, settings in TERMS.items()})
    for name, section in every.terms.items():
        assert list(type(section).model_fields) == [field.name for field in fields(TERMS[name])]


def test_without_terms_a_space_and_a_task_are_as_before_there_were_any(
    space_file: Path, make_task: "TaskMaker", tmp_path: Path
) -> None:
    assert " loss:" not in load_space(space_file).text
    task = make_task()
    folder = TrialFolder(tmp_path / "00000")
    task.write(folder)
    assert read_json(folder.task)["trainer"]["loss"] == {}
    off = replace(task, trainer=replace(task.trainer, loss=LossSettings.of({"distill": {"weight": 0.0}})))
    assert off.fingerprint == task.fingerprint


def test_terms_are_in_the_task_and_in_its_fingerprint(checked: CheckedSpace, tmp_path: Path) -> None:
    task = searched_task(checked.space, checked.shape, 7, POINT)
    prints = {task.fingerprint}
    for distill in (DistillSettings(), DistillSettings(weight=0.4), DistillSettings(teacher="own_best")):
        taught = replace(task, trainer=replace(task.trainer, loss=LossSettings(distill=distill)))
        folder = TrialFolder(tmp_path / str(len(prints)))
        taught.write(folder)
        assert TrialTask.read(folder).trainer == taught.trainer
        assert TrialTask.read(folder).fingerprint == taught.fingerprint
        prints.add(taught.fingerprint)
    assert len(prints) == 4


def test_baselines_learn_by_cross_entropy_alone(space_file: Path, checked: CheckedSpace) -> None:
    space = loaded(space_file, "{distill: {weight: 0.3}}")
    for name in ("shared_lora", "full_finetuning"):
        assert baseline_task(space, checked.shape, name).trainer.loss == LossSettings()


def test_a_single_training_records_its_terms(space_file: Path) -> None:
    space = loaded(space_file, "{distill: {weight: 0.3, kind: js}}")
    trainer = space.trainer(POINT)
    recorded = training_space(space, "single", trainer)
    assert asdict(recorded.trainer({"rank.high": 2, "rank.low": 4})) == asdict(trainer)


def test_what_cannot_be_is_refused_all_at_once(space_file: Path) -> None:
    with pytest.raises(InputError) as caught:
        loaded(
            space_file,
            "{distil: {}, distill: {weight: 1.5, kind: mse, teacher: nobody, temperature: 0}}",
        )
    text = str(caught.value)
    for part in (
        "`trainer.loss.distil` must be a key of `trainer.loss`, but is none. Did you mean",
        "`trainer.loss.distill.weight` must be",
        "`trainer.loss.distill.kind` must be one of kl, js",
        "`trainer.loss.distill.teacher` must be base, own_best, adapters:FOLDER or {base: ID_OR_FOLDER, top_k: 16}",
        "`trainer.loss.distill.temperature` must be",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("loss", "more", "told"),
    [
        ("{distill: {teacher: own_best}}", (), "needs at least 3 epochs to be own_best"),
        ("{distill: {weight: 0}}", (), "`trainer.loss.distill.weight` must be above 0 somewhere"),
        ("{align: {scale: 10}}", (), "`trainer.loss.align.scale` touches nothing"),
        ("{distill: }", (), "must be a mapping, such as"),
        ("{distill: {teacher: {adapters: ''}}}", (), "must name a folder behind adapters:"),
        ("{}", ["baselines=[shared_lora: {loss: {distill: {}}}]"], "shared_lora.loss` must be a key of"),
    ],
)
def test_a_term_that_cannot_do_anything_is_refused(loss: str, more: Sequence[str], told: str, space_file: Path) -> None:
    with pytest.raises(InputError, match=told):
        loaded(space_file, loss, more)


def test_a_pivot_is_a_language_that_the_base_knows(space_file: Path) -> None:
    with pytest.raises(InputError, match=r"`trainer\.loss\.align\.pivot` must be one of en, fr, sw, but got 'de'"):
        loaded(space_file, "{align: {pivot: {choice: [en, de]}}}")


def test_encodings_by_the_source_need_adapters_that_are_by_the_source(space_file: Path, checked: CheckedSpace) -> None:
    space = loaded(space_file, "{align: {}}")
    assert space.check(checked.shape) == []
    for changes in (
        ["architecture.encoder.source_layers=0"],
        ["architecture.encoder.modules=[]"],
        ["architecture.adapter=lora+layer_norm"],
    ):
        (problem,) = load_space(space_file, changes).check(checked.shape)
        assert "`trainer.loss.align` needs adapters in the encoder that are indexed by the source" in problem
    for changes in (
        ["architecture.encoder.source_layers={int: [0, 2]}"],
        ["architecture.adapter=lora+layer_norm", "architecture.layer_norm={side: src}"],
        ["architecture.adapter={choice: [lora, lora+layer_norm]}"],
    ):
        assert load_space(space_file, changes).check(checked.shape) == []


def test_a_teacher_must_be_there_and_have_two_of_the_languages(space_file: Path, tmp_path: Path) -> None:
    space = loaded(space_file, f"{{distill: {{teacher: 'adapters:{tmp_path / 'none'}'}}}}")
    with pytest.raises(InputError, match=r"Adapters must be a folder that `langsearch export` wrote"):
        check_space(space)


def test_a_check_tells_what_each_term_costs(space_file: Path) -> None:
    loss = "{distill: {teacher: {choice: [base, own_best]}}, align: {pivot: fr}, language_adversary: {}}"
    space = loaded(space_file, loss, ["trainer.epochs=3"])
    line, other, _ = loss_lines(space.trainer_section.loss)
    assert "the same lines in fr" in other
    assert "the base without adapters or the own best epoch" in line
    assert "one more forward pass" in line


def test_a_trial_tells_its_scores_to_the_own_best_and_keeps_it_in_its_checkpoint(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(epochs=4)
    task = replace(task, trainer=replace(task.trainer, loss=LossSettings(distill=DistillSettings(teacher="own_best"))))
    folder = TrialFolder(tmp_path / "00000")
    scores: list[float] = []
    for result in run_trial(base, environment, task, folder):
        if result.finished:
            break
        checkpoint = read_newest_checkpoint(folder.checkpoint)
        assert checkpoint is not None
        scores = [row["spbleu"] for row in checkpoint.state["history"]]
        assert checkpoint.tensors["terms/distill.best"].tolist() == [scores.index(max(scores)) + 1, max(scores)]
    assert len(scores) == 3


def test_a_trial_with_an_adversary_says_what_a_fresh_probe_reads_and_stores_no_classifier(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(epochs=1)
    loss = LossSettings(language_adversary=LanguageAdversarySettings())
    task = replace(task, trainer=replace(task.trainer, loss=loss))
    folder = TrialFolder(tmp_path / "00000")
    (result,) = run_trial(base, environment, task, folder)
    found = re.search(r"a fresh probe reads the source's language of (\d+) % of validation sentences", result.note)
    assert found is not None and int(found.group(1)) >= 50, "an epoch hides nothing"
    assert "(chance 33 %)" in result.note
    kept = read_newest_checkpoint(folder.weights)
    assert kept is not None and not any("adversary" in name for name in kept.tensors)
    plain = make_task(epochs=1)
    assert plain.architecture is not None and task.architecture == plain.architecture
    assert result.trainable_parameters == plain.num_trainable(base.shape)
