"""A report in the frame that a notebook shows: it draws itself, and reaches nothing of the notebook."""

from pathlib import Path

from langsearch.api.report_page import ReportPage
from langsearch.report.page import write_report
from tests.browser_fixtures import chromium
from tests.report_fixtures import make_experiment


def test_a_report_in_a_notebook_s_frame_is_drawn_and_shut_in(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "flores8")
    write_report(folder)
    notebook = tmp_path / "notebook.html"
    shown = ReportPage(folder / "report.html")._repr_html_()
    notebook.write_text(f"<!doctype html><title>notebook</title>{shown}", encoding="utf-8")
    with chromium(tmp_path / "profile") as context:
        page = context.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        page.goto(notebook.as_uri())
        frame = page.frame_locator("iframe")
        frame.locator("html[data-ready]").wait_for(state="attached")
        frame.locator(".plot .main-svg").first.wait_for(state="attached")
        assert frame.locator("h1").inner_text() == "flores8"
        assert messages == []
        reached = page.evaluate("document.querySelector('iframe').contentDocument")
        assert reached is None, "the frame is of another origin than the notebook"
