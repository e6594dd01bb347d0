"""What must hold of `trainer.loss` beside its keys one by one, and what its terms cost, in words."""

from collections.abc import Iterator

from langsearch.space.document import KeyPath
from langsearch.space.loss_section import DistillSection, LossSection
from langsearch.space.loss_settings import ADAPTERS, BASE, OWN_BEST
from langsearch.space.sections import SearchTrainerSection
from langsearch.space.values import extremes, options

_PATH: KeyPath = ("trainer", "loss")
_MIN_EPOCHS = 3
"""The first epoch that the own best can teach in."""


def check_losses(trainer: SearchTrainerSection) -> Iterator[tuple[KeyPath, str]]:
    """Yields the problems of the loss terms, as far as they can be seen without the base."""
    for name, term in trainer.loss.terms.items():
        if extremes(getattr(term, "weight"))[1] == 0:  # noqa: B009 - every term has one
            yield (*_PATH, name, "weight"), "must be above 0 somewhere, but it is 0 everywhere. Leave the term out."
    distill = trainer.loss.distill
    if distill is not None and OWN_BEST in options(distill.teacher) and trainer.epochs < _MIN_EPOCHS:
        yield (
            (*_PATH, "distill", "teacher"),
            f"needs at least {_MIN_EPOCHS} epochs to be {OWN_BEST}, whose teacher is more than one epoch old, but "
            f"`trainer.epochs` is {trainer.epochs}.",
        )


def loss_lines(loss: LossSection) -> Iterator[str]:
    """Yields what each term does, and what it costs."""
    if loss.distill is not None:
        yield f"distill: {_distill_words(loss.distill)}"


def _distill_words(section: DistillSection) -> str:
    teachers = []
    for word in map(str, options(section.teacher)):
        if word == BASE:
            teachers.append("the base without adapters")
        elif word == OWN_BEST:
            teachers.append("the own best epoch, once it is more than one epoch old (a copy of the adapters more)")
        else:
            teachers.append(f"the adapters in {word.removeprefix(ADAPTERS)}, for their languages")
    return (
        f"learns also from {' or '.join(teachers)}; an update has one more forward pass, without gradients, and twice "
        "more products with the output embedding. Nothing more is stored in the end"
    )
