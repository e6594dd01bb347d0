import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.search.environment import CheckedSpace
from langsearch.search.experiment import (
    RESULTS,
    open_table,
    space_changes,
    start_experiment,
    write_description,
    write_results,
)
from langsearch.search.folder import ExperimentFolder, read_json, read_rows
from langsearch.search.task import searched_task
from langsearch.search.trial import TestResult
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker

pytest_plugins = ["search_fixtures"]


def test_a_new_experiment_holds_its_resolved_space(tmp_path: Path, space_file: Path) -> None:
    space = load_space(space_file, ["trainer.seed=5"])
    folder = start_experiment(tmp_path / "experiments" / "tiny", space, resume=False)
    assert load_space(folder.space) == space
    assert [path.name for path in folder.path.iterdir()] == ["space.yaml"]


def test_an_experiment_that_is_there_is_refused_with_both_ways_out(tmp_path: Path, space_file: Path) -> None:
    space = load_space(space_file)
    start_experiment(tmp_path / "tiny", space, resume=False)
    with pytest.raises(InputError, match=r"exists\. Go on with it by --resume, or start another with --name NAME\.$"):
        start_experiment(tmp_path / "tiny", space, resume=False)
    assert start_experiment(tmp_path / "tiny", space, resume=True).path == tmp_path / "tiny"


def test_an_absent_experiment_is_not_resumed(tmp_path: Path, space_file: Path) -> None:
    with pytest.raises(InputError, match=r"^--resume goes on with an experiment, but .*tiny does not exist\."):
        start_experiment(tmp_path / "tiny", load_space(space_file), resume=True)
    assert not (tmp_path / "tiny").exists()


def test_a_folder_with_other_files_is_refused_and_an_empty_one_taken(tmp_path: Path, space_file: Path) -> None:
    (tmp_path / "mine").mkdir()
    start_experiment(tmp_path / "mine", load_space(space_file), resume=False)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"must be new, but .*other holds other files\. Give another --name\."):
        start_experiment(tmp_path / "other", load_space(space_file), resume=False)
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_changed_space_is_refused_with_every_difference(tmp_path: Path, space_file: Path) -> None:
    start_experiment(tmp_path / "tiny", load_space(space_file), resume=False)
    changed = load_space(space_file, ["trainer.epochs=3", "architecture.rank.low=4"])
    with pytest.raises(InputError, match="must be resumed with its own space") as caught:
        start_experiment(tmp_path / "tiny", changed, resume=True)
    assert caught.value.problems[1:] == (
        "  architecture.rank.low: absent -> 4",
        "  architecture.rank.low.choice: [2, 4] -> absent",
        "  trainer.epochs: 2 -> 3",
        "Undo the changes, or start a new experiment with --name NAME.",
    )


def test_trials_hours_resources_and_name_may_change(space_file: Path) -> None:
    new = ["search.trials=9", "search.max_hours=1", "resources.cpu=2", "resources.gpu=1", "name=other"]
    assert space_changes(load_space(space_file).text, load_space(space_file, new).text) == []
    assert space_changes(load_space(space_file).text, load_space(space_file, ["search.seed=1"]).text) == [
        "  search.seed: 0 -> 1"
    ]


def test_a_moved_experiment_goes_on_with_its_own_trials(tmp_path: Path, space_file: Path) -> None:
    space = load_space(space_file)
    folder = start_experiment(tmp_path / "tiny", space, resume=False)
    open_table(folder, space).propose(space.dimensions())
    shutil.move(folder.path, tmp_path / "moved")
    renamed = load_space(space_file, ["name=moved"])
    moved = start_experiment(tmp_path / "moved", renamed, resume=True)
    assert [row.name for row in open_table(moved, renamed).rows()] == ["00000"]


def test_a_database_for_many_experiments_gives_each_name_away_once(tmp_path: Path, space_file: Path) -> None:
    storage = [f"search.storage=sqlite:///{tmp_path / 'all.db'}"]
    space = load_space(space_file, storage)
    folder = start_experiment(tmp_path / "one" / "tiny", space, resume=False)
    open_table(folder, space).propose(space.dimensions())
    with pytest.raises(InputError, match=r"`search\.storage` .*'tiny' already\. .*--name NAME\.$"):
        start_experiment(tmp_path / "two" / "tiny", space, resume=False)
    assert not (tmp_path / "two").exists()
    start_experiment(tmp_path / "one" / "tiny", space, resume=True)
    other = load_space(space_file, [*storage, "name=other"])
    assert open_table(start_experiment(tmp_path / "two" / "other", other, resume=False), other).rows() == []


