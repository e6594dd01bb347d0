"""A look at the data of a space: one HTML file that opens offline, in the report's style."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from langsearch import __version__
from langsearch.experiment.data_look import DataLook, PairMatrix, ShareMatrix
from langsearch.experiment.folder import write_text
from langsearch.report import wording
from langsearch.report.figures import Figure, plotly_text
from langsearch.report.page import STYLE, asset, json_text, packed, packed_plotly, scripts, template

_FOLDER = Path(__file__).parent
_SCRIPTS = (_FOLDER / "page.js", _FOLDER / "data.js")

_PART_COLOURS = {"train": "var(--line-1)", "validation": "var(--line-4)", "test": "var(--line-3)"}
_KINDS = {
    "copies": "same text",
    "script": "other script",
    "unknown": "unknown pieces",
    "lengths": "lengths",
}
_NUM_BINS = 40


def write_data_page(look: DataLook, path: Path) -> None:
    """Writes the page; written aside and renamed.

    Args:
        look: The data.
        path: The file.

    Raises:
        OSError: If it cannot be written.
    """
    write_text(path, render_data_page(look))


def render_data_page(look: DataLook) -> str:
    """Returns the page's HTML."""
    sizes = [("sentences by language", _sentence_figure(look))]
    sizes += [(f"pairs by direction, {part}", _pair_figure(look, part)) for part in look.num_rows]
    lengths = [("all languages", _quantile_figure(look))]
    if any(ratio for row in look.length_ratios for ratio in row):
        ratios = _share_figure(look, look.length_ratios, "{:.2g}", "characters for one of the source")
        lengths.append(("target to source by direction", ratios))
    lengths += [(language, _length_figure(look, language)) for language in look.languages if look.lengths[language]]
    views: dict[str, list[tuple[str, Figure | None]]] = {
        "sizes": list(sizes),
        "lengths": list(lengths),
        "faults": [
            ("by language", _fault_figure(look)),
            *(
                (f"{_KINDS[kind]} by direction", _percent_figure(look, matrix, "pairs"))
                for kind, matrix in look.faulty_shares.items()
                if any(share for row in matrix for share in row)
            ),
        ]
        if look.faults
        else [],
        "pieces": [("by direction", _percent_figure(look, _unknown_matrix(look), "unknown, the side with more"))]
        if any(look.unknown_shares.values())
        else [],
        "overlap": [
            (f"{parts} by direction", _counted_figure(look, pairs)) for parts, pairs in look.shared_pairs.items()
        ],
    }
    data = {name: [figure for _, figure in found] for name, found in views.items()}
    values: dict[str, Any] = {
        "look": look,
        "version": __version__,
        "counted": wording.counted,
        "kinds": _KINDS,
        "lengths_words": lengths[0][1]["words"],
        "views": {name: [title for title, _ in found] for name, found in views.items()},
    }
    return template("data.html").render(
        **values,
        style=asset(STYLE),
        script=scripts(_SCRIPTS),
        plotly=packed_plotly(),
        payload=packed(json_text(data)),
    )


def _sentence_figure(look: DataLook) -> Figure:
    """Returns bars of sentences, a group of parts for each language."""
    names = [plotly_text(language) for language in look.languages]
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": part,
            "y": names,
            "x": list(numbers),
            "marker": {"color": _PART_COLOURS[part]},
            "text": [f"{number:,}" for number in numbers],
            "textposition": "auto",
            "hovertemplate": "%{y}: %{x:,} sentences<extra>" + part + "</extra>",
        }
        for part, numbers in look.sentences.items()
    ]
    # From 0 on: bars on another axis show no sizes. What is too short to be seen has its number beside it.
    axis = {"title": {"text": "sentences"}, "rangemode": "tozero"}
    return {"data": traces, "layout": _rows_layout(look.languages, axis, per_row=3)}


def _pair_figure(look: DataLook, part: str) -> Figure:
    """Returns how many pairs each direction has."""
    return _counted_figure(look, look.pairs[part])


