from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from langsearch.experiment.environment import Environment, build_environment, check_space
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
    assert len(before) == 9, "three languages of three parts"
    assert again.train.text("sw", 3) == environment.train.text("sw", 3) == checked.corpus.train.sentences["sw"][3]
