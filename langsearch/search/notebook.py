"""The table of a search in a cell of a notebook: one output, which is drawn anew as trials go on."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import RenderableType
from rich.jupyter import JupyterMixin

_SECONDS_BETWEEN_DRAWINGS = 1.0


class NotebookTable:
    """What is drawn in a cell. Jupyter alone is needed, none of its widgets, which each front end has its own of.

    Args:
        render: Returns what is to be seen now.
    """

    def __init__(self, render: Callable[[], RenderableType]) -> None:
        from IPython.display import display

        self._render = render
        self._drawn = time.monotonic()
        self._handle: Any = display(_Drawn(render()), display_id=True)

    def look(self) -> None:
        """Draws anew, if that was not done within the last second."""
        if time.monotonic() - self._drawn >= _SECONDS_BETWEEN_DRAWINGS:
            self.draw()

    def draw(self) -> None:
        """Draws anew."""
        self._handle.update(_Drawn(self._render()))
        self._drawn = time.monotonic()


class _Drawn(JupyterMixin):
    """Something of rich's, as Jupyter shows it: as HTML, and as text where there is no browser."""

    def __init__(self, drawn: RenderableType) -> None:
        self._drawn = drawn

    def __rich__(self) -> RenderableType:
        return self._drawn
