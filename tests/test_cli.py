import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from langsearch import cli
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.folder import ExperimentFolder
from langsearch.search.display import Display

pytest_plugins = ["search_fixtures"]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: object
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def langsearch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Runs the command line in this process, in the test's folder and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["langsearch", *map(str, arguments)])
        with pytest.raises(SystemExit, match=r"\d|^$") as caught:
            cli.main()
        captured = capsys.readouterr()
        return Ended(caught.value.code or 0, captured.out, captured.err)

    return run


@pytest.fixture
def files(space_file: Path) -> Path:
    """Folders of sentences with one mistake each, beside the space."""
    for name, french in (("short", b"a\nb\n"), ("empty", b""), ("broken", b"a\nb\xff\nc\n")):
        folder = space_file.parent / name
        folder.mkdir()
        for language in ("en", "fr", "sw"):
            (folder / f"{language}.txt").write_bytes(french if language == "fr" else b"a\nb\nc\n")
    return space_file.parent


WRONG = {
    "an unknown key": (
        "trainer.epoch=3",
        "--set trainer.epoch=3: `trainer.epoch` must be a key of `trainer`, but is none. "
        "Did you mean epochs, pairs_per_epoch?",
    ),
    "an unknown section": (
        "trainr=3",
        "--set trainr=3: `trainr` must be a section of a space, but is none. Did you mean trainer, tracking, prior?",
    ),
    "an unknown language": (
        "languages.low=[swx]",
        "A language must be among the 100 known here, but got 'swx'. Did you mean sw?\n"
        "error: embedded quickstart: a column for swx must exist. Did you mean sw?",
    ),
    "files with unequal line counts": (
        "data.train={files: short}",
        "short: line n must be the same sentence in every file, but en.txt has 3 lines and fr.txt has 2",
    ),
    "an empty file": (
        "data.train={files: empty}",
        "empty/fr.txt: the file must hold one sentence a line, but is empty",
    ),
    "broken UTF-8": (
        "data.train={files: broken}",
        "broken/fr.txt:2: text must be UTF-8, but got 0xff at byte 2 of the line. Save the file as UTF-8",
    ),
    "a rank above the layer's width": (
        "architecture.rank.low=500",
        "--set architecture.rank.low=500: `architecture.rank.low` must be at most the narrowest adapted layer's width, "
        "128, but got 500",
    ),
    "a layer outside the base": (
        "architecture.decoder.layers=[7]",
        "--set architecture.decoder.layers=[7]: `architecture.decoder.layers` must lie within the base's 3 layers, "
        "0 to 2, but got [7]",
    ),
    "a module rule that matches nothing": (
        "architecture.encoder={layers: [], source_layers: 2}",
        "--set architecture.encoder={layers: [], source_layers: 2}: `architecture.encoder.source_layers` touches "
        "nothing: the encoder has no adapted module.",
    ),
    "an unknown module": (
        "architecture.encoder.modules=[q_prj]",
        "--set architecture.encoder.modules=[q_prj]: `architecture.encoder.modules` must name modules of the encoder, "
        "but got 'q_prj'. Did you mean q_proj, v_proj, k_proj?",
    ),
    "an unknown base": (
        "base=tiny",
        "A base must be an embedded name (tiny-m2m), a folder or a hub id, but got 'tiny'.",
    ),
    "a base that cannot be fetched": (
        "base=nobody/nothing",
        "The base 'nobody/nothing' is no folder here and could not be fetched from the hub (LocalEntryNotFoundError). "
        "Fetch it where there is a network and give its folder, or use an embedded base: tiny-m2m.",
    ),
    "an unknown baseline": (
        "baselines=[pretraind]",
        "--set baselines=[pretraind]: `baselines[0]` must be a baseline, but 'pretraind' is none. "
        "Did you mean pretrained?",
    ),
    "a setting without a value": (
        "trainer.epochs",
        "--set must read key.path=value, but got 'trainer.epochs'. Example: --set trainer.epochs=3",
    ),
    "a setting below a plain value": (
        "name.x=3",
        "--set name.x=3: `name` must be a mapping, but got 'tiny'. Set `name` as a whole.",
    ),
}


