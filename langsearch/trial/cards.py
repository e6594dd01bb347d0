"""Model cards of exported adapters, in the hub's format: what they are, how good, from which data, how to load them."""

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from langsearch.adapters.peft_limits import is_plain, why_no_peft
from langsearch.adapters.protocol import TOKENS_NAME
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.evaluate.spbleu import Difference
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import ExperimentFolder, read_json, read_rows
from langsearch.experiment.task import TrialTask
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture
from langsearch.space.languages import find_language
from langsearch.space.modular_checks import alone_words
from langsearch.space.plan import plan_rows, show_beside, show_kind, show_layers, show_modules, show_ranks
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import DataSettings, Source
from langsearch.study.results import beam_words, final_part
from langsearch.study.rows import TrialRow
from langsearch.trial.card_examples import ADAPTER_PACKAGES, adapter_lines, example_direction
from langsearch.trial.losing import losing_words, pretrained_result

MIN_SENTENCES = 100
"""A score of fewer sentences a direction is not put into a card's metadata, which the hub ranks models by: one of 100
sentences has an interval of some spBLEU already."""

_WIDTH = 110
_MAX_NAMED = 12
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_INSTALL = (
    "It is installed from a checkout of its repository (`pip install -e .` there), not by name: the package index has "
    "another package that is called so."
)
_WORDS = {"pretrained": "the pretrained base", "full_finetuning": "full fine-tuning"}


def model_card(
    base: Base,
    environment: Environment,
    folder: ExperimentFolder,
    row: TrialRow,
    task: TrialTask,
    written: Architecture,
) -> str:
    """Returns the README.md of a trial's adapters.

    Args:
        base: The base.
        environment: Languages and directions.
        folder: The experiment.
        row: The trial, with its scores.
        task: What was trained.
        written: The architecture of what is exported; compacted adapters have smaller ranks than the trained ones.
    """
    space = load_space(folder.space, is_recorded=True)
    data = space.data
    why_not = why_no_peft(written)
    count = written.num_parameters(base.shape)
    percent = 100 * count / base.shape.num_parameters
    languages = environment.languages
    lines = [
        f"# {_title(written)} for {base.name}: trial {row.name}",
        "",
        *_wrapped(
            f"{count:,} stored parameters, {percent:.2f} % of the base{_form(why_not)} "
            f"Trial {row.name} of the langsearch experiment {space.name}."
        ),
        "",
        "## Languages",
        "",
        *_wrapped(f"{len(languages)}, in {len(environment.directions):,} directions." + alone_words(task.trainer)),
        *[f"- {name}: {', '.join(members)}" for name, members in environment.classes.items()],
        *_new_lines(base, written),
        "",
        "## Architecture",
        "",
        f"{task.summary}.",
        "",
        *_plan(written, environment.classes),
        "",
        "## Scores",
        "",
        *_score_lines(folder, environment, row),
        *_precision_lines(environment, task),
        "",
        "## Data",
        "",
        *_data_lines(folder, environment, data),
        "",
        *_use(base, environment, written, why_not),
    ]
    if losing := losing_words(folder, row):
        lines += ["", *_wrapped(losing)]
    content = "\n".join(lines)
    return f"---\n{_front_matter(base, environment, folder, data, row, space.name)}\n---\n\n{content}\n"


def _title(architecture: Architecture) -> str:
    return "Language-specific LoRA" if is_plain(architecture) else f"Adapters of languages ({architecture.word})"


def _form(why_not: str | None) -> str:
    """Returns how a folder holds the adapters, behind their size."""
    if why_not is not None:
        return ", in langsearch's own format."
    return (
        ": one PEFT adapter for each language and side. A translation activates the source side's adapter of its "
        "source language together with the target side's of its target language."
    )


