"""`import langsearch as ls`: spaces from files and dictionaries, mistakes, how a search's end is told."""

import inspect
import pickle
import pydoc
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

import langsearch as ls
import langsearch.search.runner  # of a station that has its name in common with a function
from langsearch.api import calls
from langsearch.api.words import in_python
from langsearch.experiment.folder import ExperimentFolder
from langsearch.space.schema import load_space
from tests.search_fixtures import TINY
from tests.test_cli_search import ENDS, End
from tests.test_imports import HEAVY, LIBRARIES, loaded

pytest_plugins = ["search_fixtures"]

DATA: dict[str, Any] = YAML(typ="safe", pure=True).load(TINY)


def test_importing_the_package_and_looking_at_its_names_loads_none_of_its_libraries() -> None:
    code = "import langsearch as ls\nassert 'load_space' in dir(ls)\nassert callable(ls.search)"
    assert loaded(code, [*LIBRARIES, "numpy", "pyarrow", "pydantic", "typer", "rich", "IPython"]) == []


def test_a_mistake_is_told_before_torch_and_ray_are_loaded(tmp_path: Path) -> None:
    code = f"""
import langsearch as ls
absent = {str(tmp_path / "absent")!r}
for call in (
    lambda: ls.search(absent + ".yaml"),
    lambda: ls.check({{"bass": "tiny-m2m"}}),
    lambda: ls.translate(absent, ["a"], "en", "fr"),
    lambda: ls.open_experiment(absent),
    lambda: ls.export(absent, absent + "-to"),
    lambda: ls.evaluate(absent),
):
    try:
        call()
    except ls.InputError as error:
        assert absent in str(error) or "bass" in str(error), error
    else:
        raise AssertionError(call)
"""
    assert loaded(code, HEAVY) == []


@pytest.mark.parametrize("name", ["search", "train", "evaluate"])
def test_a_name_that_is_a_station_too_is_the_function_and_still_the_station(name: str) -> None:
    command, function = getattr(ls, name), getattr(calls, name)
    assert inspect.signature(command) == inspect.signature(function)
    assert inspect.unwrap(command) is function
    assert pickle.loads(pickle.dumps(command)) is command  # noqa: S301  # our own
    assert ls.search.runner is sys.modules["langsearch.search.runner"]  # type: ignore[attr-defined]  # of the station
    assert repr(command) == f"<function langsearch.{name}>"


@pytest.mark.parametrize("name", ls.__all__)
def test_help_of_a_public_name_is_its_text_and_names_no_module_of_a_station(name: str) -> None:
    value = getattr(ls, name)
    text = pydoc.plain(pydoc.render_doc(value))
    assert text.splitlines()[0].endswith("in module langsearch")
    assert inspect.cleandoc(inspect.getdoc(value) or "").splitlines()[0] in text
    assert "langsearch." not in text and "pathlib." not in text and "collections.abc" not in text
    assert "PACKAGE CONTENTS" not in text
    if not inspect.isclass(value):
        assert text.splitlines()[2].startswith(f"{name}(")


def test_help_of_the_package_has_every_public_name() -> None:
    text = pydoc.plain(pydoc.render_doc(ls))
    for name in ls.__all__:
        assert re.search(rf"^    (class )?{name}\(", text, flags=re.MULTILINE), name
    _, _, told = text.partition("\nCLASSES\n")
    told, _, _ = told.partition("\nFILE\n")
    assert "langsearch." not in told


def test_every_public_name_has_a_docstring_and_every_other_name_is_refused() -> None:
    for name in ls.__all__:
        assert inspect.getdoc(getattr(ls, name))
        assert name in dir(ls)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        _ = ls.serach


def test_a_space_of_a_dictionary_is_that_of_its_file(space_file: Path) -> None:
    assert ls.load_space(DATA) == ls.load_space(space_file) == load_space(space_file)


def test_values_of_python_are_taken_as_yaml_would_have_them(tmp_path: Path) -> None:
    data = DATA | {"languages": {"all": ("en", "fr")}, "architecture": {"rank": {"all": np.int64(4)}}}
    data["data"] = DATA["data"] | {"test": {"tsv": tmp_path / "test.tsv"}}
    space = ls.load_space(data)
    assert space.classes == {"all": ("en", "fr")}
    assert space.data.test[0].path == str(tmp_path / "test.tsv")
    assert ls.load_space({key: value for key, value in data.items() if key != "name"}).name == "space"


@pytest.mark.parametrize("make", [lambda file: DATA, lambda file: file, load_space], ids=["dict", "file", "space"])
def test_values_are_set_on_top_of_any_of_them(make: Callable[[Path], Any], space_file: Path) -> None:
    given = {"trainer.epochs": 5, "architecture.rank.low": {"choice": [8, 16]}, "name": "other"}
    space = ls.load_space(make(space_file), given)
    assert (space.trainer_section.epochs, space.name) == (5, "other")
    assert space.dimensions()["rank.low"].choices == (8, 16)
    assert space == ls.load_space(
        make(space_file), ["trainer.epochs=5", "architecture.rank.low={choice: [8, 16]}", "name=other"]
    )
    assert DATA["trainer"]["epochs"] == 2, "what was given stays as it was"


