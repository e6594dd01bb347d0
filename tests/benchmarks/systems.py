"""What each related system brings beside plain language-specific LoRA, on verses, at equal stored parameters.

    python -m tests.benchmarks.systems --to systems.json            # two hours on one core; goes on after a stop
    python -m tests.benchmarks.systems --to systems.json --table    # the table of what is there

The space is search_spaces/systems.yaml, its values fixed here. Every system has the same pairs and epochs, and two
learning rates of which validation chooses one with the first seed, as it chooses the epoch. Ranks are such that stored
parameters are those of LoRA of rank 4, as nearly as can be. Scores are on the test set, differences to plain LoRA of
the same seeds by paired bootstrap over sentences. An update's CPU seconds are those of one thread, in bf16 where `--set
trainer.precision=fp32` says nothing else, over plain LoRA's in the same run.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.decoding import DecodingRow, translate_pieces
from langsearch.evaluate.evaluation import EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.ngrams import scores_of
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space
from langsearch.experiment.folder import TrialFolder, write_json
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.model.base import Base, load_base
from langsearch.model.device import settle
from langsearch.space.schema import load_space
from langsearch.space.settings import DecodingSettings
from langsearch.train.loop import TrainingData, train
from langsearch.trial.starting import start_new
from langsearch.trial.trial import build_learner, resident

SPACE = Path(__file__).parents[2] / "search_spaces" / "systems.yaml"

RATES = (0.005, 0.015)
"""Learning rates that each system may choose from, on validation, where the command line says nothing else."""

LOW_LESS = {"high": 4, "medium": 4, "low": 3}
"""Ranks that make room for about 6,500 parameters a language."""

SYSTEMS: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lora": ({"rank": 4}, {}),
    "factorized": ({"rank": 4, "adapter": "factorized"}, {}),
    "two_sided": ({"rank": 2, "adapter": "two_sided"}, {}),
    "gated": ({"rank": {"high": 4, "medium": 3, "low": 3}, "adapter": "gated"}, {}),
    "layer_norm": ({"rank": LOW_LESS, "adapter": "lora+layer_norm"}, {}),
    "bridge of rank 16": ({"rank": LOW_LESS, "adapter": "lora+bridge", "bridge": {"rank": 16}}, {}),
    "full bridge": ({"rank": {"high": 2, "medium": 2, "low": 3}, "adapter": "lora+bridge", "bridge": {}}, {}),
    "shared_rank 10": ({"rank": 3, "shared_rank": 10}, {}),
    "pool of 4": ({"rank": 10, "sharing": "pool", "pool": {"size": 4, "disparity": 0.1}}, {}),
    "encoder_znorm": ({"rank": 4, "encoder_znorm": {"strength": 0.5, "pivot": "en"}}, {}),
    "two_stage": ({"rank": 4}, {"two_stage": {"first": ["high"], "share": 0.25}}),
    "modular": (
        {"rank": {"high": 5, "medium": 4, "low": 4}},
        # Of each of the 18 directions with English, whose adapters learn apart: as many pairs in all.
        {"modular": {"bridge": "en"}, "pairs_per_epoch": 84, "tokens_per_batch": 500},
    ),
    "back_translation": ({"rank": 4}, {"back_translation": {"every": 4}}),
    "distill: base": ({"rank": 4}, {"loss": {"distill": {"teacher": "base", "weight": 0.25}}}),
    "distill: own_best": ({"rank": 4}, {"loss": {"distill": {"teacher": "own_best", "weight": 0.5}}}),
    "align": ({"rank": 4}, {"loss": {"align": {"weight": 0.1, "pivot": "en"}}}),
    "language_adversary": ({"rank": 4}, {"loss": {"language_adversary": {"weight": 0.33}}}),
}
"""What of `architecture` and of `trainer` each has."""


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="a JSON file of what was measured")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES, help="learning rates to choose from")
    parser.add_argument("--only", nargs="*", choices=SYSTEMS, help="these systems, and plain LoRA")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a value of the space")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(arguments.to.read_text()) if arguments.to.exists() else {}
    if not arguments.table:
        names = [name for name in SYSTEMS if arguments.only is None or name in ("lora", *arguments.only)]
        with tempfile.TemporaryDirectory() as folder:
            for name, seed, rate in (
                (name, seed, rate) for seed in range(arguments.seeds) for name in names for rate in arguments.rates
            ):
                key = f"{name}/{seed}/{rate:g}"
                if key not in found and (seed == 0 or rate == best_rate(found, name, arguments.rates)):
                    found[key] = run(name, seed, rate, arguments.set, Path(folder))
                    write_json(arguments.to, found)
                    print(key, {k: v for k, v in found[key].items() if k != "statistics"}, flush=True)
            if "pretrained" not in found:
                found["pretrained"] = run_pretrained(arguments.set, Path(folder))
                write_json(arguments.to, found)
    print_table(found)


def checked_space(name: str, seed: int, rate: float, overrides: Sequence[str]) -> CheckedSpace:
    """Returns the space with everything fixed as a system has it."""
    architecture, trainer = SYSTEMS[name]
    space = load_space(SPACE, overrides)
    plain = {key: value for key, value in space.document.data["trainer"].items() if key != "loss"}
    plain = {"precision": "bf16", **plain}
    given = {**space.document.data, "architecture": architecture, "search": {"trials": 1}}
    return check_space(load_space({**given, "trainer": {**plain, "lr": rate, "seed": seed, **trainer}}))


@dataclass(frozen=True)
class Prepared:
    """What a training is made of, beside its learner."""

    base: Base
    environment: Environment
    training: TrainingData
    scorer: SpBleu


def prepare(checked: CheckedSpace, task: TrialTask, folder: Path) -> Prepared:
    """Returns a base in the type and place that a task computes in, and sentences whose tokens a folder keeps."""
    base = load_base(checked.base)
    environment = build_environment(checked, base, folder / "store")
    base = settle(base, resident(environment, task))
    vocabulary = base.vocabulary(environment.languages)
    training = TrainingData(environment.train, environment.directions, environment.languages, vocabulary)
    return Prepared(base, environment, training, SpBleu(environment.tokenizer))


def run(name: str, seed: int, rate: float, overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Trains a system once; returns its best epoch's validation score, and that epoch's sentences on the test set."""
    checked = checked_space(name, seed, rate, overrides)
    task = searched_task(checked.space, checked.shape, 0, {})
    prepared = prepare(checked, task, folder)
    base, environment, scorer = prepared.base, prepared.environment, prepared.scorer
    learner = build_learner(base, environment, task)
    assert isinstance(learner, AdaptedModel)
    vocabulary, training = base.vocabulary(environment.languages), prepared.training
    validation, test = (data_of(environment, base, part) for part in ("validation", "test"))
    settings = environment.evaluation.search

    def translate(model: Any, sentences: Sequence[Any]) -> list[list[int] | None]:
        rows = [DecodingRow(one.tokens, one.src, one.tgt) for one in sentences]
        return translate_pieces(model, rows, vocabulary, environment.languages)

    start_new(learner, training, task.trainer, base.shape, TrialFolder(folder / "none"))
    best, kept, seconds, updates = -1.0, {}, 0.0, 0
    started = time.process_time()
    for progress in train(learner, training, task.trainer, translate=translate):
        seconds, updates = seconds + time.process_time() - started, progress.updates
        score = evaluate(learner, validation, settings, base.tokenizer, scorer).scores.spbleu
        progress.judge(score, True)
        if score > best:
            best, kept = score, {key: value.clone() for key, value in learner.state().items()}
        started = time.process_time()
    learner.load_state(kept)
    return {
        "validation": best,
        "update_s": seconds / updates,
        "updates": updates,
        "parameters": task.num_trainable(base.shape),
        **scored(learner, test, base, scorer, environment.evaluation.final),
    }


