"""Which languages the rows in flight have: one object that all adapted layers of a model look at."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from langsearch.space.architecture import Side


class Routing:
    """The languages of the rows of a batch, as indices into a model's languages, (rows,)."""

    def __init__(self) -> None:
        self.src: Tensor | None = None
        self.tgt: Tensor | None = None

    @contextmanager
    def languages(self, src_lang: Tensor, tgt_lang: Tensor) -> Iterator[None]:
        """Gives a context in which the rows of a batch have these languages: indices, (rows,)."""
        self.src, self.tgt = src_lang, tgt_lang
        try:
            yield
        finally:
            self.src = self.tgt = None

    def rows(self, side: Side, num_rows: int) -> Tensor:
        """Returns the language of one side of each row in flight, (num_rows,).

        With beam search these are the batch's rows, each repeated beams times.
        """
        languages = self.src if side == "src" else self.tgt
        assert languages is not None, "the rows' languages must be routed before the forward pass"
        if languages.shape[0] != num_rows:
            languages = languages.repeat_interleave(num_rows // languages.shape[0])
        return languages
