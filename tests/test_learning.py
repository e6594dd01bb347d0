from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.mixed_sides import SideWeights
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import read_json
from langsearch.model.base import Base
from langsearch.prior.learning import LearningTask, middle_point, sides_task, subspace_task
from langsearch.prior.sides import SCALAR_LR, LearnedSides, learn_sides, read_sides
from langsearch.prior.subspace import Demand, kept_entries, learn_subspace, read_demand, share
from langsearch.space.architecture import Architecture, Pruning, Site
from langsearch.space.prior_settings import SidesPrior, SubspacePrior
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import TrainerSettings
from langsearch.train.loop import TrainingData

pytest_plugins = ["search_fixtures", "cipher_fixtures"]

CipherTask = Callable[..., TrainingData]
Architect = Callable[..., Architecture]
DECODER = [("decoder", 0), ("decoder", 1)]


@pytest.fixture
def side_task(equal_ranks: Architect, cipher_settings: TrainerSettings) -> Callable[..., LearningTask]:
    """Makes tasks of learning the sides of the encoder."""

    def make(data: TrainingData, steps: int = 30, by: str = "layer", rank: int = 4) -> LearningTask:
        architecture = equal_ranks(data.languages, [("encoder", 0), ("encoder", 1)], rank)
        return LearningTask(
            kind="sides",
            architecture=architecture,
            trainer=cipher_settings,
            by=by,  # type: ignore[arg-type]
            steps=steps,
            classes={"all": tuple(data.languages)},
        )

    return make


@pytest.fixture
def demand_task(equal_ranks: Architect) -> Callable[..., LearningTask]:
    """Makes tasks of estimating the demand of the decoder for fr and de."""

    def make(data: TrainingData, seed: int = 0, epochs: int = 3) -> LearningTask:
        targets = (("fr", 0.8), ("de", 0.8))
        pruning = Pruning(targets=targets, start=1, duration=epochs - 1, scope="layer")
        return LearningTask(
            kind="subspace",
            architecture=equal_ranks(("fr", "de"), DECODER, 4, pruning),
            trainer=TrainerSettings(
                epochs=epochs,
                pairs_per_epoch=300,
                tokens_per_batch=512,
                accumulation=1,
                lr=1e-2,
                label_smoothing=0.0,
                dropout=0.0,
                seed=seed,
            ),
            classes={"high": ("en", "fr"), "low": ("de",)},
        )

    return make


def with_english(task: LearningTask) -> LearningTask:
    """Returns the task with a slot, but no adapter, for en, which is never a target."""
    old = task.architecture
    slots = (*old.slots, ("en", "en"))
    architecture = Architecture(slots=slots, adapters=old.adapters, pruning=old.pruning)
    return LearningTask(kind=task.kind, architecture=architecture, trainer=task.trainer, classes=task.classes)


@pytest.mark.parametrize("side", ["src", "tgt"])
def test_sides_are_written_and_learned_once(
    side: str,
    copier: Base,
    make_cipher_task: CipherTask,
    side_task: Callable[..., LearningTask],
    tmp_path: Path,
) -> None:
    # With the target in cipher the encoder's target-indexed adapters can help, its source-indexed ones cannot.
    data = make_cipher_task(side, 0)
    task = side_task(data, steps=60, by="module")
    modules = dict(copier.model.named_modules())
    steps = list(learn_sides(copier, data, task, tmp_path))
    assert [step.done for step in steps] == list(range(1, 61))
    assert dict(copier.model.named_modules()) == modules, "the base must be left as it was"
    learned = read_sides(tmp_path)
    assert (learned.by, learned.steps, learned.rank, len(learned.weights)) == ("module", 60, 4, 10)
    shares = [learned.source_share("encoder", layer) for layer in range(2)]
    assert all(value is not None and (value > 0.5) == (side == "src") for value in shares), shares
    # Single modules can be sure, or not, or of another mind: what they do together is what counts.
    assert side in {learned.side(entry.site) for entry in task.architecture.adapters}
    assert learned.side(Site("decoder", 0, "fc1")) is None
    written = read_json(tmp_path / "sides.json")
    assert written["architecture"] == learned.proposal(copier.shape)
    assert tuple(name for name, entry in written["weights"].items() if not entry["is_sure"]) == learned.unsure
    assert all(abs(entry["margin"] - abs(entry["src"] - entry["tgt"])) < 1e-5 for entry in written["weights"].values())
    assert not (tmp_path / "checkpoint").exists()
    before = (tmp_path / "sides.json").stat().st_mtime_ns
    assert list(learn_sides(copier, data, task, tmp_path)) == []
    assert (tmp_path / "sides.json").stat().st_mtime_ns == before