@pytest.mark.parametrize("command", ["run", "check", "train"])
@pytest.mark.parametrize(("setting", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_one_message_and_nothing_is_written(
    command: str, setting: str, message: str, files: Path, langsearch: Command
) -> None:
    before = sorted(files.rglob("*"))
    ended = langsearch(command, "tiny.yaml", "--set", setting)
    assert (ended.code, ended.err, ended.out) == (2, f"error: {message}\n", "")
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "check", "train"])
def test_several_mistakes_are_told_together_with_their_lines(
    command: str, space_file: Path, langsearch: Command
) -> None:
    text = space_file.read_text(encoding="utf-8")
    text = text.replace("  epochs: 2\n", "  epochs: none\n").replace("sampler: random", "sampler: tpee")
    space_file.write_text(text.replace("low: [sw]", "low: [sw, en]") + "surprise: 1\n", encoding="utf-8")
    ended = langsearch(command, "tiny.yaml")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: tiny.yaml:25: `surprise` must be a section of a space, but is none. Valid: name, base, languages, "
        "data, architecture, trainer, evaluation, baselines, search, resources, failures, checkpoints, tracking, "
        "prior.",
        "error: tiny.yaml:13: `trainer.epochs` must be a whole number of at least 1, but got 'none'",
        "error: tiny.yaml:23: `search.sampler` must be one of tpe, gp, nsga2, random, grid, but got 'tpee'. "
        "Did you mean tpe?",
        "error: tiny.yaml:3: `languages.low[1]` must name each language once, but 'en' is the same as 'en'",
    ]
    assert not Path("experiments").exists()


@pytest.mark.parametrize("command", ["run", "check", "train"])
def test_a_space_that_is_not_there_is_told(command: str, langsearch: Command) -> None:
    ended = langsearch(command, "absent.yaml")
    message = "error: absent.yaml: The file must be readable, but got: No such file or directory\n"
    assert (ended.code, ended.err) == (2, message)


