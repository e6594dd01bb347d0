"""What a run learned before its search, as heat maps: the weights of the sides, and the demand for rank."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langsearch.report.experiment_values import Experiment
from langsearch.report.figures import Figure, plotly_text
from langsearch.report.lenient import as_integer, as_mapping, as_number, as_text, read_json, read_rows
from langsearch.report.wording import counted
from langsearch.space.prior_settings import SURE_MARGIN
from langsearch.space.sites import MODULES

MAX_TEXT_CELLS = 240
"""Above this the cells of a map carry no numbers; they are shown on hovering."""

_STACKS = ("encoder", "decoder")


@dataclass(frozen=True, kw_only=True)
class DemandCell:
    """What a language keeps at one site."""

    language: str
    stack: str
    layer: int
    module: str
    stored: int
    kept: int


@dataclass(frozen=True, kw_only=True)
class Priors:
    """What lies under priors/; empty where nothing was learned."""

    source_shares: Mapping[str, float]
    """By layer, "encoder.0", or by site, "encoder.0.fc1"."""

    demand: tuple[DemandCell, ...]
    seeds: tuple[Mapping[str, Any], ...]
    """What the first trials were given."""

    narrowed: tuple[str, ...]
    """The dimensions that were searched in a smaller range than the space's."""


def read_priors(experiment: Experiment) -> Priors:
    """Reads what an experiment learned before its search; what is missing or torn is left out."""
    prior = as_mapping(read_json(experiment.folder / "experiment.json", []).get("prior"))
    seeds, narrowed = prior.get("seeds"), prior.get("narrowed")
    folder = experiment.folder / "priors"
    return replace(
        read_learned(folder / "sides", folder / "subspace"),
        seeds=tuple(as_mapping(point) for point in seeds) if isinstance(seeds, list) else (),
        narrowed=tuple(str(name) for name in narrowed) if isinstance(narrowed, list) else (),
    )


def read_learned(sides_folder: Path, subspace_folder: Path) -> Priors:
    """Reads what `langsearch learn` wrote into two folders, which may be one; what is missing or torn is left out."""
    ignored = list[str]()
    sides = read_json(sides_folder / "sides.json", ignored)
    shares = {
        str(name): share
        for name, entry in as_mapping(sides.get("weights")).items()
        if (share := as_number(as_mapping(entry).get("src"))) is not None and _place(str(name)) is not None
    }
    rows = read_rows(subspace_folder / "demand.parquet", ignored)
    demand = tuple(cell for row in rows if (cell := _cell(row)) is not None)
    return Priors(source_shares=shares, demand=demand, seeds=(), narrowed=())


def prior_views(priors: Priors, known: Sequence[str]) -> list[tuple[str, Figure]]:
    """Returns the figures with their titles; none where nothing was learned.

    Args:
        priors: What was learned.
        known: The languages in the order to show them; others follow.
    """
    views = [("side of each layer", _side_figure(priors.source_shares))] if priors.source_shares else []
    if priors.demand:
        found = {cell.language for cell in priors.demand}
        languages = [*(code for code in known if code in found), *sorted(found - set(known))]
        layers = {(cell.stack, cell.layer) for cell in priors.demand}
        modules = {(cell.stack, cell.module) for cell in priors.demand}
        views += [
            ("demand by layer", _demand_figure(priors.demand, languages, _in_order(layers), lambda c: c.layer)),
            ("demand by module", _demand_figure(priors.demand, languages, _in_order(modules), lambda c: c.module)),
        ]
    return views


def seed_sentences(priors: Priors) -> list[str]:
    """Returns what was done with what was learned."""
    sentences = []
    if priors.source_shares:
        sentences.append(
            "Adapters of both sides were trained together and mixed; the share of the source's says which side a "
            "layer should have."
        )
        if unsure := [name for name, share in priors.source_shares.items() if not _is_sure(share)]:
            sentences.append(
                f"Not sure, since the shares differ by less than {SURE_MARGIN:g}, and so left to the search: "
                f"{', '.join(unsure)}."
            )
    if priors.demand:
        sentences.append(
            "Equal ranks were trained and pruned by layer; what a language keeps of its adapters, against the others, "
            "is its demand."
        )
    if priors.seeds:
        first = ", ".join(f"{name} {value}" for name, value in priors.seeds[0].items())
        count = counted(len(priors.seeds), "trial")
        sentences.append(f"The search began with {count} at or around what was learned; the first had {first}.")
    if priors.narrowed:
        sentences.append(f"Searched in a smaller range than the space's: {', '.join(priors.narrowed)}.")
    return sentences


def _is_sure(source_share: float) -> bool:
    return abs(2 * source_share - 1) >= SURE_MARGIN


