"""The dashboard in Chromium, while a search goes on."""

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from langsearch.experiment.folder import write_json
from tests.browser_fixtures import Opened, chromium
from tests.dashboard_fixtures import LiveSearch, running, served
from tests.report_fixtures import make_experiment

ATTACK = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> [x](javascript:window.hacked=3)"
SOON_MS = 2_000 * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
"""Within two seconds a trial that ends is on the page; on a machine that others keep busy it takes its share longer."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture
def search(tmp_path: Path) -> Iterator[LiveSearch]:
    """A search with two baselines, three complete trials and one that runs."""
    search = LiveSearch(tmp_path / "experiments" / "small")
    search.run_baselines()
    for spbleu in (8.0, 9.0, 11.0):
        search.run(spbleu)
    search.epoch(search.begin(), 1, 6.0)
    with running(search):
        yield search


def visit(context: Any, url: str, *, scheme: str = "light", width: int = 1280, height: int = 900) -> Opened:
    """Opens a page and waits until it is drawn."""
    page = context.new_page()
    opened = Opened(page)
    page.on("console", lambda message: opened.messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.messages.append(f"error: {error}"))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": height})
    page.goto(url)
    page.locator("html[data-ready]").wait_for(state="attached")
    return opened


def only_ours(opened: Opened, url: str) -> bool:
    return all(found.startswith((url, "data:", "blob:")) for found in opened.requests)


def names(opened: Opened) -> list[str]:
    found: list[str] = opened.numbers(
        "[...document.querySelectorAll('#trial-table tbody tr')].map((row) => row.dataset.name)"
    )
    return found


def num_points(opened: Opened, trace: str) -> int:
    found: int = opened.numbers(
        f"(document.getElementById('front-plot').data.find((entry) => entry.name === '{trace}') ?? {{x: []}}).x.length"
    )
    return found


def place_of(opened: Opened, trace: str, place: int) -> tuple[float, float]:
    found = opened.numbers(
        f"""(() => {{
            const node = document.getElementById('front-plot');
            node.scrollIntoView({{ behavior: 'instant', block: 'center' }});
            const {{ xaxis, yaxis }} = node._fullLayout;
            const trace = node.data.find((entry) => entry.name === '{trace}');
            const box = node.getBoundingClientRect();
            return [box.left + xaxis._offset + xaxis.d2p(trace.x[{place}]),
                    box.top + yaxis._offset + yaxis.d2p(trace.y[{place}])];
        }})()"""
    )
    return found[0], found[1]


def soon(condition: Callable[[], bool], seconds: float = SOON_MS / 1000) -> float:
    """Waits until something holds; returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


def test_a_trial_that_ends_while_the_page_is_open_is_on_it_within_two_seconds(context: Any, search: LiveSearch) -> None:
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        assert num_points(opened, "front") == len(search.table.front())
        row = opened.page.locator("#trial-table tr[data-name='00003']")
        assert "running" in row.inner_text() and "1/4" in row.inner_text()
        search.epoch("00003", 2, 7.0)
        row.get_by_text("2/4").wait_for(timeout=SOON_MS)
        # What is out of sight is drawn once it is seen.
        opened.page.locator("#front-plot").scroll_into_view_if_needed()
        search.complete("00003", 30.0)  # nothing is better, so it is on the front
        soon(lambda: num_points(opened, "front") == len(search.table.front()))
        assert row.locator(".badge.front").count() == 1
        assert "30.00" in opened.page.locator(".tiles").inner_text()
        begun = search.begin()
        opened.page.locator(f"#trial-table tr[data-name='{begun}']").wait_for(timeout=SOON_MS)
        assert opened.messages == []
        assert only_ours(opened, dashboard.url)
        opened.page.close()


