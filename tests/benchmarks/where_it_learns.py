"""Which parts of the base of the verses study learn, and what adapters reach of it: one training of each.

    python -m tests.benchmarks.where_it_learns --to parts.json      # half an hour of one core; goes on after a stop
    python -m tests.benchmarks.where_it_learns --to parts.json --table

Data, epochs and batches are those of `search_spaces/verses10.yaml`, scores those of its searches on validation. Parts
of the base are trained themselves, all else frozen; adapters stand at every site of its layers. One learning rate each,
near those that the study's tries found best, and one seed.
"""

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import nn

from langsearch.adapters.learners import AdaptedModel, FullModel
from langsearch.evaluate.evaluation import evaluate
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.experiment.folder import TrialFolder, write_json
from langsearch.experiment.task import TrialTask, baseline_task, searched_task
from langsearch.space.schema import Space, load_space
from langsearch.train.loop import train
from langsearch.trial.starting import start_new
from langsearch.trial.trial import build_learner
from tests.benchmarks.systems import data_of, prepare

SPACE = Path(__file__).parents[2] / "search_spaces" / "verses10.yaml"

FULL_RATE, LORA_RATE = 8e-4, 1e-3

PARTS: Mapping[str, Callable[[str], bool]] = {
    "everything": lambda name: True,
    "embeddings": lambda name: "shared" in name or "embed" in name,
    "all but embeddings": lambda name: "shared" not in name and "embed" not in name,
    "feed-forward": lambda name: "fc1" in name or "fc2" in name,
    "attention": lambda name: "attn." in name,
    "norms and biases": lambda name: "norm" in name or name.endswith("bias"),
}
"""Which parameters of the base are trained."""

ADAPTERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "shared LoRA, rank 8": ("shared_lora", {"rank": 8}),
    "shared LoRA, rank 64": ("shared_lora", {"rank": 64}),
    "LoRA by language, rank 8": ("lora", {"rank": 8}),
    "LoRA by language, rank 32": ("lora", {"rank": 32}),
}


class Part(FullModel):
    """The base, of which some parameters are trained.

    Args:
        base: The base.
        is_trained: Says so by a parameter's name.
    """

    def __init__(self, base: Any, is_trained: Callable[[str], bool]) -> None:
        super().__init__(base)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(is_trained(name))

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns those that are trained."""
        return {name: parameter for name, parameter in super().parameters().items() if parameter.requires_grad}


def main() -> None:
    """Trains what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="a JSON file of what was measured")
    parser.add_argument("--table", action="store_true", help="train nothing")
    parser.add_argument("--only", nargs="*", choices=[*PARTS, *ADAPTERS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(arguments.to.read_text(encoding="utf-8")) if arguments.to.exists() else {}
    if not arguments.table:
        for name in arguments.only or [*PARTS, *ADAPTERS]:
            if name not in found:
                with tempfile.TemporaryDirectory() as folder:
                    found[name] = run(name, Path(folder))
                write_json(arguments.to, found)
                print(name, found[name], flush=True)
    print_table(found)


def space_of(name: str) -> Space:
    """Returns the study's space with what a part or adapters are trained with; nothing of it is searched."""
    method, options = ADAPTERS.get(name, ("full_finetuning", {}))
    given = {key: value for key, value in load_space(SPACE).document.data.items() if key != "prior"}
    if method == "lora":
        given |= {"architecture": options, "baselines": [], "trainer": given["trainer"] | {"lr": LORA_RATE}}
    else:
        # A baseline has a rate of its own, whatever the trainer's is.
        rate = FULL_RATE if method == "full_finetuning" else LORA_RATE
        given["baselines"] = [{method: options | {"lr": rate}}]
    return load_space(given)


def task_of(name: str, checked: CheckedSpace) -> TrialTask:
    """Returns what is trained in such a space: its one trial, or its baseline."""
    method, _ = ADAPTERS.get(name, ("full_finetuning", {}))
    if method == "lora":
        return searched_task(checked.space, checked.shape, 0, {})
    return baseline_task(checked.space, checked.shape, method)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Trains a part, or adapters; returns what every epoch reached on validation, from before the first on."""
    checked = check_space(space_of(name))
    task = task_of(name, checked)
    prepared = prepare(checked, task, folder)
    base, environment, training = prepared.base, prepared.environment, prepared.training
    learner = Part(base, PARTS[name]) if name in PARTS else build_learner(base, environment, task)
    validation = data_of(environment, base, "validation")
    of = {language: name for name, members in environment.classes.items() for language in members}

    def scores() -> dict[str, float]:
        found = evaluate(learner, validation, environment.evaluation.search, base.tokenizer, prepared.scorer).scores
        by_class: dict[str, list[float]] = defaultdict(list)
        for one in found.by_direction:
            by_class[of[one.direction.tgt]].append(one.spbleu)
        return {"all": found.spbleu} | {name: mean(values) for name, values in by_class.items()}

    reached, losses = [scores()], []
    if isinstance(learner, AdaptedModel):
        start_new(learner, training, task.trainer, base.shape, TrialFolder(folder / "none"))
    for progress in train(learner, training, task.trainer):
        reached.append(scores())
        losses.append(progress.train_loss)
        progress.judge(reached[-1]["all"], True)
    return {
        "parameters": sum(parameter.numel() for parameter in learner.parameters().values()),
        "rate": task.trainer.lr,
        "losses": losses,
        "reached": reached,
    }


def print_table(found: Mapping[str, Any]) -> None:
    """Prints what the best epoch of each reached, by the class of the target language."""
    print("| trained | parameters | lr | train loss, last epoch | spBLEU | to the base | into high | medium | low |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in [*PARTS, *ADAPTERS]:
        if (one := found.get(name)) is not None:
            before, *after = one["reached"]
            best = max(after, key=lambda scores: float(scores["all"]))
            cells = [f"{best[key]:.2f}" for key in ("high", "medium", "low")]
            print(
                f"| {name} | {one['parameters']:,} | {one['rate']:g} | {one['losses'][-1]:.3f} | {best['all']:.2f} "
                f"| {best['all'] - before['all']:+.2f} | {' | '.join(cells)} |"
            )


if __name__ == "__main__":
    main()
