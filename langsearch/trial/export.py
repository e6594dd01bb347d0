"""A trial's adapters as PEFT's, or merged into a plain model, with a card."""

import json
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from langsearch.adapters.compact import compact
from langsearch.adapters.export_folder import FORMAT_FILE
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.merged_export import export_merged, marked_language
from langsearch.adapters.peft_export import export_peft, load_export, read_export
from langsearch.adapters.peft_limits import why_no_peft
from langsearch.adapters.tokenizer_export import setting_lines
from langsearch.data.directions import Direction, parse_directions
from langsearch.data.store import TokenStore
from langsearch.experiment.description import recorded_precision
from langsearch.experiment.earlier import load_begun_space
from langsearch.experiment.environment import CheckedSpace, Environment, build_environment, check_space, computing_in
from langsearch.experiment.folder import STORE_FOLDER, ExperimentFolder
from langsearch.experiment.opening import is_training, open_table
from langsearch.experiment.places import check_adapters
from langsearch.experiment.recorded_base import check_recorded, recorded_source
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base, load_base
from langsearch.model.new_languages import with_new_languages
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError, near_names
from langsearch.study.candidates import best_member
from langsearch.study.cut_rows import CUT
from langsearch.study.rows import State, TrialRow
from langsearch.study.table import TrialTable
from langsearch.trial.card_examples import MERGED_PACKAGES, merged_lines
from langsearch.trial.cards import hub_code, model_card
from langsearch.trial.cutting import provide_cut
from langsearch.trial.losing import losing_words
from langsearch.trial.trial import load_trained

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
    if row.is_rejected:
        raise InputError(missing_weights(folder, row, "An exported trial"))
    if not trial.task.exists():
        raise InputError(f"An exported trial must have been trained, but {row.name} has not started.")
    task = TrialTask.read(trial)
    if task.method != "adapters" or not task.num_trainable(base.shape):
        raise InputError(f"PEFT adapters need a trial with adapters, but {row.name} is {task.summary}.")
    try:
        learner = load_trained(base, environment, trial)
    except OSError as error:
        raise InputError(missing_weights(folder, row, "An exported trial")) from error
    assert isinstance(learner, AdaptedModel)
    if losing := losing_words(folder, row):
        note(losing)
    return _export(
        base,
        learner,
        target,
        form,
        partial(model_card, base, environment, folder, row, task),
        f"trial {row.name}",
        note,
        environment.validation,
        [str(direction) for direction in environment.directions if direction not in environment.zero_shot],
    )


def export_again(adapters: Path, target: Path, form: ExportForm, note: Note = _ignore) -> list[str]:
    """Exports adapters that were exported before in another form; returns as `export_trial`.

    Raises:
        InputError: If the adapters are wrong, their base is not there, or the target holds other files.
    """
    if target.resolve() == adapters.resolve():
        raise InputError(f"--to must be another folder than that of the adapters, but both are {adapters}.")
    exported = read_export(adapters)
    base = with_new_languages(load_base(exported.source), dict(exported.architecture.new_languages))
    learner = adapt(base, exported.architecture, exported.languages)
    load_export(learner, adapters)
    card = adapters / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else f"# Adapters for {base.name}\n"
    return _export(base, learner, target, form, lambda _: text, adapters.name, note, None, exported.directions)