def test_an_absent_experiment_is_not_resumed(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--resume")
    path = space_file.parent / "experiments" / "tiny"
    message = f"error: --resume goes on with an experiment, but {path} does not exist. Start it without.\n"
    assert (ended.code, ended.err) == (2, message)
    assert not Path("experiments").exists()


def test_an_experiment_that_is_there_is_not_started_again(trained: Path, langsearch: Command) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*")}
    ended = langsearch("run", trained / "space.yaml", "--experiments", trained.parent)
    assert (ended.code, ended.err) == (
        2,
        f"error: An experiment must have a name of its own, but {trained} exists. "
        "Go on with it by --resume, or start another with --name NAME.\n",
    )
    assert {path: path.stat().st_mtime_ns for path in trained.parent.rglob("*")} == before


def test_an_experiment_is_not_resumed_with_another_space(trained: Path, langsearch: Command) -> None:
    arguments = ("run", trained / "space.yaml", "--experiments", trained.parent, "--resume")
    ended = langsearch(*arguments, "--set", "trainer.seed=9")
    assert ended.code == 2
    assert "error:   trainer.seed: 0 -> 9\n" in ended.err


@pytest.mark.parametrize("option", [("--retry", "failed"), ("--accept-changed-space",)])
def test_what_goes_on_with_an_experiment_needs_resume(
    option: tuple[str, ...], space_file: Path, langsearch: Command
) -> None:
    ended = langsearch("run", space_file, *option)
    message = f"error: {option[0]} goes on with an experiment, but --resume is not given. Add it.\n"
    assert (ended.code, ended.err) == (2, message)


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_constraint_that_nothing_can_keep_is_refused(command: str, space_file: Path, langsearch: Command) -> None:
    ended = langsearch(command, space_file, "--set", "search.constraints=[trainable_parameters <= 9]")
    assert ended.code == 2
    assert "`search.constraints[0]` must be met by some architecture, but got trainable_parameters <= 9" in ended.err
    assert not Path("experiments").exists()


@dataclass(frozen=True, kw_only=True)
class End:
    """As much of a search's outcome as the command line looks at."""

    folder: ExperimentFolder
    is_complete: bool = True
    num_complete: int = 1
    num_failed: int = 0
    stopped_by: str | None = None
    ended_by: str | None = None
    copy: None = None


ENDS = {
    "done": ({"ended_by": "trials"}, 0, "", ""),
    "done before": (
        {"ended_by": "trials"},
        0,
        "No trial was left to run: the search had ended before. For more: --resume --trials N\n",
        "",
    ),
    "plateau before": (
        {"ended_by": "plateau"},
        0,
        "No trial was left to run: the search had ended before.\n"
        "Ended before all trials: the last ones gained too little (`search.plateau`).\n",
        "",
    ),
    "done with failures": (
        {"num_failed": 2},
        0,
        "2 trials failed; the causes are in the report. To try again: --resume --retry failed\n",
        "",
    ),
    "plateau": (
        {"ended_by": "plateau"},
        0,
        "Ended before all trials: the last ones gained too little (`search.plateau`).\n",
        "",
    ),
    "exhausted": (
        {"ended_by": "exhausted"},
        0,
        "Ended before all trials: every point of the space was tried.\n",
        "",
    ),
    "nothing complete": (
        {"num_complete": 0, "num_failed": 1},
        1,
        "1 trial failed; the causes are in the report. To try again: --resume --retry failed\n",
        "No searched trial could finish; the causes are in the report.\n",
    ),
    "time": (
        {"is_complete": False, "stopped_by": "time", "num_complete": 0},
        0,
        "The time is up: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "interrupted": (
        {"is_complete": False, "stopped_by": "interrupted"},
        130,
        "Interrupted: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "requested": (
        {"is_complete": False, "stopped_by": "requested"},
        0,
        "Stopped on request: not all trials have ended. Go on with the same command and --resume.\n",
        "",
    ),
    "not tested": (
        {"is_complete": False},
        1,
        "",
        "The front could not be scored or tested; --resume tries it again.\n",
    ),
    "disk full": (
        {"is_complete": False, "stopped_by": "disk full: [Errno 28] No space left on device"},
        1,
        "",
        "Stopped: disk full: [Errno 28] No space left on device. Make room on the disk, or lower "
        "`checkpoints.max_gigabytes`; then go on with the same command and --resume: no finished epoch is lost.\n",
    ),
    "a failure": (
        {"is_complete": False, "stopped_by": "ValueError: odd"},
        1,
        "",
        "Stopped: ValueError: odd. Remove the cause, or change `failures`; then go on with the "
        "same command and --resume: no finished epoch is lost.\n",
    ),
}


@pytest.mark.parametrize(("values", "code", "out", "err"), ENDS.values(), ids=ENDS)
def test_every_end_of_a_search_is_told_with_its_exit_code_and_what_to_do(
    values: dict[str, object],
    code: int,
    out: str,
    err: str,
    trained: Path,
    tmp_path: Path,
    langsearch: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained, tmp_path / "experiments" / "tiny")
    given: dict[str, object] = {}
    num_started = 0 if "had ended before" in out else 1

    def run_search(checked: CheckedSpace, experiments: Path, display: Display, **options: object) -> End:
        given.update(options)
        display.num_started = num_started
        return End(folder=ExperimentFolder(Path(experiments) / checked.space.name), **values)  # type: ignore[arg-type]

    monkeypatch.setattr("langsearch.search.runner.run_search", run_search)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)
    space = trained / "space.yaml"
    ended = langsearch("run", space, "--resume", "--retry", "12,17", "--accept-changed-space", "--quiet")
    assert given == {"resume": True, "retry": "12,17", "accept_changed_space": True, "address": None}
    report = "Report: experiments/tiny/report.html\n"
    assert (ended.code, ended.out.partition(report)[2], ended.err) == (code, out, err)


