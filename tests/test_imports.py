import ast
import subprocess
import sys
from pathlib import Path

import pytest

import langsearch

PACKAGE = Path(langsearch.__file__).parent
ORDER = ("space", "data", "model", "train", "evaluate", "search", "report", "cli", "__main__")
"""The stations on the way of the data; each imports only from those before it."""


def imported_modules(path: Path) -> set[str]:
    """Returns the full names of the modules that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def station(module: str) -> str:
    return module.split(".")[1]


def test_imports_go_leftwards() -> None:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 40
    wrong = []
    for path in files:
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts == ("__init__",):
            assert not {name for name in imported_modules(path) if name.startswith("langsearch")}
            continue
        for name in imported_modules(path):
            if name.startswith("langsearch.") and station(name) != "__version__":
                assert station(name) in ORDER, f"{path} imports {name}"
                if ORDER.index(station(name)) > ORDER.index(parts[0]):
                    wrong.append(f"{'/'.join(parts)} imports {name}")
    assert not wrong


def test_the_tree_is_one_level_deep() -> None:
    assert {path.parent.name for path in PACKAGE.rglob("*.py")} == {"langsearch", *ORDER[:7]}


def loaded(code: str, names: list[str]) -> list[str]:
    """Returns which of the named packages are loaded after the code ran in a fresh process."""
    script = f"{code}\nimport sys; print(*[name for name in {names} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    return result.stdout.split()


def test_the_package_itself_imports_nothing_heavy() -> None:
    heavy = ["torch", "transformers", "ray", "optuna", "peft", "numpy", "pyarrow", "pydantic", "plotly", "sacrebleu"]
    assert loaded("import langsearch", heavy) == []


def test_pages_and_dashboards_start_without_torch_and_ray() -> None:
    modules = ("page", "serving", "dashboard", "listing", "showing", "terminal", "learned_page")
    code = "\n".join(f"import langsearch.report.{name}" for name in modules)
    assert loaded(code, ["torch", "transformers", "ray"]) == []


@pytest.mark.parametrize(
    "stations", [("model", "train", "evaluate")]
)  # a bare GPU box with torch and transformers alone can run them
def test_trainer_and_decoder_need_neither_ray_nor_optuna_nor_peft(stations: tuple[str, ...]) -> None:
    modules = [
        f"langsearch.{name}.{path.stem}"
        for name in stations
        for path in sorted((PACKAGE / name).glob("*.py"))
        if path.stem != "__init__"
    ]
    assert {"langsearch.train.loop", "langsearch.evaluate.decoding", "langsearch.adapters.lora"} <= set(modules)
    absent = ["ray", "optuna", "peft", "pydantic", "ruamel.yaml", "plotly", "jinja2", "typer"]
    # None in sys.modules makes an import fail as if the package were not installed.
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n" + "\n".join(
        f"import {name}" for name in modules
    )
    code += f"\nfor name in {absent}: sys.modules.pop(name)"
    assert loaded(code, absent) == []
