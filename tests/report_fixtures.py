"""A synthetic experiment for the report's tests, realistic in shape and size, its numbers made up; and its page."""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from langsearch.report.page import unpacked
from langsearch.space.architecture import MODULES, Architecture, BaseShape, Pruning, Side, Site, uniform_ranks

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
        "resources": {"gpu": 1, "cpu": 4, "trials_per_gpu": 2},
        "constraints": [],
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
    _place_in_time(rows)
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
        "full_spbleu": None,
        "full_spbleu_low": None,
        "full_spbleu_high": None,
        "full_num_sentences": None,
        "full_num_directions": None,
        "is_feasible": True if state == "complete" else None,
        "violations": "{}" if state == "complete" else None,
        "retry_of": None,
        "retried_as": None,
        "same_as": None,
        "note": "",
        "space_version": 1,
        "kept_epoch": epochs,
        "worst_class_spbleu": None if spbleu is None else spbleu - 4,
        "is_front": False,
        "fingerprint": name.encode().hex()[:16],
        "signature": SIGNATURE,
        "started": "2026-11-20T21:04:11+00:00",
        "finished": "2026-11-20T22:04:11+00:00",
        "worker": None,
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


def _place_in_time(rows: list[dict[str, Any]]) -> None:
    """One trial after the other on two workers; the second failed trial tries the first one again."""
    ends = [datetime(2026, 11, 20, 21, 4, 11, tzinfo=UTC)] * 2
    for index, row in enumerate(rows):
        end = ends[index % 2] + timedelta(seconds=row["seconds"])
        row |= {
            "worker": f"node-{1 + index % 2}/4711",
            "started": ends[index % 2].isoformat(),
            "finished": end.isoformat(),
        }
        ends[index % 2] = end
    failed = [row for row in rows if row["state"] == "failed" and row["kind"] == "searched"]
    if len(failed) == 2:
        failed[1]["retry_of"], failed[0]["retried_as"] = failed[0]["name"], failed[1]["name"]


def _add_test_scores(folder: Path, row: dict[str, Any], rng: random.Random) -> None:
    if row["kind"] == "searched":
        full = row["spbleu"] + 0.05
        row |= {"full_spbleu": full, "full_spbleu_low": full - 0.4, "full_spbleu_high": full + 0.4}
        row |= {"full_num_sentences": 997, "full_num_directions": 56}
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
        self.data: dict[str, Any] = json.loads(unpacked(self.scripts[0]))

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