def test_a_side_that_is_not_sure_is_proposed_as_a_choice(copier: Base) -> None:
    weights = {name: SideWeights(src, 1 - src) for name, src in {"encoder.0": 0.8, "encoder.1": 0.6}.items()}
    learned = LearnedSides(by="layer", steps=1, rank=1, weights=weights)
    assert (learned.side(Site("encoder", 0, "fc1")), learned.side(Site("encoder", 1, "fc1"))) == ("src", None)
    assert learned.unsure == ("encoder.1",)
    sides = ["src", {"choice": ["src", "tgt"]}]
    assert learned.proposal(copier.shape) == {"encoder": {"sides": sides}, "decoder": {"sides": ["tgt", "tgt"]}}


@pytest.mark.parametrize("num_done", [27, 29])
def test_interrupted_learning_of_sides_goes_on_to_the_same_weights(
    num_done: int,
    copier: Base,
    make_cipher_task: CipherTask,
    side_task: Callable[..., LearningTask],
    tmp_path: Path,
) -> None:
    data = make_cipher_task("src", 0)
    task = side_task(data, steps=29, rank=2)
    list(learn_sides(copier, data, task, tmp_path / "whole"))
    for step in learn_sides(copier, data, task, tmp_path / "stopped"):
        if step.done == num_done:
            break
    assert (tmp_path / "stopped" / "checkpoint").exists() and not (tmp_path / "stopped" / "sides.json").exists()
    left = [step.done for step in learn_sides(copier, data, task, tmp_path / "stopped")]
    # The last checkpoint was that of update 25, or of update 29 with the result still to be written.
    assert left == ([] if num_done == 29 else [26, 27, 28, 29])
    assert read_sides(tmp_path / "stopped") == read_sides(tmp_path / "whole")


def test_learning_does_not_go_on_with_other_settings(
    copier: Base, make_cipher_task: CipherTask, side_task: Callable[..., LearningTask], tmp_path: Path
) -> None:
    data = make_cipher_task("src", 0)
    next(learn_sides(copier, data, side_task(data), tmp_path))
    with pytest.raises(InputError, match=r"^Learning must go on as it was begun, but .* has other settings\. Give"):
        next(learn_sides(copier, data, side_task(data, steps=31), tmp_path))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_language_whose_task_needs_more_rank_keeps_more(
    seed: int,
    copier: Base,
    make_demand_task: CipherTask,
    demand_task: Callable[..., LearningTask],
    tmp_path: Path,
) -> None:
    data = make_demand_task(seed)
    steps = list(learn_subspace(copier, data, with_english(demand_task(data, seed)), tmp_path))
    assert [step.done for step in steps] == [1, 2, 3]
    demand = read_demand(tmp_path)
    assert share(demand.cells) == pytest.approx(0.2, abs=1e-3), "every layer keeps what the target leaves"
    ranks = demand.language_ranks()
    assert ranks["de"] > 1.3 * ranks["fr"], ranks
    assert ranks["de"] + ranks["fr"] == pytest.approx(8), "the equal ranks are shared out anew, none is lost"
    for layer in range(2):
        own = [cell for cell in demand.cells if cell.layer == layer]
        assert share(own) == pytest.approx(0.2, abs=1e-3)
    assert len(demand.cells) == 2 * 2 * 8
    assert {(cell.rank, cell.side, cell.stack) for cell in demand.cells} == {(4, "tgt", "decoder")}


def test_where_no_gradient_comes_nothing_is_demanded(copier: Base, equal_ranks: Architect) -> None:
    # All entries of a layer that learned nothing are equal: which of them pruning leaves says nothing of a language.
    pruning = Pruning(targets=(("fr", 0.8), ("de", 0.8)), start=1, duration=2, scope="layer")
    architecture = equal_ranks(("fr", "de"), DECODER, 4, pruning)

    def demand(layers: Sequence[int]) -> Demand:
        adapters = LanguageLoRA(copier, architecture, ("fr", "de"))
        for site, layer in adapters.layers.items():
            if site.layer in layers:
                layer.B.data[layer.slots.index("fr")] = 1.0
        adapters.begin_epoch(3)
        return Demand(tuple(kept_entries(adapters)))

    learned_nothing = demand([])
    assert learned_nothing.language_ranks() == {"fr": 0.0, "de": 0.0}
    assert learned_nothing.rank([("fr", Site("decoder", 0, "fc1"))]) == 0.0
    assert demand([1]).language_ranks() == {"fr": pytest.approx(8.0), "de": 0.0}