def _side_figure(shares: Mapping[str, float]) -> Figure:
    places = {name: place for name in shares if (place := _place(name)) is not None}
    rows = _in_order({(stack, module) for stack, _, module in places.values()})
    layers = sorted({layer for _, layer, _ in places.values()})
    by_cell = {((stack, module), layer): shares[name] for name, (stack, layer, module) in places.items()}
    z = [[by_cell.get((row, layer)) for layer in layers] for row in rows]
    trace = {
        "colorscale": [[0, "var(--tgt)"], [0.5, "var(--neutral)"], [1, "var(--src)"]],
        "zmin": 0,
        "zmax": 1,
        "colorbar": colorbar("source's share"),
        "text": [["" if share is None or _is_sure(share) else "not sure" for share in row] for row in z],
        "hovertemplate": "%{y}, layer %{x}<br>source's share %{z:.2f}<br>%{text}<extra></extra>",
    }
    figure = heatmap(z, [str(layer) for layer in layers], [_words(row) for row in rows], trace, "layer", digits=2)
    for heat in figure["data"]:
        if "texttemplate" in heat:
            heat["texttemplate"] += "<br>%{text}"
    return figure


def _demand_figure(
    cells: Iterable[DemandCell], languages: Sequence[str], columns: Sequence[tuple[str, Any]], key: Any
) -> Figure:
    kept: dict[tuple[str, tuple[str, Any]], int] = defaultdict(int)
    stored: dict[tuple[str, tuple[str, Any]], int] = defaultdict(int)
    for cell in cells:
        place = cell.language, (cell.stack, key(cell))
        kept[place] += cell.kept
        stored[place] += cell.stored
    places = [[(language, column) for column in columns] for language in languages]
    z = [[100 * kept[place] / stored[place] if stored[place] else None for place in row] for row in places]
    trace = {
        "colorscale": "Viridis",
        "colorbar": colorbar("% kept"),
        "hovertemplate": "<b>%{y}</b> · %{x}<br>%{z:.1f} % kept<extra></extra>",
    }
    return heatmap(z, [_words(column) for column in columns], list(languages), trace, "", digits=1)


def heatmap(
    z: list[list[float | None]], columns: list[str], rows: list[str], trace: Figure, title: str, *, digits: int
) -> Figure:
    """Returns a map of numbers with their names; small ones have the numbers in their cells.

    Args:
        z: The numbers, row by row.
        columns: The columns' names.
        rows: The rows' names.
        trace: Colours and words of the map.
        title: Of the columns.
        digits: Of a number in its cell.
    """
    heat: Figure = {
        "type": "heatmap",
        "z": [[None if value is None else round(value, 4) for value in row] for row in z],
        "x": [plotly_text(name) for name in columns],
        "y": [plotly_text(name) for name in rows],
        "hoverongaps": False,
        "xgap": 1,
        "ygap": 1,
        **trace,
    }
    if len(columns) * len(rows) <= MAX_TEXT_CELLS:
        heat |= {"texttemplate": f"%{{z:.{digits}f}}"}
    layout: Figure = {
        "height": max(220, 30 * len(rows) + 130),
        "xaxis": {"type": "category", "automargin": True, "title": {"text": title}, "showgrid": False},
        "yaxis": {"type": "category", "automargin": True, "autorange": "reversed", "showgrid": False},
        "margin": {"l": 48, "r": 8, "t": 8, "b": 56},
    }
    return {"data": [heat], "layout": layout}


def colorbar(title: str) -> Figure:
    """Returns the bar of a map's colours."""
    return {"title": {"text": title, "side": "right"}, "thickness": 12, "outlinewidth": 0, "len": 0.9}


def _words(place: tuple[str, Any]) -> str:
    stack, inner = place
    return f"{stack} {inner}" if inner != "" else stack


def _in_order(places: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Returns (stack, layer or module) in the order of the forward pass."""

    def order(place: tuple[str, Any]) -> tuple[int, int, str]:
        stack, inner = place
        if isinstance(inner, int):
            return _STACKS.index(stack), inner, ""
        modules = MODULES[stack]
        return _STACKS.index(stack), modules.index(inner) if inner in modules else len(modules), str(inner)

    return sorted(places, key=order)


def _place(name: str) -> tuple[str, int, str] | None:
    """Returns (stack, layer, module or "") of a name such as encoder.0.fc1."""
    stack, _, rest = name.partition(".")
    layer, _, module = rest.partition(".")
    return (stack, int(layer), module) if stack in _STACKS and layer.isdecimal() else None


def _cell(row: Mapping[str, Any]) -> DemandCell | None:
    language, stack, module = (as_text(row.get(name)) for name in ("language", "stack", "module"))
    layer, stored, kept = (as_integer(row.get(name)) for name in ("layer", "stored", "kept"))
    if language is None or stack not in _STACKS or module is None or layer is None or stored is None or kept is None:
        return None
    return DemandCell(language=language, stack=stack, layer=layer, module=module, stored=stored, kept=kept)