def run_pretrained(overrides: Sequence[str], folder: Path) -> dict[str, Any]:
    """Returns the test scores of the base as it is."""
    checked = checked_space("lora", 0, RATES[0], overrides)
    task = baseline_task(checked.space, checked.shape, "pretrained")
    prepared = prepare(checked, task, folder)
    base, environment = prepared.base, prepared.environment
    learner, test = build_learner(base, environment, task), data_of(environment, base, "test")
    return {"parameters": 0, **scored(learner, test, base, prepared.scorer, environment.evaluation.final)}


def data_of(environment: Environment, base: Base, part: str) -> EvaluationSet:
    """Returns the sentences and directions that are scored."""
    store = environment.test if part == "test" else environment.validation
    settings = environment.evaluation.final if part == "test" else environment.evaluation.search
    vocabulary = base.vocabulary(environment.languages)
    return evaluation_set(store, environment.directions, settings, environment.classes, vocabulary, environment.train)


def scored(learner: Any, data: EvaluationSet, base: Base, scorer: SpBleu, settings: DecodingSettings) -> dict[str, Any]:
    """Returns spBLEU on a set, and the statistics of its sentences by direction."""
    found = evaluate(learner, data, settings, base.tokenizer, scorer)
    references = {
        direction: [data.store.text(direction.tgt, int(row)) for row in rows] for direction, rows in data.rows.items()
    }
    statistics_ = {
        str(direction): scorer.statistics(found.hypotheses[direction], references[direction]).tolist()
        for direction in data.rows
    }
    return {"test": found.scores.spbleu, "signature": found.scores.signature, "statistics": statistics_}


