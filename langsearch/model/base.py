"""A base model and its tokenizer: loading, sharing its weights between processes without a copy."""

import hashlib
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from langsearch.data.batches import BatchVocabulary
from langsearch.model.families import Family, TranslationModel, find_family, read_config
from langsearch.model.finding import FoundBase, locate_base, provide_weights
from langsearch.model.shape import read_shape
from langsearch.space.architecture import BaseShape
from langsearch.space.languages import match_code
from langsearch.space.problems import InputError
from langsearch.space.settings import BaseSource

TOKENIZER_FILES = (
    "added_tokens.json",
    "config.json",
    "generation_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)

_MAX_KNOWN = 20_000
"""Sentences whose pieces a tokenizer remembers: some 10 MB."""


@dataclass(frozen=True)
class NewLanguage:
    """A language that a base has no token for."""

    code: str
    """As the space has it."""

    like: str
    """The language of the base from whose token its own starts, by the space's code."""

    token: str
    """The text of its token, in the form of the base's others: `__tyv__`, `tyv_Cyrl`."""

    index: int
    """The id of its token."""

    like_index: int
    """The id of the token that its own starts from."""


class BaseTokenizer:
    """The base's own tokenizer, seen as pieces of sentences plus one token a language.

    Args:
        folder: A folder with the tokenizer's files.
        family: The base's family, where it is told. None: as the files say.

    Raises:
        InputError: If a file is missing or torn, or the base is of a family that is not known.
    """

    def __init__(self, folder: Path, family: str | None = None) -> None:
        self.folder = folder
        self.family: Family = find_family(folder, family)
        with quiet_transformers():
            try:
                self._tokenizer: Any = self.family.tokenizer_class.from_pretrained(folder, local_files_only=True)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:
                raise InputError(f"A base must have its tokenizer's files, but {folder} has not: {error}") from error
        vocab_size = read_config(folder).vocab_size
        self.language_ids: Mapping[str, int] = self.family.read_language_ids(self._tokenizer, vocab_size)
        self._special_ids = {*self._tokenizer.all_special_ids, *self.language_ids.values()}
        self.fingerprint = _fingerprint(folder)
        """16 hexadecimal digits over the vocabulary and the SentencePiece model: equal pieces, equal fingerprint."""
        self.new_languages: tuple[NewLanguage, ...] = ()
        self._known: dict[str, list[int]] = {}

    @property
    def spm_path(self) -> Path:
        """The SentencePiece model, which can also split text for a score."""
        return self.folder / "sentencepiece.bpe.model"

    def language_token(self, language: str) -> str:
        """Returns the text of a language's token. Raises InputError for a language that the base does not know."""
        code = match_code(language, self.language_ids)
        own = {language.code: language.token for language in self.new_languages}
        return own.get(code) or self.family.token_format.format(code)

    def with_languages(self, languages: Sequence[NewLanguage]) -> "BaseTokenizer":
        """Returns the tokenizer with tokens for languages that the base has none for."""
        extended = copy(self)
        extended.new_languages = tuple(languages)
        ids = {language.code: language.index for language in languages}
        extended.language_ids = {**self.language_ids, **ids}
        extended._special_ids = {*self._special_ids, *ids.values()}
        return extended

    def encode(self, sentences: Sequence[str]) -> list[list[int]]:
        """Returns the ids of each sentence's pieces, without language and end tokens; not to be changed.

        Those of the last sentences are remembered: before a search starts, the same ones are looked at several times.
        """
        known = self._known
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in known]
        ids: list[list[int]] = self._tokenizer(new, add_special_tokens=False)["input_ids"] if new else []
        found = dict(zip(new, ids, strict=True))
        # Nothing is ever taken out of a dictionary that another thread may read.
        if len(known) + len(found) <= _MAX_KNOWN:
            known.update(found)
        else:
            self._known = found if len(found) <= _MAX_KNOWN else {}
        return [found[sentence] if sentence in found else known[sentence] for sentence in sentences]

    def decode(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Returns the text of each row; language, padding and end tokens are dropped."""
        kept = [[token for token in row if token not in self._special_ids] for row in ids]
        texts: list[str] = self._tokenizer.batch_decode(kept, skip_special_tokens=True)
        return texts

    def unknown_share(self, sentences: Sequence[str]) -> float:
        """Returns which share of the sentences' pieces the base does not know, in [0, 1]."""
        pieces = [piece for ids in self.encode(sentences) for piece in ids]
        return pieces.count(self._tokenizer.unk_token_id) / max(len(pieces), 1)

    def unknown_shares(self, sentences: Sequence[str]) -> list[float]:
        """Returns for each sentence which share of its pieces the base does not know, in [0, 1]."""
        unknown = self._tokenizer.unk_token_id
        return [ids.count(unknown) / max(len(ids), 1) for ids in (self.encode(sentences) if sentences else [])]

    def vocabulary(self, languages: Sequence[str], decoder_start_id: int) -> BatchVocabulary:
        """Returns the special ids that batches need.

        Raises:
            InputError: If the base does not know a language; the near ones are listed.
        """
        problems: list[str] = []
        ids = {}
        for language in languages:
            try:
                ids[language] = self.language_ids[match_code(language, self.language_ids)]
            except InputError as error:
                problems.extend(error.problems)
        if problems:
            raise InputError(problems)
        return BatchVocabulary(
            pad_id=self._tokenizer.pad_token_id,
            eos_id=self._tokenizer.eos_token_id,
            decoder_start_id=decoder_start_id,
            language_ids=ids,
            form=self.family.form,
            first_new_id=min((language.index for language in self.new_languages), default=None),
        )


@dataclass(frozen=True)
class Base:
    """A frozen base: its model in evaluation mode, its tokenizer and its sizes."""

    name: str
    model: TranslationModel
    tokenizer: BaseTokenizer
    shape: BaseShape
    revision: str | None = None
    """The commit of a base from the hub."""

    @property
    def source(self) -> BaseSource:
        """What finds this base again."""
        return BaseSource(self.name, self.revision, self.tokenizer.family.name)

    new_languages: tuple[NewLanguage, ...] = ()
    """Languages that it has no token for, sorted by their codes; see `new_languages.with_new_languages`."""

    def vocabulary(self, languages: Sequence[str]) -> BatchVocabulary:
        """Returns the special ids that batches need. Raises InputError for a language that the base does not know."""
        config: Any = self.model.config
        start = config.decoder_start_token_id
        return self.tokenizer.vocabulary(languages, config.eos_token_id if start is None else start)


@dataclass(frozen=True)
class SharedBase:
    """A base as plain arrays and bytes: what Ray's object store keeps once a node and maps without a copy."""

    name: str
    files: Mapping[str, bytes]
    weights: Mapping[str, np.ndarray]
    dtypes: Mapping[str, str]
    shape: BaseShape
    family: str
    revision: str | None = None
    new_languages: tuple[NewLanguage, ...] = ()


def load_base(
    source: FoundBase | BaseSource | str,
    dtype: torch.dtype = torch.float32,
    weights: Path | None = None,
    tokenizer: BaseTokenizer | None = None,
) -> Base:
    """Loads a base, frozen and in evaluation mode; fetches its weights, and turns pickles to safetensors, where needed.

    Weights that are stored in the type are mapped from their file: they are read when they are used, stay in memory
    that the system shares between processes, and are never written.

    Args:
        source: An embedded name, a folder or a hub id; or what was found of it.
        dtype: The type that its weights are held in.
        weights: The folder with its weights that `provide_weights` has returned. None: they are provided now.
        tokenizer: The base's, where it was read already.

    Raises:
        InputError: If there is no such base, it is of another family, or a file is torn or lacks something.
    """
    found = source if isinstance(source, FoundBase) else locate_base(source)
    folder, told = found.folder, found.source.family
    find_family(folder, told)  # before anything is fetched
    model = _load_model(found, weights or provide_weights(found), dtype)
    tokenizer = tokenizer or BaseTokenizer(folder, told)
    return Base(found.source.id, _freeze(model), tokenizer, read_shape(folder, told), found.commit)


def outline_base(found: FoundBase, weights: Path, tokenizer: BaseTokenizer) -> Base:
    """Returns all of a base but its weights: its model is on the meta device.

    The weights are checked as `load_base` does. They are not read for it, and nothing of them stays.

    Args:
        found: The base.
        weights: The folder with its weights that `provide_weights` has returned.
        tokenizer: The base's.

    Raises:
        InputError: As `load_base` does.
    """
    folder, told = found.folder, found.source.family
    _load_model(found, weights, _stored_dtype(weights))
    with torch.device("meta"):
        model = tokenizer.family.model_class(read_config(folder))
    return Base(found.source.id, _freeze(model), tokenizer, read_shape(folder, told), found.commit)


def _load_model(found: FoundBase, weights: Path, dtype: torch.dtype) -> TranslationModel:
    folder = found.folder
    family = find_family(folder, found.source.family)
    config = read_config(folder)
    with quiet_transformers():
        try:
            model, report = family.model_class.from_pretrained(
                weights,
                config=config,
                # Without one it is looked for beside the weights; ours is set below.
                generation_config=GenerationConfig.from_model_config(config),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, SafetensorError, RuntimeError) as error:
            raise InputError(
                f"A base's weights must be whole and fit its config.json, but {folder}: {error}"
            ) from error
        # Without this check, what is missing would be filled with random numbers.
        if missing := sorted(report["missing_keys"]):
            raise InputError(f"A base's weights must be all there, but {folder} lacks {', '.join(missing[:5])}.")
        _check_tied(model, folder)
        _check_logits_bias(model, folder)
    loaded: TranslationModel = model
    return loaded


def _stored_dtype(weights: Path) -> torch.dtype:
    """Returns the type of weights in a folder, in which nothing of them need be copied."""
    with safe_open(min(weights.glob("*.safetensors")), "pt") as file:
        name = file.get_slice(next(iter(file.keys()))).get_dtype()
    return {"BF16": torch.bfloat16, "F16": torch.float16}.get(name, torch.float32)


def share_base(base: Base) -> SharedBase:
    """Returns a base as arrays and bytes. bfloat16 travels as its bits, since numpy has no such type."""
    folder = base.tokenizer.folder
    files = {name: (folder / name).read_bytes() for name in TOKENIZER_FILES if (folder / name).exists()}
    weights, dtypes = {}, {}
    for name, tensor in base.model.state_dict().items():
        dtypes[name] = str(tensor.dtype).removeprefix("torch.")
        bits = tensor.view(torch.int16) if tensor.dtype is torch.bfloat16 else tensor
        weights[name] = bits.cpu().numpy()
    # Tied weights are one tensor under several names: send one, tie again on arrival.
    for tied in ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
        if base.model.config.tie_word_embeddings:
            weights.pop(tied, None)
    return SharedBase(
        name=base.name,
        files=files,
        weights=weights,
        dtypes=dtypes,
        shape=base.shape,
        family=base.tokenizer.family.name,
        revision=base.revision,
        new_languages=base.new_languages,
    )


def attach_base(shared: SharedBase) -> Base:
    """Builds a base on arrays that are not copied: read-only memory of the object store serves as its weights.

    Nothing of it stays on the disk, so a process that is killed leaves nothing: its tokenizer works from memory, and
    `tokenizer.folder` is gone.
    """
    with tempfile.TemporaryDirectory(prefix="langsearch-base-") as name:
        folder = Path(name)
        for file, content in shared.files.items():
            (folder / file).write_bytes(content)
        with torch.device("meta"):
            model = find_family(folder, shared.family).model_class(read_config(folder))
        tokenizer = BaseTokenizer(folder, shared.family)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        tensors = {name: torch.from_numpy(array) for name, array in shared.weights.items()}
    for name, tensor in tensors.items():
        if shared.dtypes[name] == "bfloat16":
            tensors[name] = tensor.view(torch.bfloat16)
    missing, unexpected = model.load_state_dict(tensors, strict=False, assign=True)
    model.tie_weights()
    assert not unexpected, unexpected
    assert all("embed_tokens" in name or name == "lm_head.weight" for name in missing), missing
    for stack in (model.model.encoder, model.model.decoder):
        positions = stack.embed_positions
        if isinstance(positions, nn.Embedding):
            continue  # learned (mBART), so they came with the weights
        table = positions.get_embedding(
            positions.num_positions + positions.offset, positions.embedding_dim, positions.padding_idx
        )
        # In the weights' type, as `from_pretrained` has it: a sum of two types would be of the wider one.
        positions.weights = nn.Buffer(table.to(model.dtype), persistent=False)
    tokenizer = tokenizer.with_languages(shared.new_languages)
    return Base(shared.name, _freeze(model), tokenizer, shared.shape, shared.revision, shared.new_languages)


def _freeze(model: TranslationModel) -> TranslationModel:
    model.requires_grad_(False)
    model.eval()
    # A base's own generation defaults (beams, lengths, penalties) must not change scores behind the space's back.
    model.generation_config = GenerationConfig.from_model_config(model.config)
    return model


def _check_tied(model: TranslationModel, folder: Path) -> None:
    """Raises InputError if embeddings that are one by the configuration are several by the weights."""
    shared = model.model.shared.weight
    embeddings = (model.lm_head, model.model.encoder.embed_tokens, model.model.decoder.embed_tokens)
    if model.config.tie_word_embeddings and any(embedding.weight is not shared for embedding in embeddings):
        raise InputError(
            f"A base's embeddings must be one where its config.json ties them, but the weights of {folder} hold "
            "several that differ. Set tie_word_embeddings to false there if that is meant."
        )


def _check_logits_bias(model: TranslationModel, folder: Path) -> None:
    """Raises InputError if an mBART adds something to its logits: the published ones add 0, and so do we."""
    bias = getattr(model, "final_logits_bias", None)
    if bias is not None and bool(bias.any()):
        raise InputError(f"A base's final_logits_bias must be 0, as in published ones, but in {folder} it is not.")


def _fingerprint(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in ("sentencepiece.bpe.model", "vocab.json", "tokenizer.json"):
        if (folder / name).exists():
            digest.update(name.encode() + (folder / name).read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps the loading bars and reports of transformers off our terminal."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        transformers_logging.enable_progress_bar()
