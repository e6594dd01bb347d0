"""The report over a synthetic experiment: realistic in shape and size, its numbers made up."""

import json
import math
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from langsearch.report.experiment_reader import read_details, read_experiment, read_translations
from langsearch.report.figures import plotly_text
from langsearch.report.page import embedded_json, render_page, write_report
from langsearch.space.architecture import MODULES, Architecture, BaseShape, Pruning, Side, Site, uniform_ranks
from langsearch.space.problems import InputError

CLASSES = {"high": ("en", "fr", "de", "es"), "medium": ("nl", "id"), "low": ("sw", "cy")}
LANGUAGES = tuple(code for members in CLASSES.values() for code in members)
DIRECTIONS = [(src, tgt) for src in LANGUAGES for tgt in LANGUAGES if src != tgt]
SHAPE = BaseShape(
    encoder_layers=12,
    decoder_layers=12,
    d_model=1024,
    encoder_ffn_dim=4096,
    decoder_ffn_dim=4096,
    num_parameters=483_905_536,
)
# From the quickstart's sentences (CC0).
SENTENCES = {
    "en": ("He earns more than his boss does.", "Never share your password with strangers."),
    "fr": ("Il gagne plus que son patron.", "Ne communiquez jamais votre mot de passe à des inconnus."),
    "de": ("Er verdient mehr als sein Chef.", "Geben Sie Ihr Passwort niemals an Fremde weiter."),
    "es": ("Él gana más que su jefe.", "No comparta nunca su contraseña con desconocidos."),
    "nl": ("Hij verdient meer dan zijn baas.", "Deel je wachtwoord nooit met vreemden."),
    "id": ("Penghasilannya lebih besar daripada bosnya.", "Jangan pernah membagikan kata sandi Anda."),
    "sw": ("Anapata mshahara mkubwa kuliko bosi wake.", "Kamwe usimpe mtu usiyemjua nenosiri lako."),
    "cy": ("Mae e'n ennill mwy na'i fòs.", "Peidiwch byth â rhannu eich cyfrinair â dieithriaid."),
}
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:flores101|smooth:exp|version:2.6.0"
# (ranks high, medium, low; first target-indexed encoder layer; pruning target of high; state; epochs)
POINTS: list[tuple[tuple[int, int, int], int, float, str, int]] = [
    ((2, 2, 8), 9, 0.0, "complete", 15),
    ((8, 8, 8), 9, 0.0, "complete", 15),
    ((0, 0, 8), 12, 0.0, "complete", 15),
    ((2, 2, 32), 6, 0.5, "complete", 15),
    ((4, 4, 16), 9, 0.9, "complete", 15),
    ((8, 8, 2), 3, 0.0, "pruned", 3),
    ((0, 2, 4), 12, 0.0, "complete", 15),
    ((8, 2, 2), 0, 0.9, "pruned", 1),
    ((8, 8, 32), 9, 0.0, "failed", 4),
    ((4, 2, 2), 2, 0.0, "pruned", 5),
    ((2, 4, 16), 9, 0.0, "complete", 15),
    ((8, 8, 32), 12, 0.0, "failed", 0),
]


def make_experiment(folder: Path, *, hostile: str = "", only_failed: bool = False) -> Path:
    """Writes an experiment's folder: 12 trials, 4 baselines, 8 languages.

    Args:
        folder: Where to write.
        hostile: Text that is put into names, causes, summaries and sentences.
        only_failed: All searched trials failed, and no baseline ran.
    """
    rng = random.Random(0)
    folder.mkdir(parents=True)
    name = f"flores8{hostile}"
    about = {
        "name": name,
        "base": "facebook/m2m100_418M",
        "base_parameters": SHAPE.num_parameters,
        "languages": LANGUAGES,
        "classes": CLASSES,
        "directions": [f"{src}-{tgt}" for src, tgt in DIRECTIONS],
        "tokenizer": {"name": "flores101", "stand_in": False},
        "signature": SIGNATURE,
        "versions": {
            "langsearch": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.17.0",
            "ray": "2.60.1",
            "optuna": "5.0.0",
        },
        "git_commit": "4f1c2ab09d7e6b3a5f80c1d2e3f4a5b6c7d8e9f0",
        "seed": 0,
        "objectives": {"spbleu": "max", "trainable_parameters": "min"},
        "started": "2026-11-20T21:04:11+00:00",
        "finished": "2026-11-21T05:32:50+00:00",
        "seconds": 30519.0,
        "num_trials": 12,
        "resources": {"gpu": 1, "cpu": 4},
    }
    (folder / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "space.yaml").write_text(f"name: flores8\nbase: facebook/m2m100_418M\n# {hostile}\n", encoding="utf-8")
    rows = []
    for number, (ranks, border, pruned, state, epochs) in enumerate(POINTS):
        rows.append(
            _searched_row(
                f"{number:05d}", ranks, border, pruned, "failed" if only_failed else state, epochs, rng, hostile
            )
        )
        _write_trial(folder, rows[-1], _architecture(ranks, border, pruned), rng, hostile)
    if not only_failed:
        rows += _baseline_rows(rng)
        for row in rows[-4:]:
            ranks = {"shared_lora": (8, 8, 8), "published": (2, 2, 8)}.get(row["name"], (0, 0, 0))
            _write_trial(folder, row, _architecture(ranks, 9, 0.0, shared=row["name"] == "shared_lora"), rng, hostile)
    _mark_front(rows)
    for row in rows:
        if row["is_front"] or row["kind"] == "baseline":
            _add_test_scores(folder, row, rng)
    pq.write_table(pa.Table.from_pylist(rows), folder / "results.parquet")
    return folder


