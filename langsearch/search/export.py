"""A trial's adapters as PEFT's, with a card."""

from pathlib import Path

from langsearch.model.base import Base
from langsearch.model.learners import AdaptedModel
from langsearch.model.peft_export import adapter_name, export_peft
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder
from langsearch.search.table import TrialRow, TrialTable
from langsearch.search.task import TrialTask
from langsearch.search.trial import load_trained
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError, near_names


def export_trial(
    base: Base, environment: Environment, folder: ExperimentFolder, row: TrialRow, target: Path
) -> list[str]:
    """Exports a trial's kept weights as PEFT adapters and returns their names.

    Raises:
        InputError: If the trial has no adapters, has no weights yet, or the target holds other files.
    """
    trial = folder.trial(row.same_as or row.name)
    if not trial.task.exists():
        raise InputError(f"An exported trial must have been trained, but {row.name} has not started.")
    task = TrialTask.read(trial)
    if task.architecture is None or not task.architecture.adapters:
        raise InputError(f"PEFT adapters need a trial with adapters, but {row.name} is {task.summary}.")
    try:
        learner = load_trained(base, environment, trial)
    except OSError as error:
        raise InputError(
            f"An exported trial must have weights, but {row.name} has none ({row.state.value})."
        ) from error
    assert isinstance(learner, AdaptedModel)
    try:
        return export_peft(learner, target, base.name, _card(base, row, task, task.architecture))
    finally:
        learner.remove()


def choose_trial(table: TrialTable, name: str | None) -> TrialRow:
    """Returns the named trial, or the front's member with the best validation spBLEU.

    Args:
        table: The trial table.
        name: "12", "00012" or a baseline's name. None: the best.

    Raises:
        InputError: If there is no such trial, or no complete one to choose from.
    """
    rows = {row.name: row for row in table.rows()}
    if name is None:
        front = [row for row in table.front() if row.result is not None]
        if not front:
            raise InputError("A trial must be complete to be chosen, but none is. Name one with --trial.")
        return max(front, key=lambda row: row.result.spbleu if row.result else 0.0)
    full = f"{int(name):05d}" if name.isdecimal() else name
    if full not in rows:
        raise InputError(f"--trial must name a trial, but {name!r} is none.{near_names(full, rows)}")
    return rows[full]


def _card(base: Base, row: TrialRow, task: TrialTask, architecture: Architecture) -> str:
    """Returns a model card in the hub's format: what it is, its scores, how to load it."""
    slots = dict(architecture.slots)
    languages = sorted(slots)
    used = {(entry.side, slot) for entry in architecture.adapters for slot, _ in entry.ranks}
    src = next((slots[name] for name in languages if ("src", slots[name]) in used), None)
    tgt = next((slots[name] for name in languages if ("tgt", slots[name]) in used), None)
    names = [adapter_name("src", src)] if src else []
    names += [adapter_name("tgt", tgt)] if tgt else []
    scores = []
    if row.result:
        result = row.result
        scores.append(
            f"| validation | {result.spbleu:.2f} | {result.spbleu_low:.2f}–{result.spbleu_high:.2f} | "
            f"{result.num_directions} | {result.num_sentences} |"
        )
    if row.test:
        test = row.test
        scores.append(
            f"| test | {test.test_spbleu:.2f} | {test.test_spbleu_low:.2f}–{test.test_spbleu_high:.2f} | "
            f"{test.test_num_directions} | {test.test_num_sentences} |"
        )
    loads = "\n".join(f'model.load_adapter("{name}", adapter_name="{name}")' for name in names[1:])
    percent = 100 * task.num_trainable(base.shape) / base.shape.num_parameters
    signature = row.result.signature if row.result else "none"
    return f"""---
base_model: {base.name}
library_name: peft
language: [{", ".join(languages)}]
tags: [translation, lora, langsearch]
---

# Language-specific LoRA for {base.name}: trial {row.name}

{task.summary}; {task.num_trainable(base.shape):,} trained parameters, {percent:.2f} % of the base.
One PEFT adapter for each language and side: a translation activates the source side's adapter of its source
language together with the target side's of its target language. Found and trained by langsearch.

| set | spBLEU, mean over directions | 95 % interval | directions | sentences each |
|---|---|---|---|---|
{chr(10).join(scores)}

Signature: `{signature}`

## Use with PEFT

```python
from peft import PeftModel
from transformers import AutoModelForSeq2SeqLM
base = AutoModelForSeq2SeqLM.from_pretrained(BASE)  # {base.name}
model = PeftModel.from_pretrained(base, "{names[0] if names else ""}", adapter_name="{names[0] if names else ""}")
{loads}
model.base_model.set_adapter({names})
```

Or with langsearch: `langsearch translate . --from {languages[0]} --to {languages[-1]}`.
"""
