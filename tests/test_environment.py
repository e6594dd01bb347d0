import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space, portable
from langsearch.experiment.folder import STORE_FOLDER
from langsearch.experiment.working_copy import WorkingCopy, find_experiments
from langsearch.model.base import Base
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

if TYPE_CHECKING:
    from langsearch.experiment.environment import CheckedSpace

pytest_plugins = ["search_fixtures"]


def test_a_right_space_is_checked_against_its_base_and_data(checked: "CheckedSpace") -> None:
    assert checked.shape.num_parameters == 2_427_264
    assert [len(text) for text in (checked.corpus.train, checked.corpus.validation, checked.corpus.test)] == [
        364,
        52,
        104,
    ]
    assert [str(direction) for direction in checked.directions] == [
        "en-fr",
        "en-sw",
        "fr-en",
        "fr-sw",
        "sw-en",
        "sw-fr",
    ]
    assert checked.tokenizer.is_stand_in


def test_a_holdout_takes_the_last_rows_of_train(space_file: Path, checked: "CheckedSpace") -> None:
    held = check_space(load_space(space_file, ["data.validation={holdout: 30}"])).corpus
    whole = checked.corpus.train
    assert held.train == whole.select(range(334))
    assert held.validation == whole.select(range(334, 364))
    assert held.test == checked.corpus.test


def test_a_holdout_that_leaves_nothing_is_refused(space_file: Path) -> None:
    message = r"`data\.validation\.holdout` must leave sentences to train on, but takes 364 of 364\."
    with pytest.raises(InputError, match=message):
        check_space(load_space(space_file, ["data.validation={holdout: 364}"]))


def test_problems_of_the_base_and_of_the_data_are_told_together(space_file: Path, tmp_path: Path) -> None:
    overrides = [f"data.train={{tsv: {tmp_path / 'absent.tsv'}}}", "base=no-such-base", "architecture.rank=4"]
    with pytest.raises(InputError, match=r"A base must be .*tiny-m2m") as caught:
        check_space(load_space(space_file, overrides))
    assert any("absent.tsv" in problem for problem in caught.value.problems)


def test_sentences_are_tokenized_once_and_shared_between_experiments(
    checked: "CheckedSpace", base: Base, environment: Environment
) -> None:
    folder = next(iter(environment.train.files.values())).parent
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = build_environment(checked, base, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    # Beside them may lie what a larger teacher said, of tests that ran before.
    own = {file for store in (again.train, again.validation, again.test) for file in store.files.values()}
    assert own <= before.keys() and len(own) == 9, "three languages of three parts"
    assert again.train.text("sw", 3) == environment.train.text("sw", 3) == checked.corpus.train.sentences["sw"][3]


def test_without_remote_storage_the_environment_is_sent_as_it_is(environment: Environment) -> None:
    assert portable(environment, None) is environment


def test_another_machine_fetches_the_token_files(
    checked: CheckedSpace, base: Base, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "here"))
    root, remote = find_experiments(f"file://{tmp_path}/remote")
    assert remote is not None
    copy = WorkingCopy(remote, "tiny")
    built = build_environment(checked, base, root / STORE_FOLDER)
    copy.push_store()
    sent = pickle.dumps(portable(built, copy))
    assert str(tmp_path / "here").encode() not in sent

    monkeypatch.setenv("LANGSEARCH_CACHE", str(tmp_path / "there"))
    with ThreadPoolExecutor(2) as workers:  # two workers of a machine at once
        found, again = workers.map(pickle.loads, [sent, sent])
    for part in ("train", "validation", "test"):
        ours, theirs = getattr(built, part), getattr(found, part)
        assert [path.name for path in ours.files.values()] == [path.name for path in theirs.files.values()]
        assert all(tmp_path / "there" in path.parents for path in theirs.files.values())
        assert theirs.text("sw", 3) == ours.text("sw", 3) == getattr(again, part).text("sw", 3)
    assert found.directions == built.directions
