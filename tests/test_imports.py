import ast
import gc
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import langsearch
from langsearch.model.collecting import without_collecting
from tests.dashboard_fixtures import LiveSearch

pytest_plugins = ["search_fixtures"]

PACKAGE = Path(langsearch.__file__).parent
TESTS = Path(__file__).parent
ORDER = (
    *("space", "data", "model", "adapters", "train", "evaluate", "study", "experiment", "trial", "prior", "cluster"),
    *("search", "report", "dashboard", "api", "cli", "__main__"),
)
"""The stations on the way of the data; each imports only from those before it."""

SPACES = PACKAGE.parent / "search_spaces"

MAX_LINES = 400


def station(path: Path) -> str:
    """Returns the station that a file of the package belongs to; "" for the package's own `__init__`."""
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported_stations(path: Path) -> dict[str, str]:
    """Returns the stations that a file imports from, also inside functions, each with a module of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    stations = {name.split(".")[1]: name for name in sorted(found) if name.startswith("langsearch.")}
    stations.pop("__version__", None)
    return stations


def test_every_station_is_a_folder_of_files_and_has_its_place_in_the_order() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert {len(path.relative_to(PACKAGE).parts) for path in files} == {1, 2}
    assert {path.name for path in files if path.parent == PACKAGE} == {"__init__.py", "__main__.py"}
    assert {station(path) for path in files} == {"", *ORDER}
    assert all((PACKAGE / name / "__init__.py").is_file() for name in ORDER[:-1])


@pytest.mark.parametrize("place", range(len(ORDER)), ids=ORDER)
def test_a_station_imports_only_from_those_before_it(place: int) -> None:
    files = [path for path in PACKAGE.rglob("*.py") if station(path) == ORDER[place]]
    assert files
    allowed = ORDER[: place + 1]
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {module}"
        for path in files
        for name, module in imported_stations(path).items()
        if name not in allowed
    ]
    assert not wrong


def test_the_package_itself_imports_its_stations_for_type_checkers_alone() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    inside = [node for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    every = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    outside = [ast.unparse(node) for node in every if node not in inside]
    assert inside and not [text for text in outside if "langsearch" in text]


@pytest.mark.parametrize("folder", [PACKAGE, TESTS], ids=["package", "tests"])
def test_no_file_is_too_long_to_be_read_at_one_go(folder: Path) -> None:
    files = [path for ending in ("py", "js", "html", "css") for path in folder.rglob(f"*.{ending}")]
    assert len(files) > 100
    counts = {str(path.relative_to(folder)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: count for name, count in counts.items() if count > MAX_LINES} == {}


def loaded(code: str, names: list[str]) -> list[str]:
    """Returns which of the named packages are loaded after the code ran in a fresh process."""
    script = f"import sys\n{code}\nprint(); print(*[name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1].split()


HEAVY = ["torch", "transformers", "ray", "tensorboardX"]
"""What no command needs that only reads and shows. Together they take many seconds to load."""

LIBRARIES = [*HEAVY, "optuna", "sqlalchemy", "peft", "sacrebleu", "sentencepiece", "pandas", "plotly", "ruamel.yaml"]


def test_the_package_itself_imports_nothing_heavy() -> None:
    assert loaded("import langsearch", [*LIBRARIES, "numpy", "pyarrow", "pydantic", "typer", "rich"]) == []


CALL = """
from langsearch.cli.app import app
def call(*arguments):
    try:
        app(arguments, prog_name="langsearch")
    except SystemExit as ended:
        assert not ended.code, (arguments, ended.code)
"""
"""Calls a command in this process."""


def test_the_help_of_every_command_loads_nothing_but_the_command_line() -> None:
    code = f"""{CALL}
import typer.main
def ask(command, *names):
    call(*names, "--help")
    for name, below in getattr(command, "commands", {{}}).items():
        ask(below, *names, name)
ask(typer.main.get_command(app))
stations = {{name.split(".")[1] for name in sys.modules if name.startswith("langsearch.") and name.count(".") == 2}}
assert stations == {{"cli", "space"}}, stations
"""
    assert loaded(code, [*LIBRARIES, "numpy", "pyarrow"]) == []


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An experiment with a trial table, results and a report."""
    search = LiveSearch(tmp_path_factory.mktemp("imports") / "experiments" / "small")
    search.run_baselines()
    search.run(12.0)
    search.write_results()
    return search.folder.path


def test_list_and_show_load_only_what_reads_files_and_prints_tables(experiment: Path) -> None:
    code = f"""{CALL}
experiment = {str(experiment)!r}
call("list", {str(experiment.parent)!r})
call("list", {str(experiment.parent)!r}, "--json")
call("show", experiment)
call("show", experiment, "0")
call("show", experiment, "--json")
"""
    assert loaded(code, LIBRARIES) == []


