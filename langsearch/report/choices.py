"""What a trial's adapters have chosen, read and in words: the pool's map, and where gates are open."""

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
    """What is known of one trial; empty where it has neither pool nor gates."""

    pool: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)
    """The share of each member, by side and language."""

    gates: Mapping[tuple[str, int], Mapping[str, float]] = field(default_factory=dict)
    """The share of tokens that gates are open on, by (stack, layer) and language: the mean over the layer's sites."""


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
    return Choices({side: languages for side, languages in pool.items() if any(languages.values())}, gates)


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
    return sentences


def _numbers(value: object) -> tuple[float, ...]:
    found = [as_number(one) for one in value] if isinstance(value, list) else []
    return tuple(number for number in found if number is not None)