@pytest.mark.parametrize("url", ["nonsense", "nodb://host/name", "sqlite:////no/such/folder/all.db"])
def test_a_storage_that_is_no_database_is_refused(url: str, tmp_path: Path, space_file: Path) -> None:
    with pytest.raises(InputError, match=r"^`search\.storage` must be a database that can be opened, but got "):
        start_experiment(tmp_path / "tiny", load_space(space_file, [f"search.storage={url}"]), resume=False)
    assert not (tmp_path / "tiny").exists()


def test_the_description_keeps_its_start_and_takes_new_values(tmp_path: Path, checked: CheckedSpace) -> None:
    folder = ExperimentFolder(tmp_path)
    write_description(folder, checked, "nrefs:1")
    value = read_json(folder.description)
    assert value["languages"] == ["en", "fr", "sw"]
    assert value["classes"] == {"high": ["en", "fr"], "low": ["sw"]}
    assert value["directions"] == ["en-fr", "en-sw", "fr-en", "fr-sw", "sw-en", "sw-fr"]
    assert value["objectives"] == {"spbleu": "max", "trainable_parameters": "min"}
    assert value["tokenizer"]["stand_in"] is True
    assert value["base_parameters"] == 2_427_264
    assert value["versions"]["langsearch"] == "0.1.0"
    assert (value["seconds"], value["finished"]) == (0.0, None)
    write_description(folder, checked, "nrefs:1", seconds=12.5, finished="then")
    again = read_json(folder.description)
    assert again == value | {"seconds": 12.5, "finished": "then"}


def test_results_have_the_documented_columns_of_every_kind_of_trial(
    tmp_path: Path, checked: CheckedSpace, make_result: "ResultMaker"
) -> None:
    space = checked.space
    folder = start_experiment(tmp_path / "tiny", space, resume=False)
    table = open_table(folder, space)
    table.add_baseline("pretrained")
    table.complete("pretrained", make_result(epoch=0, spbleu=5.0, trainable_parameters=0, train_loss=None))
    for _ in range(5):
        number, point = table.propose(space.dimensions())
        task = searched_task(space, checked.shape, number, point)
        task.write(folder.trial(task.name))
        table.describe(task.name, task.fingerprint)
    table.complete("00000", make_result(spbleu=12.0, trainable_parameters=24_273))
    test = {"test_spbleu": 9.0, "test_spbleu_low": 8.0, "test_spbleu_high": 10.0}
    table.record_test("00000", TestResult(**test, test_num_sentences=4, test_num_directions=2))
    table.prune("00001", make_result(epoch=1))
    table.fail("00002", "disk full: no space")
    table.share("00003", next(row for row in table.rows() if row.name == "00000"))
    write_results(folder, table, checked.shape.num_parameters)
    rows = {row["name"]: row for row in read_rows(folder.results)}
    assert list(rows) == ["pretrained", "00000", "00001", "00002", "00003", "00004"]
    assert all(list(row) == RESULTS.names for row in rows.values())
    states = [(row["kind"], row["state"], row["epochs"], row["is_front"]) for row in rows.values()]
    assert states == [
        ("baseline", "complete", 0, False),
        ("searched", "complete", 3, True),
        ("searched", "pruned", 1, False),
        ("searched", "failed", None, False),
        ("searched", "complete", 3, False),
        ("searched", "running", None, False),
    ]
    first = rows["00000"]
    assert first["trainable_percent"] == pytest.approx(100 * 24_273 / 2_427_264)
    assert (first["test_spbleu"], first["test_num_sentences"], first["max_epochs"]) == (9.0, 4, 2)
    assert set(json.loads(first["params"])) == set(space.dimensions())
    assert first["summary"].startswith("rank ")
    assert rows["00002"]["cause"] == "disk full: no space"
    assert rows["00003"]["same_as"] == "00000"
    assert rows["pretrained"]["train_loss"] is None
