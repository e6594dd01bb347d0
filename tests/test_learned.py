import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.report.experiment_reader import read_experiment
from langsearch.report.experiment_values import Experiment
from langsearch.report.learned import MAX_TEXT_CELLS, prior_views, read_priors, seed_sentences
from langsearch.report.learned_page import write_learned_page
from langsearch.report.matrices import ordered_languages
from langsearch.report.page import render_page

CLASSES = {"low": ["sw"], "high": ["en", "fr"]}


def write_experiment(folder: Path, *, num_layers: int = 2, hostile: str = "") -> Experiment:
    """Writes an experiment with priors and nothing else."""
    languages = ["sw", "en", "fr", f"xx{hostile}"]
    seeds = [{"encoder.source_layers": 1, "rank.low": 8}, {"encoder.source_layers": 1, "rank.low": 4}]
    about = {"name": "small", "classes": CLASSES, "languages": languages[:3]}
    (folder / "experiment.json").write_text(
        json.dumps({**about, "prior": {"seeds": seeds, "narrowed": ["rank.low"]}}), encoding="utf-8"
    )
    sides, subspace = folder / "priors" / "sides", folder / "priors" / "subspace"
    sides.mkdir(parents=True)
    subspace.mkdir()
    weights = {"encoder.0": 0.9, "encoder.1": 0.4, "decoder.1": 0.1, f"odd{hostile}": 0.5}
    value = {"weights": {name: {"src": share, "tgt": 1 - share} for name, share in weights.items()}}
    (sides / "sides.json").write_text(json.dumps(value), encoding="utf-8")
    rows = [
        {"language": language, "stack": stack, "layer": layer, "module": module, "stored": 100, "kept": kept}
        for language, kept in zip(languages, (40, 10, 0, 5), strict=True)
        for stack in ("decoder", "encoder")
        for layer in range(num_layers)
        for module in ("fc1", "q_proj")
    ]
    pq.write_table(pa.Table.from_pylist(rows), subspace / "demand.parquet")
    return read_experiment(folder)


def figures(experiment: Experiment) -> dict[str, Any]:
    return dict(prior_views(read_priors(experiment), ordered_languages(experiment)))


def test_the_sides_are_a_map_of_stacks_and_layers(tmp_path: Path) -> None:
    (trace,) = figures(write_experiment(tmp_path))["side of each layer"]["data"]
    assert (trace["x"], trace["y"]) == (["0", "1"], ["encoder", "decoder"])
    assert trace["z"] == [[0.9, 0.4], [None, 0.1]]
    assert (trace["zmin"], trace["zmax"]) == (0, 1)
    assert trace["text"] == [["", "not sure"], ["", ""]]


def test_the_demand_is_a_map_by_layer_and_one_by_module(tmp_path: Path) -> None:
    found = figures(write_experiment(tmp_path))
    (trace,) = found["demand by layer"]["data"]
    assert trace["y"] == ["sw", "en", "fr", "xx"], "class by class, as in every other figure"
    assert trace["x"] == ["encoder 0", "encoder 1", "decoder 0", "decoder 1"]
    assert trace["z"] == [[40.0] * 4, [10.0] * 4, [0.0] * 4, [5.0] * 4]
    (trace,) = found["demand by module"]["data"]
    assert trace["x"] == ["encoder q_proj", "encoder fc1", "decoder q_proj", "decoder fc1"]


def test_plotly_knows_every_key_of_the_figures(tmp_path: Path) -> None:
    for figure in figures(write_experiment(tmp_path)).values():
        text = json.dumps(figure).replace("var(--tgt)", "#000").replace("var(--src)", "#fff")
        go.Figure(json.loads(text.replace("var(--neutral)", "#888")))


def test_a_large_map_has_no_numbers_in_its_cells(tmp_path: Path) -> None:
    num_layers = MAX_TEXT_CELLS // 8 + 1
    found = figures(write_experiment(tmp_path, num_layers=num_layers))
    assert "texttemplate" not in found["demand by layer"]["data"][0]
    assert "texttemplate" in found["demand by module"]["data"][0]


def test_the_page_says_what_was_learned_and_how_the_search_began(tmp_path: Path) -> None:
    experiment = write_experiment(tmp_path)
    page = render_page(experiment)
    assert '<section id="priors"' in page and 'href="#priors"' in page
    assert "The search began with 2 trials at or around what was learned" in page
    assert "the first had encoder.source_layers 1, rank.low 8." in page
    assert "Searched in a smaller range than the space&#39;s: rank.low." in page
    sentences = seed_sentences(read_priors(experiment))
    assert len(sentences) == 5
    text = "Not sure, since the shares differ by less than 0.5, and so left to the search: encoder.1."
    assert sentences[1] == text and text in page


def test_texts_from_the_folder_are_escaped(tmp_path: Path) -> None:
    page = render_page(write_experiment(tmp_path, hostile="</script><b>"))
    assert "</script><b>" not in page


@pytest.mark.parametrize("damage", ["missing", "torn", "foreign"])
def test_without_priors_the_page_has_no_such_section(damage: str, tmp_path: Path) -> None:
    write_experiment(tmp_path)
    sides, demand = tmp_path / "priors/sides/sides.json", tmp_path / "priors/subspace/demand.parquet"
    for path in (sides, demand):
        content = path.read_bytes()
        path.unlink()
        if damage == "torn":
            path.write_bytes(content[: len(content) // 2])
    if damage == "foreign":
        sides.write_text('{"weights": {"encoder.0": {"src": "much"}, "encoder": 3}}', encoding="utf-8")
        pq.write_table(pa.Table.from_pylist([{"language": "sw", "stack": "middle"}]), demand)
    experiment = read_experiment(tmp_path)
    assert prior_views(read_priors(experiment), ()) == []
    page = render_page(experiment)
    assert '<section id="priors"' not in page
    assert not any("sides.json" in note or "demand" in note for note in experiment.notes)


def test_a_learning_of_its_own_has_a_page_that_opens_offline(tmp_path: Path) -> None:
    write_experiment(tmp_path, hostile="<img src=x onerror=alert(1)>")
    path = write_learned_page(tmp_path / "priors" / "subspace")
    assert path is not None
    page = path.read_text(encoding="utf-8")
    assert "demand by layer" in page and "demand by module" in page
    assert "<img src=x" not in page and '<script src="' not in page


def test_the_page_of_learned_sides_says_which_are_not_sure(tmp_path: Path) -> None:
    write_experiment(tmp_path)
    path = write_learned_page(tmp_path / "priors" / "sides")
    assert path is not None
    assert "and so left to the search: encoder.1." in path.read_text(encoding="utf-8")


def test_a_folder_where_nothing_was_learned_has_no_page(tmp_path: Path) -> None:
    assert write_learned_page(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
