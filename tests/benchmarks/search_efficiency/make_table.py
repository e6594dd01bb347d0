"""Trains every architecture of a space and writes what each scored after each epoch, at several fidelities.

    python -m tests.benchmarks.search_efficiency.make_table            # the committed table, 324 architectures
    python -m tests.benchmarks.search_efficiency.make_table --priors   # what is learned before a search, and its cost
    python -m tests.benchmarks.search_efficiency.make_table --space search_spaces/flores8.yaml --num-random 24 --to F

One core trains an architecture of the committed table in about 15 seconds. What is finished is kept, one JSON a row in
a folder beside the table, so that it can be stopped and started again, and several processes can share the work.
"""

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from langsearch.adapters.learners import AdaptedModel
from langsearch.data.directions import Direction
from langsearch.data.epochs import plan_epoch
from langsearch.evaluate.evaluation import EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.folder import ExperimentFolder, write_json
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.base import Base, load_base
from langsearch.prior.learning import LearningTask, sides_task
from langsearch.prior.seeding import learn, next_task, seed
from langsearch.space.schema import Space, load_space
from langsearch.space.settings import TrainerSettings
from langsearch.train.fitting import MAX_TOKENS
from langsearch.train.loop import TrainingData, train
from langsearch.trial.trial import build_learner

FOLDER = Path(__file__).parent

FIDELITIES: Mapping[str, tuple[float, float]] = {
    "quarter": (0.5, 0.5),
    "half_directions": (0.5, 1.0),
    "half_sentences": (1.0, 0.5),
}
"""Parts of the search's directions and sentences that are scored as well."""


def main() -> None:
    """Trains what is missing and writes the table once nothing is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", type=Path, default=FOLDER / "space.yaml")
    parser.add_argument("--to", type=Path, default=FOLDER / "table.parquet", help="the table to write")
    parser.add_argument("--num-random", type=int, help="so many random points, instead of all")
    parser.add_argument("--priors", action="store_true", help="learn the priors instead, into priors.json")
    parser.add_argument("--part", default="1/1", help="1/2: the first of two processes")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the space")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    checked = check_space(load_space(arguments.space, arguments.set))
    base = load_base(checked.space.base)
    parts = arguments.to.with_suffix(".parts")
    environment = build_environment(checked, base, parts / "store")
    if arguments.priors:
        learn_priors(checked, base, environment, ExperimentFolder(parts / "priors"), FOLDER / "priors.json")
        return
    points = list(grid(checked.space) if arguments.num_random is None else draw(checked.space, arguments.num_random))
    tasks: dict[str, tuple[TrialTask, dict[str, Any]]] = {}
    for point in points:
        task = searched_task(checked.space, checked.shape, 0, point)
        tasks.setdefault(task.fingerprint, (task, point))
    part, num_parts = map(int, arguments.part.split("/"))
    for number, (fingerprint, (task, point)) in enumerate(tasks.items()):
        file = parts / f"{fingerprint}.json"
        if number % num_parts == part - 1 and not file.exists():
            started = time.perf_counter()
            row = train_and_score(base, environment, task)
            write_json(file, {"fingerprint": fingerprint, "params": json.dumps(point), **row})
            print(f"{number + 1}/{len(tasks)} {task.summary} {time.perf_counter() - started:.1f} s", flush=True)
    files = [parts / f"{fingerprint}.json" for fingerprint in tasks]
    if all(file.exists() for file in files):
        rows = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        meta = {"pretrained_spbleu": pretrained_spbleu(base, environment), "fidelities": shares()}
        table = pa.Table.from_pylist(rows).replace_schema_metadata({"langsearch": json.dumps(meta)})
        pq.write_table(table, arguments.to, compression="zstd")
        print(f"Wrote {len(rows)} architectures to {arguments.to}")


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Yields every point of a space without continuous dimensions."""
    dimensions = space.dimensions()
    values: list[Sequence[Any]] = []
    for name, distribution in dimensions.items():
        match distribution:
            case CategoricalDistribution(choices=choices):
                values.append(choices)
            case IntDistribution(low=low, high=high, step=step):
                values.append(range(low, high + 1, step))
            case _:
                raise ValueError(f"The table needs dimensions with few values, but {name} is {distribution}")
    for point in itertools.product(*values):
        yield dict(zip(dimensions, point, strict=True))


def draw(space: Space, num_points: int) -> Iterator[dict[str, Any]]:
    """Yields random points, always the same ones."""
    generator = random.Random(0)
    for _ in range(num_points):
        point: dict[str, Any] = {}
        for name, distribution in space.dimensions().items():
            match distribution:
                case CategoricalDistribution(choices=choices):
                    point[name] = generator.choice(choices)
                case IntDistribution(low=low, high=high):
                    point[name] = generator.randint(low, high)
                case FloatDistribution(low=low, high=high):
                    point[name] = float(np.exp(generator.uniform(np.log(low), np.log(high))))
        yield point


