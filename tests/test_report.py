"""The report's page as text: what it says, what it holds, and what it does with missing and hostile files."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.report.experiment_reader import read_curve, read_details, read_experiment
from langsearch.report.figures import plotly_text
from langsearch.report.page import packed, render_page, unpacked, write_report
from langsearch.space.architecture import Architecture, Site
from langsearch.space.problems import InputError
from tests.report_fixtures import DIRECTIONS, LANGUAGES, Page, make_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_experiment(tmp_path_factory.mktemp("experiments") / "flores8")


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = pq.read_table(folder / "results.parquet").to_pylist()
    return table


def _trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    return next(trace for trace in figure["data"] if trace["name"] == name)


def test_front_trace_holds_exactly_the_front(page: Page, rows: list[dict[str, Any]]) -> None:
    front = sorted((row for row in rows if row["is_front"]), key=lambda row: row["trainable_parameters"])
    trace = _trace(page.data["front"][0], "front")
    assert len(front) >= 3
    assert trace["meta"] == [row["name"] for row in front]
    assert trace["y"] == pytest.approx([row["spbleu"] for row in front], abs=1e-4)
    assert trace["x"] == [row["trainable_parameters"] for row in front]


def test_front_figure_shows_every_scored_trial_once(page: Page, rows: list[dict[str, Any]]) -> None:
    names = [name for trace in page.data["front"][0]["data"] for name in trace["meta"]]
    assert sorted(names) == sorted(row["name"] for row in rows if row["spbleu"] is not None)
    tested = [name for trace in page.data["front"][2]["data"] for name in trace["meta"]]
    assert sorted(tested) == sorted(row["name"] for row in rows if row["test_spbleu"] is not None)


def test_zero_parameters_have_a_place_left_of_all_others(page: Page) -> None:
    figure = page.data["front"][0]
    baselines = _trace(figure, "baselines")
    zero = baselines["x"][baselines["meta"].index("pretrained")]
    others = [
        x for trace in figure["data"] for x, name in zip(trace["x"], trace["meta"], strict=True) if name != "pretrained"
    ]
    axis = figure["layout"]["xaxis"]
    assert 0 < zero < min(others)
    assert axis["ticktext"][axis["tickvals"].index(zero)] == "0"
    assert axis["range"][0] < math.log10(zero) < math.log10(max(others)) < axis["range"][1]


def test_plotly_accepts_the_figures(page: Page) -> None:
    def without_colours(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_colours(item) for key, item in value.items()}
        if isinstance(value, list):
            return [without_colours(item) for item in value]
        return "#000000" if isinstance(value, str) and value.startswith("var(--") else value

    for figure in [*page.data["front"], *page.data["curves"], *page.data["timeline"], *page.data["importance"]]:
        go.Figure(without_colours(figure))


def test_every_colour_a_figure_names_is_defined(page: Page) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", json.dumps(page.data) + page.scripts[2]))
    assert used
    assert used <= set(re.findall(r"(--[\w-]+):", page.styles[0]))


def test_summary_numbers_are_those_of_the_results(page: Page, rows: list[dict[str, Any]]) -> None:
    by_name = {row["name"]: row for row in rows}
    front = [row for row in rows if row["is_front"]]
    best = max(front, key=lambda row: row["spbleu"])
    full, pretrained = by_name["full_finetuning"], by_name["pretrained"]
    above = [row for row in front if row["spbleu"] > full["spbleu"]]
    smallest = min(above, key=lambda row: row["trainable_parameters"])

    def scored(row: dict[str, Any], prefix: str = "test_") -> str:
        low, high = row[f"{prefix}spbleu_low"], row[f"{prefix}spbleu_high"]
        return f"{row[f'{prefix}spbleu']:.2f} spBLEU (95 % interval {low:.2f}–{high:.2f})"

    def size(row: dict[str, Any]) -> str:
        millions = row["trainable_parameters"] / 1e6
        return f"{millions:.1f}M trainable parameters ({row['trainable_percent']:.2f} % of the base)"

    assert f"trial {best['name']}: {scored(best)} on test, with {size(best)}." in page.text
    chosen = f"chosen by its score on validation, {scored(best, 'full_')}"
    assert f"{chosen}; while searching it had {scored(best, '')}." in page.text
    for other, words in ((full, "full fine-tuning"), (pretrained, "the pretrained base")):
        change = best["test_spbleu"] - other["test_spbleu"]
        assert (
            f"Against {words}, {scored(other)}, that is {change:+.2f} spBLEU; the two intervals do not overlap"
            in page.text
        )
    change = smallest["test_spbleu"] - full["test_spbleu"]
    sign = f"{change:+.2f}".replace("-", "−")
    assert (
        f"is trial {smallest['name']}, with {size(smallest)}; on test it has {scored(smallest)}, {sign}." in page.text
    )
    states = [row["state"] for row in rows if row["kind"] == "searched"]
    num = {state: states.count(state) for state in ("complete", "pruned", "failed")}
    counts = f"{num['complete']} complete, {num['pruned']} stopped early (pruned) and {num['failed']} failed"
    assert f"12 trials: {counts}." in page.text


def test_summary_counts_the_directions_that_gain(folder: Path, page: Page, rows: list[dict[str, Any]]) -> None:
    best = max((row for row in rows if row["is_front"]), key=lambda row: row["spbleu"])["name"]
    scores = {}
    for name in (best, "full_finetuning"):
        table = pq.read_table(folder / "trials" / name / "scores.parquet").to_pylist()
        scores[name] = {(row["src"], row["tgt"]): row["spbleu"] for row in table if row["split"] == "test"}
    better = sum(scores[best][direction] > scores["full_finetuning"][direction] for direction in DIRECTIONS)
    assert f"It is better in {better} of 56 directions." in page.text


def test_best_member_is_chosen_by_validation_not_by_test(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    best = max((row for row in rows if row["is_front"]), key=lambda row: row["spbleu"])["name"]
    changed = [row | {"test_spbleu": 99.0} if row["is_front"] and row["name"] != best else row for row in rows]
    pq.write_table(pa.Table.from_pylist(changed), copy / "results.parquet")
    assert f"The best member of the front is trial {best}:" in Page(render_page(read_experiment(copy))).text


@pytest.mark.parametrize(
    "attack", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<b>&amp;\u2028'\"{{7*7}}`x`"]
)
def test_hostile_text_shows_as_text(tmp_path: Path, attack: str) -> None:
    folder = make_experiment(tmp_path / "hostile", hostile=attack)
    page = Page(render_page(read_experiment(folder)))
    shown = " ".join(attack.split())
    for place in (
        "flores8",
        "out of GPU memory",
        "Tried to allocate 1.50 GiB.",
        "OutOfMemoryError",
    ):
        assert place + shown in page.text
    assert page.data["translations"]["sentences"][0]["source"].endswith(attack)
    assert [tag for tag, name, _ in page.attributes if name.startswith("on")] == []
    assert not any(tag == "img" for tag, _, _ in page.attributes)
    assert len(page.scripts) == 3
    hover = _trace(page.data["front"][0], "front")["customdata"][0][4]
    assert "<" not in hover
    assert re.fullmatch(r"[A-Za-z0-9+/=\s]+", page.scripts[0])


def test_trial_names_cannot_lead_out_of_the_folder(folder: Path) -> None:
    experiment = read_experiment(folder / "trials" / "..")
    for name in ("../trials/00000", "..", "", "a/b"):
        assert read_details(experiment, name).architecture is None
        assert read_curve(experiment, name) == ()


def test_page_loads_nothing(page: Page) -> None:
    loading = ("src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href", "ping")
    assert [value for _, name, value in page.attributes if name in loading and not value.startswith("#")] == []
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _, _ in page.attributes)
    assert "default-src 'none'" in page.html
    assert not re.search(r"url\(|@import", page.styles[0])
    assert "http://" not in page.scripts[2] and "https:" not in page.scripts[2]


def test_page_is_below_six_megabytes(page: Page) -> None:
    assert len(page.html.encode()) < 6_000_000


@pytest.mark.parametrize(
    "missing",
    [
        ["experiment.json"],
        ["results.parquet"],
        ["space.yaml"],
        ["trials"],
        ["results.parquet", "space.yaml", "trials"],
        ["experiment.json", "space.yaml", "trials"],
    ],
)
def test_missing_files_are_tolerated_and_named(folder: Path, tmp_path: Path, missing: list[str]) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for name in missing:
        shutil.rmtree(copy / name) if (copy / name).is_dir() else (copy / name).unlink()
    page = Page(write_report(copy).read_text(encoding="utf-8"))
    for name in missing:
        assert name == "trials" or f"{name} is missing." in page.text


def test_torn_files_are_tolerated_and_named(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in [copy / "experiment.json", *copy.glob("*.parquet"), *copy.glob("trials/*/*")]:
        path.write_bytes(path.read_bytes()[:40])
    page = Page(render_page(read_experiment(copy)))
    assert "experiment.json cannot be read" in page.text
    assert "results.parquet cannot be read" in page.text


def test_missing_columns_and_values_are_tolerated(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    blank: dict[str, Any] = {"spbleu": None, "name": None}
    bare: list[dict[str, Any]] = [
        {"name": "00000", "state": "complete"},
        {"name": "00001", "state": "complete", "spbleu": math.nan},
        {"state": "complete"},
    ]
    pq.write_table(
        pa.Table.from_pylist([blank | row for row in bare]),
        tmp_path / "bare" / "results.parquet",
    )
    page = Page(render_page(read_experiment(tmp_path / "bare")))
    assert "2 trials: 2 complete" in page.text
    assert "1 rows of results.parquet have no name or no known state; left out." in page.text


def test_experiment_where_all_failed_says_so(tmp_path: Path) -> None:
    page = Page(render_page(read_experiment(make_experiment(tmp_path / "failed", only_failed=True))))
    assert "No trial finished: all 12 failed." in page.text
    assert "12 trials out of GPU memory" in page.text
    assert page.data["front"] == []


def test_a_folder_that_is_no_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must hold one of experiment\.json, results\.parquet, space\.yaml"):
        write_report(tmp_path)
    with pytest.raises(InputError, match="must be a folder"):
        write_report(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_report_replaces_the_one_before_and_leaves_nothing_aside(folder: Path) -> None:
    before = {path.name for path in folder.iterdir()}
    write_report(folder)
    assert {path.name for path in folder.iterdir()} == before | {"report.html"}


def test_stand_in_tokenizer_is_called_so(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    about = json.loads((copy / "experiment.json").read_text(encoding="utf-8"))
    about["tokenizer"] = {"name": "spm:base", "stand_in": True}
    (copy / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    page = Page(render_page(read_experiment(copy)))
    assert "spBLEU (stand-in tokenizer spm:base)" in page.text
    assert "stand-in" in page.data["front"][0]["layout"]["yaxis"]["title"]["text"]


def test_score_and_rank_matrices_are_those_of_the_files(folder: Path, page: Page, rows: list[dict[str, Any]]) -> None:
    best = max((row for row in rows if row["is_front"]), key=lambda row: row["spbleu"])["name"]
    scores = page.data["scores"]
    languages = scores["languages"]
    assert tuple(languages) == LANGUAGES
    matrix = scores["members"][scores["labels"].index(best)]
    for row in pq.read_table(folder / "trials" / best / "scores.parquet").to_pylist():
        if row["split"] == "test":
            assert matrix[languages.index(row["src"])][languages.index(row["tgt"])] == round(row["spbleu"], 4)
    assert [matrix[index][index] for index in range(8)] == [None] * 8
    architecture = Architecture.from_json((folder / "trials" / best / "architecture.json").read_text(encoding="utf-8"))
    ranks = page.data["ranks"]
    for index, (stack, layer, module) in enumerate(ranks["sites"]):
        for row_index, language in enumerate(ranks["languages"]):
            rank = ranks["members"][0]["ranks"][row_index][index]
            assert rank == architecture.rank(Site(stack, layer, module), language)


def test_packed_text_reads_back_and_is_no_markup() -> None:
    text = "</script><!-- & \u2028\u2029 ü"
    assert unpacked(packed(text)) == text
    assert re.fullmatch(r"[A-Za-z0-9+/=]+", packed(text))
    assert packed(text) == packed(text)


def test_plotly_text_escapes_what_plotly_reads_as_formatting() -> None:
    assert plotly_text("<b>1 & 2</b>") == "&lt;b&gt;1 &amp; 2&lt;/b&gt;"
    assert plotly_text("x" * 400) == "x" * 299 + "…"
