"""The section `search.one_shot`: how much is trained wide, cut, and trained on."""

from typing import Annotated, Any

from langsearch.space.sections import Section, fixed

_Count = Annotated[int, fixed("int", low=1)]
_Chance = Annotated[float, fixed("float", low=0, high=0.9)]


class OneShotSection(Section):
    """`search.one_shot`, of `strategy: one_shot`."""

    cuts: _Count = 256
    """How many architectures are cut out of the donors and scored."""

    winners: _Count = 8
    """How many of the best cuts are trained on."""

    epochs: _Count = 1
    """For how long they are."""

    donor_epochs: Annotated[int | None, fixed("int", low=1, words={"same": None})] = None
    """For how long a donor is trained. None (same): as trials are."""

    drop_layers: _Chance = 0.3
    """How often a layer that a cut may lack is left out of an update of a donor."""

    drop_modules: _Chance = 0.3
    """How often a module that a cut may lack is."""

    cut: Annotated[Any, fixed("text", names=("columns", "svd"))] = "columns"
    """How a pair of smaller rank comes out of a wider one: its first columns, which were trained to stand alone, or the
    best of that rank by SVD. Over all 324 architectures of a small space the columns' scores were in the order of
    trainings as often as those by SVD or more often (tests/benchmarks/README.md)."""

    sentences: Annotated[int | None, fixed("int", low=1, words={"all": None})] = None
    """How many sentences a cut is scored on. None: as many as a trial by `evaluation.search`."""

    sample: Annotated[int, fixed("int", low=3)] = 6
    """How many of the cuts' architectures are trained by themselves, to see whether cuts order as trainings do."""

    min_correlation: Annotated[float, fixed("float", low=-1, high=1)] = 0.3
    """Spearman's, between the sample's scores as cuts and as trainings; below it no winner is trained on, and the
    search goes on as an ordinary one."""
