"""A larger base teaches: what it says is kept once, is the same after any end, and is of use."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.batches import Batch, collate
from langsearch.data.directions import all_directions
from langsearch.data.epochs import plan_epoch
from langsearch.data.store import TokenStore
from langsearch.data.top_tokens import TEACHERS, TopTokens
from langsearch.model.base import Base, load_base
from langsearch.model.larger import check_larger, find_larger, identified
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import DistillSettings, LargerTeacher, LossSettings
from langsearch.space.problems import InputError
from langsearch.space.settings import TrainerSettings
from langsearch.train import larger_teacher
from langsearch.train.checkpoint import read_newest_checkpoint, write_checkpoint
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.distill_larger import DistillLarger
from langsearch.train.forward import ready, run_forward
from langsearch.train.larger_teacher import LargerReader
from langsearch.train.loop import Progress, TrainingData, train
from tests.teacher_fixtures import write_teacher

LANGUAGES = ("en", "fr", "de", "sw")
DIRECTIONS = all_directions(LANGUAGES)
SETTINGS = TrainerSettings(epochs=2, pairs_per_epoch=24, tokens_per_batch=200, accumulation=2, dropout=0.1, lr=1e-2)
Architect = Callable[..., Architecture]
NewLearner = Callable[..., AdaptedModel]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, new_base: Callable[[], Base]) -> Path:
    return write_teacher(tmp_path_factory.mktemp("teachers") / "large", new_base())


@pytest.fixture
def data(tiny_base: Base, quickstart_store: TokenStore, tmp_path: Path) -> TrainingData:
    """Sentences in a folder of their own, beside which the teacher's are kept."""
    files = {name: Path(shutil.copy(path, tmp_path)) for name, path in quickstart_store.files.items()}
    return TrainingData(TokenStore.open(files), DIRECTIONS, LANGUAGES, tiny_base.vocabulary(LANGUAGES))


@pytest.fixture
def new_learner(new_base: Callable[[], Base], make_architecture: Architect) -> NewLearner:
    def make(seed: int = 0) -> AdaptedModel:
        return adapt(new_base(), make_architecture(), LANGUAGES, seed)

    return make


def taught(teacher: Path, top_k: int = 16, **settings: Any) -> TrainerSettings:
    distill = DistillSettings(teacher=str(LargerTeacher(base=str(teacher), top_k=top_k)), **settings)
    return identified(replace(SETTINGS, loss=LossSettings(distill=distill)))


def reader_of(learner: AdaptedModel, data: TrainingData, teacher: Path, top_k: int = 16, **more: Any) -> LargerReader:
    named = LargerTeacher(base=str(teacher), top_k=top_k)
    return LargerReader(
        named, learner, data.store, data.vocabulary, torch.float32, more.pop("temperature", 1.0), **more
    )


def drawn(data: TrainingData, epoch: int = 0) -> list[np.ndarray]:
    plan = plan_epoch(
        data.store, DIRECTIONS, epoch=epoch, seed=0, temperature=5.0, max_tokens=100, pairs_per_epoch=24, max_length=64
    )
    return list(plan.microbatches)


def batch_of(data: TrainingData, rows: np.ndarray) -> Batch:
    return ready(collate(data.store, DIRECTIONS, rows, data.vocabulary, LANGUAGES, with_sentences=True))


def files_of(data: TrainingData) -> dict[str, bytes]:
    folder = next(iter(data.store.files.values())).parent / TEACHERS
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*.arrow"))}


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_loss_is_that_of_the_teacher_s_own_distributions(
    temperature: float, new_learner: NewLearner, data: TrainingData, teacher: Path
) -> None:
    learner, rows = new_learner(), drawn(data)
    reader = reader_of(learner, data, teacher, 300, temperature=temperature)
    term = DistillLarger(DistillSettings(weight=0.3, temperature=temperature), CrossEntropy(0.1), reader)
    assert list(term.before_epoch(DIRECTIONS, rows))
    batch = term.attached(batch_of(data, rows[1]))
    states = run_forward(learner, batch, term.needs, torch.float32)
    large = load_base(str(teacher))
    bare = adapt(large, Architecture(slots=tuple((name, name) for name in LANGUAGES), adapters=()), LANGUAGES)
    wanted = run_forward(bare, batch, term.needs, torch.float32).decoder
    assert states.decoder is not None and wanted is not None and batch.taught_ids is not None
    log_probs = F.log_softmax(wanted @ large.model.lm_head.weight.T / temperature, dim=1).topk(300, dim=1)
    assert torch.equal(batch.taught_ids.long().sort().values, log_probs.indices.sort().values)
    plain = CrossEntropy(0.1).loss(learner.model, states, batch)
    q, p = (
        F.softmax(found.detach() @ weight.T / temperature, dim=1).gather(1, batch.taught_ids.long())
        for found, weight in ((states.decoder, learner.model.lm_head.weight), (wanted, large.model.lm_head.weight))
    )
    q, p = (torch.cat([each, 1 - each.sum(dim=1, keepdim=True)], dim=1) for each in (q, p))
    divergence = float((p * (p / q).log()).sum()) * temperature**2
    found = term.loss(learner.model, states, batch).item()
    assert found == pytest.approx(0.7 * plain.item() + 0.3 * divergence, rel=1e-4)