def _counted_figure(look: DataLook, matrix: PairMatrix) -> Figure:
    """Returns counts by direction as a matrix; colours by the logarithm, since sizes differ so much."""
    shades = [[None if number is None else math.log10(number + 1) for number in row] for row in matrix]
    texts = [["" if number is None else f"{number:,}" for number in row] for row in matrix]
    return _matrix_figure(look, shades, texts, "pairs", "var(--front)")


def _percent_figure(look: DataLook, matrix: ShareMatrix, unit: str) -> Figure:
    percent = [[None if share is None else 100 * share for share in row] for row in matrix]
    return _share_figure(look, percent, "{:.3g} %", unit, colour="var(--worse)", most=10)


def _share_figure(
    look: DataLook, matrix: ShareMatrix, shown: str, unit: str, colour: str = "var(--front)", most: float | None = None
) -> Figure:
    texts = [["" if share is None else shown.format(share) for share in row] for row in matrix]
    return _matrix_figure(look, matrix, texts, unit, colour, most)


def _matrix_figure(
    look: DataLook,
    shades: ShareMatrix,
    texts: Sequence[Sequence[str]],
    unit: str,
    colour: str,
    most: float | None = None,
) -> Figure:
    """Returns a matrix of source by target."""
    names = [plotly_text(language) for language in look.languages]
    hover = f"%{{y}} to %{{x}}: %{{customdata}} {unit}<extra></extra>"
    trace = _heatmap(names, names, shades, texts, hover, colour, most) | {"customdata": texts}
    if len(names) > 8:  # no room for words in the cells
        trace |= {"text": None, "texttemplate": None}
    layout = _rows_layout(look.languages, {"title": {"text": "target"}, "side": "bottom"}, per_row=1)
    layout["yaxis"] |= {"title": {"text": "source"}}
    return {"data": [trace], "layout": layout}


def _heatmap(
    columns: Sequence[str],
    rows: Sequence[str],
    shades: ShareMatrix,
    texts: Sequence[Sequence[str]],
    hover: str,
    colour: str,
    most: float | None,
) -> Figure:
    """Returns a trace of cells from the tint at 0 to a colour at `most`, or at the largest, with their texts."""
    return {
        "type": "heatmap",
        "x": columns,
        "y": rows,
        "z": shades,
        "text": texts,
        "texttemplate": "%{text}",
        "hovertemplate": hover,
        "hoverongaps": False,
        "showscale": False,
        "zmin": 0,
        "zmax": most,
        "colorscale": [[0, "var(--tint)"], [1, colour]],
        "xgap": 1,
        "ygap": 1,
    }


def _unknown_matrix(look: DataLook) -> ShareMatrix:
    """Returns of each direction the share of pieces that the base does not know, on the side that has more."""
    pairs = look.pairs["train"]
    return [
        [
            None
            if pairs[row][column] is None
            else max(look.unknown_shares.get(src, 0), look.unknown_shares.get(tgt, 0))
            for column, tgt in enumerate(look.languages)
        ]
        for row, src in enumerate(look.languages)
    ]


def _quantile_figure(look: DataLook) -> Figure:
    """Returns the median length of each language, with the range of nine in ten sentences."""
    languages = [language for language in look.languages if look.lengths[language]]
    spread = {
        language: [_quantile(look.lengths[language], share) for share in (0.05, 0.5, 0.95)] for language in languages
    }
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [spread[language][1] for language in languages],
        "y": [plotly_text(language) for language in languages],
        "error_x": {
            "type": "data",
            "symmetric": False,
            "array": [spread[language][2] - spread[language][1] for language in languages],
            "arrayminus": [spread[language][1] - spread[language][0] for language in languages],
            "color": "var(--front)",
            "thickness": 2,
            "width": 0,
        },
        "marker": {"color": "var(--front)", "size": 9},
        "customdata": [[low, high] for low, _, high in spread.values()],
        "hovertemplate": "%{y}: median %{x}, nine in ten from %{customdata[0]} to %{customdata[1]}<extra></extra>",
        "showlegend": False,
    }
    layout = _rows_layout(languages, {"title": {"text": "tokens, median and nine in ten"}, "rangemode": "tozero"}, 1)
    longest = max((high for _, _, high in spread.values()), default=0)
    return _with_limit({"data": [trace], "layout": layout}, look, longest)


