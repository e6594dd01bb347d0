"""What a trial's adapters have chosen, drawn."""

from collections.abc import Sequence

from langsearch.report.choices import SIDES, Choices
from langsearch.report.figures import Figure
from langsearch.report.learned import colorbar, heatmap


def choice_views(choices: Choices, known: Sequence[str]) -> list[tuple[str, Figure]]:
    """Returns the figures with their titles; none where nothing was chosen.

    Args:
        choices: Of one trial.
        known: The languages in the order to show them; others follow.
    """
    views = []
    if choices.gates:
        languages = _ordered({language for shares in choices.gates.values() for language in shares}, known)
        z = [[_percent(shares.get(language)) for shares in choices.gates.values()] for language in languages]
        columns = [f"{stack} {layer}" for stack, layer in choices.gates]
        views.append(("gates by layer", heatmap(z, columns, languages, _trace("% of tokens open"), "", digits=0)))
    for side, of_side in choices.pool.items():
        languages = _ordered(set(of_side), known)
        num = max(len(shares) for shares in of_side.values())
        z = [[_percent(share) for share in of_side[language]] for language in languages]
        columns = [f"pair {number + 1}" for number in range(num)]
        title = f"pool, languages {SIDES[side]}"
        views.append((title, heatmap(z, columns, languages, _trace("% of the pair"), "", digits=0)))
    if choices.retrieval:
        languages = _ordered(set(choices.retrieval), known)
        z = [[_percent(share) for share in choices.retrieval[language]] for language in languages]
        title = f"lines found in {choices.pivot}"
        views.append((title, heatmap(z, ["before", "after"], languages, _trace("% of sentences"), "", digits=0)))
    return views


def _ordered(languages: set[str], known: Sequence[str]) -> list[str]:
    return [*(code for code in known if code in languages), *sorted(languages - set(known))]


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _trace(words: str) -> Figure:
    return {
        "colorscale": "Viridis",
        "zmin": 0,
        "zmax": 100,
        "colorbar": colorbar(words),
        "hovertemplate": f"<b>%{{y}}</b> · %{{x}}<br>%{{z:.1f}} {words}<extra></extra>",
    }
