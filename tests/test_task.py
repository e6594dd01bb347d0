import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.experiment.folder import TrialFolder, read_json, write_json
from langsearch.experiment.task import TrialTask, baseline_task, searched_task, summarize
from langsearch.space.architecture import Architecture, SiteAdapters
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.sites import Site

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

POINT: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.002}


@pytest.mark.parametrize("name", ["pretrained", "full_finetuning", "shared_lora", "published", "00007"])
def test_tasks_go_round_through_their_folder(name: str, checked: CheckedSpace, tmp_path: Path) -> None:
    space, shape = checked.space, checked.shape
    task = searched_task(space, shape, 7, POINT) if name == "00007" else baseline_task(space, shape, name)
    folder = TrialFolder(tmp_path / name)
    task.write(folder)
    again = TrialTask.read(folder)
    assert replace(again, classes=task.classes) == task
    assert again.fingerprint == task.fingerprint
    assert again.summary == task.summary


def test_a_folder_without_a_task_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"trial\.json"):
        TrialTask.read(TrialFolder(tmp_path))


def test_a_point_is_its_architecture_and_its_settings(checked: CheckedSpace) -> None:
    task = searched_task(checked.space, checked.shape, 12, POINT)
    assert (task.name, task.kind, task.method, task.num_epochs) == ("00012", "searched", "adapters", 2)
    assert task.trainer.lr == 0.002
    assert task.architecture is not None
    assert task.architecture.rank(Site("encoder", 0, "q_proj"), "en") == 2
    assert task.architecture.rank(Site("decoder", 2, "fc1"), "sw") == 4
    assert task.architecture.rank(Site("decoder", 2, "k_proj"), "sw") == 0
    # (2 + 2 + 4) ranks in 3 layers: q and v of the encoder, q of the decoder: 128 + 128; fc1: 128 + 512.
    assert task.num_trainable(checked.shape) == 8 * 3 * (3 * 256 + 640)


def test_baselines_train_what_their_names_say(checked: CheckedSpace) -> None:
    tasks = {
        baseline.name: baseline_task(checked.space, checked.shape, baseline.name)
        for baseline in checked.space.baselines
    }
    assert {name: (task.method, task.num_epochs) for name, task in tasks.items()} == {
        "pretrained": ("none", 0),
        "full_finetuning": ("full", 2),
        "shared_lora": ("adapters", 2),
        "published": ("adapters", 2),
    }
    assert {task.kind for task in tasks.values()} == {"baseline"}
    sizes = {name: task.num_trainable(checked.shape) for name, task in tasks.items()}
    assert sizes["pretrained"] == 0
    assert sizes["full_finetuning"] == checked.shape.num_parameters
    assert 0 < sizes["shared_lora"] < sizes["full_finetuning"]
    assert tasks["pretrained"].summary == "the base as it is"
    assert tasks["full_finetuning"].summary == "all parameters"


def test_all_that_decides_the_result_is_in_the_fingerprint(make_task: "TaskMaker") -> None:
    task = make_task()
    equal = replace(task, name="00009", kind="baseline", classes={"all": ["en", "fr", "sw"]})
    assert equal.fingerprint == task.fingerprint
    different = [make_task(rank=4), make_task(target=0.5), make_task(lr=1e-3), make_task(seed=1)]
    different += [replace(task, method="full"), replace(task, method="full", architecture=None)]
    assert task.fingerprint not in {other.fingerprint for other in different}
    assert len(task.fingerprint) == 16


def test_a_summary_tells_ranks_layers_and_sides() -> None:
    slots = (("en", "en"), ("fr", "fr"), ("sw", "sw"))
    ranks = (("en", 2), ("fr", 4), ("sw", 8))
    adapters = (
        SiteAdapters(Site("encoder", 0, "q_proj"), "src", ranks),
        SiteAdapters(Site("encoder", 1, "q_proj"), "src", ranks[:2]),
        SiteAdapters(Site("decoder", 2, "fc1"), "tgt", ranks),
    )
    architecture = Architecture(slots=slots, adapters=adapters)
    assert summarize(architecture, {"high": ["en", "fr"], "low": ["sw"]}) == "rank 2-4;8 · enc 0-1 dec 2 · 2 src 1 tgt"
    assert summarize(architecture, {}) == "rank 2-8 · enc 0-1 dec 2 · 2 src 1 tgt"
    shared = Architecture(
        slots=tuple((language, "all") for language, _ in slots),
        adapters=(SiteAdapters(Site("encoder", 2, "fc1"), "src", (("all", 8),)),),
    )
    assert summarize(shared, {"high": ["en", "fr"], "low": ["sw"]}) == "shared rank 8 · enc 2 dec - · 1 sites"


def test_an_empty_architecture_says_so(make_task: "TaskMaker") -> None:
    task = make_task(rank=0)
    assert task.summary == "no adapters"
    assert task.architecture is not None
    assert task.architecture.adapters == ()


def test_a_start_is_in_the_fingerprint_and_no_start_is_not(make_task: "TaskMaker", tmp_path: Path) -> None:
    assert make_task().fingerprint == make_task(init_from=None).fingerprint
    assert make_task(init_from="adapters").fingerprint not in (
        make_task().fingerprint,
        make_task(init_from="other").fingerprint,
    )
    task = make_task(init_from="adapters")
    task.write(TrialFolder(tmp_path))
    assert TrialTask.read(TrialFolder(tmp_path)) == task


def test_encoding_once_is_in_the_fingerprint_and_tasks_from_before_there_was_it_keep_theirs(
    make_task: "TaskMaker", tmp_path: Path
) -> None:
    task, once = make_task(), make_task(encode_once=True)
    assert once.fingerprint != task.fingerprint
    newer = {"init_from", "encode_once", "first_stage", "first_share", "freeze_first", "train_only", "loss"}
    newer |= {"modular_bridge", "merge_src", "merge_tgt", "nesting", "start_cut"}
    newer |= {name for name in asdict(task.trainer) if name.startswith("back_translation")}
    trainer = {name: value for name, value in asdict(task.trainer).items() if name not in newer}
    assert make_task(first_stage=("en",)).fingerprint != task.fingerprint
    assert task.architecture is not None
    text = json.dumps([task.architecture.fingerprint, "adapters", trainer], sort_keys=True)
    assert task.fingerprint == hashlib.sha256(text.encode()).hexdigest()[:16]
    folder = TrialFolder(tmp_path)
    task.write(folder)
    written = read_json(folder.task)
    del written["trainer"]["encode_once"], written["trainer"]["loss"]
    write_json(folder.task, written)
    assert TrialTask.read(folder) == task
    once.write(folder)
    assert TrialTask.read(folder) == once


def test_a_space_s_start_is_absolute_and_for_searched_tasks_alone(
    checked: CheckedSpace, adapters: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(adapters.parent)
    space = load_space(space_file, [f"trainer.init_from={adapters.name}"])
    assert check_space(space).shape == checked.shape
    point: dict[str, object] = {"rank.high": 2, "rank.low": 4, "trainer.lr": 0.01}
    assert searched_task(space, checked.shape, 0, point).trainer.init_from == str(adapters)
    assert baseline_task(space, checked.shape, "shared_lora").trainer.init_from is None
    with pytest.raises(InputError, match="Adapters to start from must be a PEFT adapter"):
        check_space(load_space(space_file, ["trainer.init_from=nowhere"]))
