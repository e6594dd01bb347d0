"""A search that trains wide once and cuts many: its space, its decisions, and a whole one."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from langsearch.adapters.cuts import Donor
from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.peft_export import read_export
from langsearch.experiment.cut_tasks import cut_task, donor_of, donor_task, going_on, whole_point
from langsearch.experiment.environment import CheckedSpace, Environment, check_space
from langsearch.experiment.folder import ExperimentFolder, TrialFolder, read_json, read_rows, write_json
from langsearch.experiment.results_parquet import ResultsFile
from langsearch.experiment.task import TrialTask, searched_task
from langsearch.model.base import Base
from langsearch.report.cuts import cut_sentences
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.figures import front_figure
from langsearch.report.showing import find_trial
from langsearch.report.summary import summarise
from langsearch.search import cut_worker
from langsearch.search.one_shot import best_cuts
from langsearch.space.architecture import Architecture
from langsearch.space.one_shot import DONOR, cut_dimensions, donor_dimensions, donor_points
from langsearch.space.problems import InputError
from langsearch.space.schema import Space, load_space
from langsearch.study.mirror import Proposal
from langsearch.study.table import TrialTable
from langsearch.trial.cutting import OpenDonor
from langsearch.trial.evaluating import evaluation_data
from tests.benchmarks.search_efficiency.make_table import draw, grid
from tests.one_shot_cases import EFFICIENCY, KINDS, ONE_SHOT, SPACES, one_shot_space, run_command
from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker
from tests.table_fixtures import DIMENSIONS

pytest_plugins = ["search_fixtures"]


def test_a_cut_changes_ranks_layers_and_modules_and_nothing_that_moves_a_side() -> None:
    space = load_space(SPACES / "grains.yaml", ONE_SHOT)
    assert set(donor_dimensions(space)) == {"encoder.sides.2", "decoder.overrides.0.side"}
    assert set(cut_dimensions(space)) == {
        *("rank.medium", "rank.low.tgt", "rank.cy.tgt", "encoder.overrides.0.rank.low", "decoder.layers.last"),
    }
    moved = {"architecture.encoder.overrides": [{"layers": {"last": {"int": [1, 2]}}, "side": "tgt"}]}
    moving = load_space(EFFICIENCY, {"search.strategy": "one_shot", **moved})
    assert "encoder.overrides.0.layers.last" in donor_dimensions(moving)


def test_donors_lie_evenly_in_what_cuts_cannot_change() -> None:
    assert len(donor_points(load_space(EFFICIENCY, [*ONE_SHOT, "search.donors=6"]))) == 6, "all there are"
    space = load_space(EFFICIENCY, [*ONE_SHOT, "search.donors=4", "trainer.lr={float: [1.0e-3, 1.0e-1], log: true}"])
    points = donor_points(space)
    assert points == donor_points(space)
    rates = sorted(point["trainer.lr"] for point in points)
    assert np.log10(rates) == pytest.approx([-2.75, -2.25, -1.75, -1.25])
    assert sorted(point["encoder.source_layers"] for point in points) == [0, 0, 3, 3]
    overrides = ["trainer.lr=1.0e-2", "architecture.encoder={source_layers: 3}", "prior=null"]
    fixed = load_space(EFFICIENCY, [*ONE_SHOT, *overrides])
    assert donor_points(fixed) == [{}]


@pytest.mark.parametrize("name", ["efficiency", "grains", "quickstart", "overridden", "kinds", "one for all"])
def test_every_cut_of_a_space_can_be_cut_out_of_its_donor(name: str, base: Base) -> None:
    file = SPACES / f"{name}.yaml" if name in ("grains", "quickstart") else EFFICIENCY
    more: dict[str, Any] = {
        "kinds": KINDS,
        "one for all": {
            "architecture.sharing": "all",
            "architecture.rank": {"int": [0, 4]},
            "architecture.encoder": {"modules": {"subset": ["q_proj", "fc1"]}},
            "prior": None,
        },
    }.get(name, {})
    if name == "overridden":
        # Wide is not what each dimension is largest at: the more layers, the fewer of rank 16.
        rule = {"layers": {"first": {"int": [1, 3]}}, "rank": {"low": {"choice": [0, 2]}}}
        more = {"architecture.decoder.overrides": [rule], "architecture.sharing": "class"}
    space = load_space(file, {"search.strategy": "one_shot", **more})
    shape = check_space(space).shape
    points = list(grid(space)) if name == "efficiency" else list(draw(space, 60))
    known = {json.dumps(point): number for number, point in enumerate(donor_points(space), start=1)}
    donors: dict[int, Donor] = {}
    num = 0
    for point in points:
        key = json.dumps({name: point[name] for name in donor_dimensions(space)})
        number = known.get(key, 1)
        params = {DONOR: number, **{name: point[name] for name in cut_dimensions(space)}}
        if number not in donors:
            wide = donor_task(space, shape, f"donor-{number}").architecture
            assert wide is not None
            donors[number] = Donor(build_adapters(base, wide, space.languages))
        task = cut_task(space, shape, 0, params)
        assert task.architecture is not None
        assert donors[number].why_not(task.architecture) is None
        num += 1
        if key in known:
            assert whole_point(space, params) == point
            assert task.architecture == searched_task(space, shape, 0, point).architecture
    assert num == len(points)


def test_a_donor_draws_what_cuts_may_have() -> None:
    space = load_space(EFFICIENCY, [*ONE_SHOT, "search.one_shot={drop_layers: 0.2, donor_epochs: 5}"])
    task = donor_task(space, check_space(space).shape, "donor-1")
    nesting = task.trainer.nesting
    assert nesting is not None and task.trainer.epochs == 5
    assert dict(nesting.ranks) == {"fr": (0, 2, 8), "de": (0, 2, 8), "sw": (2, 4, 16), "cy": (2, 4, 16)}
    assert nesting.layers == ("decoder.0", "decoder.1", "decoder.2"), "the encoder's are in every cut"
    assert nesting.modules == () and (nesting.drop_layers, nesting.drop_modules) == (0.2, 0.3)


def test_the_tasks_of_a_one_shot_search_are_read_as_they_were_written(tmp_path: Path) -> None:
    space = load_space(EFFICIENCY, ONE_SHOT)
    shape = check_space(space).shape
    point = next(iter(grid(space)))
    ordinary = searched_task(space, shape, 3, point)
    tasks = [donor_task(space, shape, "donor-2"), going_on(ordinary, space, "cut-00004"), ordinary]
    for task in tasks:
        folder = TrialFolder(tmp_path / task.name / str(len(task.trainer.start_cut)))
        task.write(folder)
        found = TrialTask.read(folder)
        assert (found.trainer, found.architecture, found.kind) == (task.trainer, task.architecture, task.kind)
        assert found.fingerprint == task.fingerprint
    assert len({task.fingerprint for task in tasks}) == 3
    assert tasks[1].num_epochs == 1


def test_an_ordinary_space_and_its_trials_are_as_before() -> None:
    space = load_space(EFFICIENCY)
    assert not any(word in space.text for word in ("one_shot", "strategy", "donors"))
    task = searched_task(space, check_space(space).shape, 0, next(iter(grid(space))))
    # Of the version before there were such searches.
    assert task.fingerprint == "c1237e11f772629a"
    assert load_space(EFFICIENCY, ONE_SHOT).text != space.text


WRONG: dict[str, tuple[list[str], str]] = {
    "without the strategy": (["search.donors=3"], "strategy: one_shot alone"),
    "gates": (
        [*ONE_SHOT, "architecture.adapter={choice: [lora, gated+bridge]}"],
        "`architecture.adapter` cannot be gated+bridge with strategy: one_shot: a gate has learned for which tokens",
    ),
    "a pool": (
        [*ONE_SHOT, "architecture.sharing=pool", "architecture.rank=4"],
        "`architecture.sharing` cannot be pool with strategy: one_shot: which member is whose",
    ),
    "pruning": (
        [*ONE_SHOT, "architecture.pruning={target: 0.5}"],
        "`architecture.pruning` must be left out with strategy: one_shot: pruning goes by the epochs",
    ),
    "more kinds than donors": (
        [*ONE_SHOT, "architecture.adapter={choice: [lora, two_sided, factorized]}"],
        "`search.donors` must be at least 3, a wide training for each kind that `architecture.adapter` can be, but",
    ),
    "seconds": (
        [*ONE_SHOT, "search.objectives={spbleu: max, train_seconds: min}"],
        "`search.objectives.train_seconds` must be known without training",
    ),
    "translations": ([*ONE_SHOT, "trainer.back_translation={every: 2}"], "cannot be used with strategy: one_shot"),
    "few cuts": ([*ONE_SHOT, "search.one_shot={cuts: 4}"], "must be at most the 4 cuts"),
    "nothing to cut": (
        [*ONE_SHOT, "architecture.rank=2", "architecture.decoder={layers: all}"],
        "one_shot must have ranks, layers or modules to cut",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_cut_is_refused_with_a_sentence(name: str) -> None:
    overrides, words = WRONG[name]
    with pytest.raises(InputError) as caught:
        load_space(EFFICIENCY, overrides)
    assert words in " ".join(str(caught.value).split())


def test_the_sampler_of_trials_never_sees_cuts_and_that_of_cuts_sees_nothing_else(
    make_table: TableMaker, make_result: ResultMaker, tmp_path: Path
) -> None:
    def search(file: Path, *, with_cuts: bool) -> list[dict[str, Any]]:
        table = make_table(file, num_trials=8)
        cuts = make_table(file, num_trials=20, cuts_of=table) if with_cuts else None
        points = []
        for number in range(16):
            if cuts is not None:
                name, point = _trained(cuts, make_result)
                assert name == f"{number:05d}" and point in points_of(cuts)
            points.append(_trained(table, make_result)[1])
        return points

    def points_of(cuts: TrialTable) -> list[Any]:
        return [row.params for row in cuts.rows() if row.kind == "searched"]

    assert search(tmp_path / "with.db", with_cuts=True) == search(tmp_path / "without.db", with_cuts=False)
    again = make_table(tmp_path / "with.db", num_trials=8)
    assert again.num_searched == 16
    assert make_table(tmp_path / "with.db", cuts_of=again).num_searched == 16, "and both are there after a restart"


def _trained(table: TrialTable, make_result: ResultMaker) -> tuple[str, dict[str, Any]]:
    number, point = table.propose(DIMENSIONS)
    rank, name = point["rank"], f"{number:05d}"
    table.complete(name, make_result(spbleu=float(rank) + 100 * point["lr"], trainable_parameters=100 + rank))
    return name, point


def test_the_best_cuts_are_those_that_together_dominate_most(make_table: TableMaker, make_result: ResultMaker) -> None:
    cuts = make_table(cuts_of=make_table())
    # The first two lie close together, the fourth is dominated, the fifth is a lone small one.
    for spbleu, size in ((20.0, 500), (19.9, 495), (15.0, 300), (14.0, 310), (5.0, 100)):
        number, _ = cuts.propose(DIMENSIONS)
        cuts.complete(f"{number:05d}", make_result(spbleu=spbleu, trainable_parameters=size))
    chosen = best_cuts(cuts, 5)
    assert chosen[0] == "cut-00002", "in the middle of the front"
    assert set(chosen[:3]) in ({"cut-00002", "cut-00004", f"cut-0000{large}"} for large in (0, 1))
    assert chosen[-1] == "cut-00003", "what is dominated comes once nothing adds anything"
    assert best_cuts(cuts, 2) == chosen[:2]


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_a_one_shot_search_trains_the_best_cuts_on_goes_on_after_a_stop_and_exports_any_cut(
    tmp_path: Path, tiny_space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = one_shot_space(tmp_path, tiny_space, min_correlation=-1)
    experiments = str(tmp_path / "experiments")
    path = tmp_path / "experiments" / "tiny"
    arguments = ["run", str(space), "--experiments", experiments]
    # The time is up after seconds, in whatever the run is at: each start goes on from what those before have reached.
    for _ in range(4):
        resume = ["--resume"] if path.exists() else []
        assert run_command(monkeypatch, *arguments, *resume, "--set", "search.max_hours=0.003") == 0
    assert run_command(monkeypatch, *arguments, "--resume", "--set", "search.max_hours=none") == 0
    ray.shutdown()
    rows = {row["name"]: row for row in read_rows(path / "results.parquet")}
    donors, cuts = ([row for row in rows.values() if row["kind"] == kind] for kind in ("donor", "cut"))
    assert [row["name"] for row in donors] == ["donor-1", "donor-2"]
    scored = [row for row in cuts if row["state"] == "complete" and row["same_as"] is None]
    assert len(scored) == 12 or len(scored) == len({row["fingerprint"] for row in cuts})
    assert all(row["train_seconds"] == 0 and "not trained" in row["note"] for row in scored)
    trained = [row for row in rows.values() if row["kind"] == "searched"]
    assert [row["is_from_cut"] for row in trained] == [False] * 3 + [True] * 2
    assert not any(row["is_front"] for row in (*donors, *cuts))
    assert any(row["is_front"] for row in trained)
    decided = read_json(path / "one_shot.json")
    assert decided["is_trusted"] and decided["is_complete"]
    assert [row["cut"] for row in trained] == [*decided["sample"], *decided["winners"]]
    name = scored[0]["name"]
    assert run_command(monkeypatch, "export", str(path), "--trial", name, "--to", str(tmp_path / "cut")) == 0
    assert read_export(tmp_path / "cut").architecture.fingerprint == _architecture(path, name)
    assert run_command(monkeypatch, "evaluate", str(path), "--trial", name) == 0
    assert run_command(monkeypatch, "show", str(path), name) == 0
    assert run_command(monkeypatch, "report", str(path)) == 0


def _architecture(path: Path, name: str) -> str:
    return Architecture.from_json((path / "trials" / name / "architecture.json").read_text()).fingerprint


@pytest.mark.integration
@pytest.mark.timeout(900)
def test_cuts_that_are_not_in_the_order_of_trainings_are_not_trusted_and_the_search_goes_on(
    tmp_path: Path, tiny_space: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    space = one_shot_space(tmp_path, tiny_space.replace("trials: 3", "trials: 5"), min_correlation=0.5)
    # Three can be in perfect order by chance.
    monkeypatch.setattr("langsearch.search.one_shot._correlation", lambda search, cuts: -0.5)
    assert run_command(monkeypatch, "run", str(space), "--experiments", str(tmp_path / "experiments")) == 0
    ray.shutdown()
    path = tmp_path / "experiments" / "tiny"
    rows = [row for row in read_rows(path / "results.parquet") if row["kind"] == "searched" and not row["same_as"]]
    assert read_json(path / "one_shot.json")["is_trusted"] is False
    assert "cuts are not trusted" in capsys.readouterr().out
    assert len(rows) == 5 and not any(row["is_from_cut"] for row in rows)


def test_a_space_says_what_it_is(tmp_path: Path) -> None:
    space: Space = load_space(EFFICIENCY, ONE_SHOT)
    assert space.search.num_planned == 14
    assert donor_of({}) == 1 and donor_of({DONOR: 2}) == 2


def test_the_report_tells_cuts_from_trials(make_table: TableMaker, make_result: ResultMaker, tmp_path: Path) -> None:
    folder = ExperimentFolder(tmp_path / "one")
    table = make_table()
    for name in ("pretrained", "donor-1", "donor-2"):
        table.add_baseline(name)
        table.complete(name, make_result(spbleu=3.0, trainable_parameters=0 if name == "pretrained" else 900))
    cuts = make_table(cuts_of=table)
    for spbleu in (20.0, 5.0):  # better than any trial, and yet none
        number, _ = cuts.propose(DIMENSIONS)
        cuts.complete(f"{number:05d}", make_result(epoch=0, spbleu=spbleu, trainable_parameters=10))
    number, point = table.propose(DIMENSIONS)
    table.complete(f"{number:05d}", make_result(spbleu=6.0))
    proposal = Proposal(point=point, distributions=DIMENSIONS)
    table.add(1, point, fingerprint="b", recorded=proposal, cut="cut-00000", is_from_cut=True)
    table.complete("00001", make_result(spbleu=7.0))
    ResultsFile(folder, 1000).write(table, cuts)
    decided = {"sample": ["cut-00001"], "winners": ["cut-00000"], "correlation": 0.5, "is_trusted": True}
    write_json(folder.one_shot, decided)
    experiment = read_experiment(folder.path)
    assert [trial.name for trial in experiment.trials] == ["pretrained", "00000", "00001"]
    assert [trial.name for trial in experiment.beside] == ["donor-1", "donor-2", "cut-00000", "cut-00001"]
    summary = summarise(experiment)
    assert summary.best is not None and summary.best.name == "00001"
    found = " ".join(cut_sentences(experiment))
    assert "2 architectures were cut out of 2 wide trainings and scored untrained" in found
    assert "Spearman +0.50" in found and "cut-00000 as trial 00001" in found
    assert find_trial(experiment, "cut-00001").validation is not None
    figure = front_figure(experiment, summary, "validation")
    assert figure is not None
    drawn = {trace["name"]: len(trace["x"]) for trace in figure["data"]}
    assert drawn["cuts, untrained"] == 2 and "cuts, untrained" not in str(front_figure(experiment, summary, "test"))


def test_what_cannot_be_cut_out_of_its_donor_is_told_and_the_others_are_scored(
    base: Base, checked: CheckedSpace, environment: Environment, make_task: TaskMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow, wide = make_task("cut-00000", rank=1), make_task("cut-00001", rank=3)
    donor = make_task("donor-1", rank=2)
    assert donor.architecture is not None
    settings = environment.evaluation.search
    data = evaluation_data(base, environment, "full", settings)
    of = OpenDonor("donor-1", Donor(LanguageLoRA(base, donor.architecture, environment.languages)), data, settings)
    monkeypatch.setattr(cut_worker, "_donor", lambda *_: (base, of))
    unused: Any = None
    found = cut_worker.score_on_worker(unused, environment, Path(), 1, "donor-1", [wide, narrow], "columns", None)
    assert isinstance(found[0], str) and "less than 3" in found[0]
    assert isinstance(found[1], dict) and found[1]["trainable_parameters"] == narrow.num_trainable(checked.shape)
