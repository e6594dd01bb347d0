"""What all trials of an experiment share: the sentences, the directions, and how scores are computed."""

import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from langsearch.data.directions import Direction, parse_directions
from langsearch.data.epochs import SourceWeights
from langsearch.data.overlap import Overlap
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.evaluate.spbleu import ScoreTokenizer
from langsearch.experiment.base_checks import check_base
from langsearch.experiment.corpus import PARTS, Corpus, DirectionRows, count_rows, read_corpus, row_problems
from langsearch.experiment.dirt import Filtered, filter_training
from langsearch.experiment.folder import STORE_FOLDER
from langsearch.experiment.leaks import find_leaks, language_pairs, leak_problems
from langsearch.experiment.lengths import Lengths, check_lengths
from langsearch.experiment.tokenizing import tokenizing
from langsearch.experiment.working_copy import WorkingCopy
from langsearch.model.base import Base, BaseTokenizer
from langsearch.model.cpu_precision import MeasuredPrecision
from langsearch.model.device import Compute
from langsearch.model.families import read_config
from langsearch.model.finding import FoundBase
from langsearch.model.positions import num_positions
from langsearch.model.splitter import Splitter
from langsearch.space.architecture import BaseShape
from langsearch.space.data_filter import NO_FILTER
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.space.settings import BaseSource, EvaluationSettings


@dataclass(frozen=True)
class Environment:
    """All that a worker needs beside the base and its own task. Small: the text stays in memory-mapped files."""

    languages: tuple[str, ...]
    classes: Mapping[str, tuple[str, ...]]
    directions: tuple[Direction, ...]
    train: TokenStore
    validation: TokenStore
    test: TokenStore
    evaluation: EvaluationSettings
    tokenizer: ScoreTokenizer
    with_chrf: bool = False
    """Whether chrF is computed too."""
    with_directions: bool = False
    """Whether results hold the score of each direction."""
    rung_epochs: tuple[int, ...] = ()
    """The epochs after which trials are compared, if their evaluation grows with them; `evaluation.rungs` says how."""
    compute: Compute = field(default_factory=Compute)
    """On which device a trial computes, and what `auto` means for its precision on a CPU."""
    weights: SourceWeights | None = None
    """How often rows of train are drawn, by source. None: all alike."""
    zero_shot: tuple[Direction, ...] = ()
    """The directions that are scored but not trained on."""


@dataclass(frozen=True)
class CheckedSpace:
    """A space that was checked against its base and its data; nothing was written or started for it."""

    space: Space
    base: FoundBase
    family: str
    """The base's, such as m2m100."""

    shape: BaseShape
    corpus: Corpus
    directions: tuple[Direction, ...]
    tokenizer: ScoreTokenizer
    lengths: Lengths
    base_tokenizer: BaseTokenizer
    direction_rows: Mapping[Direction, DirectionRows] = field(default_factory=dict)
    """How many rows each direction has in each part."""

    overlaps: tuple[Overlap, ...] = ()
    """What the parts have in common, where they were compared."""

    filtered: Filtered | None = None
    """What `data.filter` has left out of the training part; None: there is no filter."""

    teachers: tuple[FoundBase, ...] = ()
    """The other bases that teach."""

    @property
    def num_validation_sentences(self) -> int:
        """How many sentences a direction has in the validation part, that which has most; of bitexts none has all."""
        rows = [rows.validation for rows in self.direction_rows.values()]
        return max(rows, default=len(self.corpus.validation))

    @property
    def zero_shot(self) -> tuple[Direction, ...]:
        """The directions that are scored but not trained on."""
        return tuple(direction for direction, rows in self.direction_rows.items() if rows.is_zero_shot)


