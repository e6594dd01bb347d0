"""The report in a real browser: what a reader sees and does."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from langsearch.report.page import write_report
from tests.browser_fixtures import Opened, chromium, draw_all, open_report
from tests.report_fixtures import CLASSES, make_experiment

ATTACK = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1><a href=javascript:alert(1)>x</a>"


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_experiment(tmp_path_factory.mktemp("experiments") / "flores8")
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "results.parquet").to_pylist()
    return table


@pytest.fixture(scope="module")
def _shared(context: Any, folder: Path) -> Opened:
    return open_report(context, folder / "report.html")


@pytest.fixture
def opened(_shared: Opened) -> Opened:
    """The report as it is when it has just been opened; opening it for each test would take a second each time."""
    _shared.page.evaluate(
        """() => {
            for (let close; (close = document.querySelector("#pins .close")); ) close.click();
            for (const node of document.querySelectorAll("select")) {
                node.value = (node.querySelector("option[selected]") ?? node.options[0]).value;
                for (const kind of ["input", "change"]) node.dispatchEvent(new Event(kind, { bubbles: true }));
            }
            document.getElementById("trial-search").value = "";
        }"""
    )
    return _shared


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_opens_without_errors_requests_or_overflow(context: Any, folder: Path, scheme: str, width: int) -> None:
    opened = open_report(context, folder / "report.html", scheme=scheme, width=width)
    draw_all(opened)
    assert opened.messages == []
    assert opened.requests == []
    assert opened.numbers("document.documentElement.scrollWidth") == width
    background = opened.numbers("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(246, 247, 249)", "dark": "rgb(14, 19, 25)"}[scheme]
    shares = opened.numbers(
        "[...document.querySelectorAll('.plot')].map((node) => node._fullLayout._size.w / node.clientWidth)"
    )
    assert min(shares) > 0.5, "a figure is squeezed"
    opened.page.close()


def test_front_has_a_point_for_each_trial_and_baseline(opened: Opened, rows: list[dict[str, Any]]) -> None:
    num = opened.numbers("document.querySelectorAll('#front-plot .scatterlayer .point').length")
    assert num == sum(row["spbleu"] is not None for row in rows)
    members = opened.numbers(
        "document.getElementById('front-plot').data.find((trace) => trace.name === 'front').x.length"
    )
    assert members == sum(row["is_front"] for row in rows)


def _point(opened: Opened, trace: str, place: int) -> tuple[float, float]:
    """Where a point of the front's figure is in the window."""
    opened.page.evaluate(
        "document.getElementById('front-plot').scrollIntoView({ block: 'center', behavior: 'instant' })"
    )
    found = opened.numbers(
        f"""(() => {{
            const node = document.getElementById('front-plot');
            const {{ xaxis, yaxis }} = node._fullLayout;
            const trace = node.data.find((entry) => entry.name === '{trace}');
            const box = node.getBoundingClientRect();
            const x = box.left + xaxis._offset + xaxis.d2p(trace.x[{place}]);
            const y = box.top + yaxis._offset + yaxis.d2p(trace.y[{place}]);
            return [x, y, trace.meta[{place}]];
        }})()"""
    )
    return found[0], found[1]


def test_hover_shows_the_architecture_and_a_click_pins(opened: Opened, rows: list[dict[str, Any]]) -> None:
    front = sorted((row for row in rows if row["is_front"]), key=lambda row: row["trainable_parameters"])
    opened.page.mouse.move(*_point(opened, "front", len(front) - 1))
    label = opened.page.locator("#front-plot .hovertext")
    label.wait_for()
    assert front[-1]["summary"][:40] in label.text_content()
    opened.page.mouse.click(*_point(opened, "front", len(front) - 1))
    card = opened.page.locator("#pins article")
    card.wait_for()
    text = card.inner_text()
    assert card.get_attribute("data-name") == front[-1]["name"]
    best = front[-1]
    for shown in (best["summary"], f"{best['test_spbleu']:.2f}", f"{best['full_spbleu']:.2f}", f"{best['spbleu']:.2f}"):
        assert shown in text
    assert card.locator("svg.curve circle").count() == best["epochs"]
    assert "high → low" in text
    card.get_by_role("button", name="Unpin").click()
    assert opened.page.locator("#pins article").count() == 0


def test_the_keyboard_walks_the_front_and_pins(opened: Opened, rows: list[dict[str, Any]]) -> None:
    front = sorted((row for row in rows if row["is_front"]), key=lambda row: row["trainable_parameters"])
    opened.page.locator("#front-plot").focus()
    opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("ArrowRight")
    assert front[1]["name"] in opened.page.locator("#front-status").text_content()
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#pins article").get_attribute("data-name") == front[1]["name"]


def test_a_trial_is_pinned_by_its_name(opened: Opened) -> None:
    for wanted, name in (("8", "00008"), ("full fine-tuning", "full_finetuning")):
        opened.page.fill("#pin-name", wanted)
        opened.page.keyboard.press("Enter")
        assert opened.page.locator("#pins article").first.get_attribute("data-name") == name
    assert "was tried again as 00011" in opened.page.locator("#pins").inner_text()
    opened.page.fill("#pin-name", "99")
    opened.page.keyboard.press("Enter")
    assert opened.page.locator("#pin-status").inner_text() == "There is no trial 99."


def _names(opened: Opened) -> list[str]:
    found: list[str] = opened.numbers(
        "[...document.querySelectorAll('#trial-table tbody tr')].map((row) => row.dataset.name)"
    )
    return found