def test_a_training_is_resumed_to_the_bit_and_reads_nothing_twice(
    new_learner: NewLearner, data: TrainingData, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = taught(teacher)

    def go(learner: AdaptedModel, stop: int | None = None, resume: bool = False) -> list[tuple[int, float]]:
        found = []
        checkpoint = read_newest_checkpoint(tmp_path / "checkpoint") if resume else None
        for progress in train(learner, data, settings, resume=checkpoint, updates_between_yields=1):
            found.append((progress.updates, progress.train_loss))
            if progress.updates == stop:
                write_checkpoint(tmp_path / "checkpoint", progress.checkpoint())
                break
        return found

    whole = new_learner()
    expected, kept = go(whole), files_of(data)
    assert len(kept) == settings.epochs
    # Another trial, which also stops within the first epoch: all is there, so that no teacher is loaded.
    monkeypatch.setattr(larger_teacher, "load_base", lambda *_: pytest.fail("nothing must be read again"))
    resumed = new_learner(5)
    stop = len(expected) // 2 - 1
    assert go(new_learner(), stop) + go(resumed, resume=True) == expected
    assert all(torch.equal(value, whole.state()[name]) for name, value in resumed.state().items())
    assert files_of(data) == kept
    plain = new_learner()
    for _ in train(plain, data, SETTINGS):
        pass
    assert not all(torch.equal(value, whole.state()[name]) for name, value in plain.state().items())


def test_reading_first_changes_nothing_of_a_training(
    new_learner: NewLearner, data: TrainingData, teacher: Path
) -> None:
    settings = taught(teacher)
    found = []
    for _ in range(2):  # the second finds all that the first has read
        torch.manual_seed(7)
        learner = new_learner()
        found.append(([progress.train_loss for progress in train(learner, data, settings)], learner.state()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())


def test_a_training_may_be_stopped_while_the_teacher_reads(
    new_learner: NewLearner, data: TrainingData, teacher: Path, tmp_path: Path
) -> None:
    settings = taught(teacher)
    asked: list[bool] = []

    def should_yield() -> bool:
        asked.append(True)
        return len(asked) == 1

    progress: Progress = next(iter(train(new_learner(), data, settings, should_yield=should_yield)))
    assert (progress.updates, progress.microbatch, progress.is_epoch_end) == (0, 0, False)
    write_checkpoint(tmp_path / "checkpoint", progress.checkpoint())
    assert files_of(data) == {}
    learner, whole = new_learner(5), new_learner()
    *_, last = train(learner, data, settings, resume=read_newest_checkpoint(tmp_path / "checkpoint"))
    *_, wanted = train(whole, data, settings)
    assert last.train_loss == wanted.train_loss


def test_one_reads_while_others_wait_for_it(
    new_learner: NewLearner, data: TrainingData, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larger_teacher, "_TOKENS_PER_BATCH", 64)
    monkeypatch.setattr(larger_teacher, "_WAIT_S", 0.0)
    one, other = (reader_of(new_learner(), data, teacher) for _ in range(2))
    reading, waiting = (each.read(DIRECTIONS, drawn(data)) for each in (one, other))
    next(reading)
    for _ in range(3):
        next(waiting)
    assert other.num_read == 0
    for _ in reading:
        pass
    assert list(waiting) == [] and other.num_read == 0 < one.num_read
    assert len(files_of(data)) == 1
    # A third one that draws more reads only what is new.
    third = reader_of(new_learner(), data, teacher)
    for _ in third.read(DIRECTIONS, [*drawn(data), *drawn(data, 1)]):
        pass
    assert third.num_read > 0 and len(files_of(data)) == 2
    tokens = TopTokens(third.tokens.folder, 16)
    tokens.look()
    assert len(tokens._keys) == len(np.unique(np.concatenate([*drawn(data), *drawn(data, 1)]), axis=0))


_KILLED = """
import os, signal, sys
from pathlib import Path
from langsearch.data.top_tokens import TEACHERS, TopTokens
import numpy as np
at, folder = int(sys.argv[1]), Path(sys.argv[2])
replace = Path.replace
def die(self, target):
    if target.name == f"{at:06d}.arrow":
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = die
tokens = TopTokens(folder, 2)
with tokens.held() as is_held:
    assert is_held
    for start in range(0, 9, 3):
        keys = np.arange(start, start + 3)
        tokens.add(keys, np.array([1, 2, 1]), np.full((4, 2), start, np.int32), np.zeros((4, 2), np.float16))
"""


def test_a_process_that_is_killed_costs_the_file_that_it_was_writing(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED, "2", str(tmp_path)], check=False, env={**os.environ})
    assert killed.returncode == -signal.SIGKILL
    tokens = TopTokens(tmp_path, 2)
    tokens.look()
    assert tokens.missing(np.arange(9)).tolist() == [6, 7, 8]
    assert len(list(tmp_path.glob(".000002.arrow.*"))) == 1
    with tokens.held() as is_held:
        assert is_held
        tokens.add(np.array([6]), np.array([1]), np.ones((1, 2), np.int32), np.zeros((1, 2), np.float16))
    assert not list(tmp_path.glob(".000002.arrow.*"))
    tokens.look()
    ids, _, counts = tokens.read(np.array([6, 1]))
    assert ids.tolist() == [[1, 1], [0, 0], [0, 0]] and counts.tolist() == [1, 2]


def test_a_reader_that_died_between_files_goes_on_with_the_same_numbers(
    new_learner: NewLearner, data: TrainingData, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(larger_teacher, "_PAIRS_PER_FILE", 5)

    def go(num_yields: int | None = None) -> Iterator[None]:
        reading = reader_of(new_learner(), data, teacher).read(DIRECTIONS, drawn(data))
        for number, _ in enumerate(reading, start=1):
            if number == num_yields:
                return reading.close()  # type: ignore[attr-defined,no-any-return]
        return iter(())

    go()
    whole = files_of(data)
    assert len(whole) == 5
    shutil.rmtree(next(iter(data.store.files.values())).parent / TEACHERS)
    go(3)
    assert 0 < len(files_of(data)) < 5
    (torn,) = list(files_of(data))[-1:]
    path = next(iter(data.store.files.values())).parent / TEACHERS / torn
    path.write_bytes(path.read_bytes()[:40])
    path.rename(path.with_name("999999.arrow"))
    go()
    found = {name: value for name, value in files_of(data).items() if "999999" not in name}
    assert set(found.values()) == set(whole.values())


def test_another_teacher_text_k_or_temperature_is_kept_apart(
    new_learner: NewLearner, data: TrainingData, teacher: Path, tmp_path: Path, new_base: Callable[[], Base]
) -> None:
    learner = new_learner()
    other = write_teacher(tmp_path / "other", new_base(), seed=2)
    readers = [
        reader_of(learner, data, teacher),
        reader_of(learner, data, other),
        reader_of(learner, data, teacher, 8),
        reader_of(learner, data, teacher, temperature=2.0),
    ]
    assert len({reader.tokens.folder for reader in readers}) == 4


def test_a_teacher_is_known_by_its_weights_and_must_stay_the_same(tmp_path: Path, new_base: Callable[[], Base]) -> None:
    settings = taught(write_teacher(tmp_path / "teacher", new_base()))
    assert settings.loss.distill is not None and settings.loss.distill.larger is not None
    named = settings.loss.distill.larger
    assert named.identity is not None and LargerTeacher.parse(str(named)) == named
    assert identified(settings) == settings
    shutil.rmtree(tmp_path / "teacher")
    write_teacher(tmp_path / "teacher", new_base(), seed=2)
    with pytest.raises(InputError, match=f"was {named.identity}, and is "):
        find_larger(named)


def test_a_teacher_of_another_vocabulary_is_refused_by_its_tokens(tmp_path: Path, new_base: Callable[[], Base]) -> None:
    base = new_base()
    folder = write_teacher(tmp_path / "teacher", base)
    named = LargerTeacher(base=str(folder))
    assert check_larger(named, base.tokenizer, LANGUAGES, ()).folder == folder
    text = (folder / "vocab.json").read_text(encoding="utf-8")
    (folder / "vocab.json").write_text(text.replace("{", "{ ", 1), encoding="utf-8")
    assert check_larger(named, base.tokenizer, LANGUAGES, ()).folder == folder, "the same tokens in another file"
    vocabulary = json.loads(text)
    one, two = list(vocabulary)[100:102]
    swapped = vocabulary | {one: vocabulary[two], two: vocabulary[one]}
    (folder / "vocab.json").write_text(json.dumps(swapped), encoding="utf-8")
    with pytest.raises(InputError, match=r"but .* has other tokens: '.*' is \d+ there, \d+ here"):
        check_larger(named, base.tokenizer, LANGUAGES, ())
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="`top_k` must be at most the vocabulary"):
        check_larger(LargerTeacher(base=str(folder), top_k=10**7), base.tokenizer, LANGUAGES, ())
