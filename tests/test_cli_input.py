"""What each command says to wrong input."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli_fixtures import Command

pytest_plugins = ["cli_fixtures", "search_fixtures"]


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
        "--set languages.low=[swx]: A language must be among the 100 known here, but got 'swx'. Did you mean sw? One "
        "that the base has no token for can begin as another: languages: {new: {tyv: {like: kaz}}}.\n"
        "error: tiny.yaml:5: `data.train`: embedded quickstart: a column for swx must exist. Did you mean sw?",
    ),
    "files with unequal line counts": (
        "data.train={files: short}",
        "--set data.train={files: short}: `data.train`: "
        "short: line n must be the same sentence in every file, but en.txt has 3 lines and fr.txt has 2",
    ),
    "an empty file": (
        "data.train={files: empty}",
        "--set data.train={files: empty}: `data.train`: "
        "empty/fr.txt: the file must hold one sentence a line, but is empty",
    ),
    "broken UTF-8": (
        "data.train={files: broken}",
        "--set data.train={files: broken}: `data.train`: "
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
        "--set base=tiny: A base must be an embedded name (tiny-m2m, tiny-m2m-2), a folder or a hub id, but got "
        "'tiny'.",
    ),
    "a base that cannot be fetched": (
        "base=nobody/nothing",
        "--set base=nobody/nothing: The base 'nobody/nothing' is no folder here, not whole in the hub's cache, and "
        "could not be fetched from the hub: HF_HUB_OFFLINE is set. Unset it, or fetch the base where there is a "
        "network and give its folder.",
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
    command: str, setting: str, message: str, files: Path, langsearch: "Command"
) -> None:
    before = sorted(files.rglob("*"))
    ended = langsearch(command, "tiny.yaml", "--set", setting)
    assert (ended.code, ended.err, ended.out) == (2, f"error: {message}\n", "")
    assert sorted(files.rglob("*")) == before


@pytest.mark.parametrize("command", ["run", "check", "train"])
def test_several_mistakes_are_told_together_with_their_lines(
    command: str, space_file: Path, langsearch: "Command"
) -> None:
    text = space_file.read_text(encoding="utf-8")
    text = text.replace("  epochs: 2\n", "  epochs: none\n").replace("sampler: random", "sampler: tpee")
    space_file.write_text(text.replace("low: [sw]", "low: [sw, en]") + "surprise: 1\n", encoding="utf-8")
    ended = langsearch(command, "tiny.yaml")
    assert ended.code == 2
    assert ended.err.splitlines() == [
        "error: tiny.yaml:26: `surprise` must be a section of a space, but is none. Valid: name, base, languages, "
        "data, architecture, trainer, evaluation, baselines, search, resources, failures, checkpoints, tracking, "
        "prior.",
        "error: tiny.yaml:13: `trainer.epochs` must be a whole number of at least 1, but got 'none'",
        "error: tiny.yaml:24: `search.sampler` must be one of tpe, gp, nsga2, random, grid, but got 'tpee'. "
        "Did you mean tpe?",
        "error: tiny.yaml:3: `languages.low[1]` must name each language once, but 'en' is the same as 'en'",
    ]
    assert not Path("experiments").exists()


@pytest.mark.parametrize("command", ["run", "check", "train"])
def test_a_space_that_is_not_there_is_told(command: str, langsearch: "Command") -> None:
    ended = langsearch(command, "absent.yaml")
    message = "error: absent.yaml: The file must be readable, but got: No such file or directory\n"
    assert (ended.code, ended.err) == (2, message)


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_constraint_that_nothing_can_keep_is_refused(command: str, space_file: Path, langsearch: "Command") -> None:
    ended = langsearch(command, space_file, "--set", "search.constraints=[trainable_parameters <= 9]")
    assert ended.code == 2
    assert "`search.constraints[0]` must be met by some architecture, but got trainable_parameters <= 9" in ended.err
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
        (
            ("show", "s3://absent"),
            "An experiment's URL must end in FOLDER/NAME, but got s3://absent. `lang",
        ),
        (("report", "absent"), "An experiment must be a folder, but absent is not one."),
        (("translate", "absent", "--from", "en", "--to", "fr"), "Adapters must be a folder that `langsearch export`"),
        (("translate", "ADAPTERS", "--from", "xx", "--to", "fr"), "A language"),
    ],
)
def test_wrong_trials_splits_formats_and_folders_are_refused(
    arguments: tuple[str, ...], message: str, trained: Path, adapters: Path, langsearch: "Command", tmp_path: Path
) -> None:
    places = {"EXPERIMENT": str(trained), "ADAPTERS": str(adapters)}
    ended = langsearch(*(places.get(argument, argument) for argument in arguments))
    assert ended.code == 2
    assert ended.err.startswith(f"error: {message}")
    assert ended.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("run", "tiny.yaml", "--trials", "0"), ("nosuch",), ("check",)])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...], langsearch: "Command") -> None:
    ended = langsearch(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: langsearch" in ended.err