def _use(base: Base, environment: Environment, written: Architecture, why_not: str | None) -> Iterator[str]:
    """Yields how to translate with the adapters."""
    shown = example_direction(environment.directions, written)
    own = f"`langsearch translate . --from {shown.src} --to {shown.tgt}`"
    if why_not is not None:
        yield from ("## Translate", "", *_wrapped(f"{why_not} With langsearch: {own}. {_INSTALL}"))
        return
    yield from (
        "## Translate with PEFT",
        "",
        f"In this folder, with the adapters of one direction active (`pip install {ADAPTER_PACKAGES}`):",
        "",
        "```python",
        *adapter_lines(base, environment.directions, written, environment.validation),
        "```",
        "",
        *_wrapped(f"Or with langsearch: {own}. {_INSTALL}"),
    )


def _new_lines(base: Base, architecture: Architecture) -> Iterator[str]:
    """Yields what a card says of languages that are new to the base."""
    if not architecture.new_languages:
        return
    tokens = {language.code: language for language in base.tokenizer.new_languages}
    listed = ", ".join(
        f"{code} (token {tokens[code].token}, id {tokens[code].index}, began as {like})"
        for code, like in architecture.new_languages
    )
    forced = [[tokens[code].index] for code, _ in architecture.new_languages]
    yield ""
    yield from _wrapped(
        f"New to the base: {listed}. Their embedding rows are the adapter `{TOKENS_NAME}`, which every direction "
        "activates, and which PEFT must load last. Force the target's token (`forced_bos_token_id`), and let "
        "`generate` say none of them by itself: "
        f"`bad_words_ids={forced}`."
    )


def _front_matter(
    base: Base, environment: Environment, folder: ExperimentFolder, data: DataSettings, row: TrialRow, experiment: str
) -> str:
    results = []
    counts = _counts(folder, row)
    validation = row.result.spbleu if row.result else None
    for split, part, sources, score in (
        ("validation", "full" if row.final else "validation", data.validation or data.train, validation),
        ("test", "test", data.test, row.test.test_spbleu if row.test else None),
    ):
        if part == "full" and row.final is not None:
            score = row.final.full_spbleu
        if score is not None and min(counts.get(part, [0])) >= MIN_SENTENCES:
            found = EvalResult(
                task_type="translation",
                dataset_type=sources[0].kind,
                dataset_name=_names(sources),
                dataset_split=split,
                metric_type="sacrebleu",
                metric_name="spBLEU, mean over directions",
                metric_value=round(score, 2),
            )
            results.append(found)
    is_folder = not _HUB_ID.fullmatch(base.name) or Path(base.name).exists()
    card = ModelCardData(
        base_model=Path(base.name).name if is_folder else base.name,
        language=list(dict.fromkeys(hub_code(language) for language in environment.languages)),
        library_name="peft",
        license=_license(base),
        pipeline_tag="translation",
        tags=["translation", "lora", "langsearch"],
        metrics=["sacrebleu"],
        model_name=f"{experiment}-{row.name}" if results else None,
        eval_results=results or None,
    )
    text: str = card.to_yaml(line_break="\n")
    return text.rstrip()


def hub_code(language: str) -> str:
    """Returns the ISO 639-1 code of a language, or its ISO 639-3 code, as the hub asks for; else its own code."""
    try:
        info = find_language(language)
    except InputError:
        return re.split(r"[_-]", language)[0]
    # "ns" is M2M-100's own for Northern Sotho, which has no code of two letters.
    return next((code for code in info.codes if len(code) == 2 and code != "ns"), info.iso639_3)


