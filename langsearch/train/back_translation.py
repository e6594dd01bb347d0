"""Back-translation on the fly: the model's own translations of targets, as further sources of these targets.

Zhang et al. 2020 (arXiv 2004.11867, section 4.4): for a pair x in s and y in t a pivot t' is drawn from all languages
but t, x' = the greedy translation of y into t' by the model as it is, and x' -> y is trained beside x -> y in the same
update. It teaches directions that have no pairs to stay in their target language. What is drawn depends on the update's
number alone, so that a resumed run draws the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from langsearch.adapters.learners import Learner
from langsearch.data.batches import Batch, BatchVocabulary, batch_of_texts
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.space.settings import TrainerSettings


@dataclass(frozen=True)
class ToTranslate:
    """A sentence that the model is to translate."""

    tokens: NDArray[np.int32]
    """Its pieces, (num_tokens,), without language and end."""

    src: str
    tgt: str


Translate = Callable[[Learner, Sequence[ToTranslate]], list[list[int] | None]]
"""Returns the pieces of each greedy translation; None of one that was cut at its limit."""


@dataclass(frozen=True)
class BackTranslation:
    """What further pairs an update gets.

    Args:
        every: Every so many updates. 0: never.
        from_epoch: The first epoch, counted from 1.
        pivots: The languages that are drawn from.
        seed: Of what is drawn.
        max_length: Longest side, in tokens with its language and end.
    """

    every: int
    from_epoch: int
    pivots: tuple[str, ...]
    seed: int
    max_length: int

    @classmethod
    def of(cls, settings: TrainerSettings, languages: Sequence[str]) -> "BackTranslation":
        """Returns that of a training; without pivots of its own it draws from all languages."""
        return cls(
            every=settings.back_translation_every,
            from_epoch=settings.back_translation_from_epoch,
            pivots=settings.back_translation_pivots or tuple(languages),
            seed=settings.seed,
            max_length=settings.max_length,
        )

    def is_due(self, epoch: int, update: int) -> bool:
        """Returns whether an update, counted from 1, of an epoch gets further pairs."""
        return self.every > 0 and epoch >= self.from_epoch and update % self.every == 0

    def pairs(
        self,
        learner: Learner,
        batches: Sequence[Batch],
        update: int,
        *,
        store: TokenStore,
        languages: Sequence[str],
        vocabulary: BatchVocabulary,
        translate: Translate,
    ) -> list[Batch]:
        """Returns a batch of further pairs for each batch that has any; leaves the model in evaluation mode.

        Left out are translations that are empty, that say what they were to translate, that were cut, or that are too
        long to train on.

        Args:
            learner: The model as it is.
            batches: Those of the update, with their sentences.
            update: Its number, counted from 1.
            store: The sentences' tokens.
            languages: What the batches' languages refer to.
            vocabulary: The special tokens.
            translate: Translates with the model.
        """
        rng = np.random.default_rng([self.seed, update])
        found = []
        for batch in batches:
            assert batch.sentences is not None, "the batches must know their sentences"
            targets = [languages[index] for index in batch.tgt_lang.tolist()]
            texts = [store.tokens(tgt, row) for tgt, row in zip(targets, batch.sentences.tolist(), strict=True)]
            asked = []
            for text, tgt in zip(texts, targets, strict=True):
                if pivots := [one for one in self.pivots if one != tgt]:
                    asked.append(ToTranslate(text, tgt, pivots[int(rng.integers(len(pivots)))]))
            said = translate(learner, asked)
            kept = [
                (np.array(tokens, np.int32), one)
                for one, tokens in zip(asked, said, strict=True)
                if tokens and tokens != one.tokens.tolist() and len(tokens) + 2 <= self.max_length
            ]
            if kept:
                found.append(
                    batch_of_texts(
                        [tokens for tokens, _ in kept],
                        [one.tokens for _, one in kept],
                        [Direction(one.tgt, one.src) for _, one in kept],
                        vocabulary,
                        languages,
                    )
                )
        return found
