"""Every page on a screen of 390 pixels: nothing is wider than it; and what is said of a figure's lines is drawn."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.experiment.folder import read_json, write_json
from langsearch.report.data_page import write_data_page
from langsearch.report.page import write_report
from tests.browser_fixtures import Opened, chromium, draw_all, open_report
from tests.dashboard_fixtures import LiveSearch, running, served
from tests.report_fixtures import make_experiment
from tests.test_data_page import LOOK

WIDTH = 390
LONG = "x" * 150


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def widths(opened: Opened) -> list[int]:
    """How wide the page is as it opens, and with everything that can be opened."""
    found = [opened.numbers("document.documentElement.scrollWidth")]
    opened.page.evaluate("document.querySelectorAll('details').forEach((node) => { node.open = true; })")
    found.append(opened.numbers("document.documentElement.scrollWidth"))
    return found


@pytest.mark.parametrize("long", ["", LONG], ids=["usual", "long"])
def test_a_report_is_no_wider_than_a_narrow_screen(context: Any, tmp_path: Path, long: str) -> None:
    folder = make_experiment(tmp_path / "flores8", hostile=long)
    about = read_json(folder / "experiment.json")
    # Whole sentences as options of a choice: only a part of validation was scored by `evaluation.final`.
    sizes = {"num_validation_sentences": 997, "base": f"/bases{long}/m2m100", "constraints": [f"spbleu >= 2{long}"]}
    write_json(folder / "experiment.json", about | sizes)
    table = pq.read_table(folder / "results.parquet")
    rows = [row | {"full_num_sentences": 40, "full_num_directions": 7} for row in table.to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "results.parquet")
    write_report(folder)
    opened = open_report(context, folder / "report.html", width=WIDTH)
    assert "40 of 997 validation sentences in 7 of" in opened.page.locator("#front-view").inner_text()
    draw_all(opened)
    opened.page.evaluate("langsearch.data.trials.name.slice(0, 2).forEach((name) => langsearch.pin(name))")
    assert widths(opened) == [WIDTH, WIDTH]
    wide = "[...document.querySelectorAll('.scroll, .contents .wrap')]"
    hints = f"{wide}.map((node) => getComputedStyle(node).backgroundAttachment)"
    assert set(opened.numbers(hints)) == {"local, local, scroll, scroll"}, "a shadow where more lies behind the edge"
    opened.page.close()


def test_the_data_page_is_no_wider_than_a_narrow_screen(context: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    write_data_page(replace(LOOK, name=LONG, base=LONG, overlaps=[LONG], filtered=LONG), tmp_path / "data.html")
    opened = open_report(context, tmp_path / "data.html", width=WIDTH)
    assert widths(opened) == [WIDTH, WIDTH]
    opened.page.close()


def test_pages_of_the_dashboard_are_no_wider_than_a_narrow_screen(context: Any, tmp_path: Path) -> None:
    searches = [LiveSearch(tmp_path / "experiments" / name) for name in ("small", f"other-{LONG[:60]}")]
    for search in searches:
        search.run_baselines()
        for spbleu in (8.0, 11.0):
            search.run(spbleu)
    searches[0].epoch(searches[0].begin(), 1, 6.0)
    with running(searches[0]), served(tmp_path / "experiments") as dashboard:
        for address in ("", "compare/?with=0&with=1", "experiments/0/", "experiments/1/"):
            page = context.new_page()
            page.set_viewport_size({"width": WIDTH, "height": 844})
            page.goto(dashboard.url + address)
            page.locator("html[data-ready]").wait_for(state="attached")
            assert widths(Opened(page)) == [WIDTH, WIDTH], address
            page.close()


def shown(opened: Opened, plot: str) -> tuple[str, str]:
    """What is said of a figure's lines, and the dashes of those that are drawn."""
    opened.page.locator(f"#{plot} .main-svg").first.wait_for(state="attached")
    shapes = opened.numbers(f"(document.getElementById('{plot}').layout.shapes ?? []).map((shape) => shape.line.dash)")
    return opened.page.locator(f"#{plot}-words").inner_text(), json.dumps(shapes)


@pytest.mark.parametrize(
    ("left_out", "level"),
    [
        ((), "full fine-tuning"),
        (("full_finetuning",), "the pretrained base"),
        (("full_finetuning", "pretrained"), None),
    ],
)
def test_a_line_that_is_mentioned_is_drawn_in_every_view(
    context: Any, tmp_path: Path, left_out: tuple[str, ...], level: str | None
) -> None:
    folder = make_experiment(tmp_path / "flores8")
    write_json(
        folder / "experiment.json",
        read_json(folder / "experiment.json") | {"objectives": {"spbleu": "max", "nonzero_parameters": "min"}},
    )
    table = pq.read_table(folder / "results.parquet")
    rows = [row for row in table.to_pylist() if row["name"] not in left_out]
    if level is None:  # a front of one member has no line
        best = max((row for row in rows if row["is_front"]), key=lambda row: row["spbleu"])
        rows = [row | {"is_front": row is best} for row in rows]
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "results.parquet")
    write_report(folder)
    opened = open_report(context, folder / "report.html")
    views = opened.page.locator("#front-view option").all_inner_texts()
    assert len(views) == 4
    said = set()
    for place in range(len(views)):
        opened.page.select_option("#front-view", str(place))
        words, shapes = shown(opened, "front-plot")
        joins = "line joins" in words
        trace = "document.getElementById('front-plot').data.find((entry) => entry.name === 'front')"
        assert joins == opened.numbers(f"{trace}.mode.includes('lines')"), words
        is_drawn = '"dash"' in shapes
        assert ("The dashed line is" in words) == is_drawn
        assert ("upright dotted line" in words) == ('"dot"' in shapes)
        if level is not None and is_drawn:
            assert f"The dashed line is {level}." in words
        said.add((joins, is_drawn))
    assert said == ({(False, False)} if level is None else {(True, True), (False, True)} | (said & {(True, False)}))
    draw_all(opened)
    words, shapes = shown(opened, "curve-plot")
    dashes = opened.numbers("document.getElementById('curve-plot').data.map((entry) => entry.line?.dash ?? '')")
    assert ("baselines dashed" in words.lower()) == any(dashes)
    assert ("Dotted lines are the rungs" in words) == ('"dot"' in shapes)
    opened.page.close()