def _quantile(values: Sequence[int], share: float) -> int:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def _length_figure(look: DataLook, language: str) -> Figure:
    lengths = look.lengths[language]
    width = max(math.ceil((max(lengths) + 1) / _NUM_BINS), 1)
    counts = [0] * (max(lengths) // width + 1)
    for length in lengths:
        counts[length // width] += 1
    trace = {
        "type": "bar",
        "x": [(index + 0.5) * width for index in range(len(counts))],
        "y": counts,
        "width": width * 0.92,
        "customdata": [f"{index * width}–{(index + 1) * width - 1}" for index in range(len(counts))],
        "marker": {"color": "var(--front)"},
        "hovertemplate": "%{customdata} tokens: %{y} sentences<extra></extra>",
    }
    layout: Figure = {
        "xaxis": {"title": {"text": f"tokens of {plotly_text(language)}"}},
        "yaxis": {"title": {"text": f"of {len(lengths):,} sentences"}},
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "height": 360,
    }
    return _with_limit({"data": [trace], "layout": layout}, look, max(lengths))


def _with_limit(figure: Figure, look: DataLook, longest: int) -> Figure:
    """Returns a figure of lengths with the longest that is trained on, where it is near enough to be drawn.

    Args:
        figure: Lengths are its x.
        look: The data.
        longest: The longest that is shown.
    """
    is_drawn = longest >= 0.8 * look.max_length
    dotted = " (dotted)" if is_drawn else ""
    words = f"Above {look.max_length:,} tokens{dotted} they are not trained on."
    if not is_drawn:
        return figure | {"words": words}
    place = {"x0": look.max_length, "x1": look.max_length, "yref": "paper", "y0": 0, "y1": 1}
    line = {"color": "var(--baseline)", "width": 2, "dash": "dot"}
    # A line does not widen the range by itself.
    axis = figure["layout"]["xaxis"] | {"range": [0, 1.05 * max(longest, look.max_length)]}
    shapes = [{"type": "line", "line": line} | place]
    return figure | {"layout": figure["layout"] | {"xaxis": axis, "shapes": shapes}, "words": words}


def _fault_figure(look: DataLook) -> Figure | None:
    """Returns the share of each language's sentences with each kind of fault, in percent; None where there is none."""
    if not look.faults:
        return None
    languages = [language for language in look.languages if any(fault.language == language for fault in look.faults)]
    shares = {(fault.language, fault.kind): 100 * fault.share for fault in look.faults}
    z = [[shares.get((language, kind)) for kind in _KINDS] for language in languages]
    texts = [["" if share is None else f"{share:.3g} %" for share in row] for row in z]
    names = [plotly_text(language) for language in languages]
    hover = "%{y}, %{x}: %{text}<extra></extra>"
    trace = _heatmap(list(_KINDS.values()), names, z, texts, hover, "var(--worse)", 10)
    return {"data": [trace], "layout": _rows_layout(languages, {"side": "top"}, per_row=1)}


def _rows_layout(languages: Sequence[str], xaxis: Figure, per_row: int) -> Figure:
    """Returns the layout of a figure with a row for each language, the first on top."""
    return {
        "xaxis": xaxis,
        "yaxis": {"autorange": "reversed", "type": "category", "dtick": 1},
        "barmode": "group",
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "traceorder": "normal"},
        "margin": {"l": 60, "r": 16, "t": 40, "b": 56},
        "height": 150 + len(languages) * (12 + 12 * per_row),
    }
