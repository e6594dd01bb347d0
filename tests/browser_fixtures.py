"""Chromium for tests of pages: the system's, driven by Playwright, one for a module."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser's context with a new profile; the test is skipped where there is no browser or no driver."""
    driver = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra `test`")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("needs chromium")
    with driver.sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=executable, args=list(FLAGS), viewport={"width": 1280, "height": 900}
        )
        try:
            yield context
        finally:
            context.close()


@dataclass
class Opened:
    """A page that is open, and what it said and asked for."""

    page: Any
    messages: list[str] = field(default_factory=list)
    """Of the console, and errors."""

    requests: list[str] = field(default_factory=list)
    """To anywhere but files and data in the page itself."""

    def numbers(self, script: str) -> Any:
        """Returns what JavaScript gives."""
        return self.page.evaluate(script)


def open_report(context: Any, path: Path, *, scheme: str = "light", width: int = 1280) -> Opened:
    """Opens a report and waits until it is drawn."""
    page = context.new_page()
    opened = Opened(page)
    page.on("console", lambda message: opened.messages.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: opened.messages.append(f"error: {error}"))
    page.on("request", lambda request: opened.requests.append(request.url))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path.as_uri())
    # Not `wait_for_function`: it evaluates text inside the page, which the page's policy forbids.
    page.locator("html[data-ready]").wait_for(state="attached")
    opened.requests = [
        url for url in opened.requests if url != path.as_uri() and not url.startswith(("data:", "blob:"))
    ]
    return opened


def draw_all(opened: Opened) -> None:
    """Scrolls every figure into sight, and waits until each is drawn."""
    for name in opened.numbers("[...document.querySelectorAll('.plot')].map((node) => node.id)"):
        opened.page.evaluate(f"document.getElementById('{name}').scrollIntoView({{ behavior: 'instant' }})")
        opened.page.locator(f"#{name} .main-svg").first.wait_for(state="attached")
