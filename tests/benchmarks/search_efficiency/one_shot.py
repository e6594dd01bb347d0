"""How well cuts stand for trainings, and what a search by cuts finds at which cost.

    python -m tests.benchmarks.search_efficiency.one_shot --measure cuts.json       # half an hour on one core
    python -m tests.benchmarks.search_efficiency.one_shot                           # the committed figures
    python -m tests.benchmarks.search_efficiency.one_shot --html cuts.html          # and the picture

Every architecture of the benchmark's space is cut out of six donors, one for each combination of sides and learning
rate, and its score is held against that of its training in `table.parquet` and of its second training, with another
seed, in `table_seed1.parquet`. Then searches by cuts are replayed: the sampler proposes cuts, whose scores are looked
up, the best are taken as trained on, and what they are worth is read off the second trainings. Costs are CPU seconds of
one run, in which some architectures are trained as the table's were.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import torch
from optuna.distributions import CategoricalDistribution
from plotly.subplots import make_subplots
from scipy.stats import kendalltau, spearmanr

from langsearch.adapters.cuts import CutMethod, Donor
from langsearch.adapters.learners import AdaptedModel
from langsearch.evaluate.cuts import KnownRows, evaluate_cuts
from langsearch.evaluate.evaluation import evaluate
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.cut_tasks import donor_name, donor_task, whole_point
from langsearch.experiment.environment import build_environment, check_space
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.base import load_base
from langsearch.search.one_shot import best_cuts
from langsearch.space.one_shot import DONOR, cut_dimensions, donor_points
from langsearch.space.schema import Space, load_space
from langsearch.study.cut_rows import cut_row
from langsearch.study.front import Objective
from langsearch.study.table import TrialTable
from langsearch.train.loop import TrainingData, train
from langsearch.trial.evaluating import evaluation_data
from langsearch.trial.trial import build_learner
from tests.benchmarks.search_efficiency.make_table import FOLDER, grid
from tests.benchmarks.search_efficiency.replay import Trained, best_score, read_table
from tests.benchmarks.simulated_tune import scripted_result

NUM_DONORS = 6

WAYS: Mapping[str, tuple[CutMethod, int | None]] = {
    "columns": ("columns", None),
    "columns, half": ("columns", 26),
    "svd, half": ("svd", 26),
}
"""How cuts are made, and on how many sentences they are scored: all, or half of them."""

NUM_ALONE = 6
"""Architectures that are trained as the table's were, for what a training costs in the same run."""


def main() -> None:
    """Measures, or prints the figures of what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="JSON", help="train the donors, score all cuts, and write this")
    parser.add_argument("--read", type=Path, default=FOLDER / "cuts.json", help="figures that were measured before")
    parser.add_argument("--html", type=Path, help="write the picture")
    parser.add_argument("--donor-epochs", type=int, default=3)
    parser.add_argument("--drop", type=float, default=0.3, help="how often a decoder layer is left out of an update")
    parser.add_argument("--seeds", type=int, default=10, help="searches of each kind")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        found = measure(arguments.donor_epochs, arguments.drop)
        arguments.measure.write_text(json.dumps(found) + "\n", encoding="utf-8")
        arguments.read = arguments.measure
    measured = json.loads(arguments.read.read_text(encoding="utf-8"))
    trained = read_table(FOLDER / "table.parquet", FOLDER / "table_seed1.parquet")
    rows = joined(measured, trained)
    print_costs(measured)
    print_correlations(rows)
    replay(measured, rows, trained, arguments.seeds)
    if arguments.html is not None:
        picture(rows).write_html(arguments.html, include_plotlyjs="cdn", config={"displayModeBar": False})


def space_of(donor_epochs: int = 3, drop: float = 0.3) -> Space:
    """Returns the benchmark's space, searched by cuts."""
    one_shot = f"{{donor_epochs: {donor_epochs}, drop_layers: {drop}}}"
    return load_space(
        FOLDER / "space.yaml",
        ["search.strategy=one_shot", f"search.donors={NUM_DONORS}", f"search.one_shot={one_shot}"],
    )