def _export(
    base: Base,
    learner: AdaptedModel,
    target: Path,
    form: ExportForm,
    card: Callable[[Architecture], str],
    what: str,
    note: Note,
    store: TokenStore | None = None,
    directions: Sequence[str] = (),
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
        store: Sentences of which the card of a merged model may show a short one.
        directions: Those that the adapters were trained on. Empty: not known.
    """
    try:
        if form.direction is not None:
            direction = parse_directions([form.direction], learner.languages)[0]
            export_merged(learner, base, direction, target, _merged_card(base, direction, what, store))
            if lines := setting_lines(base.tokenizer, marked_language(base, direction)):
                note(f"Tell the merged model's tokenizer of the new language, as its card says: {'; '.join(lines)}")
            return [str(direction)]
        if not form.is_compact and form.energy is None:
            if why_not := why_no_peft(learner.architecture):
                note(f"Written in langsearch's own format, for `langsearch translate` and `evaluate`. {why_not}")
            text = card(learner.architecture)
            return export_peft(learner, target, base.source, text, base.tokenizer, directions)
        learner, compaction = compact(base, learner, form.energy)
        note(f"Compacted: {compaction.summary}.")
        return export_peft(
            learner,
            target,
            base.source,
            f"{card(learner.architecture)}\nCompacted: {compaction.summary}.\n",
            base.tokenizer,
            directions,
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
            raise InputError(_nothing_chosen(table))
        return best
    full = f"{int(name):05d}" if name.isdecimal() else name
    if full not in rows:
        raise InputError(f"--trial must name a trial, but {name!r} is none.{near_names(full, rows)}")
    return rows[full]


def choose_row(
    folder: ExperimentFolder, base: Base, environment: Environment, table: TrialTable, name: str | None
) -> TrialRow:
    """Returns what `choose_trial` does, or a cut, "cut-12", whose weights are then there.

    Raises:
        InputError: If there is no such trial or cut, or what it needs is gone.
    """
    if name is not None and name.startswith(CUT):
        return provide_cut(base, environment, folder, load_begun_space(folder.space), table, name)
    return choose_trial(table, name)


def _nothing_chosen(table: TrialTable) -> str:
    """Returns why no trial is the best one, and what can be named in its place."""
    nearest = table.nearest()
    if nearest is None or not table.constraints.all:
        return "A trial must be complete to be chosen, but none is. Name one with --trial."
    rule = f"A trial must keep all constraints to be chosen, but none does. {nearest.words}"
    if table.row(nearest.name).result is None:
        return f"{rule} None was trained: raise the bounds, or search smaller architectures."
    return f"{rule} Name it with --trial {int(nearest.name)}, or another one: `langsearch show` lists them."


def missing_weights(folder: ExperimentFolder, row: TrialRow, what: str) -> str:
    """Returns why there are no weights of a trial, and how to get them.

    Args:
        folder: The experiment.
        row: The trial.
        what: What needs them, such as "An exported trial".
    """
    begin = f"{what} must have weights, but {row.name} has none"
    if row.is_rejected:
        return (
            f"{begin}: it was never trained, since its size {row.cause}. Raise that bound, and go on with the search "
            "by --resume --accept-changed-space."
        )
    again = folder.trial(row.same_as or row.name).architecture
    train = f" Train it again with: langsearch train {shlex.quote(str(again))} --to DIR" if again.exists() else ""
    if row.state is State.RUNNING:
        return f"{begin} yet: no epoch of it has ended."
    if row.state is State.FAILED:
        return f"{begin}: it failed, {row.cause or 'unknown'}.{train}"
    kept = "`checkpoints` keeps those of the front, and of trials that other bounds of constraints would bring there"
    ended = "it was stopped early" if row.state is State.PRUNED else "it is complete, but not among those that are kept"
    return f"{begin}: {ended}, and {kept} (`keep: all` keeps all).{train}"


def _merged_card(base: Base, direction: Direction, what: str, store: TokenStore | None) -> str:
    vocabulary = base.vocabulary([direction.src, direction.tgt])
    first = vocabulary.src_marks([direction])[0]
    prefix = ""
    lines = "\n".join(merged_lines(base, direction, store))
    if vocabulary.form.has_tgt_mark:
        token = base.tokenizer.language_token(direction.tgt)
        prefix = f',\nand `target_prefix=[["{token}"]]` for each sentence'
    at = f" (commit {base.revision})" if base.revision else ""
    return f"""---
base_model: {json.dumps(base.name)}
language: ["{hub_code(direction.src)}", "{hub_code(direction.tgt)}"]
pipeline_tag: translation
tags: [translation, langsearch]
---

# {base.name} from {direction.src} to {direction.tgt}

The base{at} with the language-specific LoRA of {what} merged into its weights, for this direction only.
The source must be `[{first}] X [{vocabulary.eos_id}]`, as its tokenizer makes it; `generate` begins the translation
with the target language by itself. In this folder (`pip install {MERGED_PACKAGES}`):

```python
{lines}
```

For CTranslate2: `ct2-transformers-converter --model . --output_dir OUT`{prefix}.
"""


def export_front(checked: CheckedSpace, folder: ExperimentFolder) -> list[Path]:
    """Exports the adapters of every front member and returns their folders; one without adapters is left out.

    Earlier exports of trials that are no longer on the front are removed.
    """
    base = load_base(recorded_source(folder.path, checked.space.base_source))
    base = with_new_languages(base, checked.space.new_languages)
    environment = build_environment(checked, base, folder.path.parent / STORE_FOLDER)
    table = open_table(folder, checked.space)
    exported = []
    rows = table.front()
    for old in folder.path.glob("front/*"):
        if old.name not in {row.name for row in rows} and (old / FORMAT_FILE).exists():
            shutil.rmtree(old)
    for row in rows:
        if row.result and row.result.trainable_parameters:
            export_trial(base, environment, folder, row, folder.front(row.name))
            exported.append(folder.front(row.name))
    return exported


def export_one(
    source: Path,
    trial: str | None,
    target: Path,
    format_name: str,
    *,
    direction: str | None = None,
    is_compact: bool = False,
    energy: float | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> list[str]:
    """Exports one trial of an experiment, or adapters again; returns the adapters' names, or the direction's.

    Args:
        source: An experiment, or adapters that were exported before.
        trial: The trial of an experiment. None: the best.
        target: The folder to write.
        format_name: peft or merged.
        direction: SRC-TGT; with merged, and only there.
        is_compact: With peft: store the smallest dense adapters that compute the same.
        energy: With peft: compact further, keeping this share of each product's squared norm.
        note: Called with a sentence on what compacting lost.

    Raises:
        InputError: If an option, the source, the trial or the target is wrong.
    """
    form = ExportForm(format_name, direction, is_compact, energy)
    if (source / FORMAT_FILE).exists():
        if trial is not None:
            raise InputError(f"--trial must be for an experiment, but {source} holds the adapters of one trial.")
        return export_again(source, target, form, note)
    folder, base, environment, table = open_experiment(source)
    row = choose_row(folder, base, environment, table, trial)
    return export_trial(base, environment, folder, row, target, form, note)


def adapters_of(place: Path) -> Path:
    """Returns the folder of exported adapters that a place stands for: itself, or those of an experiment's best trial.

    Args:
        place: Exported adapters, or an experiment.

    Raises:
        InputError: If it is neither, has no trial to choose, or none of its adapters are exported.
    """
    check_adapters(place)
    if (place / FORMAT_FILE).exists():
        return place
    folder = ExperimentFolder(place.resolve())
    found = folder.adapters
    if not is_training(folder):
        found = folder.front(choose_trial(open_table(folder, load_begun_space(folder.space)), None).name)
    if not (found / FORMAT_FILE).exists():
        raise InputError(
            f"An experiment must have exported adapters to translate with, but {found} holds none. Export a trial's: "
            f"langsearch export {place} --trial N --to DIR."
        )
    return found


def open_experiment(experiment: Path) -> tuple[ExperimentFolder, Base, Environment, TrialTable]:
    """Opens an experiment with its base and data.

    Raises:
        InputError: If the folder is no experiment, its base or data are not there any more, or its base is another.
    """
    folder = ExperimentFolder(experiment.resolve())
    if not folder.space.exists():
        raise InputError(f"An experiment's folder holds a space.yaml, but {experiment} has none.")
    space = load_begun_space(folder.space)
    checked = check_space(space, recorded_source(folder.path, space.base_source), is_begun=True)
    check_recorded(folder.path, checked.base, checked.family)
    base = with_new_languages(load_base(checked.base), space.new_languages)
    environment = build_environment(checked, base, folder.path.parent / STORE_FOLDER)
    environment = computing_in(environment, recorded_precision(folder))
    return folder, base, environment, open_table(folder, checked.space)
