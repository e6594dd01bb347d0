import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from langsearch.experiment.description import write_description
from langsearch.experiment.earlier import with_earlier_defaults
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder, read_json, write_text
from langsearch.experiment.opening import (
    check_start,
    open_table,
    space_changes,
    space_of_version,
    space_version,
    start_experiment,
    storage_url,
)
from langsearch.experiment.study_reader import StudyReader
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space

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
        f"Undo the changes (its own space is {tmp_path / 'tiny' / 'space.yaml'}), start a new experiment with --name "
        "NAME, or go on with the new space by --accept-changed-space: the trials so far stay.",
    )
    assert space_version(ExperimentFolder(tmp_path / "tiny")) == 1


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ("base=other", "  base: tiny-m2m -> other"),
        ("languages.low=[cy]", "  languages.low: ['sw'] -> ['cy']"),
        ("data.directions=[en-fr, sw-en]", "  data.directions: absent -> ['en-fr', 'sw-en']"),
        ("evaluation.search.sentences=5", "  evaluation.search.sentences: 3 -> 5"),
        ("search.objectives=[spbleu]", "  search.objectives: spbleu: max, trainable_parameters: min -> spbleu: max"),
        (
            "search.objectives=[trainable_parameters, spbleu]",
            "  search.objectives: spbleu: max, trainable_parameters: min -> trainable_parameters: min, spbleu: max",
        ),
        ("search.storage='sqlite:///x.db'", "  search.storage: None -> sqlite:///x.db"),
    ],
)
def test_what_makes_scores_incomparable_never_changes(change: str, line: str, tmp_path: Path, space_file: Path) -> None:
    folder = start_experiment(tmp_path / "tiny", load_space(space_file), resume=False)
    before = folder.space.read_bytes()
    changed = load_space(space_file, [change, "trainer.epochs=3"])
    with pytest.raises(InputError, match="must keep its base, languages, data, evaluation, objectives") as caught:
        start_experiment(tmp_path / "tiny", changed, resume=True, accept_changed_space=True)
    assert caught.value.problems[1:] == (
        line,
        f"Undo these changes (its own space is {tmp_path / 'tiny' / 'space.yaml'}), or start a new experiment with "
        "--name NAME.",
    )
    with pytest.raises(InputError, match="must be resumed with its own space") as caught:
        start_experiment(tmp_path / "tiny", changed, resume=True)
    assert caught.value.problems[1:] == (
        line,
        "  trainer.epochs: 2 -> 3",
        f"Undo the changes (its own space is {tmp_path / 'tiny' / 'space.yaml'}), or start a new experiment with "
        "--name NAME.",
    )
    assert [path.name for path in folder.path.iterdir()] == ["space.yaml"]
    assert folder.space.read_bytes() == before


CHANGES = [
    "architecture.rank.low={choice: [2, 4, 8]}",
    "trainer.epochs=3",
    "baselines=[pretrained]",
    "search.sampler=tpe",
    "search.seed=4",
    "search.constraints=[train_seconds <= 9]",
]


@pytest.mark.parametrize("change", CHANGES)
def test_an_accepted_space_is_the_next_version_and_the_old_one_is_kept(
    change: str, tmp_path: Path, space_file: Path
) -> None:
    old, new = load_space(space_file), load_space(space_file, [change, "name=renamed"])
    folder = start_experiment(tmp_path / "tiny", old, resume=False)
    start_experiment(tmp_path / "tiny", new, resume=True, accept_changed_space=True)
    assert space_version(folder) == 2
    assert space_of_version(folder, 1) == old
    assert space_of_version(folder, 2) == new
    third = load_space(space_file, [change, "search.reduction_factor=2"])
    start_experiment(tmp_path / "tiny", third, resume=True, accept_changed_space=True)
    assert [space_of_version(folder, version) for version in (1, 2, 3)] == [old, new, third]
    assert sorted(path.name for path in folder.path.iterdir()) == ["space.1.yaml", "space.2.yaml", "space.yaml"]
    with pytest.raises(InputError, match="must be from 1 to 3, but got 4"):
        space_of_version(folder, 4)


def test_a_space_without_changes_stays_its_version_though_changes_are_accepted(
    tmp_path: Path, space_file: Path
) -> None:
    folder = start_experiment(tmp_path / "tiny", load_space(space_file), resume=False)
    more = load_space(space_file, ["search.trials=50"])
    start_experiment(tmp_path / "tiny", more, resume=True, accept_changed_space=True)
    assert space_version(folder) == 1
    assert [path.name for path in folder.path.iterdir()] == ["space.yaml"]


def test_a_kill_while_a_space_is_accepted_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spaces = [load_space(space_file, [f"trainer.epochs={epochs}"]) for epochs in (2, 3, 4)]
    folder = start_experiment(tmp_path / "tiny", spaces[0], resume=False)

    def accept(space: Space) -> None:
        start_experiment(folder.path, space, resume=True, accept_changed_space=True)

    for version, space in enumerate(spaces[1:], start=1):
        for num_writes in (0, 1):
            with monkeypatch.context() as patched:
                patched.setattr("langsearch.experiment.opening.write_text", _killed_after(num_writes))
                with pytest.raises(KeyboardInterrupt, match="killed"):
                    accept(space)
            assert space_version(folder) == version
            assert space_of_version(folder, version) == spaces[version - 1]
            start_experiment(folder.path, spaces[version - 1], resume=True)  # goes on as before
            assert space_version(folder) == version
        accept(space)
        assert space_version(folder) == version + 1
    assert [space_of_version(folder, version) for version in (1, 2, 3)] == spaces