def _architecture(ranks: tuple[int, int, int], border: int, pruned: float, *, shared: bool = False) -> Architecture:
    sites: list[tuple[Site, Side]] = []
    for layer in range(12):
        side: Side = "src" if layer < border else "tgt"
        sites += [(Site("encoder", layer, module), side) for module in MODULES["encoder"] if module != "out_proj"]
    for layer in range(12):
        sites += [(Site("decoder", layer, module), "tgt") for module in MODULES["decoder"] if "out_proj" not in module]
    by_class = dict(zip(CLASSES, ranks, strict=True))
    if shared:
        slots = dict.fromkeys(LANGUAGES, "all")
        slot_ranks = {"all": ranks[0]}
    else:
        slots = {code: code for code in LANGUAGES}
        slot_ranks = {code: by_class[name] for name, members in CLASSES.items() for code in members}
    targets = tuple((code, pruned) for code in CLASSES["high"]) if pruned and not shared else ()
    return Architecture(
        slots=tuple(slots.items()),
        adapters=uniform_ranks(sites, slot_ranks),
        pruning=Pruning(targets=targets, start=2, duration=10) if targets else None,
    )


def _searched_row(
    name: str,
    ranks: tuple[int, int, int],
    border: int,
    pruned: float,
    state: str,
    epochs: int,
    rng: random.Random,
    hostile: str,
) -> dict[str, Any]:
    parameters = _architecture(ranks, border, pruned).num_parameters(SHAPE)
    gain = sum(weight * math.log2(1 + rank) for weight, rank in zip((0.22, 0.3, 0.75), ranks, strict=True))
    spbleu = (15.2 + gain - 0.09 * abs(border - 9)) * (1 - 0.5 ** (1 + epochs)) + rng.gauss(0, 0.15)
    failed = state == "failed"
    causes = {"failed": f"out of GPU memory{hostile}", "pruned": "stopped by asha"}
    return _row(
        name=name,
        state=state,
        cause=causes.get(state),
        epochs=epochs,
        spbleu=None if failed else spbleu,
        parameters=parameters,
        nonzero=round(parameters * (1 - 0.25 * pruned)),
        seconds=100.0 + 190 * epochs,
        params={
            "rank.high": ranks[0],
            "rank.medium": ranks[1],
            "rank.low": ranks[2],
            "encoder.source_layers": border,
            "trainer.lr": 3e-3,
        },
        summary=f"rank high {ranks[0]}, medium {ranks[1]}, low {ranks[2]}; {border} source-indexed layers{hostile}",
    )


def _baseline_rows(rng: random.Random) -> list[dict[str, Any]]:
    known = [
        ("pretrained", 14.1, 0, "no training"),
        ("full_finetuning", 17.9, SHAPE.num_parameters, "all parameters"),
        (
            "shared_lora",
            17.1,
            _architecture((8, 8, 8), 9, 0.0, shared=True).num_parameters(SHAPE),
            "one LoRA of rank 8",
        ),
        ("published", 18.2, _architecture((2, 2, 8), 9, 0.0).num_parameters(SHAPE), "rank high 2, medium 2, low 8"),
    ]
    return [
        _row(
            name=name,
            kind="baseline",
            state="complete",
            epochs=0 if name == "pretrained" else 15,
            spbleu=spbleu + rng.gauss(0, 0.05),
            parameters=parameters,
            nonzero=parameters,
            seconds=2900.0,
            summary=summary,
        )
        for name, spbleu, parameters, summary in known
    ]


