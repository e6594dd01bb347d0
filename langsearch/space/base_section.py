"""The section `base`: a name, or a mapping that also pins a revision or tells the family."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from langsearch.space.sections import Section, fixed
from langsearch.space.settings import FAMILY_NAMES, BaseSource


class BaseSection(Section):
    """`base` as a mapping. A plain name is the mapping with `id` alone."""

    id: Annotated[str, fixed("text")]
    revision: Annotated[str | None, fixed("text")] = None
    family: Annotated[str | None, fixed("text", names=FAMILY_NAMES)] = None

    def settings(self) -> BaseSource:
        """Returns the plain settings."""
        return BaseSource(self.id, self.revision, self.family)


def _as_mapping(raw: object) -> object:
    return raw if isinstance(raw, dict | BaseSection) else {"id": raw}


BaseItem = Annotated[BaseSection, BeforeValidator(_as_mapping)]


def written(source: BaseSource) -> str | dict[str, Any]:
    """Returns a base as a resolved space has it: its name, or a mapping where there is more to say."""
    more = {"revision": source.revision, "family": source.family}
    given = {key: value for key, value in more.items() if value is not None}
    return {"id": source.id, **given} if given else source.id
