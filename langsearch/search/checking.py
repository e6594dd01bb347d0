"""What `langsearch check` shows of a space."""

import json
import textwrap
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json
from rich.console import Console
from rich.table import Table

from langsearch.data.directions import class_pair, sample_directions
from langsearch.experiment.base_checks import draft_problems
from langsearch.experiment.dirt import FoundDirt
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.experiment.printable import Unpadded
from langsearch.experiment.task import summarize
from langsearch.experiment.try_tasks import tuned_names
from langsearch.model.cache import cache_folder
from langsearch.model.finding import FoundBase
from langsearch.search.data_lines import data_lines, describe_data
from langsearch.search.forecast import Forecast
from langsearch.search.forecast_lines import describe_forecast, forecast_lines
from langsearch.search.known_pieces import describe_languages, language_lines
from langsearch.search.needs import describe_needs, memory_lines, memory_needs
from langsearch.search.sentence_lines import describe_sentences, dirt_table, find_dirt_of, sentence_lines, worst_lines
from langsearch.search.sizes import parameter_range, sample_point
from langsearch.search.strategy_line import show_values, strategy_line, tuning_lines
from langsearch.search.trackers import describe_tracking, tracking_problems
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.draft import WrongSpaceError
from langsearch.space.loss_checks import loss_lines
from langsearch.space.modular_checks import modular_lines
from langsearch.space.plan import (
    Classes,
    num_parameters_by_class,
    plan_rows,
    shared_slots,
    show_layers,
    show_modules,
    show_ranks,
)
from langsearch.space.problems import InputError
from langsearch.space.schema import Space
from langsearch.space.search_sections import WORST_LOSS
from langsearch.space.settings import DecodingSettings
from langsearch.space.values import extremes, options
from langsearch.study.results import beam_words


def print_check(
    console: Console, checked: CheckedSpace, dirt: FoundDirt | None = None, found: Forecast | None = None
) -> None:
    """Prints languages, directions, sentences, dimensions, parameters, what a search will be, and one architecture.

    Args:
        console: Where to.
        checked: The space.
        dirt: What is wrong with its sentences. None: that is looked at now.
        found: What a search of it will be. None: nothing is said of that.
    """
    space, shape = checked.space, checked.shape
    console.print(f"[bold]{space.name}[/]: the space is right. Nothing was started.")
    _print_line(
        console,
        "base",
        f"{checked.base.source}, {checked.family}: {shape.encoder_layers}+{shape.decoder_layers} layers, "
        f"d {shape.d_model}, {shape.num_parameters:,} parameters",
    )
    _print_line(console, "base files", _describe_weights(checked.base))
    for name, languages in space.classes.items():
        _print_line(console, "class", f"{name}: {', '.join(languages)}")
    for label, text in language_lines(checked):
        _print_line(console, label, text)
    pairs = {class_pair(direction, space.classes) for direction in checked.directions}
    zero_shot = f", {len(checked.zero_shot):,} of them zero-shot" if checked.zero_shot else ""
    _print_line(console, "directions", f"{len(checked.directions)} in {len(pairs)} class pairs{zero_shot}")
    for label, text in data_lines(checked):
        _print_line(console, label, text)
    dirt = dirt or find_dirt_of(checked)
    for label, text in sentence_lines(checked, dirt):
        _print_line(console, label, text)
    if (table := dirt_table(checked, dirt)) is not None:
        console.print(Unpadded(table))
    for label, text in worst_lines(checked, dirt):
        _print_line(console, label, text)
    stand_in = " (a stand-in: not comparable with published spBLEU)" if checked.tokenizer.is_stand_in else ""
    _print_line(console, "spBLEU", f"tokenizer {checked.tokenizer.name}{stand_in}")
    _print_line(console, "trials", strategy_line(checked))
    for text in tuning_lines(space):
        _print_line(console, "tuned", text)
    for label, text in search_summary(space).items():
        _print_line(console, label, text)
    for text in loss_lines(space.trainer_section.loss):
        _print_line(console, "loss", text)
    for text in modular_lines(space.trainer_section, checked.directions):
        _print_line(console, "modular", text)
    _print_line(console, "training", _describe_training(space))
    for name, place in describe_tracking(space.tracking).items():
        _print_line(console, "tracking", f"{name}: {place}")
    dimensions = space.dimensions()
    console.print(Unpadded(_dimensions_table(dimensions)))
    low, high = parameter_range(checked)
    percent = [100 * count / shape.num_parameters for count in (low, high)]
    _print_line(
        console, "adapters", f"{low:,} to {high:,} parameters ({percent[0]:.2f} to {percent[1]:.2f} % of the base)"
    )
    for line in memory_lines(checked, memory_needs(checked, high)):
        _print_line(console, "memory", line)
    for label, text in forecast_lines(checked, found) if found is not None else ():
        _print_line(console, label, text)
    sample = space.architecture(sample_point(dimensions), shape)
    which = "a sample" if dimensions else "summary"
    _print_line(console, which, f"{summarize(sample, space.classes)}: {sample.num_parameters(shape):,} parameters")
    print_plan(console, sample, space.classes, shape, "the sample's plan" if dimensions else "the plan")


