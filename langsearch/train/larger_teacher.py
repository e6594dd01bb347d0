"""A larger base as teacher: it reads each pair once, and what it says next is kept beside the tokens.

Before an epoch the pairs that it draws are looked up, and those that nobody has asked for yet are read by the teacher,
which is loaded for it and goes again. So a training that is stopped early costs no more than it has drawn, and trials
of one machine, or of several that see the same files, share what is there: one reads while the others wait. What is
drawn depends on the seed and the epoch alone, and is read in the order of its pairs, some of them at a time, so a
training that was killed goes on with the very same numbers.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.batches import IGNORED_LABEL, Batch, BatchVocabulary, collate
from langsearch.data.directions import Direction
from langsearch.data.epochs import longer_side
from langsearch.data.store import TokenStore
from langsearch.data.top_tokens import FORMAT, TEACHERS, TopTokens
from langsearch.model.base import load_base
from langsearch.model.device import Resident, settle
from langsearch.model.larger import find_larger
from langsearch.model.memory import free_memory
from langsearch.model.positions import num_positions
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import LargerTeacher
from langsearch.train.cross_entropy import tokens_in_flight
from langsearch.train.forward import EncoderSides, ready, run_forward

_PAIRS_PER_FILE = 2048
_TOKENS_PER_BATCH = 4096
"""Of a side, with its padding; without gradients a forward pass keeps next to nothing of it."""

_WAIT_S = 0.2


class LargerReader:
    """What a larger base says next of the pairs of a text.

    Args:
        teacher: The base, with its identity.
        learner: The model that learns.
        store: The text.
        vocabulary: The special tokens, which are the teacher's too.
        precision: The type that its products are made in.
        temperature: Divides its logits.

    Raises:
        InputError: If the teacher is not there, or another than its identity says.
    """

    def __init__(
        self,
        teacher: LargerTeacher,
        learner: AdaptedModel,
        store: TokenStore,
        vocabulary: BatchVocabulary,
        precision: torch.dtype,
        temperature: float,
    ) -> None:
        self.found = find_larger(teacher)
        self.store, self.vocabulary, self.temperature = store, vocabulary, temperature
        self.tokenizer = learner.base.tokenizer  # the teacher's has the same vocabulary
        self.device, self.precision = learner.model.lm_head.weight.device, precision
        self.num_rows: int = learner.model.lm_head.weight.shape[0]
        new = {language for language, _ in learner.architecture.new_languages}
        self.languages = tuple(sorted(language for language in learner.languages if language not in new))
        self._place = {name: place for place, name in enumerate(self.languages)}
        self._index = np.array([self._place.get(name, -1) for name in learner.languages], np.int64)
        parts = {
            "format": FORMAT.decode(),
            "teacher": teacher.identity or self.found.fingerprint(),
            "top_k": teacher.top_k,
            "temperature": temperature,
            "precision": str(precision),
            "tokens": [store.files[language].name for language in self.languages],
            "marks": [self.vocabulary.language_ids[language] for language in self.languages],
        }
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        self.num_read = 0
        """Target tokens that the teacher has read for this one."""
        self.tokens = TopTokens(store.files[self.languages[0]].parent / TEACHERS / digest, teacher.top_k)

    def read(self, directions: Sequence[Direction], microbatches: Sequence[NDArray[np.int32]]) -> Iterator[None]:
        """Has the teacher read what nobody has asked it for; yields again and again, also while another one reads.

        Args:
            directions: What the microbatches refer to.
            microbatches: The pairs of an epoch, each (rows, 2): index of the direction, row of the sentence.

        Raises:
            InputError: If the teacher's files are torn.
            OSError: If the disk is full.
        """
        keys = self._drawn(directions, microbatches)
        self.tokens.look()
        while len(self.tokens.missing(keys)):
            with self.tokens.held() as is_held:
                if is_held:
                    self.tokens.look()
                    missing = self.tokens.missing(keys)
                    yield from self._ask(missing, len(keys) - len(missing), len(keys))
            if not is_held:
                time.sleep(_WAIT_S)
                yield
            self.tokens.look()

    def attached(self, batch: Batch) -> Batch:
        """Returns a batch with what the teacher says of its labels; all its pairs must have been read.

        Args:
            batch: On the CPU, with its sentences, its rows in their last order.
        """
        assert batch.sentences is not None
        src, tgt = self._index[batch.src_lang.numpy()], self._index[batch.tgt_lang.numpy()]
        keys, is_known = self._key(src, tgt, batch.sentences.numpy()), (src >= 0) & (tgt >= 0)
        counts = (batch.labels != IGNORED_LABEL).sum(dim=1).numpy()
        ids, log_probs, found = self.tokens.read(keys[is_known])
        assert (found == counts[is_known]).all(), "a teacher must have read the labels that are learned"
        return batch.taught(
            torch.from_numpy(ids),
            torch.from_numpy(log_probs),
            None if is_known.all() else torch.from_numpy(np.repeat(is_known, counts)),
        )

    def _key(self, src: NDArray[np.int64], tgt: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
        return (src * len(self.languages) + tgt) * self.store.num_sentences + row

    def _drawn(self, directions: Sequence[Direction], microbatches: Sequence[NDArray[np.int32]]) -> NDArray[np.int64]:
        """Returns the keys of the pairs that the teacher can read, each once, sorted."""
        sides = np.array([[self._place.get(d.src, -1), self._place.get(d.tgt, -1)] for d in directions], np.int64)
        pairs = np.concatenate(list(microbatches)).astype(np.int64)
        src, tgt = sides[pairs[:, 0]].T
        is_known = (src >= 0) & (tgt >= 0)
        return np.unique(self._key(src, tgt, pairs[:, 1])[is_known])

    def _ask(self, keys: NDArray[np.int64], num_done: int, total: int) -> Iterator[None]:
        """Has the teacher read pairs, and writes what it says, a file of some of them after the other."""
        if not len(keys):
            return
        self.tokens.note(num_done, total)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            base = settle(
                load_base(self.found, self.precision, tokenizer=self.tokenizer), Resident(self.device, self.precision)
            )
            bare = Architecture(slots=tuple((name, name) for name in self.languages), adapters=())
            model = adapt(base, bare, self.languages)
        try:
            for start in range(0, len(keys), _PAIRS_PER_FILE):
                part, said = keys[start : start + _PAIRS_PER_FILE], {}
                for batch in self._batches(part, num_positions(model.model.config)):
                    said.update(self._said(model, batch))
                    yield
                ids, log_probs = zip(*(said[key] for key in part.tolist()), strict=True)
                counts = np.array([len(each) for each in ids], np.int64)
                self.tokens.add(part, counts, np.concatenate(ids), np.concatenate(log_probs))
                self.tokens.note(num_done + start + len(part), total)
        finally:
            del model, base
            free_memory()

    def _batches(self, keys: NDArray[np.int64], max_length: int) -> Iterator[Batch]:
        """Yields pairs of like length, with their sentences.

        Args:
            keys: (pairs,).
            max_length: The teacher's positions.
        """
        of_pair, rows = np.divmod(keys, self.store.num_sentences)
        codes, of_direction = np.unique(of_pair, return_inverse=True)
        sides = zip(*(each.tolist() for each in np.divmod(codes, len(self.languages))), strict=True)
        directions = [Direction(self.languages[src], self.languages[tgt]) for src, tgt in sides]
        pairs = np.stack([of_direction, rows], axis=1).astype(np.int32)
        longest = np.empty(len(pairs), np.int64)
        for index, direction in enumerate(directions):
            longest[of_direction == index] = longer_side(self.store, direction, pairs[of_direction == index, 1])
        order = np.argsort(-longest, kind="stable")
        pairs, longest = pairs[order], longest[order]
        begin = 0
        while begin < len(pairs):
            end = begin + max(_TOKENS_PER_BATCH // int(longest[begin]), 1)
            yield collate(
                self.store,
                directions,
                pairs[begin:end],
                self.vocabulary,
                self.languages,
                with_sentences=True,
                max_length=max_length,
            )
            begin = end

    @torch.no_grad()
    def _said(self, model: AdaptedModel, batch: Batch) -> dict[int, tuple[NDArray[np.int32], NDArray[np.float16]]]:
        """Returns for each pair, by its key, the tokens (labels, k) and the logarithms of their probabilities."""
        batch = ready(batch)
        assert batch.sentences is not None
        keys = self._key(batch.src_lang.numpy(), batch.tgt_lang.numpy(), batch.sentences.numpy())
        counts = (batch.labels != IGNORED_LABEL).sum(dim=1).tolist()
        states = run_forward(
            model, batch.to(self.device), frozenset({"decoder"}), self.precision, EncoderSides.of(model)
        )
        assert states.decoder is not None
        self.num_read += len(states.decoder)
        # What the student has no row for, which is padding of the vocabulary, is never said.
        weight = model.model.lm_head.weight[: self.num_rows]
        ids, log_probs = self._most_likely(states.decoder, weight)
        ends = np.cumsum(counts)[:-1]
        return dict(zip(keys.tolist(), zip(np.split(ids, ends), np.split(log_probs, ends), strict=True), strict=True))

    def _most_likely(self, states: Tensor, weight: Tensor) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
        """Returns tokens and logarithms of probabilities, (tokens, k) each, of states (tokens, d)."""
        chunk = tokens_in_flight(weight.shape[0], is_cuda=states.is_cuda)
        ids, log_probs = [], []
        for start in range(0, len(states), chunk):
            logits = (states[start : start + chunk] @ weight.T).float().div_(self.temperature)
            found = logits.log_softmax(dim=1).topk(self.tokens.k, dim=1)
            ids.append(found.indices.to(torch.int32).cpu())
            log_probs.append(found.values.to(torch.float16).cpu())
        return torch.cat(ids).numpy(), torch.cat(log_probs).numpy()
