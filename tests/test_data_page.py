"""The page of a space's data: what it shows, that it opens offline, and that nothing in the data becomes markup."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.data_look import DataLook, Fault
from langsearch.report.data_page import render_data_page, write_data_page
from langsearch.report.page import unpacked
from tests.browser_fixtures import chromium, draw_all, open_report
from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures"]

ATTACK = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>"
MARKUP = "<img src=x>"
LOOK = DataLook(
    name="my",
    base="tiny-m2m",
    languages=("en", "fr", "sw"),
    num_directions=4,
    num_rows={"train": 30_000, "validation": 50, "test": 60},
    sentences={"train": [30_000, 28_000, 100], "validation": [50, 50, 50], "test": [60, 60, 60]},
    pairs={
        part: [[None, 28_000, 100], [28_000, None, None], [100, None, None]] for part in ("train", "validation", "test")
    },
    lengths={"en": [4, 9, 30], "fr": [5, 12, 250], "sw": []},
    length_ratios=[[None, 1.25, None], [0.8, None, None], [None, None, None]],
    max_length=256,
    unknown_shares={"en": 0.0, "fr": 0.0004, "sw": 1.0},
    faults=[Fault(language="fr", kind="copies", num_sentences=7, share=1.0, worst="train/fr.txt:3: The house")],
    faulty_shares={
        "copies": [[None, 0.25, 0.0], [0.25, None, None], [0.0, None, None]],
        "lengths": [[None, 0.0, 0.0], [0.0, None, None], [0.0, None, None]],
    },
    shared_pairs={"test in train": [[None, 1, 0], [1, None, None], [0, None, None]]},
    overlaps=["1 of 60 rows of test are in train too"],
    swapped=["my.yaml:3: the column of en looks like <id>."],
    filtered=None,
)


def payload(page: str) -> Any:
    return json.loads(unpacked(page.partition('id="report-data">')[2].partition("<")[0]))


def test_the_page_has_sizes_lengths_faults_and_overlap() -> None:
    page = render_data_page(LOOK)
    data = payload(page)
    bars, *matrices = data["sizes"]
    assert {trace["name"]: trace["x"] for trace in bars["data"]} == LOOK.sentences
    assert [matrix["data"][0]["customdata"][0] for matrix in matrices] == [["", "28,000", "100"]] * 3
    spread, ratios, english, french = data["lengths"]
    assert (spread["data"][0]["y"], spread["data"][0]["x"]) == (["en", "fr"], [9, 12])
    assert sum(english["data"][0]["y"]) == sum(french["data"][0]["y"]) == 3
    assert "shapes" not in english["layout"] and french["layout"]["shapes"][0]["x0"] == 256
    assert data["faults"][0]["data"][0]["text"] == [["100 %", "", "", ""]]
    by_direction = [ratios, data["faults"][1], data["pieces"][0], data["overlap"][0]]
    assert len(data["faults"]) == 2, "no direction has a pair whose lengths do not fit"
    assert [figure["data"][0]["customdata"][:2] for figure in by_direction] == [
        [["", "1.2", ""], ["0.8", "", ""]],
        [["", "25 %", "0 %"], ["25 %", "", ""]],
        [["", "0.04 %", "100 %"], ["0.04 %", "", ""]],
        [["", "1", "0"], ["1", "", ""]],
    ]
    for shown in ("30,000", "train/fr.txt:3: The house", "1 of 60 rows of test are in train too", ">0.04<", ">100<"):
        assert shown in page


def test_right_data_has_neither_faults_nor_overlap_on_its_page() -> None:
    page = render_data_page(replace(LOOK, faults=[], overlaps=[], shared_pairs={}, unknown_shares={"en": 0.0}))
    assert [payload(page)[name] for name in ("faults", "pieces", "overlap")] == [[], [], []]
    assert all(words in page for words in ("It knows all of them.", "None was found.", ">None.<"))


def test_check_writes_the_page_where_it_is_told(langsearch: Command, tmp_path: Path) -> None:
    space = Path(__file__).parents[1] / "search_spaces" / "quickstart.yaml"
    ended = langsearch("check", space, "--no-measure", "--report", tmp_path / "data.html")
    assert ended.code == 0 and ended.out.endswith(f"Page: {tmp_path / 'data.html'}\n")
    data = payload((tmp_path / "data.html").read_text(encoding="utf-8"))
    assert data["sizes"][0]["data"][0]["x"] == [364] * 8
    assert "type" not in data["sizes"][0]["layout"]["xaxis"], "bars of a logarithm show no sizes"
    assert len(data["lengths"]) == 10
    refused = langsearch("check", space, "--no-measure", "--report", tmp_path / "data.html" / "below.html")
    assert refused.code == 2 and "--report must name a file that can be written" in refused.err


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_without_errors_requests_overflow_or_markup_of_the_data(
    context: Any, tmp_path: Path, width: int
) -> None:
    fault = replace(LOOK.faults[0], worst=ATTACK)
    languages = ("en", "fr", MARKUP)
    look = replace(
        LOOK, name=ATTACK, base=ATTACK, languages=languages, overlaps=[ATTACK], filtered=ATTACK, faults=[fault],
        lengths={"en": [4], "fr": [5], MARKUP: [7]}, unknown_shares={MARKUP: 0.5},
    )  # fmt: skip
    write_data_page(look, tmp_path / "data.html")
    opened = open_report(context, tmp_path / "data.html", width=width)
    draw_all(opened)
    for control in ("sizes-view", "lengths-view", "faults-view"):
        for option in range(opened.numbers(f"document.getElementById('{control}').options.length")):
            opened.page.select_option(f"#{control}", str(option))
    assert opened.messages == [] and opened.requests == []
    assert opened.numbers("document.documentElement.scrollWidth") <= width
    assert opened.numbers("window.hacked === undefined")
    assert opened.numbers("document.querySelectorAll('main img').length") == 0
    opened.page.close()
