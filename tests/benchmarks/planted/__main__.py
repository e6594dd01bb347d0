"""Does a search find what is there? The smallest sufficient adapters of planted ciphers, and which sampler finds them.

    python -m tests.benchmarks.planted              # all of it; the tables in Markdown
    python -m tests.benchmarks.planted --make       # only the base and the sentences of search_spaces/planted.yaml

Makes the base and the sentences, writes what was planted into adapters by hand, trains all 324 architectures of the
space, and those in doubt with a second seed; learns the priors of `langsearch learn`; and replays searches on the table
as `search_efficiency.replay` does. What is finished is kept under the folder, so that it can be stopped and started
again. The truth is the smallest architecture whose score, a mean over seeds, reaches the best less a margin.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.evaluation import evaluate
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.folder import ExperimentFolder, write_json
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.base import Base, load_base
from langsearch.space.schema import Space, load_space
from langsearch.trial.evaluating import evaluation_data
from langsearch.trial.trial import build_learner
from tests.benchmarks.planted.by_hand import write_by_hand
from tests.benchmarks.planted.found import print_searches, searches
from tests.benchmarks.planted.languages import NUM_PAIRS, NUM_SENTENCES, write_base, write_sentences
from tests.benchmarks.planted.said import print_priors
from tests.benchmarks.planted.truth import Rows, Truth, in_doubt, score_of, size_of, truth_of
from tests.benchmarks.search_efficiency.make_table import (
    grid,
    learn_priors,
    pretrained_spbleu,
    shares,
    train_and_score,
)
from tests.benchmarks.search_efficiency.replay import best_score, trained_of

SPACE = Path(__file__).parents[3] / "search_spaces" / "planted.yaml"

PLANTED: Mapping[str, Any] = {
    "rank.plain": 0,
    "rank.source": NUM_PAIRS["source_four"],
    "rank.light": NUM_PAIRS["target_two"],
    "rank.heavy": NUM_PAIRS["target_twelve"],
    "encoder.source_layers": 1,
    "decoder.layers.start": 1,
    "decoder.layers.length": 1,
}
"""A rank a pair, at the side that has the cipher, in the layer that reads the source."""


def main() -> None:
    """Does what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("data/planted"), help="of the base, the sentences, the table"
    )
    parser.add_argument("--make", action="store_true", help="only make the base and the sentences")
    parser.add_argument("--seeds", type=int, default=20, help="searches of each method; of those by gp half as many")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    make(arguments.folder)
    if arguments.make:
        return
    space = space_in(arguments.folder)
    checked = check_space(space)
    base = load_base(checked.space.base)
    kept = arguments.folder / f"kept-{digest(arguments.folder, space)}"
    environment = build_environment(checked, base, kept / "store")
    pretrained = pretrained_spbleu(base, environment)
    size, by_hand = score_by_hand(base, checked, environment)
    rows = train_points(base, checked, environment, grid(space), kept / "seed0")
    again, truth = train_in_doubt(base, check_space(space_in(arguments.folder, seed=1)), environment, rows, kept)
    print(
        f"\nThe base alone has {pretrained:.1f} spBLEU; what was planted, written by hand, {by_hand:.1f} with {size:,}"
    )
    print_truth(rows, again, truth)
    folder, file = ExperimentFolder(kept / "learned"), kept / "priors.json"
    if not file.exists():
        learn_priors(checked, base, environment, folder, file)
    priors = json.loads(file.read_text(encoding="utf-8"))
    print_priors(checked, folder, priors)
    trained = trained_of(rows, again, pretrained, shares())
    print_searches(searches(space, trained, priors, arguments.seeds, kept / "found.json"), trained, truth)


def make(folder: Path) -> None:
    """Makes the sentences and the base in a folder, once."""
    if not all((folder / part).exists() for part in NUM_SENTENCES):
        write_sentences(folder)
    if not (folder / "base").exists():
        started = time.perf_counter()
        write_base(folder / "base.part")
        (folder / "base.part").rename(folder / "base")
        print(f"Made the base in {time.perf_counter() - started:.0f} s.", flush=True)


def space_in(folder: Path, seed: int = 0, changes: Sequence[str] = ()) -> Space:
    """Returns the space on what was made in a folder, with a seed of its trainings and other changes."""
    parts = [f"data.{part}={{files: {folder / part}}}" for part in NUM_SENTENCES]
    return load_space(SPACE, [f"base={folder / 'base'}", *parts, f"trainer.seed={seed}", *changes])