def _row(
    *,
    name: str,
    state: str,
    epochs: int,
    spbleu: float | None,
    parameters: int,
    nonzero: int,
    seconds: float,
    summary: str,
    kind: str = "searched",
    cause: str | None = None,
    params: dict[str, Any] | None = None,
) -> dict[str, Any]:
    return {
        "name": name,
        "kind": kind,
        "state": state,
        "cause": cause,
        "epochs": epochs,
        "max_epochs": 15,
        "spbleu": spbleu,
        "spbleu_low": None if spbleu is None else spbleu - 0.61,
        "spbleu_high": None if spbleu is None else spbleu + 0.58,
        "num_sentences": None if spbleu is None else 100,
        "num_directions": None if spbleu is None else 56,
        "test_spbleu": None,
        "test_spbleu_low": None,
        "test_spbleu_high": None,
        "test_num_sentences": None,
        "test_num_directions": None,
        "trainable_parameters": parameters,
        "trainable_percent": 100 * parameters / SHAPE.num_parameters,
        "nonzero_parameters": nonzero,
        "train_seconds": seconds * 0.8,
        "seconds": seconds,
        "peak_memory_bytes": 9_300_000_000 + 16 * parameters,
        "is_front": False,
        "fingerprint": name.encode().hex()[:16],
        "signature": SIGNATURE,
        "started": "2026-11-20T21:04:11+00:00",
        "finished": "2026-11-20T22:04:11+00:00",
        "worker": "node-1",
        "params": json.dumps(params or {}),
        "summary": summary,
    }


def _mark_front(rows: list[dict[str, Any]]) -> None:
    complete = [row for row in rows if row["kind"] == "searched" and row["state"] == "complete"]
    for row in complete:
        row["is_front"] = not any(
            other["spbleu"] > row["spbleu"] and other["trainable_parameters"] <= row["trainable_parameters"]
            for other in complete
        )


def _add_test_scores(folder: Path, row: dict[str, Any], rng: random.Random) -> None:
    spbleu = row["spbleu"] - 0.4 + rng.gauss(0, 0.08)
    row |= {"test_spbleu": spbleu, "test_spbleu_low": spbleu - 0.21, "test_spbleu_high": spbleu + 0.22}
    row |= {"test_num_sentences": 1012, "test_num_directions": 56}
    path = folder / "trials" / row["name"] / "scores.parquet"
    scores = pq.read_table(path).to_pylist() + _scores("test", spbleu, rng)
    pq.write_table(pa.Table.from_pylist(scores), path)


def _scores(split: str, spbleu: float, rng: random.Random) -> list[dict[str, Any]]:
    level = {"high": 7.0, "medium": 0.5, "low": -7.5}
    weight = {code: level[name] for name, members in CLASSES.items() for code in members}
    values = [0.4 * weight[src] + 0.6 * weight[tgt] + rng.gauss(0, 0.5) for src, tgt in DIRECTIONS]
    centre = spbleu - sum(values) / len(values)
    return [
        {
            "split": split,
            "src": src,
            "tgt": tgt,
            "spbleu": centre + value,
            "num_sentences": 1012,
            "signature": SIGNATURE,
        }
        for (src, tgt), value in zip(DIRECTIONS, values, strict=True)
    ]


def _write_trial(
    folder: Path, row: dict[str, Any], architecture: Architecture, rng: random.Random, hostile: str
) -> None:
    trial = folder / "trials" / str(row["name"])
    trial.mkdir(parents=True)
    (trial / "architecture.json").write_text(json.dumps(architecture.to_dict()), encoding="utf-8")
    final = row["spbleu"] or 12.0
    curve = [
        {
            "epoch": epoch,
            "updates": 90 * epoch,
            "train_loss": 3.1 + 1.4 * 0.8**epoch + rng.gauss(0, 0.01),
            "spbleu": 14.1 + (final - 14.1) * (1 - 0.7**epoch) / (1 - 0.7 ** row["epochs"]) + rng.gauss(0, 0.05),
            "lr": 3e-3 / math.sqrt(90 * epoch),
            "seconds": 190.0 * epoch,
            "nonzero_parameters": row["nonzero_parameters"],
        }
        for epoch in range(1, row["epochs"] + 1)
    ]
    if curve:
        pq.write_table(pa.Table.from_pylist(curve), trial / "curve.parquet")
    if row["state"] == "failed":
        failure = {
            "cause": row["cause"],
            "message": f"Tried to allocate 1.50 GiB.{hostile}",
            "traceback": f"Traceback (most recent call last):\n  ...\nOutOfMemoryError{hostile}",
        }
        (trial / "failure.json").write_text(json.dumps(failure), encoding="utf-8")
        return
    pq.write_table(pa.Table.from_pylist(_scores("validation", row["spbleu"], rng)), trial / "scores.parquet")
    lines = [
        {
            "split": split,
            "src": src,
            "tgt": tgt,
            "row": index,
            "source": SENTENCES[src][index] + hostile,
            "hypothesis": SENTENCES[tgt][index].lower() + hostile,
            "reference": SENTENCES[tgt][index] + hostile,
        }
        for split in ("validation", "test")
        for src, tgt in DIRECTIONS
        for index in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(lines), trial / "translations.parquet")