def test_mistakes_in_a_space_are_told_before_torch_and_ray_are_loaded(tmp_path: Path) -> None:
    code = f"""{CALL}
from langsearch.space.problems import InputError
for command in ("check", "run", "train", "learn sides", "learn subspace", "doctor", "submit"):
    options = ["--address", "http://127.0.0.1:1", "--experiments", "/x"] if command == "submit" else []
    try:
        call(*command.split(), {str(tmp_path / "absent.yaml")!r}, *options)
    except InputError as error:
        assert "absent.yaml: The file must be readable" in str(error)
    else:
        raise AssertionError(command)
"""
    assert loaded(code, HEAVY) == []


def test_looking_at_a_space_imports_no_model() -> None:
    """That would take as long as all the rest; only what is measured needs it."""
    code = f"""{CALL}
call("check", {str(SPACES / "quickstart.yaml")!r}, "--no-measure")
"""
    assert loaded(code, ["transformers.modeling_utils", "torch._dynamo", "ray"]) == []


def test_a_worker_loads_neither_the_trial_table_nor_a_model_before_its_first_trial() -> None:
    assert loaded("import langsearch.search.worker", ["sqlalchemy", "transformers.modeling_utils"]) == []


# Ctrl+C comes once the dashboard has shown the experiment, and what has changed since.
DASHBOARD = """
import os, signal, socket, threading, time, urllib.error, urllib.request
signal.signal(signal.SIGINT, signal.default_int_handler)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
def look():
    try:
        for path in ("", "experiments/0/", "experiments/0/version"):
            for _ in range(100):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}").read()
                    seen.append(path)
                    break
                except urllib.error.URLError:
                    time.sleep(0.1)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
seen = []
threading.Thread(target=look).start()
call("dashboard", experiment, "--port", str(port))
assert len(seen) == 3, seen
"""


def test_the_report_and_the_dashboard_start_without_torch_and_ray(experiment: Path) -> None:
    code = f"""{CALL}
experiment = {str(experiment)!r}
call("report", experiment)
{DASHBOARD}"""
    assert loaded(code, HEAVY) == []
    assert (experiment / "report.html").is_file()


def test_what_makes_pages_loads_neither_torch_nor_ray() -> None:
    modules = [
        f"langsearch.{path.parent.name}.{path.stem}"
        for name in ("report", "dashboard")
        for path in sorted((PACKAGE / name).glob("*.py"))
    ]
    assert len(modules) > 30
    assert loaded("\n".join(f"import {name}" for name in modules), HEAVY) == []


def test_trainer_and_decoder_need_neither_ray_nor_optuna_nor_peft() -> None:
    """A bare GPU box with torch and transformers alone can run them."""
    modules = [
        f"langsearch.{name}.{path.stem}"
        for name in ("model", "adapters", "train", "evaluate")
        for path in sorted((PACKAGE / name).glob("*.py"))
        if path.stem != "__init__"
    ]
    assert {"langsearch.train.loop", "langsearch.evaluate.decoding", "langsearch.adapters.lora"} <= set(modules)
    absent = ["ray", "optuna", "peft", "pydantic", "ruamel.yaml", "plotly", "jinja2", "typer"]
    # None in sys.modules makes an import fail as if the package were not installed.
    code = f"sys.modules.update(dict.fromkeys({absent}))\n" + "\n".join(f"import {name}" for name in modules)
    code += f"\nfor name in {absent}: sys.modules.pop(name)"
    assert loaded(code, absent) == []


def test_translating_loads_nothing_that_it_does_not_need_and_the_collector_runs_again(adapters: Path) -> None:
    code = f"""{CALL}
import gc, io
sys.stdin = io.TextIOWrapper(io.BytesIO(b"Good morning.\\n"))
call("translate", {str(adapters)!r}, "--from", "en", "--to", "fr", "--beams", "1")
assert gc.isenabled() and gc.get_freeze_count() > 100_000
"""
    without = ["ray", "optuna", "pandas", "plotly", "sacrebleu", "peft", "pyarrow", "tensorboardX", "sqlalchemy"]
    assert loaded(code, without) == []


def test_a_collector_that_was_off_stays_off_and_a_failed_import_turns_it_on_again() -> None:
    with pytest.raises(ModuleNotFoundError), without_collecting(is_start=True):
        assert not gc.isenabled()
        importlib.import_module("langsearch.no_such_module")
    assert gc.isenabled()
    gc.disable()
    with without_collecting(is_start=True):
        pass
    assert not gc.isenabled()
    gc.enable()
    gc.unfreeze()