def measure(donor_epochs: int, drop: float) -> dict[str, Any]:
    """Trains the donors and some architectures alone, scores every cut; returns scores and CPU seconds."""
    torch.set_num_threads(1)
    checked = check_space(space_of(donor_epochs, drop))
    space, shape, base = checked.space, checked.shape, load_base(checked.space.base)
    with tempfile.TemporaryDirectory() as folder:
        environment = build_environment(checked, base, Path(folder))
        vocabulary, scorer = base.vocabulary(environment.languages), SpBleu(environment.tokenizer)
        training = TrainingData(environment.train, environment.directions, environment.languages, vocabulary)
        settings = environment.evaluation.search
        sets = {
            sentences: evaluation_data(base, environment, "full", replace(settings, sentences=sentences))
            for sentences in (None, 26)
        }

        def trained(task: TrialTask) -> tuple[AdaptedModel, float, float, float]:
            """Returns a trained model, out of the base, the CPU seconds of its training and its score, and that."""
            learner = build_learner(base, environment, task)
            assert isinstance(learner, AdaptedModel)
            started = time.process_time()
            for _ in train(learner, training, task.trainer):
                pass
            ended = time.process_time()
            spbleu = evaluate(learner, sets[None], settings, base.tokenizer, scorer).scores.spbleu
            learner.remove()
            return learner, ended - started, time.process_time() - ended, spbleu

        points = list(grid(space))
        alone = []
        for point in points[:: len(points) // NUM_ALONE][:NUM_ALONE]:
            task = searched_task(space, shape, 0, point)
            _, train_s, evaluate_s, _ = trained(task)
            alone.append([train_s / task.num_epochs, evaluate_s])
            print(f"alone: {alone[-1][0]:.2f} s an epoch, {alone[-1][1]:.2f} s an evaluation", flush=True)
        donors, cuts = [], []
        for number, of_donor in enumerate(donor_points(space), start=1):
            learner, train_s, evaluate_s, spbleu = trained(donor_task(space, shape, donor_name(number)))
            donors.append({"train": train_s, "evaluate": evaluate_s, "spbleu": spbleu})
            donor = Donor(learner.adapters)
            mine = [point for point in points if all(point[name] == value for name, value in of_donor.items())]
            # A window that is cut off at the last layer is the same architecture again.
            unique = {
                task.fingerprint: (point, task) for point in mine for task in [searched_task(space, shape, 0, point)]
            }
            mine, tasks = [point for point, _ in unique.values()], [task for _, task in unique.values()]
            rows = [
                {"donor": number, "params": point, "size": task.num_trainable(shape)}
                for point, task in zip(mine, tasks, strict=True)
            ]
            for way, (method, sentences) in WAYS.items():
                known: KnownRows = {}
                started = time.process_time()
                found = evaluate_cuts(
                    base,
                    donor,
                    [task.architecture for task in tasks if task.architecture is not None],
                    sets[sentences],
                    settings,
                    scorer,
                    known=known,
                    method=method,
                )
                donors[-1][f"cuts {way}"] = time.process_time() - started
                donors[-1][f"rows {way}"] = len(known)
                for row, evaluation in zip(rows, found, strict=True):
                    row[way] = evaluation.scores.spbleu
            cuts += rows
            print(number, donors[-1], flush=True)
    return {"donor_epochs": donor_epochs, "drop": drop, "alone": alone, "donors": donors, "cuts": cuts}


def joined(measured: Mapping[str, Any], trained: Trained) -> list[dict[str, Any]]:
    """Returns the cuts with the scores of their architectures' two trainings."""
    space = space_of()
    shape = check_space(space).shape
    found = []
    for cut in measured["cuts"]:
        name = searched_task(space, shape, 0, cut["params"]).fingerprint
        first, second = best_score(trained.rows[name]), best_score(trained.again[name])
        found.append({**cut, "fingerprint": name, "first": first, "second": second})
    return found


def costs(measured: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the CPU seconds of an epoch and of an evaluation of an ordinary trial, medians."""
    return statistics.median(one[0] for one in measured["alone"]), statistics.median(
        one[1] for one in measured["alone"]
    )


def print_costs(measured: Mapping[str, Any]) -> None:
    """Prints how many cuts an hour are scored beside how many trials are trained."""
    epoch, evaluation = costs(measured)
    trial = 3 * (epoch + evaluation)
    print(f"A trial of three epochs takes {trial:.1f} CPU s: {epoch:.2f} an epoch, {evaluation:.2f} an evaluation.")
    for name in WAYS:
        seconds = sum(donor[f"cuts {name}"] for donor in measured["donors"])
        num = len(measured["cuts"])
        shares = sum(donor[f"rows {name}"] for donor in measured["donors"]) / (12 * num)
        print(
            f"{name}: {num} cuts in {seconds:.0f} CPU s, {trial * num / seconds:.1f} x as many an hour as trials; "
            f"{shares:.0%} of their rows are different ones"
        )


def print_correlations(rows: Sequence[Mapping[str, Any]]) -> None:
    """Prints rank correlations of cuts with trainings, over all and by donor, beside those of two trainings."""
    groups: dict[str, list[Mapping[str, Any]]] = {"all": list(rows)}
    for row in rows:
        params = row["params"]
        groups.setdefault(f"lr {params['trainer.lr']:g}", []).append(row)
        groups.setdefault(f"{params['encoder.source_layers']} source layers", []).append(row)
        groups.setdefault(f"rank.high {params['rank.high']}", []).append(row)
        groups.setdefault(f"rank.low {params['rank.low']}", []).append(row)
        groups.setdefault(f"{_num_layers(params)} decoder layers", []).append(row)
    groups["lr 0.002 and 0.01"] = groups["lr 0.002"] + groups["lr 0.01"]
    print(f"\n| cuts | | {' | '.join(WAYS)} | two trainings |\n|---|---|---|---|---|---|")
    for name, group in groups.items():
        first = [row["first"] for row in group]
        cells = [f"{_rho([row[key] for row in group], first)}" for key in WAYS]
        print(f"| {name} | {len(group)} | {' | '.join(cells)} | {_rho([row['second'] for row in group], first)} |")


def _rho(one: Sequence[float], other: Sequence[float]) -> str:
    return f"{spearmanr(one, other).statistic:.2f} ({kendalltau(one, other).statistic:.2f})"


def _num_layers(params: Mapping[str, Any]) -> int:
    start, length = params["decoder.layers.start"], params["decoder.layers.length"]
    return int(min(3, start + length) - start)


def replay(measured: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], trained: Trained, num_seeds: int) -> None:
    """Prints what searches by cuts find, by the second trainings of what they would return, and at which cost."""
    epoch, evaluation = costs(measured)
    whole = 3 * len(trained.rows) * (epoch + evaluation)
    by_point = points_of(rows)
    print("\n| way | cuts | winners | cost, % | share of the exhaustive front, second trainings |")
    print("|---|---|---|---|---|")
    for fidelity in WAYS:
        for num_cuts in (50, 100):
            for num_winners in (8, 16):
                # Donors are scored once; a cut costs its share of the different rows; a winner an epoch and a score.
                donors = sum(donor["train"] + donor["evaluate"] for donor in measured["donors"])
                a_cut = sum(donor[f"cuts {fidelity}"] for donor in measured["donors"]) / len(rows)
                cost = donors + num_cuts * a_cut + num_winners * (epoch + evaluation)
                found = [_search(by_point, fidelity, num_cuts, num_winners, seed) for seed in range(num_seeds)]
                shares = [trained.share_again({row["fingerprint"] for row in chosen}) for chosen in found]
                low, high = np.percentile(shares, [10, 90])
                print(
                    f"| {fidelity} | {num_cuts} | {num_winners} | "
                    f"{100 * cost / whole:.1f} | {np.mean(shares):.3f} ({low:.2f}–{high:.2f}) |",
                    flush=True,
                )


def points_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns the row of every point of the space, as JSON; several points are one architecture."""
    space = space_of()
    shape, by_name = check_space(space).shape, {row["fingerprint"]: row for row in rows}
    return {
        json.dumps(point, sort_keys=True): by_name[searched_task(space, shape, 0, point).fingerprint]
        for point in grid(space)
    }


def _search(
    by_point: Mapping[str, Mapping[str, Any]], fidelity: str, num_cuts: int, num_winners: int, seed: int
) -> list[Mapping[str, Any]]:
    space = space_of()
    dimensions = {DONOR: CategoricalDistribution(range(1, NUM_DONORS + 1)), **cut_dimensions(space)}
    objectives = [Objective("spbleu", True), Objective("trainable_parameters", False)]
    table = TrialTable("sqlite://", "cuts", objectives, sampler="tpe", seed=seed, num_trials=num_cuts)
    known: dict[str, str] = {}
    num = 0
    while num < num_cuts and len(known) < len(by_point):
        number, point = table.next_point(dimensions, at_random=num > 4 * len(known) + 50) or (0, {})
        row = by_point[json.dumps(whole_point(space, point), sort_keys=True)]
        twin = known.get(row["fingerprint"])
        added = table.add(number, point, fingerprint=row["fingerprint"], same_as=twin)
        if twin is not None:
            table.share(added.name, table.row(twin))
            continue
        known[row["fingerprint"]] = added.name
        table.complete(added.name, scripted_result(0, 0, row[fidelity], row["size"]))
        num += 1
    return [
        by_point[json.dumps(whole_point(space, cut_row(table, name).params), sort_keys=True)]
        for name in best_cuts(table, num_winners)
    ]


def picture(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Returns the cuts' scores against those of trainings, coloured by rank, by layers and by the learning rate."""
    colours: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "rank of high": lambda row: str(row["params"]["rank.high"]),
        "rank of low": lambda row: str(row["params"]["rank.low"]),
        "decoder layers": lambda row: str(_num_layers(row["params"])),
        "learning rate": lambda row: f"{row['params']['trainer.lr']:g}",
    }
    figure = make_subplots(rows=2, cols=2, subplot_titles=list(colours))
    palette = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")
    for place, value in enumerate(colours.values()):
        for colour, name in zip(palette, sorted({value(row) for row in rows}, key=float), strict=False):
            group = [row for row in rows if value(row) == name]
            figure.add_trace(
                go.Scatter(
                    x=[row["columns"] for row in group],
                    y=[(row["first"] + row["second"]) / 2 for row in group],
                    mode="markers",
                    name=name,
                    marker={"color": colour, "size": 6, "opacity": 0.7},
                    legendgroup=str(place),
                ),
                row=place // 2 + 1,
                col=place % 2 + 1,
            )
    figure.update_xaxes(title="spBLEU as a cut")
    figure.update_yaxes(title="trained, mean of two")
    figure.update_layout(template="plotly_white", width=1000, height=800, font={"size": 14})
    return figure


if __name__ == "__main__":
    main()