def check_space(space: Space, source: BaseSource | None = None, *, is_begun: bool = False) -> CheckedSpace:
    """Checks a space against its base, its data and its score tokenizer. Of the base's weights nothing is fetched.

    Args:
        space: The space.
        source: Its base at the commit that an experiment has recorded. None: as the space has it.
        is_begun: Its parts have been compared before, or what is trained already is to be read, scored or exported.

    Raises:
        InputError: With the problems of all of them together.
    """
    base = check_base(space.draft, source or space.base_source)
    problems = list(base.problems)
    base_tokenizer = base.tokenizer
    corpus = lengths = None
    directions: tuple[Direction, ...] = ()
    try:
        directions = parse_directions(space.data.directions, space.languages)
    except InputError as error:
        problems += error.problems
    try:
        corpus = read_corpus(space.data, space.languages, directions, space.draft.where_part)
    except InputError as error:
        problems += error.problems
    counts = count_rows(corpus, directions) if corpus is not None else {}
    problems += row_problems(counts, space.data)
    if corpus is not None and base_tokenizer is not None:
        positions = num_positions(read_config(base_tokenizer.folder))
        try:
            lengths = check_lengths(space, corpus, directions, base_tokenizer.encode, positions)
        except InputError as error:
            problems += error.problems
    overlaps: tuple[Overlap, ...] = ()
    filtered = None
    if corpus is not None and directions and (not is_begun or space.data.filter.overlap):
        overlaps = find_leaks(space, corpus.parts, directions)
        problems += leak_problems(space, overlaps, corpus)
    if corpus is not None and base_tokenizer is not None and space.data.filter != NO_FILTER:
        pairs = language_pairs(space, directions)
        train, filtered = filter_training(
            corpus.train, space.data.filter, pairs, base_tokenizer.unknown_shares, overlaps
        )
        corpus = replace(corpus, train=train)
        counts = count_rows(corpus, directions)
    if problems:
        raise InputError(problems)
    assert base.found is not None and base.shape is not None and base.score_tokenizer is not None
    assert corpus is not None and lengths is not None and base_tokenizer is not None
    return CheckedSpace(
        space,
        base.found,
        base_tokenizer.family.name,
        base.shape,
        corpus,
        directions,
        base.score_tokenizer,
        lengths,
        base_tokenizer,
        counts,
        overlaps,
        filtered,
        base.teachers,
    )


def build_environment(
    checked: CheckedSpace, base: Base, store_folder: Path, console: Console | None = None
) -> Environment:
    """Tokenizes the corpus, or finds it tokenized, and returns what the trials share.

    Args:
        checked: The space and its corpus.
        base: The base, whose tokenizer is used.
        store_folder: Where token files are kept; experiments share them.
        console: Shows how far a large text is. None: nothing is shown.
    """
    space, corpus = checked.space, checked.corpus

    def store(text: ParallelText) -> TokenStore:
        text = text.normalized(space.data.normalize)
        with tokenizing(console) as tell:
            return TokenStore.build(text, Splitter(base.tokenizer), base.tokenizer.fingerprint, store_folder, tell=tell)

    return Environment(
        languages=space.languages,
        classes=space.classes,
        directions=checked.directions,
        train=store(corpus.train),
        validation=store(corpus.validation),
        test=store(corpus.test),
        evaluation=space.evaluation,
        tokenizer=checked.tokenizer,
        with_chrf="chrf" in [*space.search.objectives, *(constraint.metric for constraint in space.search.constraints)],
        with_directions=any(constraint.metric.startswith("worst_loss.") for constraint in space.search.constraints),
        rung_epochs=space.search.rung_epochs(space.trainer_section.epochs) if space.evaluation.rungs else (),
        compute=Compute(gpu=space.resources.gpu),
        weights=corpus.weights,
        zero_shot=checked.zero_shot,
    )


def computing_in(environment: Environment, precision: MeasuredPrecision | None) -> Environment:
    """Returns the environment of trials that compute on a CPU in what was measured; None: nothing was."""
    if precision is None:
        return environment
    return replace(environment, compute=replace(environment.compute, cpu_precision=precision.name))


_LOCK = ".store.lock"


def portable(environment: Environment, copy: WorkingCopy | None) -> "Environment | Portable":
    """Returns what to send to workers, which get the environment.

    Args:
        environment: The environment; its token files lie in the copy's folder, if there is one.
        copy: Of a remote experiment. None: all machines see the same files.
    """
    if copy is None:
        return environment
    files = {part: dict(getattr(environment, part).files) for part in PARTS}
    names = {part: {language: path.name for language, path in found.items()} for part, found in files.items()}
    empty = TokenStore({}, {})
    return Portable(replace(environment, train=empty, validation=empty, test=empty), names, copy)


@dataclass(frozen=True)
class Portable:
    """An environment without its token files; becomes the whole one where it is unpickled."""

    bare: Environment
    names: Mapping[str, Mapping[str, str]]
    """Of each part the token file's name by language."""

    copy: WorkingCopy

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.bare, self.names, self.copy)


def _unpack(bare: Environment, names: Mapping[str, Mapping[str, str]], copy: WorkingCopy) -> Environment:
    experiments = copy.path.parent
    experiments.mkdir(parents=True, exist_ok=True)
    folder = experiments / STORE_FOLDER
    if not all((folder / name).exists() for part in names.values() for name in part.values()):
        _fetch(copy, experiments / _LOCK)

    def store(part: str) -> TokenStore:
        return TokenStore.open({language: folder / name for language, name in names[part].items()})

    return replace(bare, train=store("train"), validation=store("validation"), test=store("test"))


def _fetch(copy: WorkingCopy, lock: Path) -> None:
    """Brings the token files to this machine, once for all its workers."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        copy.pull_store()
    finally:
        os.close(descriptor)