def _license(base: Base) -> str | None:
    """Returns the licence that the base's own card names, None where it names none."""
    try:
        text = (base.tokenizer.folder / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    front_matter = re.match(r"---\n(.*?)\n---", text, flags=re.DOTALL)
    found = re.search(r"^license: *[\"']?([\w.-]+)", front_matter[1], flags=re.MULTILINE) if front_matter else None
    return found[1] if found else None


def _plan(architecture: Architecture, classes: Mapping[str, Sequence[str]]) -> Iterator[str]:
    yield f"| layers | modules | side | rank {';'.join(classes)} |"
    yield "|---|---|---|---|"
    for beside in (show_kind(architecture), *show_beside(architecture)):
        if beside:
            yield f"| | {beside} | | |"
    for plan in plan_rows(architecture):
        where = f"{plan.stack} {show_layers(plan.layers)}"
        yield f"| {where} | {show_modules(plan.modules)} | {plan.side} | {show_ranks(plan.ranks, classes)} |"


def _score_lines(folder: ExperimentFolder, environment: Environment, row: TrialRow) -> Iterator[str]:
    yield "| set | spBLEU, mean over directions | 95 % interval | directions | sentences each |"
    yield "|---|---|---|---|---|"
    counts = _counts(folder, row)
    searched, last = _beams(environment, row)
    for name, found in (("", row.result), (", the pretrained base", pretrained_result(folder, row))):
        if found is not None:
            each = _span(counts.get("validation", [found.num_sentences]))
            interval = found.spbleu_low, found.spbleu_high
            yield _score_row(f"validation{searched}{name}", found.spbleu, *interval, found.num_directions, each)
    if row.final:
        final = row.final
        whole = _about(folder).get("num_validation_sentences"), len(environment.directions)
        before = (row.result.num_sentences, row.result.num_directions) if row.result else (None, None)
        part = final_part(final.full_num_sentences, final.full_num_directions, *whole, before)
        each = _span(counts.get("full", [final.full_num_sentences]))
        interval = final.full_spbleu_low, final.full_spbleu_high
        yield _score_row(f"{part}{last}", final.full_spbleu, *interval, final.full_num_directions, each)
    if row.test:
        test = row.test
        each = _span(counts.get("test", [test.test_num_sentences]))
        interval = test.test_spbleu_low, test.test_spbleu_high
        yield _score_row(f"test{last}", test.test_spbleu, *interval, test.test_num_directions, each)
    yield ""
    if environment.zero_shot:
        scored = row.test.test_zero_shot_spbleu if row.test else None
        mean = f" (mean spBLEU on test {scored:.2f})" if scored is not None else ""
        named = ", ".join(map(str, environment.zero_shot[:_MAX_NAMED]))
        more = ", …" if len(environment.zero_shot) > _MAX_NAMED else ""
        yield from _wrapped(
            f"Zero-shot, without training sentences, are {len(environment.zero_shot):,} of "
            f"{len(environment.directions):,} directions{mean}: {named}{more}."
        )
        yield ""
    for name, words in _WORDS.items():
        if name in row.differences:
            yield f"On test against {words}: {_difference(row.differences[name])}."
    yield "Validation chose the trial, so that its score flatters it." if row.test else "Not scored on a test set."
    if any(min(found) < MIN_SENTENCES for found in counts.values()):
        yield f"Scores of fewer than {MIN_SENTENCES} sentences a direction say little, and are not in the metadata."
    if row.result:
        yield ""
        yield f"Signature: `{row.result.signature}`"


def _precision_lines(environment: Environment, task: TrialTask) -> Iterator[str]:
    """Yields what a card says of scores that were decoded in another type than its example decodes in."""
    precision: str = task.trainer.precision
    if precision == "auto":
        precision = "bf16 or fp16" if environment.compute.gpu else environment.compute.cpu_precision
    if precision != "fp32":
        yield ""
        yield from _wrapped(
            f"The scores are of decoding with the base in {precision}, as it was trained with, in which these adapters "
            "translate as the search did. In fp32, as below, the mean is much the same, but that rounding is missing, "
            "and many sentences may be translated otherwise."
        )


def _counts(folder: ExperimentFolder, row: TrialRow) -> dict[str, list[int]]:
    """Returns how many sentences a trial's scores are of in each direction, by split; bitexts differ in them."""
    found: dict[str, list[int]] = {}
    for scored in read_rows(folder.trial(row.same_as or row.name).scores):
        found.setdefault(scored["split"], []).append(int(scored["num_sentences"]))
    return found


def _beams(environment: Environment, row: TrialRow) -> tuple[str, str]:
    """Returns ", greedy" and ", beam 5" of scores while searching and of final ones; "" twice where they are alike."""
    final = environment.evaluation.final.beams
    if row.result is None or row.result.beams == final:
        return "", ""
    return f", {beam_words(row.result.beams)}", f", {beam_words(final)}"


def _score_row(name: str, value: float, low: float, high: float, directions: int, sentences: str) -> str:
    return f"| {name} | {value:.2f} | {low:.2f}–{high:.2f} | {directions} | {sentences} |"


def _span(counts: Sequence[int]) -> str:
    """Returns "100", or "12–104" where they differ."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def _difference(difference: Difference) -> str:
    how = "paired bootstrap over sentences, one training of each"
    if difference.num_seeds > 1:
        how = f"means over seeds; the interval holds sentences and {difference.num_seeds} seeds"
    return f"{difference.value:+.2f}, 95 % {difference.low:+.2f} to {difference.high:+.2f} ({how})"


def _data_lines(folder: ExperimentFolder, environment: Environment, data: DataSettings) -> Iterator[str]:
    about = _about(folder)
    held_out = f"the last {data.holdout:,} sentences of train" if data.holdout else ""
    if data.holdout and data.holdout_rows == "spread":
        held_out = f"{data.holdout:,} rows held out of every source of train in proportion"
    # By their folder too where files of one name lie in several: a card must not read as tested on what was trained.
    files = [{_own_name(path) for source in part for path in source.paths} for part in (data.train, data.test)]
    parents = 1 if files[0] & files[1] else 0
    parts = {
        "train": _names(data.train, parents),
        "validation": held_out or _names(data.validation, parents),
        "test": _names(data.test, parents),
    }
    for part, names in parts.items():
        count = about.get(f"num_{part}_sentences")
        store: TokenStore = getattr(environment, part)
        present = {language: store.lengths(language) >= 0 for language in store.languages}
        if not isinstance(count, int):
            size = ""
        elif all(rows.all() for rows in present.values()):
            size = f", {count:,} sentences in every language"
        else:
            each = [int((present[src] & present[tgt]).sum()) for src, tgt in _languages(environment.directions)]
            size = f", {count:,} rows, of which a direction has {_span(each)}"
        yield from _wrapped_item(f"{part}: {names}{size}")


def _languages(directions: Sequence[Direction]) -> Iterator[tuple[str, str]]:
    return ((direction.src, direction.tgt) for direction in directions)


def _about(folder: ExperimentFolder) -> dict[str, Any]:
    return read_json(folder.description) if folder.description.exists() else {}


def _names(sources: Sequence[Source], parents: int = 0) -> str:
    """Returns sources in words, without the folders of the machine that they lie on but the last so many."""
    words = {"flores101": "FLORES-101", "flores200": "FLORES-200", "embedded": "langsearch's embedded"}
    found = []
    for source in sources:
        paths = () if source.kind.startswith("flores") else source.paths
        name = " and ".join(_own_name(path, parents) for path in paths[:_MAX_NAMED])
        name += f" and {len(paths) - _MAX_NAMED:,} more" if len(paths) > _MAX_NAMED else ""
        limits = [] if source.max_rows is None else [f"at most {source.max_rows:,} rows of each pair"]
        limits += [] if source.weight == 1 else [f"drawn {source.weight:g} times as often"]
        limit = f"({', '.join(limits)})" if limits else None
        parts = (words.get(source.kind, source.kind), name, source.split, limit)
        found.append(" ".join(part for part in parts if part))
    return ", ".join(found)


def _own_name(path: str, parents: int = 0) -> str:
    """Returns the last part of a path, and so many before it; of a pattern all parts from the first one with a *."""
    parts = Path(path).parts
    first = next((index for index, part in enumerate(parts) if "*" in part), len(parts) - 1)
    return "/".join(parts[max(first - parents, 0) :])


def _wrapped_item(text: str) -> list[str]:
    """Returns the lines of an entry of a list."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, break_long_words=False, break_on_hyphens=False)
