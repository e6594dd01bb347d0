"""Another base as teacher in spaces: written, checked, told with its cost, part of what a trial is."""

import io
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from optuna.distributions import CategoricalDistribution
from rich.console import Console

from langsearch.cluster.packing import pack
from langsearch.data.top_tokens import PROGRESS, TEACHERS, TopTokens
from langsearch.experiment.environment import Environment, check_space
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.experiment.teacher_watch import TeacherWatch
from langsearch.model.base import Base, load_base
from langsearch.search.checking import describe_check, print_check
from langsearch.search.forecast import forecast
from langsearch.space.loss_settings import DistillSettings, LargerTeacher, LossSettings
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.trial.standalone import train_single
from langsearch.trial.trial import run_trial
from tests.teacher_fixtures import write_teacher

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

POINT: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.002}
FIXED = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1", "baselines=[]"]


def loaded(space_file: Path, distill: str, more: Sequence[str] = ()) -> Space:
    return load_space(space_file, [f"trainer.loss={{distill: {distill}}}", *more])


@pytest.fixture
def teacher(tmp_path: Path, new_base: Callable[[], Base]) -> Path:
    return write_teacher(tmp_path / "large", new_base())


def test_it_is_written_with_how_many_tokens_are_kept_and_searched_by_its_name(space_file: Path) -> None:
    space = loaded(space_file, "{teacher: {choice: [base, {base: facebook/m2m100_1.2B}, {base: there, top_k: 8}]}}")
    named = "trainer.loss.distill.teacher"
    assert space.dimensions()[named] == CategoricalDistribution(("base", "top16:facebook/m2m100_1.2B", "top8:there"))
    for word in ("top16:facebook/m2m100_1.2B", "top8:there"):
        distill = space.trainer(POINT | {named: word}).loss.distill
        assert distill is not None and distill.teacher == word
    again = space_file.with_name("again.yaml")
    again.write_text(space.text, encoding="utf-8")
    assert load_space(again).dimensions() == space.dimensions()


def test_its_words_are_read_as_they_are_written() -> None:
    for teacher in (
        LargerTeacher(base="a/b"),
        LargerTeacher(base="/home/me@work/large", top_k=4),
        LargerTeacher(base="/home/me@work/large", top_k=4, identity="0123456789abcdef"),
    ):
        assert LargerTeacher.parse(str(teacher)) == teacher
    assert [LargerTeacher.parse(word) for word in ("base", "own_best", "adapters:x", "top0:x", "top:x", "top4:")] == (
        6 * [None]
    )


@pytest.mark.parametrize(
    ("distill", "told"),
    [
        ("{teacher: {base: x, top_k: 0}}", "must have a whole number of at least 1 as `top_k`, but got 0"),
        ("{teacher: {base: ''}}", "must name a hub id or a folder as `base`"),
        (
            "{teacher: {base: x}, temperature: {float: [1, 2]}}",
            "must be a number or a choice of some where the",
        ),
        ("{teacher: {larger: x}}", "must be base, own_best, adapters:FOLDER or"),
    ],
)
def test_what_cannot_be_is_refused(distill: str, told: str, space_file: Path) -> None:
    with pytest.raises(InputError, match=told):
        loaded(space_file, distill)


def test_a_teacher_that_is_not_there_is_refused_before_anything_starts(space_file: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match="A base must be an embedded name"):
        check_space(loaded(space_file, "{teacher: {base: nowhere}}"))
    (teacher / "model.safetensors").unlink()
    with pytest.raises(InputError, match="A base must have its weights"):
        check_space(loaded(space_file, f"{{teacher: {{base: {teacher}}}}}"))


def test_its_weights_are_part_of_what_a_trial_is(space_file: Path, teacher: Path, new_base: Callable[[], Base]) -> None:
    space = loaded(space_file, f"{{teacher: {{base: {teacher}}}}}")
    checked = check_space(space)
    task = searched_task(space, checked.shape, 0, POINT)
    assert task.trainer.loss.distill is not None and task.trainer.loss.distill.larger is not None
    assert task.trainer.loss.distill.larger.identity == checked.teachers[0].fingerprint()
    folder = TrialFolder(space_file.parent / "00000")
    task.write(folder)
    assert TrialTask.read(folder).fingerprint == task.fingerprint
    shutil.rmtree(teacher)
    write_teacher(teacher, new_base(), seed=2)
    assert searched_task(space, checked.shape, 0, POINT).fingerprint != task.fingerprint