def best_rate(found: Mapping[str, Any], name: str, rates: Sequence[float]) -> float:
    """Returns the learning rate that validation prefers with the first seed."""
    return max(rates, key=lambda rate: float(found[f"{name}/0/{rate:g}"]["validation"]))


def chosen(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    """Returns a system's runs, one a seed: those of the rate that validation prefers."""
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for key, value in found.items():
        system, _, rest = key.partition("/")
        if system == name and rest:
            runs.setdefault(rest.partition("/")[0], []).append(value)
    return [max(of_seed, key=lambda one: one["validation"]) for _, of_seed in sorted(runs.items())]


def print_table(found: Mapping[str, Any]) -> None:
    """Prints what is there: means over the seeds, and differences to plain LoRA of the same seeds."""
    plain = chosen(found, "lora")
    rate = statistics.median(one["update_s"] for one in plain)
    print("| system | stored parameters | test spBLEU | seeds | to LoRA, 95 % | CPU s an update / LoRA |")
    print("|---|---|---|---|---|---|")
    for name in SYSTEMS:
        if not (runs := chosen(found, name)):
            continue
        value = statistics.mean(one["test"] for one in runs)
        seeds = ", ".join(f"{one['test']:.2f}" for one in runs)
        times = f"{statistics.median(one['update_s'] for one in runs) / rate:.2f}"
        difference = "–"
        if name != "lora":
            mean, low, high = paired(runs, plain)
            difference = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
        print(f"| {name} | {runs[0]['parameters']:,} | {value:.2f} | {seeds} | {difference} | {times} |")
    if "pretrained" in found:
        print(f"| the base as it is | 0 | {found['pretrained']['test']:.2f} | | | |")


def paired(runs: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Returns the mean difference over the seeds that both have, and its 95 % interval over resampled sentences.

    The same sentences are drawn for every direction, seed and system: Koehn 2004 (W04-3250), section 3.
    """
    pairs = list(zip(runs, others, strict=False))
    num = max(len(rows) for rows in pairs[0][0]["statistics"].values())
    rng = np.random.default_rng(12345)
    draws = [np.ones((1, num)), rng.multinomial(num, np.full(num, 1 / num), size=1000)]
    weights = np.concatenate(draws)

    def means(one: Mapping[str, Any]) -> Any:
        return np.mean([scores_of(weights @ np.array(rows)) for rows in one["statistics"].values()], axis=0)

    differences = np.mean([means(one) - means(other) for one, other in pairs], axis=0)
    low, high = np.percentile(differences[1:], [2.5, 97.5])
    return float(differences[0]), float(low), float(high)


if __name__ == "__main__":
    main()