def test_a_report_that_a_full_disk_prevents_is_told(
    trained: Path, tmp_path: Path, langsearch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> Path:
        raise OSError(28, "No space left on device")

    end = End(folder=ExperimentFolder(tmp_path))
    monkeypatch.setattr("langsearch.search.runner.run_search", lambda *values, **options: end)
    monkeypatch.setattr("langsearch.trial.export.export_front", lambda checked, folder: None)
    monkeypatch.setattr("langsearch.report.page.write_report", fail)
    ended = langsearch("run", trained / "space.yaml", "--quiet")
    assert ended.code == 1
    assert ended.err == (
        "The front and report could not be written: [Errno 28] No space left on device. "
        "--resume writes what is missing.\n"
    )


def test_trials_and_hours_set_the_space_s(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--trials", 9, "--hours", 0)
    assert (ended.code, ended.err) == (
        2,
        "error: --hours 0: `search.max_hours` must be a number above 0 or none, but got 0.0\n",
    )


def test_errors_name_the_options_that_were_typed(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--hours", 0, "--name", "a é b", "--set", "search.seed=x")
    assert ended.code == 2
    hours, name, seed = sorted(ended.err.splitlines())
    assert hours.startswith("error: --hours 0: `search.max_hours` must be")
    assert name.startswith("error: --name 'a é b': `name` must be")
    assert seed.startswith("error: --set search.seed=x: `search.seed` must be")
    ended = langsearch("submit", space_file, "--address", "URL", "--experiments", "/x", "--name", "a é b")
    assert ended.err.startswith("error: --name 'a é b': `name` must be")


@pytest.mark.parametrize(
    ("setting", "rule"),
    [
        ("gpu=99", r"`resources\.gpu` must be at most the machine's \d+, but is 99"),
        ("cpu=999", r"`resources\.cpu` must be at most the machine's \d+, but is 999"),
    ],
)
def test_more_than_the_machine_has_is_refused(setting: str, rule: str, space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--set", f"resources.{setting}")
    kind = setting[:3]
    way_out = rf"Run with --set resources\.{kind}=\d+, or on a cluster with --address\."
    assert ended.code == 2
    assert re.fullmatch(rf"error: {rule}\. {way_out}\n", ended.err)
    assert not Path("experiments").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_is_refused_where_none_is(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--set", "resources.gpu=1")
    assert "must be at most the machine's 0, but is 1. Run with --set resources.gpu=0, or" in ended.err
    assert (ended.code, Path("experiments").exists()) == (2, False)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999"])
def test_an_address_where_no_cluster_is_is_refused_at_once(address: str, space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--address", address)
    rule = f"error: --address must be that of a running Ray cluster, but nothing answers at '{address}' ("
    assert ended.code == 2
    assert ended.err.startswith(rule)
    assert not Path("experiments").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "EXPERIMENT", "--split", "train"), "--split must be one of validation, dev, test, devtest, but"),
        (("evaluate", "EXPERIMENT", "--trial", "77"), "--trial must name a trial, but '77' is none. Did you mean"),
        (("evaluate", "absent"), "An experiment's folder holds a space.yaml, but absent has none."),
        (("export", "EXPERIMENT", "--to", "out", "--trial", "77"), "--trial must name a trial, but '77' is none."),
        (("export", "EXPERIMENT", "--to", "out", "--format", "onnx"), "--format must be peft or merged, but"),
        (("export", "absent", "--to", "out"), "An experiment's folder holds a space.yaml, but absent has none."),
        (("report", "absent"), "An experiment must be a folder, but absent is not one."),
        (("translate", "absent", "--from", "en", "--to", "fr"), "Adapters must be a folder that `langsearch export`"),
        (("translate", "ADAPTERS", "--from", "xx", "--to", "fr"), "A language"),
    ],
)
def test_wrong_trials_splits_formats_and_folders_are_refused(
    arguments: tuple[str, ...], message: str, trained: Path, adapters: Path, langsearch: Command, tmp_path: Path
) -> None:
    places = {"EXPERIMENT": str(trained), "ADAPTERS": str(adapters)}
    ended = langsearch(*(places.get(argument, argument) for argument in arguments))
    assert ended.code == 2
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("run", "tiny.yaml", "--trials", "0"), ("nosuch",), ("check",)])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], langsearch: Command) -> None:
    ended = langsearch(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: langsearch" in ended.err


def test_a_name_of_digits_is_a_name(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("run", space_file, "--name", "7", "--resume")
    assert "experiments/7 does not exist" in ended.err


def test_check_shows_the_space_and_writes_nothing(space_file: Path, langsearch: Command) -> None:
    ended = langsearch("check", space_file)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("tiny: the space is right. Nothing was started.\n")
    assert "adapters    8,448 to 33,792 parameters (0.35 to 1.39 % of the base)\n" in ended.out
    assert list(space_file.parent.iterdir()) == [space_file]


def test_evaluate_prints_the_score_with_its_signature(trained: Path, langsearch: Command) -> None:
    ended = langsearch("evaluate", trained, "--split", "devtest", "--trial", "0")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("tiny, trial 00000, test set, greedy\n")
    assert ended.out.splitlines()[-1].startswith("nrefs:1|")


def test_export_then_translate_reads_lines_and_writes_lines(
    trained: Path, tmp_path: Path, langsearch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = langsearch("export", trained, "--to", "out")
    assert (ended.code, ended.out) == (0, "Wrote 6 adapters and a card to out\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The house is small.\n\nWater")))
    ended = langsearch("translate", "out", "--from", "en", "--to", "fr", "--beams", "1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("\n") == 3
    assert [bool(line) for line in ended.out.splitlines()] == [True, False, True]


def test_adapters_are_merged_and_compacted(adapters: Path, langsearch: Command) -> None:
    ended = langsearch("export", adapters, "--to", "merged", "--format", "merged", "--direction", "en-fr")
    assert (ended.code, ended.out) == (0, "Wrote a model for en-fr and a card to merged\n")
    ended = langsearch("export", adapters, "--to", "small", "--energy", "0.9")
    assert ended.code == 0
    assert re.fullmatch(
        r"Compacted: [\d,]+ -> [\d,]+ stored parameters, ranks [\d,]+ -> [\d,]+ in all; relative error of the products "
        r"[\d.]+%, at most [\d.]+% of one\.\nWrote 6 adapters and a card to small\n",
        ended.out,
    )


def test_translate_refuses_broken_utf8_with_its_line(
    adapters: Path, langsearch: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Water\ncaf\xe9\n")))
    ended = langsearch("translate", adapters, "--from", "en", "--to", "fr")
    message = "error: Input must be UTF-8, but line 2 is not (invalid continuation byte).\n"
    assert (ended.code, ended.err) == (2, message)


def test_train_writes_adapters_that_evaluate_takes(space_file: Path, langsearch: Command) -> None:
    fixed = ["architecture.rank=2", "trainer.lr=0.01", "trainer.epochs=1"]
    ended = langsearch("train", space_file, "--to", "out/first", *(part for item in fixed for part in ("--set", item)))
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^epoch 1/1  spBLEU [\d.]+ \(", ended.out, flags=re.MULTILINE)
    ended = langsearch("evaluate", "out/first/adapters", "--space", space_file, "--split", "validation")
    assert (ended.code, ended.err) == (0, "")


def test_report_writes_the_page_and_shows_the_front(trained: Path, langsearch: Command) -> None:
    ended = langsearch("report", trained)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == f"Report: {trained / 'report.html'}"
    assert "00000" in ended.out


def test_the_module_runs_as_the_command_does_and_exits_with_its_code(space_file: Path) -> None:
    command = [sys.executable, "-m", "langsearch"]
    shown = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout == "0.1.0\n"
    wrong = subprocess.run(
        [*command, "check", "tiny.yaml", "--set", "trainer.epoch=3"],
        capture_output=True,
        text=True,
        check=False,
        cwd=space_file.parent,
    )
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("error: --set trainer.epoch=3: `trainer.epoch` must be a key of `trainer`")


def test_help_needs_neither_torch_nor_ray() -> None:
    code = "import sys; from langsearch import cli; print(sorted({'torch', 'ray', 'optuna'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "[]\n"