def test_two_trials_have_what_the_teacher_says_from_the_same_files(
    base: Base, environment: Environment, make_task: "TaskMaker", teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langsearch.train import larger_teacher

    loads: list[object] = []

    def load(*arguments: object, **more: object) -> Base:
        loads.append(arguments)
        return load_base(*arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(larger_teacher, "load_base", load)
    task = make_task(epochs=1)
    distill = DistillSettings(teacher=str(LargerTeacher(base=str(teacher), top_k=4)))
    task = replace(task, trainer=replace(task.trainer, loss=LossSettings(distill=distill)))
    found = {}
    for name in ("00000", "00001"):
        (result,) = run_trial(base, environment, task, TrialFolder(teacher.parent / "trials" / name))
        found[name] = result.train_loss
    assert len(loads) == 1 and found["00000"] == found["00001"]
    (kept,) = {path.parent for path in next(iter(environment.train.files.values())).parent.rglob("*/*.arrow")}
    assert kept.parent.name == TEACHERS


def test_a_check_tells_what_it_costs(space_file: Path, teacher: Path) -> None:
    checked = check_space(loaded(space_file, f"{{teacher: {{base: {teacher}, top_k: 4}}}}"))
    found = forecast(checked, is_measured=True)
    assert found.taught is not None and found.measured is not None
    assert found.measured.taught_token_s is not None and found.measured.taught_token_s > 0
    total = sum(rows.train for rows in checked.direction_rows.values())
    assert found.taught.num_pairs == min(total, found.trainer.epochs * found.epoch.num_pairs)
    assert found.taught.num_bytes == found.taught.num_tokens * 4 * 6
    assert found.taught.num_weight_bytes == (teacher / "model.safetensors").stat().st_size
    out = io.StringIO()
    print_check(Console(file=out, width=400), checked, found=found)
    assert f"{teacher} reads up to {found.taught.num_pairs:,} pairs of a training once for all trials" in out.getvalue()
    assert "of weights are loaded too" in out.getvalue()
    assert describe_check(checked, found=found)["forecast"]["teacher"]["num_bytes"] == found.taught.num_bytes
    unmeasured = forecast(checked, is_measured=False)
    print_check(Console(file=out, width=400), checked, found=unmeasured)
    assert "that was not measured" in out.getvalue()


def test_a_training_goes_on_with_the_teacher_it_began_with_or_not_at_all(
    space_file: Path, teacher: Path, new_base: Callable[[], Base], tmp_path: Path
) -> None:
    more = [f"trainer.loss={{distill: {{teacher: {{base: {teacher}}}}}}}", *FIXED]
    out = io.StringIO()
    console, to = Console(file=out, width=200), tmp_path / "out"
    trained = train_single(console, load_space(space_file, more), None, to)
    assert trained.result.finished and "pairs of an epoch" in out.getvalue()
    (identity,) = read_json(to / "teachers.json").values()
    shutil.rmtree(teacher)
    write_teacher(teacher, new_base(), seed=2)
    with pytest.raises(InputError, match=f"has {identity} of .*, which is .* now. Put those weights back") as refused:
        train_single(console, load_space(space_file, more), None, to, resume=True)
    assert "other settings" not in str(refused.value)


def test_a_relative_folder_goes_along_to_a_cluster(
    space_file: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(teacher.parent)
    (teacher / "pytorch_model.msgpack").write_bytes(b"not needed")
    space = loaded(space_file, "{teacher: {base: large, top_k: 4}}")
    (tmp_path / "packed").mkdir()
    assert "large" in pack(space, tmp_path / "packed")
    sent = load_space(tmp_path / "packed" / "space.yaml")
    (larger,) = sent.trainer_section.loss.larger
    assert larger.top_k == 4 and larger.base.startswith("files/") and larger.base.endswith("-large")
    assert (tmp_path / "packed" / larger.base / "model.safetensors").exists()
    assert not (tmp_path / "packed" / larger.base / "pytorch_model.msgpack").exists()


def test_two_embedded_bases_teach_one_another() -> None:
    one, other = (load_base(name) for name in ("tiny-m2m", "tiny-m2m-2"))
    assert one.tokenizer.fingerprint == other.tokenizer.fingerprint
    assert not torch.equal(one.model.model.shared.weight, other.model.model.shared.weight)


def test_how_far_the_teacher_is_is_told_by_tenths_with_the_time_that_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (TopTokens(tmp_path / TEACHERS / name, 4) for name in ("old", "new"))
    for tokens in (old, new):
        tokens.folder.mkdir(parents=True)
    old.note(1, 2)
    watch, seconds = TeacherWatch(tmp_path), 0.0
    monkeypatch.setattr("langsearch.experiment.teacher_watch.time.monotonic", lambda: seconds)
    told = []
    for done in (0, 10, 50, 100, 110, 500, 1000):
        new.note(done, 1000)
        os.utime(new.folder / PROGRESS, ns=(done, done))  # a clock of the disk may be coarse
        told.append(watch.look())
        assert watch.look() is None, "it looks every two seconds at most"
        seconds += 60
    assert told == [
        "The teacher has read 0 of 1,000 pairs of an epoch.",
        None,
        None,
        "The teacher has read 100 of 1,000 pairs of an epoch, about 27 min left.",
        None,
        "The teacher has read 500 of 1,000 pairs of an epoch, about 5 min left.",
        "The teacher has read 1,000 of 1,000 pairs of an epoch.",
    ]
    (new.folder / PROGRESS).write_text("{", encoding="utf-8")
    assert watch.look() is None
