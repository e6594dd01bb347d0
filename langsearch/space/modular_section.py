"""The section `trainer.modular` as pydantic models."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainValidator

from langsearch.space.document import show
from langsearch.space.values import Rule, Value

_RATIO = Rule(kind="float", low=0, high=1, is_low_open=True, is_searchable=False)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _ratios(raw: object) -> tuple[float, ...]:
    """Returns the ratios that are tried, of one or of a list. Raises ValueError where it is neither."""
    if not isinstance(raw, dict):
        found = tuple(_RATIO(one) for one in (raw if isinstance(raw, list | tuple) else [raw]))
        if not found or len(set(found)) < len(found):
            raise ValueError(f"must list each ratio once, but got {show(raw)}")
        return tuple(float(one) for one in found if isinstance(one, int | float))
    raise ValueError(
        "must be a number or a list of those to try, such as [0.3, 0.5, 0.7, 1.0]: they are tried on validation "
        f"after the training of each trial, which is no dimension of the search; but got {show(raw)}"
    )


Ratios = Annotated[tuple[float, ...], BeforeValidator(_ratios)]


class MergeSection(_Section):
    """`trainer.modular.merge_ratio`: what a pair counts where a site has one of either side."""

    src: Ratios = (1.0,)
    tgt: Ratios = (1.0,)


class ModularSection(_Section):
    """`trainer.modular`: each language's adapters alone, on pairs with one language."""

    bridge: Annotated[Value, PlainValidator(Rule(kind="text", words={"none": None}))]
    """That language, which has no adapters. None: as without `modular`."""

    merge_ratio: MergeSection | None = None