def train_and_score(base: Base, environment: Environment, task: TrialTask) -> dict[str, Any]:
    """Trains one architecture and returns its row of the table."""
    settings = environment.evaluation.search
    spbleu = SpBleu(environment.tokenizer)
    vocabulary = base.vocabulary(environment.languages)
    data = evaluation_set(environment.validation, environment.directions, settings, environment.classes, vocabulary)
    full_settings = environment.evaluation.final
    full = evaluation_set(
        environment.validation, environment.directions, full_settings, environment.classes, vocabulary
    )
    learner = build_learner(base, environment, task)
    training = TrainingData(environment.train, environment.directions, environment.languages, vocabulary)
    row: dict[str, Any] = {"trainable_parameters": task.num_trainable(base.shape), "epochs": task.num_epochs}
    started = time.perf_counter()
    try:
        for progress in train(learner, training, task.trainer):
            result = evaluate(learner, data, settings, base.tokenizer, spbleu)
            epoch = progress.epoch
            row |= {
                f"spbleu_{epoch}": result.scores.spbleu,
                f"train_seconds_{epoch}": progress.train_seconds,
                f"seconds_{epoch}": time.perf_counter() - started,
                f"train_loss_{epoch}": progress.train_loss,
            }
            for name, shares in FIDELITIES.items():
                row[f"spbleu_{epoch}_{name}"] = score_part(spbleu, result.hypotheses, data, *shares)
        final = result if settings == full_settings else evaluate(learner, full, full_settings, base.tokenizer, spbleu)
        row |= {"full_spbleu": final.scores.spbleu, "full_spbleu_low": final.scores.spbleu_low}
        row |= {"full_spbleu_high": final.scores.spbleu_high, "nonzero_parameters": learner.num_nonzero()}
        return row
    finally:
        if isinstance(learner, AdaptedModel):
            learner.remove()


def learn_priors(
    checked: CheckedSpace, base: Base, environment: Environment, folder: ExperimentFolder, to: Path
) -> None:
    """Learns what the space's `prior` asks for, and writes the points that a search begins with, and their cost."""
    while (task := next_task(checked.space, checked.shape, folder)) is not None:
        learn(base, environment, task, folder)
    epochs = learned_epochs(checked, environment)
    seeds = seed(checked.space, checked.shape, folder).points
    write_json(to, {"epochs": epochs, "seeds": list(seeds)})
    print(f"The priors cost as much as {epochs:.1f} epochs; a search begins with {len(seeds)} points.")


def learned_epochs(checked: CheckedSpace, environment: Environment) -> float:
    """Returns how long the priors of a space learn, in epochs of a trial."""
    prior, epochs = checked.space.prior, 0.0
    if prior.sides is not None:
        task = sides_task(checked.space, checked.shape, prior.sides)
        epochs += task.total / epoch_updates(environment, task)
    if prior.subspace is not None:
        epochs += prior.subspace.epochs
    return epochs


def epoch_updates(environment: Environment, task: LearningTask) -> int:
    """Returns how many updates an epoch has."""
    trainer = task.trainer
    plan = plan_epoch(
        environment.train,
        environment.directions,
        epoch=0,
        seed=trainer.seed,
        temperature=trainer.temperature,
        max_tokens=(trainer.tokens_per_batch or MAX_TOKENS) // trainer.accumulation,
        pairs_per_epoch=trainer.pairs_per_epoch,
        max_length=trainer.max_length,
    )
    return -(-len(plan.microbatches) // trainer.accumulation)


def pretrained_spbleu(base: Base, environment: Environment) -> float:
    """Returns what the base scores as it is, at the search's fidelity."""
    settings = environment.evaluation.search
    vocabulary = base.vocabulary(environment.languages)
    data = evaluation_set(environment.validation, environment.directions, settings, environment.classes, vocabulary)
    task = TrialTask(name="pretrained", kind="baseline", method="none", trainer=TrainerSettings(), architecture=None)
    learner = build_learner(base, environment, task)
    try:
        spbleu = SpBleu(environment.tokenizer)
        return evaluate(learner, data, settings, base.tokenizer, spbleu).scores.spbleu
    finally:
        assert isinstance(learner, AdaptedModel)
        learner.remove()


def shares() -> dict[str, float]:
    """Returns the share of the search's sentences that each cheaper evaluation decodes."""
    return {name: directions * sentences for name, (directions, sentences) in FIDELITIES.items()}


def score_part(
    spbleu: SpBleu,
    hypotheses: Mapping[Direction, Sequence[str]],
    data: EvaluationSet,
    direction_share: float,
    sentence_share: float,
) -> float:
    """Returns the mean spBLEU over evenly spaced directions and sentences, as if only those had been decoded."""
    directions = list(hypotheses)
    chosen = [directions[i] for i in spaced(len(directions), direction_share)]
    scores = []
    for direction in chosen:
        rows = data.rows[direction]
        index = spaced(len(rows), sentence_share)
        statistics = spbleu.statistics(
            [hypotheses[direction][i] for i in index], [data.store.text(direction.tgt, int(rows[i])) for i in index]
        )
        scores.append(spbleu.from_statistics(statistics.sum(axis=0)))
    return float(np.mean(scores))


def spaced(num: int, share: float) -> list[int]:
    """Returns the indices of an evenly spaced part."""
    return [int(i) for i in np.linspace(0, num - 1, max(round(num * share), 1)).round()]


if __name__ == "__main__":
    main()