def test_interrupted_estimation_goes_on_to_the_same_demand(
    copier: Base, make_demand_task: CipherTask, demand_task: Callable[..., LearningTask], tmp_path: Path
) -> None:
    data = make_demand_task(0)
    task = with_english(demand_task(data))
    list(learn_subspace(copier, data, task, tmp_path / "whole"))
    for num_done in (1, 3):
        folder = tmp_path / f"stopped{num_done}"
        for step in learn_subspace(copier, data, task, folder):
            if step.done == num_done:
                break
        assert [step.done for step in learn_subspace(copier, data, task, folder)] == list(range(num_done + 1, 4))
        assert read_demand(folder) == read_demand(tmp_path / "whole")
    assert list(learn_subspace(copier, data, task, tmp_path / "whole")) == []


def test_the_tasks_of_a_space_cover_what_it_can_adapt(checked: CheckedSpace, tmp_path: Path, tiny_space: str) -> None:
    path = tmp_path / "wide.yaml"
    path.write_text(tiny_space, encoding="utf-8")
    space = load_space(
        path,
        [
            "architecture.rank.high=0",
            "architecture.encoder={modules: {subset: [q_proj, fc1]}, source_layers: {int: [0, 3]}}",
            "architecture.decoder={modules: [fc2], layers: {window: [0, 2]}}",
        ],
    )
    task = sides_task(space, checked.shape, SidesPrior(steps=50, rank=3))
    sites = [f"encoder.{layer}.{name}" for layer in range(3) for name in ("q_proj", "fc1")]
    sites += ["decoder.0.fc2", "decoder.1.fc2"]
    assert [str(entry.site) for entry in task.architecture.adapters] == sites
    assert {entry.ranks for entry in task.architecture.adapters} == {(("en", 3), ("fr", 3), ("sw", 3))}
    assert (task.total, task.trainer.schedule, task.trainer.epochs) == (50, "constant", 50)
    assert task.trainer.lr == pytest.approx(10**-2.5), "the middle of a searched range, by its logarithm"
    assert SCALAR_LR / task.trainer.lr > 10
    task = subspace_task(space, checked.shape, SubspacePrior(epochs=15, rank=8, target=0.8))
    pruning = task.architecture.pruning
    assert pruning is not None
    assert (pruning.start, pruning.duration, pruning.scope) == (2, 10, "layer"), "as in the release"
    assert dict(pruning.targets) == {"en": 0.8, "fr": 0.8, "sw": 0.8}
    sides = {entry.site.layer: entry.side for entry in task.architecture.adapters if entry.site.stack == "encoder"}
    assert sides == {0: "src", 1: "src", 2: "tgt"}, "the published sides where the space searches them"
    learned = {Site("encoder", layer, "q_proj"): "tgt" for layer in range(3)}
    learned |= {Site("decoder", 0, "fc2"): "src"}
    task = subspace_task(space, checked.shape, SubspacePrior(), learned)  # type: ignore[arg-type]
    found = {str(entry.site): entry.side for entry in task.architecture.adapters}
    assert (found["encoder.0.q_proj"], found["encoder.0.fc1"]) == ("tgt", "src")
    assert found["decoder.0.fc2"] == "tgt", "the space says so, whatever was learned"


@pytest.mark.parametrize(("epochs", "expected"), [(2, (1, 1)), (4, (1, 2)), (8, (1, 5)), (15, (2, 10)), (30, (4, 20))])
def test_pruning_ends_before_the_training_does(epochs: int, expected: tuple[int, int], checked: CheckedSpace) -> None:
    pruning = subspace_task(checked.space, checked.shape, SubspacePrior(epochs=epochs)).architecture.pruning
    assert pruning is not None
    assert (pruning.start, pruning.duration) == expected
    assert pruning.start + pruning.duration <= epochs


def test_a_middle_point_lies_on_the_dimensions(checked: CheckedSpace) -> None:
    dimensions = checked.space.dimensions()
    point = middle_point(dimensions)
    assert point.keys() == dimensions.keys()
    assert all(
        distribution._contains(distribution.to_internal_repr(point[name])) for name, distribution in dimensions.items()
    )


def test_a_layer_side_is_the_mean_over_its_modules() -> None:
    weights = {"encoder.0.q_proj": SideWeights(0.9, 0.1), "encoder.0.fc1": SideWeights(0.2, 0.8)}
    learned = LearnedSides(by="module", steps=1, rank=1, weights=weights)
    assert learned.source_share("encoder", 0) == pytest.approx(0.55)
    assert learned.source_share("encoder", 0, "fc1") == 0.2
    assert learned.source_share("encoder", 1) is None
    assert learned.side(Site("encoder", 0, "fc1")) == "tgt"


def test_a_folder_without_a_demand_has_no_cells(tmp_path: Path) -> None:
    assert read_demand(tmp_path) == Demand(())