def digest(folder: Path, space: Space) -> str:
    """Returns what tells trainings on other bases, sentences or spaces apart: 8 hexadecimal digits."""
    found = hashlib.sha256((folder / "base" / "model.safetensors").read_bytes())
    found.update(space.text.encode())
    for file in sorted(folder.glob("*/*.txt")):
        found.update(file.read_bytes())
    return found.hexdigest()[:8]


def score_by_hand(base: Base, checked: CheckedSpace, environment: Environment) -> tuple[int, float]:
    """Returns the trainable parameters and the spBLEU of what was planted, written into adapters by hand."""
    task = searched_task(checked.space, checked.shape, 0, dict(PLANTED))
    learner = build_learner(base, environment, task)
    assert isinstance(learner, AdaptedModel)
    try:
        write_by_hand(base, learner)
        settings = environment.evaluation.search
        data = evaluation_data(base, environment, "full", settings)
        result = evaluate(learner, data, settings, base.tokenizer, SpBleu(environment.tokenizer))
        return task.num_trainable(base.shape), result.scores.spbleu
    finally:
        learner.remove()


def train_points(
    base: Base, checked: CheckedSpace, environment: Environment, points: Iterable[Mapping[str, Any]], folder: Path
) -> Rows:
    """Returns a training of each architecture among points, by fingerprint; what the folder has is not repeated."""
    tasks: dict[str, tuple[TrialTask, Mapping[str, Any]]] = {}
    for point in points:
        task = searched_task(checked.space, checked.shape, 0, dict(point))
        tasks.setdefault(task.fingerprint, (task, point))
    rows = {}
    started = time.perf_counter()
    for number, (name, (task, point)) in enumerate(tasks.items(), start=1):
        file = folder / f"{name}.json"
        if not file.exists():
            write_json(file, {"params": json.dumps(point), **train_and_score(base, environment, task)})
            passed = time.perf_counter() - started
            print(f"{number}/{len(tasks)} {task.summary}, {passed:.0f} s in all", flush=True)
        rows[name] = json.loads(file.read_text(encoding="utf-8"))
    return rows


def train_in_doubt(
    base: Base, other_seed: CheckedSpace, environment: Environment, rows: Rows, kept: Path
) -> tuple[Rows, Truth]:
    """Trains what is in doubt with another seed until the truth stands; returns these trainings, and the truth."""
    again: dict[str, Mapping[str, Any]] = {}
    while True:
        truth = truth_of(rows, again)
        wanted = {*in_doubt(rows, truth), *planted_names(rows)}
        missing = {row["params"]: name for name, row in rows.items() if name in wanted and name not in again}
        if not missing:
            return again, truth
        found = train_points(base, other_seed, environment, map(json.loads, missing), kept / "seed1")
        again |= {missing[row["params"]]: row for row in found.values()}


def print_truth(rows: Rows, again: Rows, truth: Truth) -> None:
    """Prints the truth beside what was planted, and all that was trained twice."""
    print(
        f"The best of {len(rows)} architectures has {truth.best:.2f}; two trainings of one differ by a standard "
        f"deviation of {truth.spread:.2f}, so that {truth.best - truth.margin:.2f} is sufficient.\n"
    )
    names = list(json.loads(next(iter(rows.values()))["params"]))
    print(f"| | {' | '.join(names)} | parameters | spBLEU | again | sufficient |\n|---{'|---' * (len(names) + 4)}|")
    for name in sorted(again, key=lambda name: size_of(rows[name])):
        point = json.loads(rows[name]["params"])
        what = ["truth"] if name in truth.names else []
        what += ["planted"] if name in planted_names(rows) else []
        sufficient = "yes" if truth.suffices(score_of(name, rows, again)) else "no"
        cells = [", ".join(what), *(str(point[key]) for key in names), f"{size_of(rows[name]):,}"]
        cells += [f"{best_score(rows[name]):.2f}", f"{best_score(again[name]):.2f}", sufficient]
        print(f"| {' | '.join(cells)} |")


def planted_names(rows: Rows) -> list[str]:
    """Returns the fingerprint of what was planted, if it is in the table."""
    return [name for name, row in rows.items() if json.loads(row["params"]) == PLANTED]


if __name__ == "__main__":
    main()
