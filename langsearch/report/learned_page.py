"""The figures of `langsearch learn` as a page of their own, which opens offline."""

import html
import json
from pathlib import Path

import plotly.io

from langsearch.experiment.folder import write_text
from langsearch.report.learned import prior_views, read_learned, seed_sentences

PAGE_NAME = "learned.html"

_COLOURS = {"var(--src)": "#e69f00", "var(--tgt)": "#56b4e9", "var(--neutral)": "#f2f2f2"}
"""Okabe and Ito's, as the report's style sheet has them."""


def write_learned_page(folder: Path) -> Path | None:
    """Writes the figures of what was learned into its folder in one step; None if there is nothing to show.

    Args:
        folder: Where `langsearch learn` wrote sides.json or demand.parquet.
    """
    learned = read_learned(folder, folder)
    views = prior_views(learned, ())
    if not views:
        return None
    parts = ["<!doctype html><meta charset='utf-8'>"]
    parts += ["<meta name='viewport' content='width=device-width, initial-scale=1'>"]
    parts += [f"<title>{html.escape(folder.name)}</title>"]
    parts += [f"<p style='font-family:sans-serif'>{html.escape(text)}</p>" for text in seed_sentences(learned)]
    for index, (title, figure) in enumerate(views):
        text = json.dumps(figure)
        for name, colour in _COLOURS.items():
            text = text.replace(name, colour)
        plot = plotly.io.to_html(
            json.loads(text),
            config={"displayModeBar": False, "responsive": True},
            full_html=False,
            include_plotlyjs=index == 0,
            validate=False,
        )
        parts.append(f"<h2 style='font-family:sans-serif'>{html.escape(title)}</h2>{plot}")
    path = folder / PAGE_NAME
    write_text(path, "\n".join(parts))
    return path