def test_what_the_reader_has_chosen_stays_when_the_page_is_brought_up_to_date(context: Any, search: LiveSearch) -> None:
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        page = opened.page
        page.evaluate("langsearch.pin('00001')")
        page.locator("#pins details summary").first.click()
        page.locator("#trial-table thead").get_by_role("button", name="spBLEU").click()
        page.select_option("#trial-state", "complete")
        page.fill("#trial-search", "rank")
        page.evaluate("Plotly.relayout('front-plot', {'yaxis.range[0]': 7, 'yaxis.range[1]': 12})")
        page.evaluate("document.getElementById('trials').scrollIntoView({ behavior: 'instant' })")
        order, at = names(opened), page.evaluate("document.getElementById('trials').getBoundingClientRect().top")
        name = search.run(10.5)
        soon(lambda: name in names(opened))
        assert [found for found in names(opened) if found != name] == order
        assert page.locator("#trial-search").evaluate("(node) => node === document.activeElement")
        assert abs(page.evaluate("document.getElementById('trials').getBoundingClientRect().top") - at) < 2
        assert page.locator("#pins article").get_attribute("data-name") == "00001"
        assert page.locator("#pins details").first.evaluate("(node) => node.open")
        page.evaluate("document.getElementById('front').scrollIntoView({ behavior: 'instant' })")
        soon(lambda: num_points(opened, "front") == len(search.table.front()))
        assert opened.numbers("document.getElementById('front-plot')._fullLayout.yaxis.range") == [7, 12]
        assert opened.messages == []
        page.close()


def test_hover_shows_a_trial_a_click_pins_it_and_the_table_sorts(context: Any, search: LiveSearch) -> None:
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        front = search.table.front()
        opened.page.mouse.move(*place_of(opened, "front", len(front) - 1))
        label = opened.page.locator("#front-plot .hovertext")
        label.wait_for()
        assert front[-1].name in label.text_content()
        opened.page.mouse.click(*place_of(opened, "front", len(front) - 1))
        card = opened.page.locator("#pins article")
        card.wait_for()
        assert card.get_attribute("data-name") == front[-1].name
        assert card.locator("svg.curve circle").count() == 4
        opened.page.locator("#trial-table thead").get_by_role("button", name="spBLEU").click()
        rows = [row for row in search.table.rows() if row.result is not None]
        assert names(opened) == [row.name for row in sorted(rows, key=lambda row: -row.result.spbleu)]  # type: ignore[union-attr]
        opened.page.close()


def test_a_trial_is_stopped_by_its_button_after_a_question(context: Any, search: LiveSearch) -> None:
    stop = search.folder.trial("00003").stop_request
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        button = opened.page.get_by_role("button", name="Stop trial 00003")
        assert opened.page.locator("#trial-table .stop").count() == 1, "only a trial that runs can be stopped"
        button.click()
        opened.page.get_by_role("button", name="Go on").click()
        assert not stop.exists()
        button.click()
        opened.page.get_by_role("dialog").get_by_role("button", name="Stop it").click()
        opened.page.locator(".toast").get_by_text("Trial 00003 was asked to stop").wait_for()
        assert stop.exists()
        opened.page.locator("#trial-table .stop:disabled").get_by_text("Stopping …").wait_for(timeout=SOON_MS)
        search.table.end_on_request("00003")
        stop.unlink()
        row = opened.page.locator("#trial-table tr[data-name='00003']")
        row.get_by_text("stopped on request").wait_for(timeout=SOON_MS)
        assert row.locator(".stop").count() == 0
        assert opened.messages == []
        opened.page.close()


def test_the_whole_search_is_stopped_by_its_button(context: Any, search: LiveSearch) -> None:
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        opened.page.locator("#stop-search").click()
        opened.page.get_by_role("dialog").get_by_role("button", name="Stop the search").click()
        opened.page.locator("#stop-search:disabled").wait_for(timeout=SOON_MS)
        assert search.folder.stop_request.exists()
        opened.page.close()


def test_an_experiment_shows_itself_once_it_is_begun(context: Any, tmp_path: Path) -> None:
    path = tmp_path / "experiments" / "later"
    with served(path) as dashboard:
        opened = visit(context, dashboard.url)
        assert "There is no experiment in" in opened.page.locator("main").inner_text()
        search = LiveSearch(path)
        with running(search):
            opened.page.locator(".lede").get_by_text("No trial has started yet.").wait_for(timeout=2 * SOON_MS)
            search.run(7.0)
            soon(lambda: names(opened) == ["00000"])
            soon(lambda: num_points(opened, "front") == 1)
        opened.page.locator("#live-state").get_by_text("stopped").wait_for(timeout=SOON_MS)
        assert opened.messages == []
        opened.page.close()


