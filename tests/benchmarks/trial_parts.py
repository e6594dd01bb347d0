"""The parts of a trial and their seconds, for `tests.benchmarks.trial_profile`."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate import evaluation, greedy, incremental
from langsearch.evaluate.sources import SourceEncoder
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.folder import TrialFolder
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.base import Base, load_base
from langsearch.search.forecast import num_scored
from langsearch.search.sizes import sample_point
from langsearch.space.schema import load_space
from langsearch.train import loop
from langsearch.train.cross_entropy import CrossEntropy
from langsearch.train.loop import TrainingData, train
from langsearch.trial import trial
from langsearch.trial.trial import build_learner, run_trial

_SPACE = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
_LINEARS = {
    "own": "self-attention",
    "own_out": "self-attention",
    "cross": "cross-attention",
    "cross_query": "cross-attention",
    "cross_out": "cross-attention",
    "fc1": "feed-forward",
    "fc2": "feed-forward",
}


@dataclass
class Sections:
    """CPU seconds of nested parts; a part's own do not count for the one around it."""

    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0
    last: str = ""
    """The part that ended last."""

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Counts what is done within for a part."""
        self._count()
        self._open.append(part)
        try:
            yield
        finally:
            self._count()
            self.last = self._open.pop()

    def wrap(self, owner: Any, name: str, part: str) -> None:
        """Has every call of a function count for a part."""
        function = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            with self.within(part):
                return function(*arguments, **named)

        setattr(owner, name, counted)

    def _count(self) -> None:
        now = time.process_time()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now


class _Counted:
    """A prepared layer of the decoder whose calls are counted."""

    def __init__(self, layer: Any, sections: Sections, part: str) -> None:
        self._layer, self._sections, self._part = layer, sections, part

    def __call__(self, *arguments: Any) -> Any:
        with self._sections.within(self._part):
            return self._layer(*arguments)

    def route(self, num_rows: int) -> None:
        with self._sections.within("decoding: adapters of the rows"):
            self._layer.route(num_rows)


@dataclass(frozen=True)
class Ready:
    """What a trial is made of."""

    checked: CheckedSpace
    base: Base
    environment: Environment
    task: TrialTask


def run_profiled_trial(sections: Sections, folder: Path, overrides: tuple[str, ...]) -> tuple[Ready, str]:
    """Runs the trial of a space's sample architecture; returns what it was made of, and what it did in words."""
    torch.set_num_threads(1)
    with sections.within("space and its checks"):
        checked = check_space(load_space(_SPACE, list(overrides)))
    space = checked.space
    with sections.within("base"):
        base = load_base(checked.base, tokenizer=checked.base_tokenizer)
    with sections.within("tokens"):
        environment = build_environment(checked, base, folder / "store")
    task = searched_task(space, checked.shape, 0, sample_point(space.dimensions()))
    _wrap_all(sections)
    trial_folder = TrialFolder(folder / "trial")
    trial_folder.path.mkdir()
    with sections.within("the rest"):
        task.write(trial_folder)
        results = list(run_trial(base, environment, task, trial_folder))
    num_translations = len(results) * num_scored(checked, space.evaluation.search, "validation")[1]
    told = f"{len(results)} epochs, {results[-1].updates} updates, {num_translations} translations"
    return Ready(checked, base, environment, task), told


def _wrap_all(sections: Sections) -> None:
    sections.wrap(trial, "build_learner", "adapters: made and mounted")
    sections.wrap(loop, "plan_of", "training: batches")
    sections.wrap(loop, "collate", "training: batches")
    sections.wrap(loop, "ready", "training: batches")
    sections.wrap(loop, "run_forward", "training: forward")
    sections.wrap(CrossEntropy, "loss", "training: loss, its gradient included")
    sections.wrap(torch.Tensor, "backward", "training: backward")
    sections.wrap(torch.amp.GradScaler, "step", "training: optimizer")
    sections.wrap(evaluation, "decode_rows", "decoding: the rest")
    sections.wrap(SourceEncoder, "encode", "decoding: encoder")
    sections.wrap(greedy, "most_likely", "decoding: logits")
    sections.wrap(SpBleu, "score", "spBLEU")
    for name in ("write_checkpoint", "write_scores", "write_rows", "write_json", "remove_weights"):
        sections.wrap(trial, name, "checkpoints and scores written")
    take_apart = incremental._Layer.of
    attend = incremental.IncrementalDecoder._attention

    def counted_layer(layer: Any) -> Any:
        parts = take_apart(layer)
        named = {item.name: getattr(parts, item.name) for item in fields(parts) if item.name in _LINEARS}
        counted = {name: _Counted(found, sections, f"decoding: {_LINEARS[name]}") for name, found in named.items()}
        changed: dict[str, Any] = {**counted}
        return replace(parts, **changed)

    def counted_attention(self: Any, *arguments: Any) -> Any:
        with sections.within(sections.last):  # behind the product that makes its queries
            return attend(self, *arguments)

    incremental._Layer.of = staticmethod(counted_layer)  # type: ignore[method-assign]
    incremental.IncrementalDecoder._attention = counted_attention  # type: ignore[method-assign, assignment]