def _killed_after(num_writes: int) -> Callable[[Path, str], None]:
    left = [num_writes]

    def write(path: Path, text: str) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt("killed")
        left[0] -= 1
        write_text(path, text)

    return write


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("leftovers", [[], [".lock"], [".lock", ".space.yaml.77.partial", "stop"], ["space.yaml"]])
def test_an_experiment_that_was_killed_before_it_began_can_be_started(
    leftovers: list[str], resume: bool, tmp_path: Path, space_file: Path
) -> None:
    (tmp_path / "tiny").mkdir()
    for name in leftovers:
        (tmp_path / "tiny" / name).touch()
    space = load_space(space_file)
    folder = start_experiment(tmp_path / "tiny", space, resume=resume)
    assert load_space(folder.space) == space


def test_a_check_before_the_start_writes_nothing(tmp_path: Path, space_file: Path) -> None:
    check_start(tmp_path / "tiny", load_space(space_file), resume=False)
    assert not (tmp_path / "tiny").exists()
    folder = start_experiment(tmp_path / "tiny", load_space(space_file), resume=False)
    changed = load_space(space_file, ["trainer.epochs=3"])
    check_start(folder.path, changed, resume=True, accept_changed_space=True)
    assert [path.name for path in folder.path.iterdir()] == ["space.yaml"]


def test_trials_hours_resources_and_name_may_change(space_file: Path) -> None:
    new = ["search.trials=9", "search.max_hours=1", "resources.cpu=2", "resources.gpu=1", "name=other"]
    new += ["search.plateau={trials: 9}", "failures.stall_minutes=3", "checkpoints.max_gigabytes=9"]
    assert space_changes(load_space(space_file).text, load_space(space_file, new).text) == {}
    assert space_changes(load_space(space_file).text, load_space(space_file, ["search.seed=1"]).text) == {
        "search.seed": "  search.seed: 0 -> 1"
    }


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


def test_a_resumed_experiment_that_never_began_takes_no_other_s_study(tmp_path: Path, space_file: Path) -> None:
    space = load_space(space_file, [f"search.storage=sqlite:///{tmp_path / 'all.db'}"])
    open_table(start_experiment(tmp_path / "one" / "tiny", space, resume=False), space)
    (tmp_path / "two" / "tiny").mkdir(parents=True)
    with pytest.raises(InputError, match=r"`search\.storage` must not have the experiment yet"):
        start_experiment(tmp_path / "two" / "tiny", space, resume=True)


@pytest.mark.parametrize("signs", ["?", "#1", "100%", "%41", "{x}", "a b", "[a]*", "é&=;"])
def test_the_trial_table_lies_in_its_folder_whatever_signs_the_path_has(
    signs: str, tmp_path: Path, space_file: Path
) -> None:
    path = tmp_path / signs / "tiny"
    folder = start_experiment(path, space := load_space(space_file), resume=False)
    table = open_table(folder, space)
    table.propose(space.dimensions())
    assert {path.name for path in path.iterdir()} == {"space.yaml", "study.db"}
    assert {path.name for path in tmp_path.iterdir()} == {signs, "tiny.yaml"}
    assert StudyReader(folder, space, 1).read().rows == tuple(table.rows())


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+psycopg"])
def test_postgresql_has_the_driver_of_the_extra(
    scheme: str, tmp_path: Path, space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = load_space(space_file, [f"search.storage={scheme}://ada@nowhere.invalid/x"])
    assert storage_url(ExperimentFolder(tmp_path), space) == "postgresql+psycopg://ada@nowhere.invalid/x"
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(InputError, match=r"checkout, pip install -e '\.\[postgres\]'$"):
        start_experiment(tmp_path / "tiny", space, resume=False)


def test_a_database_that_is_gone_is_told_when_the_experiment_goes_on(tmp_path: Path, space_file: Path) -> None:
    (tmp_path / "data").mkdir()
    space = load_space(space_file, [f"search.storage=sqlite:///{tmp_path / 'data' / 'all.db'}"])
    folder = start_experiment(tmp_path / "tiny", space, resume=False)
    (tmp_path / "data" / "all.db").unlink(missing_ok=True)
    (tmp_path / "data").rmdir()
    with pytest.raises(InputError, match=r"^`search\.storage` must be a database that can be opened, but got "):
        open_table(folder, space)


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


def test_an_experiment_of_an_earlier_version_keeps_the_defaults_that_it_began_with(
    tmp_path: Path, space_file: Path
) -> None:
    now = load_space(space_file)
    begun = load_space(space_file, [f"evaluation.{name}.max_length_factor=2.0" for name in ("search", "final")])
    folder = start_experiment(tmp_path / "tiny", begun, resume=False)
    assert now.evaluation.search.max_length_factor is None
    resumed = with_earlier_defaults(folder, now)
    assert resumed == begun
    check_start(folder.path, resumed, resume=True)
    assert with_earlier_defaults(ExperimentFolder(tmp_path / "none"), now) is now


def test_what_is_written_in_a_space_is_a_change_also_where_a_default_has_changed(
    tmp_path: Path, space_file: Path
) -> None:
    begun = load_space(space_file, ["evaluation.search.max_length_factor=2.0"])
    folder = start_experiment(tmp_path / "tiny", begun, resume=False)
    other = with_earlier_defaults(folder, load_space(space_file, ["evaluation.search.max_length_factor=auto"]))
    with pytest.raises(InputError, match=r"evaluation\.search\.max_length_factor: 2\.0 -> auto"):
        check_start(folder.path, other, resume=True)
