"""What a trial's adapters have chosen, read and in words: the pool's map, where gates are open, what encodings tell."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from langsearch.report.experiment_reader import trial_folder
from langsearch.report.experiment_values import Experiment, Trial
from langsearch.report.lenient import as_mapping, as_number, read_json
from langsearch.space.architecture import Site

SIDES = {"src": "as source", "tgt": "as target"}
"""How a report calls the sides."""


@dataclass(frozen=True)
class Choices:
    """What is known of one trial; empty where it has neither pool nor gates, nor terms on encodings."""

    pool: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """The share of each member, by side and language."""

    gates: Mapping[tuple[str, int], Mapping[str, float]] = field(default_factory=dict)
    """The share of tokens that gates are open on, by (stack, layer) and language: the mean over the layer's sites."""

    pivot: str | None = None
    """The language in which lines are looked for. None: that was not measured."""

    retrieval: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """The share of sentences whose line is found in the pivot language, by language: before training, and after it."""

    probe: tuple[float | None, float, float | None] | None = None
    """The share of sentences whose language a fresh probe reads: before training, after it, by chance."""


def read_choices(experiment: Experiment, trial: Trial | None) -> Choices:
    """Reads a trial's choices; what is missing or torn is left out."""
    folder = None if trial is None else trial_folder(experiment, trial.same_as or trial.name)
    if folder is None or not (folder / "choices.json").is_file():
        return Choices()
    value = read_json(folder / "choices.json", [])
    pool = {
        side: {str(language): _numbers(shares) for language, shares in as_mapping(of_side).items()}
        for side, of_side in as_mapping(value.get("pool")).items()
        if side in SIDES
    }
    by_layer: dict[tuple[str, int], dict[str, list[float]]] = {}
    for text, shares in as_mapping(value.get("gates")).items():
        try:
            site = Site.parse(str(text))
        except ValueError:
            continue
        for language, share in as_mapping(shares).items():
            if (number := as_number(share)) is not None:
                by_layer.setdefault((site.stack, site.layer), {}).setdefault(str(language), []).append(number)
    gates = {
        layer: {language: sum(found) / len(found) for language, found in languages.items()}
        for layer, languages in sorted(by_layer.items(), key=lambda item: (item[0][0] != "encoder", item[0][1]))
    }
    retrieval = as_mapping(value.get("retrieval"))
    pairs = {
        str(language): (as_number(as_mapping(found).get("before")), as_number(as_mapping(found).get("after")))
        for language, found in as_mapping(retrieval.get("languages")).items()
    }
    shares = {name: (before, after) for name, (before, after) in pairs.items() if None not in (before, after)}
    probe = as_mapping(value.get("probe"))
    before, after, chance = (as_number(probe.get(key)) for key in ("before", "after", "chance"))
    return Choices(
        {side: languages for side, languages in pool.items() if any(languages.values())},
        gates,
        pivot=str(retrieval.get("pivot")) if shares else None,
        retrieval=shares,
        probe=None if after is None else (before, after, chance),
    )


def choice_sentences(choices: Choices) -> list[str]:
    """Returns what the adapters have chosen, in words."""
    sentences = []
    if choices.gates:
        shares = [share for of_layer in choices.gates.values() for share in of_layer.values()]
        sentences.append(f"Gates are open on {sum(shares) / len(shares):.0%} of the tokens, mean over layers.")
    for side, of_side in choices.pool.items():
        members: dict[int, list[str]] = {}
        for language, given in of_side.items():
            members.setdefault(max(range(len(given)), key=given.__getitem__), []).append(language)
        groups = "; ".join(f"pair {number + 1}: {', '.join(members[number])}" for number in sorted(members))
        sentences.append(f"What languages {SIDES[side]} give most: {groups}.")
    if choices.retrieval:
        before, after = (sum(shares) / len(shares) for shares in zip(*choices.retrieval.values(), strict=True))
        sentences.append(
            f"The nearest encoding in {choices.pivot} is that of the same line for {before:.0%} of the validation "
            f"sentences before training, and for {after:.0%} after it, mean over languages."
        )
    if choices.probe is not None:
        first, last, chance = choices.probe
        was = "" if first is None else f", {first:.0%} before training"
        by_chance = "" if chance is None else f" (chance {chance:.0%})"
        sentences.append(
            f"A fresh probe reads the source's language of {last:.0%} of the validation sentences{was}{by_chance}."
        )
    return sentences


def _numbers(value: object) -> tuple[float, ...]:
    found = [as_number(one) for one in value] if isinstance(value, list) else []
    return tuple(number for number in found if number is not None)
