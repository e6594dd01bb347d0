"""The merge ratio: what pairs of both sides count in one matrix, found by evaluation alone."""

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.routing import Routing
from langsearch.adapters.two_sided import TwoSided, TwoSidedLoRALinear
from langsearch.data.directions import Direction, all_directions
from langsearch.evaluate.evaluation import Evaluation, evaluate
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, Site, uniform_ranks
from langsearch.space.problems import InputError
from langsearch.train.checkpoint import read_newest_checkpoint
from langsearch.trial.evaluating import evaluate_trial
from langsearch.trial.trial import load_trained, run_trial

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

SEEDS = range(5)
BRIDGE, OWN = "en", ["aa", "bb", "cc"]
LANGUAGES = [BRIDGE, *OWN]
DIM, RANK, NUM_STEPS = 16, 3, 150
RATIOS = (0.3, 0.5, 0.7, 1.0)


def planted(size: float, generator: torch.Generator) -> Tensor:
    a, b = torch.randn(2, DIM, 1, generator=generator)
    found: Tensor = size * a @ b.T / (a.norm() * b.norm())
    return found


def best_ratio_and_errors(in_common: float, seed: int) -> tuple[tuple[float, float], dict[float, float]]:
    """Trains pairs of both sides in one matrix with a bridge alone.

    Returns:
        The best ratio on directions that were not trained, and what equal ratios leave of the base's error there.
    """
    generator = torch.Generator().manual_seed(seed)
    base = nn.Linear(DIM, DIM, bias=False)
    base.weight = nn.Parameter(torch.randn(DIM, DIM, generator=generator) * DIM**-0.5, requires_grad=False)
    common = planted(in_common, generator)
    own = {side: {language: planted(1.0, generator) for language in OWN} for side in ("src", "tgt")}
    routing, ratio = Routing(), torch.ones(2)

    def lora(side: Side, number: int) -> LanguageLoRALinear:
        ranks, scales = dict.fromkeys(OWN, RANK), dict.fromkeys(OWN, 1.0)
        layer = LanguageLoRALinear(
            base, routing, side, ranks, LANGUAGES, in_features=DIM, out_features=DIM, scales=scales
        )
        layer.reset(
            "peft", {one: torch.Generator().manual_seed(100 * seed + 10 * number + i) for i, one in enumerate(OWN)}
        )
        return layer

    layer = TwoSidedLoRALinear(lora("src", 0), lora("tgt", 1), ratio)

    def error(x: Tensor, direction: Direction) -> Tensor:
        weight = base.weight + common
        for side, language in (("src", direction.src), ("tgt", direction.tgt)):
            weight = weight + own[side].get(language, torch.zeros(()))
        with routing.languages(
            *(torch.full((len(x),), LANGUAGES.index(one)) for one in (direction.src, direction.tgt))
        ):
            found: Tensor = (layer(x) - x @ weight.T).square().mean()
        return found

    trained = [direction for direction in all_directions(LANGUAGES) if BRIDGE in (direction.src, direction.tgt)]
    optimizer = torch.optim.Adam([value for value in layer.parameters() if value.requires_grad], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    for _ in range(NUM_STEPS):
        x = torch.randn(4, 16, DIM, generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(sum((error(x, one) for one in trained[1:]), error(x, trained[0])))
        optimizer.step()
        schedule.step()
    fresh = torch.randn(4, 16, DIM, generator=generator)

    def left(value: tuple[float, float]) -> float:
        ratio.copy_(torch.tensor(value))
        with torch.no_grad():
            return sum(float(error(fresh, direction)) for direction in all_directions(OWN))

    before, found = left((0.0, 0.0)), {value: left(value) for value in product(RATIOS, RATIOS)}
    with torch.no_grad():  # what has one side alone counts in full, whatever the ratio
        assert all(float(error(fresh, direction)) < 0.02 for direction in trained)
    return min(found, key=found.__getitem__), {value: found[value, value] / before for value in RATIOS}


@pytest.mark.parametrize("seed", SEEDS)
def test_what_both_sides_learned_in_common_is_weighed_down_and_nothing_is_where_they_learned_apart(seed: int) -> None:
    best, errors = best_ratio_and_errors(2.0, seed)
    assert best[0] < 1 and best[1] < 1
    assert errors[0.5] <= 0.3 * errors[1.0]
    # The control: without a common part the plain sum is exact, and what weighs it down only loses.
    best, errors = best_ratio_and_errors(0.0, seed)
    assert best == (1.0, 1.0)
    assert errors[1.0] <= 0.05 and errors[0.5] >= 0.1


def test_a_direction_has_the_ratio_where_both_languages_have_pairs_and_else_the_whole_pair(
    tiny_base: Base, make_architecture: Callable[..., Architecture]
) -> None:
    architecture = make_architecture({"fr": 2, "sw": 3}, kind="two_sided", scaling="alpha/r", alpha=3.0)
    adapters = TwoSided(tiny_base, architecture, ("en", "fr", "de", "sw"), seed=1)
    generator = torch.Generator().manual_seed(2)
    for views in adapters.owned().values():
        for view in views:
            view.normal_(generator=generator, std=0.1)
    adapters.ratio.copy_(torch.tensor([0.5, 0.25]))
    path = "model.encoder.layers.0.fc1"
    frozen, layer = tiny_base.model.get_submodule(path).weight.double(), adapters.layers[Site.parse("encoder.0.fc1")]
    pairs = {"src": layer.by_source.pair_of, "tgt": layer.by_target.pair_of}

    def product_of(side: str, slot: str) -> Tensor:
        a, b = pairs[side](slot)
        return b.double() @ a.double()

    for src, tgt, expected in (
        ("fr", "sw", 0.5 * product_of("src", "fr") + 0.25 * product_of("tgt", "sw")),
        ("fr", "en", product_of("src", "fr")),
        ("en", "sw", product_of("tgt", "sw")),
    ):
        direction = Direction(src, tgt)
        merged = adapters.merged(direction)[path]
        assert isinstance(merged, nn.Linear)
        torch.testing.assert_close(merged.weight.double() - frozen, expected, atol=1e-6, rtol=1e-5)
        x = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(3))
        rows = [torch.full((2,), adapters.languages.index(one)) for one in (src, tgt)]
        with adapters.routing.languages(*rows):
            torch.testing.assert_close(layer(x), merged(x), atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="PEFT cannot hold pairs of both sides at a site"):
        adapters.to_peft()


def test_a_trial_keeps_the_best_ratio_on_validation_and_trains_nothing_for_it(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites: list[tuple[Site, Side]] = [(Site.parse("encoder.0.fc1"), "tgt"), (Site.parse("decoder.1.fc2"), "tgt")]
    architecture = Architecture(
        slots=tuple((one, one) for one in environment.languages),
        adapters=uniform_ranks(sites, {"fr": 2, "sw": 2}),
        kind="two_sided",
    )
    plain = replace(make_task(modular_bridge="en", lr=0.05, epochs=1, pairs_per_epoch=8), architecture=architecture)
    task = replace(plain, trainer=replace(plain.trainer, merge_src=(1.0, 0.5), merge_tgt=(1.0, 0.25)))
    folders = [TrialFolder(tmp_path / name) for name in ("plain", "merged", "died")]
    scores = {(1.0, 1.0): 1.0, (1.0, 0.25): 2.0, (0.5, 1.0): 4.0, (0.5, 0.25): 3.0}
    tried: list[tuple[float, float]] = []

    def scored(learner: AdaptedModel, *arguments: object, **settings: object) -> Evaluation:
        """Evaluates, and says how good the ratio is instead of the translations."""
        found = evaluate(learner, *arguments, **settings)  # type: ignore[arg-type]
        assert isinstance(learner.adapters, TwoSided)
        ratio = tuple(learner.adapters.ratio.tolist())
        tried.append((ratio[0], ratio[1]))
        return replace(found, scores=replace(found.scores, spbleu=scores[tried[-1]]))

    monkeypatch.setattr("langsearch.trial.trial.evaluate", scored)
    plain.write(folders[0])
    *_, without = run_trial(base, environment, plain, folders[0])
    tried.clear()
    task.write(folders[1])
    *_, last = run_trial(base, environment, task, folders[1])
    assert tried[: -len(scores)] == [(1.0, 1.0)] * task.num_epochs and set(tried[-len(scores) :]) == set(scores)
    assert last.finished and last.spbleu == 4.0 and without.spbleu == 1.0
    assert last.note.endswith("merge ratio 0.5 of the source, 1 of the target")
    assert read_json(folders[1].result) == asdict(last)
    kept, other = (read_newest_checkpoint(folder.weights) for folder in folders[1::-1])
    assert kept is not None and other is not None
    assert kept.tensors["merge_ratio"].tolist() == [0.5, 1.0]
    assert all(torch.equal(kept.tensors[name], value) for name, value in other.tensors.items() if name != "merge_ratio")
    assert kept.state["spbleu"] == 4.0
    learner = load_trained(base, environment, folders[1])
    assert isinstance(learner, AdaptedModel) and isinstance(learner.adapters, TwoSided)
    assert learner.adapters.ratio.tolist() == [0.5, 1.0]
    learner.remove()
    # What scores it afterwards has the ratio too.
    monkeypatch.undo()
    settings = environment.evaluation.search
    assert evaluate_trial(base, environment, folders[1], "full", settings).scores.num_sentences > 0

    # A trial that dies between its last epoch and its result finds the same ratio, and trains nothing again.
    monkeypatch.setattr("langsearch.trial.trial.evaluate", scored)
    task.write(folders[2])
    run = run_trial(base, environment, task, folders[2])
    with monkeypatch.context() as dying:
        dying.setattr("langsearch.trial.trial.find_ratio", None)
        with pytest.raises(TypeError):
            list(run)
    tried.clear()
    *_, again = run_trial(base, environment, task, folders[2])
    assert tried == list(scores)
    assert (again.spbleu, again.note, again.train_loss) == (last.spbleu, last.note, last.train_loss)
