"""A space that is wrong in one section tells in the same breath what its base, files and trackers say of the others."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from ruamel.yaml import YAML

import langsearch as ls
from langsearch.experiment.environment import check_space
from langsearch.search.checking import all_problems, check_search
from langsearch.space.draft import WrongSpaceError
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.search_fixtures import TINY
from tests.test_imports import HEAVY, loaded

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["search_fixtures", "cli_fixtures"]


def told(changes: dict[str, Any]) -> list[str]:
    """All problems of a space that is wrong by itself."""
    data = YAML(typ="safe", pure=True).load(TINY)
    with pytest.raises(WrongSpaceError) as caught:
        load_space(data, {"trainer.epochs": -3, **changes})
    return all_problems(caught.value)


def lacks(problems: list[str], *parts: str) -> bool:
    return not any(part in problem for part in parts for problem in problems)


def test_one_wrong_section_hides_nothing_of_the_base_the_files_and_the_trackers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    problems = told(
        {
            "languages": {"high": ["en", "xx"], "low": ["sw"]},
            "data.test": {"files": "absent"},
            "architecture.rank": 4000,
            "trainer.init_from": "none",
            "tracking": ["mlflow"],
        }
    )
    texts = (
        "`trainer.epochs` must be a whole number",
        "must be at most the narrowest adapted layer's width, 128, but got 4000",
        "A language must be among the 100 known here, but got 'xx'",
        "absent: the folder must exist",
        "asks for MLflow, but it is not installed",
    )
    for text in texts:
        assert len([problem for problem in problems if text in problem]) == 1, text


def test_what_depends_on_a_wrong_section_is_not_told() -> None:
    problems = told({"languages": {"high": ["en", "en"], "low": ["sw"]}, "data.test": {"files": "absent"}})
    assert lacks(problems, "absent", "known here") and not lacks(problems, "must name each language once")
    problems = told({"data.tset": 1, "data.test": {"files": "absent"}, "base": "absent-base"})
    assert lacks(problems, "the folder must exist") and not lacks(problems, "absent-base")
    problems = told({"base": 7, "languages": {"high": ["en", "xx"], "low": ["sw"]}, "architecture.rank": 4000})
    assert lacks(problems, "known here", "narrowest adapted layer")
    problems = told({"data.directions": ["en-zz"], "data.test": {"files": "absent"}})
    assert lacks(problems, "the folder must exist") and not lacks(problems, "en-zz")


def test_a_right_space_s_problems_with_its_base_are_told_beside_those_of_its_start_and_its_trackers(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    changes = {"trainer.init_from": str(tmp_path / "absent"), "languages.low": ["sw", "xx"], "tracking": ["mlflow"]}
    space = load_space(space_file, changes)
    with pytest.raises(InputError) as caught:
        check_search(space)
    problems = list(caught.value.problems)
    for text in (str(tmp_path / "absent"), "but got 'xx'", "MLflow"):
        assert not lacks(problems, text), text
    with pytest.raises(InputError, match="but got 'xx'"):
        check_space(space)


@pytest.mark.parametrize("command", ["check", "run", "train"])
def test_commands_tell_all_at_once_and_name_options_as_typed(
    command: str, space_file: Path, langsearch: "Command"
) -> None:
    option = ["--name", "a b"] if command == "run" else ["--set", "search.trials=0"]
    result = langsearch(command, space_file, *option, "--set", "base=absent-base")
    assert result.code == 2
    wanted = "error: --name 'a b': `name`" if command == "run" else "error: --set search.trials=0: `search.trials`"
    assert wanted in result.err and "'absent-base'" in result.err


def test_python_tells_all_at_once_too(space_file: Path) -> None:
    wrong = {"search.trials": 0, "base": "absent-base"}
    for call in (ls.check, ls.search, ls.train):
        with pytest.raises(ls.InputError, match="absent-base") as caught:
            call(space_file, overrides=wrong)
        assert "search.trials" in str(caught.value)


def test_a_space_without_anything_else_to_check_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("languages: {high: [en, fr]}\n", encoding="utf-8")
    code = f"""
from langsearch.cli.options import load_with_options
from langsearch.space.problems import InputError
from pathlib import Path
try:
    load_with_options(Path({str(tmp_path / "wrong.yaml")!r}), [])
except InputError as error:
    assert "`base` must be given" in str(error)
"""
    assert loaded(code, HEAVY) == []


def test_a_source_in_two_parts_hides_nothing_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "swahili.tsv").write_text("en\tsw\n" + "a\tb\n" * 30, encoding="utf-8")
    source = {"tsv": str(tmp_path / "swahili.tsv"), "columns": {"en": "en", "sw": "suahili"}}
    problems = told({"data.train": source, "data.test": source, "trainer.epochs": 1})
    assert not lacks(problems, "tail -n 200 ")
    assert not lacks(problems, "must not share a source with data.train") and not lacks(problems, "'suahili'")
    source = {"tsv": str(tmp_path / "swahili.tsv"), "header": ["en", "sw"]}
    data = {
        "data.train": source,
        "data.validation": {"holdout": 5000},
        "data.test": {"tsv": f"{tmp_path}/swahilli.tsv"},
    }
    problems = told({"languages": {"high": ["en"], "low": ["sw"]}, **data})
    assert not lacks(problems, "takes 5000 of 31")
    assert not lacks(problems, "Did you mean swahili.tsv?")


def test_a_wrong_rank_hides_no_class_that_does_not_exist() -> None:
    problems = told({"architecture.rank": {"lo": 2, "high": "eight"}})
    assert not lacks(problems, "'eight'")
    assert any("`architecture.rank.lo` must name a class" in problem for problem in problems)
    assert lacks(problems, "must be given for every class")  # that only follows from what was left out


def test_problems_of_files_name_the_line_and_the_key_of_the_space(space_file: Path, tmp_path: Path) -> None:
    line = next(n for n, text in enumerate(space_file.read_text().splitlines(), 1) if text.strip().startswith("test:"))
    space_file.write_text(
        "\n".join(
            f"  test: {{tsv: {tmp_path}/absent.tsv}}" if number == line else text
            for number, text in enumerate(space_file.read_text().splitlines(), 1)
        )
    )
    with pytest.raises(InputError) as caught:
        check_space(load_space(space_file))
    (problem,) = caught.value.problems
    assert problem.startswith(f"{space_file}:{line}: `data.test`: {tmp_path}/absent.tsv: the file must exist")
