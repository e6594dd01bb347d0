"""What must hold of `trainer.loss` beside its keys one by one, and what its terms cost, in words."""

from collections.abc import Iterator

from langsearch.space.architecture import BaseShape
from langsearch.space.architecture_checks import has_sites
from langsearch.space.document import KeyPath, show
from langsearch.space.kinds import site_kind
from langsearch.space.language_section import LanguagesSection
from langsearch.space.loss_section import DistillSection, LossSection
from langsearch.space.loss_settings import ADAPTERS, BASE, OWN_BEST, AlignSettings, LargerTeacher
from langsearch.space.rules import possible_sites
from langsearch.space.sections import ArchitectureSection, SearchTrainerSection
from langsearch.space.values import FloatRange, extremes, options

_PATH: KeyPath = ("trainer", "loss")
_MIN_EPOCHS = 3
"""The first epoch that the own best can teach in."""


def check_losses(trainer: SearchTrainerSection, languages: LanguagesSection | None) -> Iterator[tuple[KeyPath, str]]:
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
    if distill is not None and distill.larger and isinstance(distill.temperature, FloatRange):
        yield (
            (*_PATH, "distill", "temperature"),
            "must be a number or a choice of some where the teacher is another base, whose words are kept for each "
            "temperature, but is a range.",
        )

    align, adversary = trainer.loss.align, trainer.loss.language_adversary
    known = [] if languages is None else [language for members in languages.classes.values() for language in members]
    if adversary is not None and len(known) == 1:
        yield (*_PATH, "language_adversary"), f"needs two languages to tell apart, but there is {known[0]} alone."
    if align is None:
        return
    if "scale" in align.model_fields_set and "contrastive" not in options(align.kind):
        yield (*_PATH, "align", "scale"), "touches nothing: `kind` is never contrastive. Leave it out."
    if languages is None:
        return
    if len(known) < 2:
        yield (*_PATH, "align"), f"needs a second language beside the pivot, but there is {', '.join(known)} alone."
    for pivot in options(align.pivot):
        if pivot is not None and pivot not in known:
            yield (*_PATH, "align", "pivot"), f"must be one of {', '.join(known)}, but got {show(pivot)}"
        elif (name := AlignSettings(pivot=None if pivot is None else str(pivot)).pivot_of(known)) in languages.likes:
            yield (
                (*_PATH, "align", "pivot"),
                f"must be a language that the base knows, whose own encoding is the aim, but {name} is new to it.",
            )


def check_loss_shape(
    loss: LossSection, architecture: ArchitectureSection, shape: BaseShape
) -> Iterator[tuple[KeyPath, str]]:
    """Yields the terms on what the encoder says by the source alone that no adapter of the space could learn from."""
    for name in ("align", "language_adversary"):
        if name in loss.terms and not _has_source_adapters(architecture, shape):
            yield (
                (*_PATH, name),
                "needs adapters in the encoder that are indexed by the source, below its first layer that is by the "
                "target, but `architecture` has none. Write `encoder: {source_layers: N}`, or leave the term out.",
            )


def _has_source_adapters(section: ArchitectureSection, shape: BaseShape) -> bool:
    """Returns whether some point may have adapters by the source below the encoder's first layer by the target."""
    norms = ["layer_norm" in str(word).split("+") for word in options(section.adapter)]
    has_norms = set(options(section.layer_norm.stacks)) & {"both", "encoder"}
    if any(norms) and has_norms and "src" in options(section.layer_norm.side):
        return True
    if all(norms) and "decoder" not in options(section.layer_norm.stacks):
        return False  # the lowest layer's norm looks at the target already
    kinds = {site_kind(str(word)) for word in options(section.adapter)} - {None}
    if kinds == {"two_sided"}:
        return False  # so does the lowest adapted layer
    sites = possible_sites(section, "encoder", shape.encoder_layers) if has_sites(section) else []
    by_target = [site.layer for site in sites if site.is_sure and site.sides == {"tgt"}]
    lowest = min(by_target, default=shape.encoder_layers)
    return any("src" in site.sides and site.layer < lowest for site in sites)


def loss_lines(loss: LossSection) -> Iterator[str]:
    """Yields what each term does, and what it costs."""
    if loss.distill is not None:
        yield f"distill: {_distill_words(loss.distill)}"
    if loss.align is not None:
        pivot = " or ".join(
            "English, else the first language" if p is None else str(p) for p in options(loss.align.pivot)
        )
        yield (
            f"align: encodings of sources are pulled to those of the same lines in {pivot}, by the base without "
            "adapters; an update encodes each of these lines too, without gradients. Nothing more is stored in the end"
        )
    if loss.language_adversary is not None:
        yield (
            "language_adversary: encoders learn to hide the source's language from a linear classifier, which is "
            "trained beside them, d + 1 parameters a language, and left out of exports; an update costs next to "
            "nothing more. A fresh probe judges in the end"
        )


def _distill_words(section: DistillSection) -> str:
    teachers, forward = [], "one more forward pass, without gradients, and "
    if len(section.larger) == len(options(section.teacher)):
        forward = ""
    for word in map(str, options(section.teacher)):
        if (larger := LargerTeacher.parse(word)) is not None:
            teachers.append(
                f"{larger.base}, whose {larger.top_k} most likely next tokens are found once for all trials of a "
                "machine and kept"
            )
        elif word == BASE:
            teachers.append("the base without adapters")
        elif word == OWN_BEST:
            teachers.append("the own best epoch, once it is more than one epoch old (a copy of the adapters more)")
        else:
            teachers.append(f"the adapters in {word.removeprefix(ADAPTERS)}, for their languages")
    return (
        f"learns also from {' or '.join(teachers)}; an update has {forward}twice "
        "more products with the output embedding. Nothing more is stored in the end"
    )