def test_the_table_sorts_and_filters(opened: Opened, rows: list[dict[str, Any]]) -> None:
    assert _names(opened) == [row["name"] for row in rows]
    button = opened.page.locator("#trial-table thead").get_by_role("button", name="spBLEU")
    for is_reversed in (True, False):
        button.click()
        known = [row for row in rows if row["spbleu"] is not None]
        order = [row["name"] for row in sorted(known, key=lambda row: row["spbleu"], reverse=is_reversed)]
        assert _names(opened)[: len(known)] == order
        assert {row["name"] for row in rows if row["spbleu"] is None} == set(_names(opened)[len(known) :])
    opened.page.select_option("#trial-state", "failed")
    assert sorted(_names(opened)) == sorted(row["name"] for row in rows if row["state"] == "failed")
    opened.page.select_option("#trial-state", "")
    opened.page.fill("#trial-search", "out of gpu")
    assert sorted(_names(opened)) == sorted(row["name"] for row in rows if row["state"] == "failed")


def test_translations_are_ordered_by_gain_and_loss(opened: Opened) -> None:
    found = opened.numbers("langsearch.data.translations")
    assert found["names"][:2] == ["pretrained", "full_finetuning"]
    opened.page.select_option("#sample-order", "spread")
    count = opened.page.locator("#sample-count").inner_text()
    assert count == f"12 of {sum(line['spread'] for line in found['sentences'])} sentences"
    opened.page.select_option("#sample-direction", "sw → cy")
    headings = opened.page.locator("#samples h3").all_inner_texts()
    assert headings and all(text.startswith("sw → cy") for text in headings)


def test_matrices_change_with_their_choices(opened: Opened) -> None:
    draw_all(opened)
    z = "document.getElementById('score-plot').data[0].z"
    assert len(opened.numbers(z)) == 8
    opened.page.select_option("#score-grain", "class")
    assert len(opened.numbers(z)) == len(CLASSES)
    ranks = "document.getElementById('rank-plot').data[0].z"
    opened.page.select_option("#rank-side", "src")
    assert all(value is None for row in opened.numbers(ranks) for value in row[len(row) // 2 :])
    opened.page.select_option("#rank-grain", "layer")
    assert len(opened.numbers(ranks)[0]) == 24


def test_the_matrix_opens_compared_with_the_base_and_its_numbers_stand_out(opened: Opened) -> None:
    draw_all(opened)
    assert opened.numbers("document.getElementById('score-reference').selectedOptions[0].text") == "pretrained"
    for reference in ("pretrained", "nothing"):
        opened.page.select_option("#score-reference", label=reference)
        shown = opened.numbers("document.getElementById('score-plot').data.map((trace) => trace.texttemplate ?? null)")
        assert shown == [None, None], "Plotly's own grey is not used"
        text = opened.numbers("document.getElementById('score-plot').data[1].text")
        ink = opened.numbers("document.getElementById('score-plot').data[1].textfont.color")
        assert len(text) == len(ink) == 56 and set(ink) <= {"#000000", "#ffffff"}
    assert set(ink) == {"#000000", "#ffffff"}, "dark cells and bright ones"
    # The largest score stands on yellow, the smallest on violet.
    scores = [float(value.rstrip("°")) for value in text]
    assert ink[scores.index(max(scores))] == "#000000" and ink[scores.index(min(scores))] == "#ffffff"


def test_no_table_is_cut_at_1280_pixels(opened: Opened) -> None:
    widths = opened.numbers(
        "[...document.querySelectorAll('.scroll')].map((node) => node.scrollWidth - node.clientWidth)"
    )
    assert widths and max(widths) <= 0


def test_parallel_coordinates_filter_by_an_axis(opened: Opened, rows: list[dict[str, Any]]) -> None:
    scored = [row for row in rows if row["kind"] == "searched" and row["spbleu"] is not None]
    assert opened.page.locator("#parallel-count").inner_text() == f"{len(scored)} of {len(scored)} trials"
    opened.page.locator("#parallel-heads button").last.click()  # spBLEU, its top quarter
    scores = [row["spbleu"] for row in scored]
    border = min(scores) + 0.75 * (max(scores) - min(scores))
    num = sum(score >= border for score in scores)
    assert opened.page.locator("#parallel-count").inner_text() == f"{num} of {len(scored)} trials"


def test_hostile_text_shows_as_text_everywhere(context: Any, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "hostile", hostile=ATTACK)
    write_report(folder)
    opened = open_report(context, folder / "report.html")
    draw_all(opened)
    opened.page.evaluate("langsearch.data.trials.name.slice(0, 4).forEach((name) => langsearch.pin(name))")
    opened.page.mouse.move(*_point(opened, "front", 0))
    opened.page.locator("#front-plot .hovertext").wait_for()
    assert opened.numbers("window.hacked") is None
    assert opened.messages == []
    assert opened.numbers("document.querySelectorAll('img, a[href^=javascript], iframe, object, embed').length") == 0
    assert opened.numbers("document.querySelectorAll('svg a').length") == 0
    for place in ("#samples", "#trial-table", "#pins", "h1", "#failures"):
        assert ATTACK in opened.page.locator(place).first.text_content()
    opened.page.close()


def test_printed_in_light_colours_with_everything_open(opened: Opened, folder: Path, tmp_path: Path) -> None:
    opened.page.emulate_media(color_scheme="dark")
    opened.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    surface = opened.numbers("getComputedStyle(document.documentElement).getPropertyValue('--surface').trim()")
    assert surface == "#ffffff"
    assert opened.numbers("[...document.querySelectorAll('details')].every((node) => node.open)")
    assert opened.numbers("[...document.querySelectorAll('.plot')].every((node) => node._fullLayout !== undefined)")
    opened.page.pdf(path=str(tmp_path / "report.pdf"), format="A4")
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    opened.page.evaluate("window.dispatchEvent(new Event('afterprint'))")
    assert opened.messages == []
