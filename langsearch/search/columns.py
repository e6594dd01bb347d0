"""The names under which a study has its dimensions: "NAME", and "NAME@2" once it has changed."""

from collections.abc import Mapping

from optuna.distributions import BaseDistribution, check_distribution_compatibility


class Columns:
    """The dimensions of a study under the names that its database has them by.

    Optuna refuses other choices under a name that it knows, so a changed dimension gets "@2" behind its name.
    """

    def __init__(self) -> None:
        self._known: dict[str, list[tuple[str, BaseDistribution]]] = {}

    def find(self, name: str, distribution: BaseDistribution) -> str:
        """Returns the column of a dimension: the first that can hold it, or a new one."""
        known = self._known.get(name, [])
        for column, old in known:
            try:
                check_distribution_compatibility(old, distribution)
            except ValueError:
                continue
            return column
        return f"{name}@{len(known) + 1}" if known else name

    def note(self, distributions: Mapping[str, BaseDistribution]) -> None:
        """Remembers the columns of a trial."""
        for column, distribution in distributions.items():
            known = self._known.setdefault(plain_name(column), [])
            if all(column != other for other, _ in known):
                known.append((column, distribution))


def plain_name(column: str) -> str:
    """Returns the dimension that a column holds."""
    return column.rpartition("@")[0] or column
