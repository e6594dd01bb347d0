"""Other adapters in a learner's base, or none, that speak while the learner's own are aside."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.peft_export import check_teacher, load_export
from langsearch.data.batches import Batch
from langsearch.space.architecture import Architecture
from langsearch.train.forward import EncoderSides, run_forward
from langsearch.train.term import States


class Teacher:
    """A model of the same base with adapters of its own; it shares all weights of the base with the learner.

    Args:
        learner: The model that is trained; it is left as it is.
        make: Makes the teacher in the base, which has no adapters then.

    Raises:
        InputError: If `make` does.
    """

    def __init__(self, learner: AdaptedModel, make: Callable[[], AdaptedModel]) -> None:
        self.learner = learner
        learner.remove()
        try:
            self.model = make()
            self.sides = EncoderSides.of(self.model)
            self.model.remove()
        finally:
            learner.put_back()
        own, device = self.model.languages, learner.model.lm_head.weight.device
        # Rows of languages that the teacher does not have are read as if they were of another; nobody learns from them.
        self._index = torch.tensor([own.index(name) if name in own else 0 for name in learner.languages], device=device)
        known = [name in own for name in learner.languages]
        self.known = None if all(known) else torch.tensor(known, device=device)
        """Which of the learner's languages it has, (languages,). None: all."""

    @contextmanager
    def speaking(self) -> Iterator[AdaptedModel]:
        """Gives a context in which the base has the teacher's adapters, without gradients and without dropout."""
        model = self.learner.model
        was_training = model.training
        self.learner.remove()
        try:
            self.model.put_back()
            try:
                model.eval()
                with torch.no_grad():
                    yield self.model
            finally:
                self.model.remove()
        finally:
            self.learner.put_back()
            model.train(was_training)

    def decoder_states(self, batch: Batch, precision: torch.dtype) -> States:
        """Returns what the teacher's decoder says of a batch, where labels count."""
        if self.model.languages != self.learner.languages:
            batch = replace(batch, src_lang=self._index[batch.src_lang], tgt_lang=self._index[batch.tgt_lang])
        with self.speaking() as model:
            return run_forward(model, batch, frozenset({"decoder"}), precision, self.sides)


def base_teacher(learner: AdaptedModel) -> Teacher:
    """Returns the base without adapters; languages that are new to it are as they start."""
    own = learner.architecture
    bare = Architecture(slots=own.slots, adapters=(), new_languages=own.new_languages)
    return Teacher(learner, lambda: adapt(learner.base, bare, learner.languages))


def earlier_self(learner: AdaptedModel) -> Teacher:
    """Returns a model like the learner, for what it was at some time: `teacher.model.load_state`."""
    return Teacher(learner, lambda: adapt(learner.base, learner.architecture, learner.languages))


def exported_teacher(learner: AdaptedModel, folder: Path) -> Teacher:
    """Returns exported adapters.

    Raises:
        InputError: If the folder is no export, or is one for another base or of other languages.
    """
    new_languages = {language for language, _ in learner.architecture.new_languages}
    exported = check_teacher(folder, learner.languages, new_languages)

    def make() -> AdaptedModel:
        model = adapt(learner.base, exported.architecture, exported.languages)
        try:
            load_export(model, folder)
        except BaseException:
            model.remove()
            raise
        return model

    return Teacher(learner, make)
