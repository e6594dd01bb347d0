"""The path of a report, which a notebook shows as the page itself."""

import html
from pathlib import PosixPath

_HEIGHT_PX = 800


class ReportPage(PosixPath):
    """A page's path. As the last value of a cell of a notebook it is the page.

    The page is shown in a frame of its own, whole, so that it stays with the notebook and opens offline; its scripts
    reach nothing but the frame.
    """

    def _repr_html_(self) -> str:
        """Returns the page in a frame; called by Jupyter."""
        page = html.escape(self.read_text(encoding="utf-8"), quote=True)
        style = f"width: 100%; height: {_HEIGHT_PX}px; border: 1px solid #ccc"
        attributes = f'title="{html.escape(self.name)}" sandbox="allow-scripts" style="{style}"'
        return f'<iframe {attributes} srcdoc="{page}"></iframe>'
