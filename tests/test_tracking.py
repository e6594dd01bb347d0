"""Trackers: what a space may say, what is refused, and a real search that writes for all three, on this machine."""

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import ray

from langsearch.cli.app import main
from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.experiment.folder import ExperimentFolder, read_rows
from langsearch.experiment.opening import sqlite_url
from langsearch.search.checking import describe_check
from langsearch.search.trackers import check_tracking, describe_tracking
from langsearch.search.tracking import METRICS, tracked_values, tracking_callbacks
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.tracking import MlflowSettings, TrackingSettings, WandbSettings
from tests.space_fixtures import ODD_SIGNS

if TYPE_CHECKING:
    from tests.search_fixtures import ResultMaker, TableMaker, TaskMaker

pytest_plugins = ["search_fixtures"]

ALL = "tracking=[tensorboard, mlflow, {wandb: {mode: offline, project: mine}}]"


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NETRC", raising=False)
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_a_tracker_is_a_name_or_a_name_with_options(space_file: Path) -> None:
    assert load_space(space_file).tracking == TrackingSettings()
    assert load_space(space_file, ["tracking=[]"]).tracking == TrackingSettings(tensorboard=False)
    assert load_space(space_file, ["tracking=mlflow"]).tracking == TrackingSettings(
        tensorboard=False, mlflow=MlflowSettings()
    )
    assert load_space(space_file, [ALL]).tracking == TrackingSettings(
        mlflow=MlflowSettings(), wandb=WandbSettings(project="mine", mode="offline")
    )


@pytest.mark.parametrize("setting", ["tracking=[]", "tracking=mlflow", ALL])
def test_the_resolved_space_has_the_same_trackers(setting: str, space_file: Path, tmp_path: Path) -> None:
    space = load_space(space_file, [setting])
    (tmp_path / "again.yaml").write_text(space.text, encoding="utf-8")
    assert load_space(tmp_path / "again.yaml").tracking == space.tracking


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[tensorbord]", r"`tracking\[0\]` must be a tracker, but 'tensorbord' is none\. Did you mean tensorboard\?"),
        ("[mlflow, mlflow]", r"`tracking` must name each tracker once, but got mlflow, mlflow$"),
        ("[{mlflow: {}, wandb: {}}]", r"`tracking\[0\]` must name one tracker, but got .* Write an item for each\.$"),
        ("[{wandb: {api_key: abc}}]", r"`tracking\[0\]\.wandb\.api_key` must be a key of `tracking\[0\]\.wandb`"),
        ("[{wandb: {mode: maybe}}]", r"`tracking\[0\]\.wandb\.mode` must be .*online.*offline"),
        ("[{mlflow: {uri: 'http://ada:pw@host'}}]", r"uri` must hold no password, .*MLFLOW_TRACKING_PASSWORD\.$"),
        ("3", r"`tracking` must be a list, but got 3$"),
    ],
)
def test_what_is_no_tracker_is_refused(value: str, message: str, space_file: Path) -> None:
    with pytest.raises(InputError, match=message):
        load_space(space_file, [f"tracking={value}"])


def test_trackers_may_change_when_an_experiment_goes_on(space_file: Path) -> None:
    from langsearch.experiment.opening import space_changes

    assert space_changes(load_space(space_file).text, load_space(space_file, [ALL]).text) == {}


def test_where_data_go_is_told_and_nothing_is_sent_unless_asked(space_file: Path, checked: CheckedSpace) -> None:
    assert list(describe_tracking(load_space(space_file).tracking)) == ["TensorBoard"]
    assert describe_tracking(load_space(space_file, [ALL]).tracking) == {
        "TensorBoard": "event files in the experiment's folder",
        "MLflow": "mlflow.db in the experiment's folder",
        "Weights & Biases": "project mine, offline, in the experiment's folder",
    }
    online = load_space(space_file, ["tracking=[{wandb: {entity: team}}, {mlflow: {uri: 'http://host:5000'}}]"])
    assert describe_tracking(online.tracking) == {
        "MLflow": "http://host:5000",
        "Weights & Biases": "project team/langsearch, sent to the server",
    }
    assert describe_check(checked)["tracking"] == {"tensorboard": True, "mlflow": None, "wandb": None}