def profiled_step(ready: Ready, num_updates: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the seconds of each part of some training steps, and the operations of the products among them."""
    space, base, environment = ready.checked.space, ready.base, ready.environment
    learner = build_learner(base, environment, ready.task)
    data = TrainingData(environment.train, environment.directions, space.languages, base.vocabulary(space.languages))
    updates = train(learner, data, ready.task.trainer, should_yield=lambda: True)
    next(updates)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True, with_flops=True) as found:
        for _ in range(num_updates):
            next(updates)
    if isinstance(learner, AdaptedModel):
        learner.remove()
    shape = base.shape
    d = shape.d_model
    own = {d, 2 * d, 3 * d, shape.encoder_ffn_dim, shape.decoder_ffn_dim}
    vocab = base.model.lm_head.weight.shape[0]
    seconds: dict[str, float] = {}
    flops: dict[str, float] = {}
    for event in found.events():
        part = _part(event, own, vocab)
        seconds[part] = seconds.get(part, 0.0) + event.self_cpu_time_total / 1e6
        flops[part] = flops.get(part, 0.0) + (event.flops or 0)
    return seconds, flops


def _part(event: Any, own: set[int], vocab: int) -> str:
    if event.name in _PRODUCTS:
        matrices = [shape for shape in event.input_shapes if len(shape) >= 2]
        if any(vocab in shape for shape in matrices):
            return "products with the output embedding"
        # A weight of the base is the only matrix both of whose sides are the base's.
        return "frozen products" if any(set(shape) <= own for shape in matrices) else "adapters' products"
    if "scaled_dot_product" in event.name:
        return "attention"
    if "Optimizer" in event.name or "_foreach" in event.name or "_fused_adam" in event.name:
        return "optimizer"
    if any(word in event.name for word in ("exp", "log", "softmax", "logsumexp")):
        return "exponentials of the loss"
    if any(word in event.name for word in ("layer_norm", "relu", "dropout", "bernoulli", "threshold")):
        return "norms, activations, dropout"
    if event.name.startswith("aten::"):
        return "adding, copying, indexing"
    return "Python, autograd"


def floor_lines(ready: Ready, num_updates: int, step: dict[str, float], flops: dict[str, float]) -> list[str]:
    """Returns what the frozen base's operations and bytes would take on this core, in sentences."""
    pace = _pace()
    bandwidth = _bandwidth()
    frozen = [part for part in step if part in ("frozen products", "products with the output embedding")]
    least = sum(flops[part] for part in frozen) / pace
    taken, whole = sum(step[part] for part in frozen), sum(step.values())
    num_bytes = 4 * ready.checked.shape.num_parameters
    return [
        f"a large product runs at {pace / 1e9:.0f} GFLOPS, memory is copied at {bandwidth / 1e9:.1f} GB/s",
        f"the frozen products of the profiled updates take {taken:.2f} s of {whole:.2f}, and would take {least:.2f} "
        f"at that pace: a step is {whole / least:.2f} x the floor, and {whole / taken:.2f} x its frozen products",
        f"reading all weights, {num_bytes / 1e6:.0f} MB, forward and back takes {2e3 * num_bytes / bandwidth:.1f} ms "
        f"of the {1e3 * whole / num_updates:.0f} of an update",
    ]


def _pace() -> float:
    """Returns operations a second of a large product on one thread."""
    one = torch.randn(1024, 1024)
    one @ one
    began = time.process_time()
    for _ in range(10):
        one @ one
    return 10 * 2 * 1024**3 / (time.process_time() - began)


def _bandwidth() -> float:
    """Returns bytes a second that are read and written when memory beyond the caches is copied."""
    one = torch.randn(32 * 2**20)
    other = torch.empty_like(one)
    other.copy_(one)
    began = time.process_time()
    for _ in range(5):
        other.copy_(one)
    return 5 * 2 * one.nbytes / (time.process_time() - began)