def test_experiments_are_listed_and_their_fronts_compared(context: Any, tmp_path: Path, search: LiveSearch) -> None:
    other = LiveSearch(tmp_path / "experiments" / "other", signature="nrefs:2", tokenizer={"name": "flores101"})
    other.run_baselines()
    other.run(12.0)
    with served(tmp_path / "experiments") as dashboard:
        opened = visit(context, dashboard.url)
        page = opened.page
        rows = page.locator("#experiments tbody tr")
        assert rows.count() == 2
        small = rows.filter(has_text="small")
        assert [word in small.inner_text() for word in ("running", "11.00")] == [True] * 2
        search.complete("00003", 13.0)
        small.get_by_text("13.00").wait_for(timeout=SOON_MS)
        for row in range(2):
            rows.nth(row).get_by_role("checkbox").check()
        page.get_by_role("button", name="Compare the chosen ones").click()
        page.locator("#comparison-plot .main-svg").first.wait_for(state="attached")
        text = page.locator("main").inner_text()
        assert "These scores cannot be compared." in text and "differ in signature" in text
        traces = opened.numbers(
            "document.getElementById('comparison-plot').data.map((trace) => [trace.name, trace.x.length])"
        )
        sizes = {"small": len(search.table.front()), "other": len(other.table.front())}
        assert dict(traces) == {**sizes, "small, baselines": 2, "other, baselines": 2}
        assert page.locator("#baselines-table tbody tr").count() == 3
        other.run(40.0)
        page.locator("#baselines-table").get_by_text("40.00").wait_for(timeout=SOON_MS)
        assert opened.messages == []
        assert only_ours(opened, dashboard.url)
        page.close()


def test_optunas_dashboard_shows_the_same_study_behind_its_link(context: Any, search: LiveSearch) -> None:
    with served(search.folder.path) as dashboard:
        opened = visit(context, dashboard.url)
        url = opened.page.get_by_role("link", name="Optuna’s dashboard").get_attribute("href")
        opened.page.goto(dashboard.url.rstrip("/") + url)
        opened.page.get_by_text("small").first.wait_for()
        assert only_ours(opened, dashboard.url)
        assert not [message for message in opened.messages if message.startswith("error")]
        opened.page.close()


def test_hostile_text_shows_as_text(context: Any, tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "hostile", hostile=ATTACK)
    (folder / "space.yaml").unlink()  # the results then come from results.parquet
    make_experiment(tmp_path / "other", hostile=ATTACK)
    with served(folder, tmp_path / "other") as dashboard:
        for path in ("experiments/0/", "", "compare/?with=0&with=1"):
            opened = visit(context, dashboard.url + path)
            if path.startswith("experiments"):
                opened.page.evaluate("langsearch.data.trials.name.slice(0, 4).forEach((name) => langsearch.pin(name))")
                write_json(folder / "touched.json", {})
                opened.page.wait_for_timeout(1500)
            assert ATTACK in opened.page.locator("body").inner_text()
            assert opened.numbers("window.hacked") is None
            assert opened.messages == []
            assert (
                opened.numbers("document.querySelectorAll('img, a[href^=javascript], iframe, object, embed').length")
                == 0
            )
            opened.page.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)])
def test_nothing_is_wider_than_the_window(
    scheme: str, width: int, context: Any, tmp_path: Path, search: LiveSearch
) -> None:
    with served(tmp_path / "experiments") as dashboard:
        for path in ("", "experiments/0/", "compare/?with=0"):
            opened = visit(context, dashboard.url + path, scheme=scheme, width=width)
            assert opened.numbers("document.documentElement.scrollWidth") <= width
            name = re.sub(r"\W+", "-", path) or "list"
            opened.page.screenshot(path=str(tmp_path / f"{name}-{scheme}-{width}.png"))
            assert opened.messages == []
            opened.page.close()