def test_all_problems_of_a_dictionary_are_told_at_once_with_their_paths() -> None:
    data = DATA | {"trainer": {"epochs": 0, "lr": object}, "bass": 1, "search": {3: 4}}
    with pytest.raises(ls.InputError, match="the space") as caught:
        ls.load_space(data, {"search.trials": len})
    assert [problem.partition(", but got")[0] for problem in caught.value.problems] == [
        "the space: `trainer.lr` must be text, a number, true, false, nothing, a list or a mapping",
        "the space: `search` must have text keys",
        "search.trials=<built-in function len>: `search.trials` must be text, a number, true, false, nothing, a list "
        "or a mapping",
    ]
    with pytest.raises(ls.InputError, match="the space") as caught:
        ls.load_space(DATA | {"trainer": {"epochs": 0}, "bass": 1, "base": 7}, {"search.trials": 0})
    problems = sorted(caught.value.problems)
    assert problems[0].startswith("search.trials=0: `search.trials` must be")
    assert [problem.partition(" must")[0] for problem in problems[1:]] == [
        "the space: `base`",
        "the space: `bass`",
        "the space: `trainer.epochs`",
    ]


@pytest.mark.parametrize(
    ("sentence", "told"),
    [
        ("Go on with the same command and --resume.", "Go on with the same call and resume=True."),
        ("To try again: --resume --retry failed", 'To try again: resume=True retry="failed"'),
        ("For more: --resume --trials N", "For more: resume=True trials=N"),
        (
            "Go on with it by --resume, or another with --name NAME.",
            "Go on with it by resume=True, or another with name=NAME.",
        ),
        (
            "Run with --set resources.cpu=2, or on a cluster with --address.",
            'Run with overrides={"resources.cpu": 2}, or on a cluster with `address`.',
        ),
        ("--trial must name a trial, but 'x' is none.", "`trial` must name a trial, but 'x' is none."),
        ("Cut them with --max-length 256.", "Cut them with max_length=256."),
        ("Run `sacrebleu --tok flores101` once.", "Run `sacrebleu --tok flores101` once."),
    ],
)
def test_options_are_told_as_arguments(sentence: str, told: str) -> None:
    assert in_python(sentence) == told


def test_a_search_that_is_there_is_refused_in_words_of_python(trained: Path) -> None:
    space = ls.load_space(trained / "space.yaml")
    with pytest.raises(ls.InputError, match="Go on with it by resume=True, or start another with name=NAME"):
        ls.search(space, trained.parent)
    with pytest.raises(ls.InputError, match="must be resumed with its own space"):
        ls.search(space, trained.parent, resume=True, overrides={"trainer.seed": 9})


@pytest.mark.parametrize(("values", "code", "out", "err"), ENDS.values(), ids=ENDS)
def test_every_end_of_a_search_is_an_experiment_or_an_exception(
    values: dict[str, object],
    code: int,
    out: str,
    err: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, object] = {}

    def run_search(checked: object, experiments: Path, display: Any, **options: Any) -> End:
        conclude = options.pop("conclude")
        given.update(options)
        display.num_started = 0 if "had ended before" in out else 1
        end = End(folder=ExperimentFolder(trained), **values)  # type: ignore[arg-type]
        conclude(end)
        return end

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)

    def search() -> ls.Experiment:
        return ls.search(trained / "space.yaml", trained.parent, resume=True, retry="12,17", trials=7)

    told = in_python(out).strip()
    if code == 0:
        assert search() == ls.Experiment(trained)
        assert capsys.readouterr().out.strip().endswith(told.splitlines()[-1] if told else "report.html")
    else:
        error: type[BaseException] = KeyboardInterrupt if code in (130, 143) else ls.SearchStoppedError
        with pytest.raises(error) as caught:
            search()
        assert str(caught.value) == (told if code in (130, 143) else in_python(err).strip())
    assert given == given | {"resume": True, "retry": "12,17", "address": None}


def test_a_report_that_could_not_be_written_is_an_error(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_search(*_: object, conclude: Callable[[End], None], **__: object) -> End:
        conclude(end := End(folder=ExperimentFolder(trained)))
        return end

    def fail(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)
    monkeypatch.setattr("langsearch.report.page.write_report", fail)
    with pytest.raises(ls.SearchStoppedError, match=r"No space left on device\. resume=True writes what is missing"):
        ls.search(trained / "space.yaml", trained.parent, resume=True, quiet=True)


def test_a_script_without_a_guard_may_split_many_sentences(tmp_path: Path) -> None:
    """Further processes do not run the script once more."""
    script = tmp_path / "script.py"
    script.write_text(
        "from langsearch.data.encoding import Encoder\n"
        "print('begins')\n"
        "with Encoder(list, 2) as encoder:\n"
        "    print(list(encoder.encode([[], []])))\n"
        "assert __file__.endswith('script.py')\n"
    )
    run = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert (run.returncode, run.stdout.count("begins")) == (0, 1), run.stderr
