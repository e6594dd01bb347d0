"""What `ls.check` returns."""

from collections.abc import Mapping
from typing import Any


class Checked(dict[str, Any]):
    """What a search would be, as data; shows itself as the page that `langsearch check` prints.

    Args:
        data: As `langsearch check --json` has it.
        page: The page.
    """

    def __init__(self, data: Mapping[str, Any], page: str) -> None:
        super().__init__(data)
        self._page = page.rstrip("\n")

    def __repr__(self) -> str:
        return self._page
