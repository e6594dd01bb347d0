"""A trial's adapters as PEFT's, or merged into a plain model, with a card."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langsearch.data.directions import Direction, parse_directions
from langsearch.model.base import Base, load_base
from langsearch.model.compact import compact
from langsearch.model.learners import AdaptedModel
from langsearch.model.merged_export import export_merged
from langsearch.model.peft_export import export_peft, load_export, read_export
from langsearch.search.candidates import best_member
from langsearch.search.cards import hub_code, model_card
from langsearch.search.environment import Environment
from langsearch.search.folder import ExperimentFolder
from langsearch.search.table import TrialRow, TrialTable
from langsearch.search.task import TrialTask
from langsearch.search.trial import load_trained
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError, near_names

Note = Callable[[str], None]
"""Called with a sentence for the user."""


def _ignore(_: str) -> None:
    """Shows nothing."""


@dataclass(frozen=True)
class ExportForm:
    """What an export writes.

    Raises:
        InputError: If options do not fit each other.
    """

    format_name: str = "peft"
    """peft: an adapter for each language and side. merged: a plain model for one direction."""
    direction: str | None = None
    is_compact: bool = False
    energy: float | None = None
    """See `compact`; one that is given compacts too."""

    def __post_init__(self) -> None:
        problems = []
        if self.format_name not in ("peft", "merged"):
            problems.append(f"--format must be peft or merged, but got {self.format_name!r}.")
        elif (self.format_name == "merged") != (self.direction is not None):
            rule = "--direction SRC-TGT must be given with --format merged, and only there"
            problems.append(f"{rule}, but got --format {self.format_name} and the direction {self.direction}.")
        if self.format_name == "merged" and (self.is_compact or self.energy is not None):
            problems.append("--compact and --energy must be given with --format peft: a merged model has no adapters.")
        if self.energy is not None and not 0 < self.energy <= 1:
            problems.append(f"--energy must lie above 0 and at most at 1, but got {self.energy}.")
        if problems:
            raise InputError(problems)


def export_trial(
    base: Base,
    environment: Environment,
    folder: ExperimentFolder,
    row: TrialRow,
    target: Path,
    form: ExportForm = ExportForm(),
    note: Note = _ignore,
) -> list[str]:
    """Exports a trial's kept weights and returns the names of what was written: the adapters, or the direction.

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
    return _export(
        base,
        learner,
        target,
        form,
        partial(model_card, base, environment, folder, row, task),
        f"trial {row.name}",
        note,
    )


def export_again(adapters: Path, target: Path, form: ExportForm, note: Note = _ignore) -> list[str]:
    """Exports adapters that were exported before in another form; returns as `export_trial`.

    Raises:
        InputError: If the adapters are wrong, their base is not there, or the target holds other files.
    """
    if target.resolve() == adapters.resolve():
        raise InputError(f"--to must be another folder than that of the adapters, but both are {adapters}.")
    exported = read_export(adapters)
    base = load_base(exported.base)
    learner = AdaptedModel(base, exported.architecture, exported.languages)
    load_export(learner, adapters)
    card = adapters / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# Adapters for {base.name}\n"
    return _export(base, learner, target, form, lambda _: text, adapters.name, note)


def _export(
    base: Base,
    learner: AdaptedModel,
    target: Path,
    form: ExportForm,
    card: Callable[[Architecture], str],
    what: str,
    note: Note,
) -> list[str]:
    """Writes a model in a form and takes its adapters out of the base.

    Args:
        base: The base that the learner is in.
        learner: The trained model.
        target: The folder to write.
        form: What to write.
        card: Gives the text of README.md for PEFT, for the architecture that is written.
        what: What the adapters are, for the card of a merged model.
        note: Called with a sentence on what compacting lost.
    """
    try:
        if form.direction is not None:
            direction = parse_directions([form.direction], learner.languages)[0]
            export_merged(learner, base, direction, target, _merged_card(base, direction, what))
            return [str(direction)]
        if not form.is_compact and form.energy is None:
            return export_peft(learner, target, base.name, card(learner.architecture))
        learner, compaction = compact(base, learner, form.energy)
        note(f"Compacted: {compaction.summary}.")
        return export_peft(
            learner, target, base.name, f"{card(learner.architecture)}\nCompacted: {compaction.summary}.\n"
        )
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
        best = best_member(table.front())
        if best is None:
            raise InputError("A trial must be complete to be chosen, but none is. Name one with --trial.")
        return best
    full = f"{int(name):05d}" if name.isdecimal() else name
    if full not in rows:
        raise InputError(f"--trial must name a trial, but {name!r} is none.{near_names(full, rows)}")
    return rows[full]


def _merged_card(base: Base, direction: Direction, what: str) -> str:
    vocabulary = base.vocabulary([direction.src, direction.tgt])
    first = vocabulary.src_marks([direction])[0]
    prefix = ""
    if vocabulary.form.has_tgt_mark:
        token = base.tokenizer.language_token(direction.tgt)
        prefix = f',\nand `target_prefix=[["{token}"]]` for each sentence'
    return f"""---
base_model: {base.name}
language: ["{hub_code(direction.src)}", "{hub_code(direction.tgt)}"]
pipeline_tag: translation
tags: [translation, langsearch]
---

# {base.name} from {direction.src} to {direction.tgt}

The base with the language-specific LoRA of {what} merged into its weights, for this direction only.
The source must be `[{first}] X [{vocabulary.eos_id}]`, as its tokenizer makes it (an M2M-124's has to be mended first,
as the base's).

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained("."), AutoTokenizer.from_pretrained(".")
print(tokenizer.batch_decode(model.generate(**tokenizer(["..."], return_tensors="pt")), skip_special_tokens=True))
```

For CTranslate2: `ct2-transformers-converter --model . --output_dir OUT`{prefix}.
"""