class Page(HTMLParser):
    """A page's visible text, attributes and scripts."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html = html
        self.attributes: list[tuple[str, str, str]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self._text: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self._text).split())
        self.data: dict[str, Any] = json.loads(self.scripts[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag in ("script", "style"):
            self._open.append(tag)
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not self._open:
            self._text.append(data)
        elif self._open[-1] == "script":
            self.scripts[-1] += data
        else:
            self.styles[-1] += data


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
    tested = [name for trace in page.data["front"][1]["data"] for name in trace["meta"]]
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

    for figure in page.data["front"] + page.data["curves"]:
        go.Figure(without_colours(figure))


def test_every_colour_a_figure_names_is_defined(page: Page) -> None:
    used = set(re.findall(r"var\((--[\w-]+)\)", page.scripts[0] + page.scripts[2]))
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
    assert f"chosen by its validation score, {scored(best, '')}." in page.text
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
    "attack", ["</script><script>alert(1)</script>", "<img src=x onerror=alert(1)>", "<b>&amp;\u2028'\"{{7*7}}"]
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
        "He earns more than his boss does.",
    ):
        assert place + shown in page.text
    assert [tag for tag, name, _ in page.attributes if name.startswith("on")] == []
    assert not any(tag == "img" for tag, _, _ in page.attributes)
    assert len(page.scripts) == 3
    hover = _trace(page.data["front"][0], "front")["customdata"][0][4]
    assert "<" not in hover
    assert "\u2028" not in page.scripts[0]


def test_trial_names_cannot_lead_out_of_the_folder(folder: Path) -> None:
    experiment = read_experiment(folder / "trials" / "..")
    for name in ("../trials/00000", "..", "", "a/b"):
        assert read_details(experiment, name).architecture is None
        assert read_translations(experiment, name, "test", frozenset({("en", "fr")})) == ()


def test_page_loads_nothing(page: Page) -> None:
    loading = ("src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href", "ping")
    assert [value for _, name, value in page.attributes if name in loading and not value.startswith("#")] == []
    assert not any(tag in ("link", "iframe", "object", "embed", "base") for tag, _, _ in page.attributes)
    assert "default-src 'none'" in page.html
    assert not re.search(r"url\(|@import", page.styles[0])
    assert "http" not in page.scripts[2]


def test_page_is_below_six_megabytes(page: Page) -> None:
    assert len(page.html.encode()) < 6_000_000


def test_page_stays_below_six_megabytes_for_a_hundred_languages(
    folder: Path, tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    codes = [f"l{number:03d}" for number in range(101)]
    about = json.loads((copy / "experiment.json").read_text(encoding="utf-8"))
    about |= {
        "classes": {"all": codes},
        "languages": codes,
        "directions": [f"{a}-{b}" for a in codes for b in codes if a != b],
    }
    (copy / "experiment.json").write_text(json.dumps(about), encoding="utf-8")
    scores = [
        {"split": "test", "src": a, "tgt": b, "spbleu": 12.345, "num_sentences": 1012}
        for a in codes
        for b in codes
        if a != b
    ]
    table = pa.Table.from_pylist(scores)
    for row in rows:
        if row["is_front"] or row["kind"] == "baseline":
            pq.write_table(table, copy / "trials" / row["name"] / "scores.parquet")
    extra = [rows[1] | {"name": f"{number:05d}", "is_front": False} for number in range(100, 2100)]
    pq.write_table(pa.Table.from_pylist(rows + extra), copy / "results.parquet")
    page = Page(render_page(read_experiment(copy)))
    assert len(page.html.encode()) < 6_000_000
    assert "1512 more are in results.parquet" in page.text


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
            assert matrix[languages.index(row["src"])][languages.index(row["tgt"])] == round(row["spbleu"], 2)
    assert [matrix[index][index] for index in range(8)] == [None] * 8
    architecture = Architecture.from_json((folder / "trials" / best / "architecture.json").read_text(encoding="utf-8"))
    ranks = page.data["ranks"]
    for index, (stack, layer, module) in enumerate(ranks["sites"]):
        for row_index, language in enumerate(ranks["languages"]):
            rank = ranks["members"][0]["ranks"][row_index][index]
            assert rank == architecture.rank(Site(stack, layer, module), language)


def test_embedded_json_reads_back_and_cannot_end_the_script() -> None:
    value = {"text": "</script><!-- & \u2028\u2029 ü"}
    text = embedded_json(value)
    assert json.loads(text) == value
    assert not set("<>&\u2028\u2029") & set(text)
    with pytest.raises(ValueError, match="JSON compliant"):
        embedded_json(math.nan)


def test_plotly_text_escapes_what_plotly_reads_as_formatting() -> None:
    assert plotly_text("<b>1 & 2</b>") == "&lt;b&gt;1 &amp; 2&lt;/b&gt;"
    assert plotly_text("x" * 400) == "x" * 299 + "…"