def _describe_training(space: Space) -> str:
    """Returns how trials are trained, where it is easily taken for something else."""
    trainer = space.trainer_section
    falls = {"inverse_sqrt": "falls as 1 / sqrt(update) after", "constant": "stays after"}
    schedules = [falls.get(str(word), str(word)) for word in options(trainer.schedule)]
    warmup, smoothing, dropout = (
        " to ".join(f"{end:g}" for end in dict.fromkeys(extremes(value)))
        for value in (trainer.warmup_updates, trainer.label_smoothing, trainer.dropout)
    )
    precision = trainer.precision
    if precision == "auto":
        precision = "bf16 or fp16, as the card has it" if space.resources.gpu else "bf16 where it is faster, else fp32"
    return (
        f"lr {' or '.join(schedules)} {warmup} warmup updates, label smoothing {smoothing}, dropout {dropout}, "
        f"products in {precision}"
    )


def _print_line(console: Console, label: str, text: str) -> None:
    """Prints a text beside its label, in lines that are as wide as the console at most; no path or URL is broken.

    Nor is a percent sign parted from its number.
    """
    indent = " " * 12
    lines = textwrap.wrap(
        text.replace(" %", "\N{NO-BREAK SPACE}%"),
        console.width,
        initial_indent=f"{label:<12}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    console.print("\n".join(lines).replace("\N{NO-BREAK SPACE}%", " %"), soft_wrap=True, markup=False)


def _describe_weights(found: FoundBase) -> str:
    """Returns which weights a base has, and what `run` does before it can use them."""
    weights = found.weights
    assert weights is not None
    listed = weights.names[0] if len(weights.names) == 1 else f"{len(weights.names)} files of {weights.form}"
    num_bytes = weights.num_bytes + sum(found.to_fetch.values())
    text = f"{listed}, {num_bytes / 1e6:,.0f} MB"
    if found.to_fetch:
        text += f"; {sum(found.to_fetch.values()) / 1e6:,.0f} MB are fetched by `run`"
    if weights.is_pickled:
        text += f"; kept as safetensors in {cache_folder() / 'weights'}, once a machine"
    return text


def describe_check(
    checked: CheckedSpace, dirt: FoundDirt | None = None, found: Forecast | None = None
) -> dict[str, Any]:
    """Returns all that `print_check` shows, and the sample in full, as JSON data."""
    space, shape = checked.space, checked.shape
    dimensions = space.dimensions()
    low, high = parameter_range(checked)
    point = sample_point(dimensions)
    sample = space.architecture(point, shape)
    by_class, shared = num_parameters_by_class(sample, space.classes, shape)
    return {
        "name": space.name,
        "base": {
            "name": space.base,
            "revision": checked.base.commit,
            "family": checked.family,
            "weights": list(checked.base.weights.names) if checked.base.weights is not None else [],
            "bytes_to_fetch": sum(checked.base.to_fetch.values()),
            **asdict(shape),
        },
        "classes": {name: list(languages) for name, languages in space.classes.items()},
        **describe_languages(checked),
        "directions": [str(direction) for direction in checked.directions],
        **describe_data(checked),
        **describe_sentences(checked, dirt or find_dirt_of(checked)),
        "spbleu": {"tokenizer": checked.tokenizer.name, "is_stand_in": checked.tokenizer.is_stand_in},
        "search": space.search.model_dump(exclude={"constraints", "plateau"})
        | {
            "constraints": [str(constraint) for constraint in space.search.constraints],
            "plateau": asdict(space.search.plateau) if space.search.plateau is not None else None,
            "rung_epochs": list(space.search.rung_epochs(space.trainer_section.epochs)),
        },
        "loss": list(loss_lines(space.trainer_section.loss)),
        "modular": list(modular_lines(space.trainer_section, checked.directions)),
        "evaluation": asdict(space.evaluation),
        "failures": asdict(space.failures),
        "checkpoints": asdict(space.checkpoints),
        "baselines": [baseline.name for baseline in space.baselines],
        "tries": {name: space.num_tries(name) for name in tuned_names(space)},
        "tracking": asdict(space.tracking),
        "dimensions": {name: json.loads(distribution_to_json(found)) for name, found in dimensions.items()},
        "adapter_parameters": {"at_least": low, "at_most": high},
        "memory": describe_needs(checked, memory_needs(checked, high)),
        "forecast": None if found is None else describe_forecast(found),
        "sample": {
            "point": point,
            "fingerprint": sample.fingerprint,
            "summary": summarize(sample, space.classes),
            "architecture": sample.to_dict(),
            "plan": [asdict(row) for row in plan_rows(sample)],
            "parameters": {
                "total": sample.num_parameters(shape),
                "percent": 100 * sample.num_parameters(shape) / shape.num_parameters,
                "by_class": by_class,
                "shared": shared,
                "by_slot": sample.num_parameters_by_slot(shape),
            },
        },
    }


def search_summary(space: Space) -> dict[str, str]:
    """Returns what a search optimises, keeps to, stops and survives, in a few words under each heading."""
    search, failures, checkpoints = space.search, space.failures, space.checkpoints
    lines = {"objectives": ", ".join(f"{name} {direction}" for name, direction in search.objectives.items())}
    if search.constraints:
        lines["constraints"] = ", ".join(str(constraint) for constraint in search.constraints)
    epochs = search.rung_epochs(space.trainer_section.epochs)
    lines["stopping"] = "none: every trial is trained to its end"
    if epochs:
        after = ", ".join(str(epoch) for epoch in epochs)
        lines["stopping"] = (
            f"1 in {search.reduction_factor} goes on after epoch{'' if len(epochs) == 1 else 's'} {after}"
        )
    if search.plateau is not None:
        lines["plateau"] = (
            f"ends when {search.plateau.trials} trials gain less than {100 * search.plateau.min_gain:g} %"
        )
    decoded = {"search": space.evaluation.search, "final": space.evaluation.final}
    rungs = {f"to epoch {epoch}": rung for epoch, rung in zip(epochs, space.evaluation.rungs, strict=False)}
    lines["scores"] = " · ".join(f"{name} {_fidelity(settings)}" for name, settings in (rungs | decoded).items())
    stalled = (
        f"stalled {failures.stalled} after {failures.stall_minutes:g} min, "
        if failures.stall_minutes is not None
        else ""
    )
    lines["failures"] = (
        f"{stalled}out of memory {failures.out_of_memory}, non-finite loss {failures.non_finite_loss}, "
        f"disk full {failures.disk_full}, other {failures.error}"
        + (f"; {failures.in_a_row} in a row stop the run" if failures.in_a_row is not None else "")
    )
    limit = f"at most {checkpoints.max_gigabytes:g} GB" if checkpoints.max_gigabytes is not None else "no limit"
    kept = "the front" if checkpoints.keep == "front" else "every trial"
    if tuned_names(space) and checkpoints.keep == "front":
        kept += " and of each tuned baseline's best try"
    lines["weights"] = f"kept of {kept}, {limit}"
    return lines


def _fidelity(settings: DecodingSettings) -> str:
    """Returns decoding settings as "24 directions x 100 sentences, beam 5"."""
    counts = ((settings.directions, "direction"), (settings.sentences, "sentence"))
    amounts = [f"{count or 'all'} {noun}{'' if count == 1 else 's'}" for count, noun in counts]
    return f"{' x '.join(amounts)}, {beam_words(settings.beams)}"


def check_search(space: Space) -> CheckedSpace:
    """Checks a space against its base, its data and its trackers, and whether a trial can keep its constraints.

    Raises:
        InputError: With what is wrong.
    """
    problems: list[str] = []
    checked = None
    try:
        checked = check_space(space)
        check_constraints(checked)
    except InputError as error:
        problems += error.problems
    if problems := [*problems, *tracking_problems(space.draft)]:
        raise InputError(problems)
    assert checked is not None
    return checked


def all_problems(error: WrongSpaceError) -> list[str]:
    """Returns the problems of a space that is wrong by itself, and what its base, files and trackers say of the rest.

    Nothing in it only follows from another problem: what depends on a section that is wrong is not looked at.
    """
    return [*error.problems, *draft_problems(error.draft), *tracking_problems(error.draft)]


def check_constraints(checked: CheckedSpace) -> None:
    """Checks that the constraints can be kept, and measured, by some trial.

    Raises:
        InputError: If every architecture of the space has too many parameters, or no direction that is scored while
            searching lies within the class that a loss is bounded for.
    """
    space = checked.space
    problems = []
    scored = sample_directions(checked.directions, space.evaluation.search.directions, space.classes)
    for index, constraint in enumerate(space.search.constraints):
        text = None
        is_pruned = space.architecture_section.pruning is not None
        if constraint.metric == "trainable_parameters" or (constraint.metric == "nonzero_parameters" and not is_pruned):
            low, _ = parameter_range(checked)
            bound = constraint.bound * (checked.shape.num_parameters / 100 if constraint.is_percent else 1)
            if low > bound:
                text = (
                    f"must be met by some architecture, but got {constraint}, and the smallest has {low:,} parameters"
                )
                if constraint.is_percent:
                    text += f" ({100 * low / checked.shape.num_parameters:.3g} %)"
        members = set(space.classes.get(constraint.metric.removeprefix(WORST_LOSS), space.languages))
        if constraint.metric.startswith(WORST_LOSS) and not any(
            {direction.src, direction.tgt} <= members for direction in scored
        ):
            text = (
                f"needs a direction between its languages among those that are scored, but got {constraint} with "
                f"{len(scored)} of {len(checked.directions)} directions. Raise `evaluation.search.directions`."
            )
        if text is not None:
            problems.append(space.document.problem(("search", "constraints", index), text))
    if problems:
        raise InputError(problems)


def print_plan(
    console: Console, architecture: Architecture, classes: Classes, shape: BaseShape, title: str = "the plan"
) -> None:
    """Prints a row for all layers and modules that are alike, and the parameters of each class.

    Args:
        console: Where to.
        architecture: Of all languages of the classes.
        classes: The languages of each class.
        shape: The base's sizes.
        title: Stands above the rows.
    """
    shared = shared_slots(architecture)
    is_one_slot = set(shared) == {"all"}
    for languages in shared.values():
        console.print(f"one slot    {', '.join(languages)}", soft_wrap=True, markup=False)
    ranks = ";".join(classes)
    plan = _table(title, "layers", "modules", "side", f"rank {ranks}")
    for row in plan_rows(architecture):
        side = "any" if is_one_slot else row.side
        where = f"{row.stack} {show_layers(row.layers)}"
        plan.add_row(where, show_modules(row.modules), side, show_ranks(row.ranks, classes))
    console.print(Unpadded(plan))
    by_class, in_common = num_parameters_by_class(architecture, classes, shape)
    counts = _table("parameters", "class", "languages", "parameters", "% of the base", right=3)
    rows = [(name, len(classes[name]), count) for name, count in by_class.items()]
    if in_common:
        across = [
            members for members in shared.values() if not any(set(members) <= set(own) for own in classes.values())
        ]
        rows.append(("of several classes", sum(len(members) for members in across), in_common))
    rows.append(("all", len(architecture.languages), architecture.num_parameters(shape)))
    for name, num_languages, count in rows:
        counts.add_row(name, str(num_languages), f"{count:,}", f"{100 * count / shape.num_parameters:.3g}")
    console.print(Unpadded(counts))


def _table(title: str, *columns: str, right: int = 0) -> Table:
    """Returns a plain table; its last `right` columns hold numbers."""
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index >= len(columns) - right else "left", overflow="fold")
    return table


def _dimensions_table(dimensions: Mapping[str, BaseDistribution]) -> Table:
    table = _table(f"{len(dimensions)} dimensions", "dimension", "values")
    for name, distribution in dimensions.items():
        table.add_row(name, show_values(distribution))
    return table
