"""The README and the pages that it links to: short, whole, and true of the spaces and commands that they show."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml  # type: ignore[import-untyped]

from langsearch.cli.app import app
from langsearch.space.schema import load_space

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (
    README,
    *(ROOT / "search_spaces" / name for name in ("README.md", "data.md", "searching.md", "systems.md", "results.md")),
    *(ROOT / "cluster" / name for name in ("README.md", "gpu.md")),
    ROOT / "langsearch" / "README.md",
    ROOT / "tests" / "benchmarks" / "README.md",
)

MINIMAL: dict[str, Any] = {
    "base": "facebook/m2m100_418M",
    "languages": {"high": ["en", "fr"], "low": ["sw", "wo"]},
    "data": {"train": {"files": "train"}, "validation": {"files": "dev"}, "test": {"files": "test"}},
    "architecture": {"rank": {"choice": [2, 4]}, "encoder": {"source_layers": {"int": [0, 12]}}},
}
"""What a space needs beside the block of a page."""


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_readme_is_short_and_no_page_is_wider_than_the_code() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) < 400
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL).splitlines()
        long = [line for line in prose if len(line) > 120 and not line.startswith("|")]
        assert not long, (page.name, long)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith(("http", "#"))]
        assert not [link for link in links if not (page.parent / link.partition("#")[0]).exists()], page
    linked = README.read_text(encoding="utf-8")
    reached = {page for page in PAGES[1:] if f"]({page.relative_to(ROOT)})" in linked.replace("\n", " ")}
    assert reached == set(PAGES[1:]), "every page is linked to from the README"


def test_the_first_screen_explains_the_words_that_the_rest_uses() -> None:
    first_screen = "\n".join(README.read_text(encoding="utf-8").splitlines()[:30])
    for word in ("side", "grain", "rung", "stand-in tokenizer", "trainable", "non-zero"):
        assert f"*{word}*" in first_screen


@pytest.mark.parametrize("page", PAGES[:7], ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_every_yaml_on_a_page_is_part_of_a_space(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "yaml")):
        alternatives = block.splitlines() if block.count("\nbase:") else [block]
        for alternative in alternatives:
            space = dict(MINIMAL)
            for key, value in (yaml.safe_load(alternative) or {}).items():
                default: Any = MINIMAL.get(key)
                is_merged = isinstance(default, dict) and isinstance(value, dict) and key != "languages"
                space[key] = {**default, **value} if is_merged else value
            if "directions" in space["data"]:
                named = dict.fromkeys(code for pair in space["data"]["directions"] for code in pair.split("-"))
                space["languages"] = {"high": list(named)[:1], "low": list(named)[1:]}
            path = tmp_path / f"page{number}.yaml"
            path.write_text(yaml.safe_dump(space), encoding="utf-8")
            load_space(path)


def test_every_command_on_a_page_is_one_with_options_that_it_has() -> None:
    group = typer.main.get_command(app)
    num_commands = 0
    for page in PAGES:
        for line in "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
            for part in line.partition(" #")[0].split("|"):
                words = shlex.split(part.replace("...", ""))
                if "langsearch" not in (word.rpartition("/")[2] for word in words):
                    continue
                if "venv" in words:  # the environment's line ends with a command of its own
                    words = words[len(words) - words[::-1].index("&&") :]
                start = next(i for i, word in enumerate(words) if word.rpartition("/")[2] == "langsearch")
                arguments = words[start + 1 :]
                command: Any = group
                if not arguments:
                    continue
                while hasattr(command, "commands") and arguments:
                    command = command.commands[arguments.pop(0)]
                command.make_context("langsearch", arguments, resilient_parsing=False)
                num_commands += 1
    assert num_commands >= 25


def test_nothing_says_to_install_langsearch_by_name_which_is_another_package() -> None:
    by_name = re.compile(r"pip install [^`\n]*['\s]langsearch(?:\[[\w,]+\])?['`\s]")
    assert by_name.search("`pip install peft langsearch`") and by_name.search("pip install 'langsearch[postgres]'")
    sources = [*(ROOT / "langsearch").rglob("*.py"), *(ROOT / "cluster").iterdir(), *PAGES]
    assert not [path for path in sources if path.is_file() and by_name.search(path.read_text(encoding="utf-8"))]