@pytest.mark.parametrize("module", ["mlflow", "wandb"])
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_tracker_that_is_not_installed_is_refused_before_anything_starts(
    command: str, module: str, space_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    monkeypatch.chdir(space_file.parent)
    monkeypatch.setattr(sys, "argv", ["langsearch", command, str(space_file), "--set", f"tracking=[{module}]"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert (
        f"`tracking` asks for {'MLflow' if module == 'mlflow' else 'Weights & Biases'}, but it is not installed. "
        in (error := capsys.readouterr().err)
    )
    assert f"In langsearch's checkout: pip install -e '.[{module}]'" in error
    assert not (space_file.parent / "experiments").exists()
    assert not ray.is_initialized()


def test_weights_and_biases_need_a_key_to_send_with(space_file: Path) -> None:
    pytest.importorskip("wandb", reason="needs the extra wandb")
    with pytest.raises(InputError, match=r"`tracking` asks for Weights & Biases, but there is no key .*mode: offline"):
        check_tracking(load_space(space_file, ["tracking=[wandb]"]))
    check_tracking(load_space(space_file, [ALL]))


def test_a_tracker_gets_the_numbers_of_an_epoch(make_result: "ResultMaker") -> None:
    result = make_result(epoch=2, spbleu=12.5, train_loss=None)
    values = tracked_values(result)
    assert values["training_iteration"] == 2
    assert values["spbleu"] == 12.5
    assert set(METRICS) - set(values) == {"chrf", "train_loss"}
    assert all(isinstance(value, int | float) for value in values.values())


def events(folder: Path) -> dict[str, dict[int, float]]:
    """Returns the scalars of TensorBoard's event files: tag -> step -> value."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, dict[int, float]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        content, position = path.read_bytes(), 0
        while position < len(content):  # TFRecord: length, its checksum, the record, its checksum
            (size,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + size])
            position += size + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def tune_trial(name: str, **last: object) -> Any:
    return SimpleNamespace(config={"name": name}, last_result=last)


def test_a_tracker_that_fails_is_left_out_and_the_search_goes_on(
    space_file: Path, tmp_path: Path, make_table: "TableMaker", make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    folder, table = ExperimentFolder(tmp_path / "tiny"), make_table()
    table.propose({})
    make_task("00000").write(folder.trial("00000"))
    folder.path.joinpath("tensorboard").write_text("a file where the folder should be")
    told: list[str] = []
    (callback,) = tracking_callbacks(load_space(space_file), folder, table, told.append)
    callback.setup()
    for _ in range(2):
        callback.on_trial_start(0, [], tune_trial("00000"))
        callback.on_trial_result(0, [], tune_trial("00000"), vars(make_result()))
    callback.on_trial_complete(0, [], tune_trial("00000"))
    (text,) = told
    assert text.startswith("TensorBoard failed and is left out from here: ")


def test_an_mlflow_server_that_is_not_there_is_told(
    space_file: Path, tmp_path: Path, make_table: "TableMaker", monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    space = load_space(space_file, ["tracking=[{mlflow: {uri: 'http://127.0.0.1:9'}}]"])
    with pytest.raises(InputError, match=r"asks for MLflow, but http://127\.0\.0\.1:9 cannot be opened \("):
        tracking_callbacks(space, ExperimentFolder(tmp_path), make_table(), lambda text: None)


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, tiny_space: str) -> Iterator[Path]:
    """A search of one trial, written for all three."""
    for module in ("mlflow", "wandb"):
        pytest.importorskip(module, reason=f"needs the extra {module}")
    folder = tmp_path_factory.mktemp("tracked") / ODD_SIGNS
    folder.mkdir()
    text = tiny_space.replace("[pretrained, full_finetuning, shared_lora, published]", "[]").replace(
        "trials: 3", "trials: 1"
    )
    (folder / "tiny.yaml").write_text(text, encoding="utf-8")
    command = ["langsearch", "run", str(folder / "tiny.yaml"), "--experiments", str(folder), "--set", ALL, "--quiet"]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit, match=r"0|^$"):
            main()
        yield folder / "tiny"
    ray.shutdown()


@pytest.mark.integration
def test_a_search_writes_event_files_that_hold_what_the_curve_holds(tracked: Path) -> None:
    found = events(tracked / "tensorboard" / "00000")
    curve = read_rows(tracked / "trials" / "00000" / "curve.parquet")
    assert found["ray/tune/train_loss"] == pytest.approx({row["epoch"]: row["train_loss"] for row in curve}, rel=1e-6)
    assert {path.name for path in (tracked / "tensorboard").iterdir()} == {"00000"}


@pytest.mark.integration
def test_a_search_writes_runs_for_mlflow(tracked: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(sqlite_url(tracked / "mlflow.db"))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    assert experiment.artifact_location == (tracked / "mlartifacts").as_uri()
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    rows = {row["name"]: row for row in read_rows(tracked / "results.parquet")}
    assert set(runs) == {"00000"}
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        assert run.data.metrics["spbleu"] == rows[name]["spbleu"]
        assert run.data.metrics["trainable_parameters"] == rows[name]["trainable_parameters"]
        assert run.data.params["architecture"] == rows[name]["summary"]
        assert {"rank.high", "rank.low", "trainer.lr"} <= set(run.data.params)
    steps = [metric.step for metric in client.get_metric_history(runs["00000"].info.run_id, "spbleu")]
    assert steps == [1, 2]


@pytest.mark.integration
def test_a_search_writes_offline_runs_for_weights_and_biases(tracked: Path) -> None:
    (run,) = (tracked / "wandb").glob("offline-run-*")
    (record,) = run.glob("*-00000.wandb")
    content = record.read_bytes()
    assert b"worst_class_spbleu" in content
    assert b"rank.high" in content


@pytest.mark.integration
def test_nothing_is_written_outside_the_experiment(tracked: Path) -> None:
    assert {path.name for path in tracked.parent.iterdir()} == {"tiny", "tiny.yaml", ".store"}


def test_a_trial_that_goes_on_after_a_resume_goes_on_in_its_mlflow_run(
    space_file: Path, tmp_path: Path, make_table: "TableMaker", make_task: "TaskMaker", make_result: "ResultMaker"
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    folder, table = ExperimentFolder(tmp_path / "tiny"), make_table()
    table.propose({})
    make_task("00000").write(folder.trial("00000"))
    space = load_space(space_file, ["tracking=[mlflow]"])
    for epoch in (1, 2):
        (callback,) = tracking_callbacks(space, folder, table, pytest.fail)
        callback.setup()
        callback.on_trial_start(0, [], tune_trial("00000"))
        callback.on_trial_result(0, [], tune_trial("00000"), vars(make_result(epoch=epoch)))
        callback.on_trial_complete(0, [], tune_trial("00000"))
    client = mlflow.MlflowClient(f"sqlite:///{folder.path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("tiny").experiment_id])
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "spbleu")] == [1, 2]


def test_a_checked_space_with_trackers_is_right(space_file: Path) -> None:
    assert check_space(load_space(space_file, [ALL])).space.tracking.mlflow == MlflowSettings()
