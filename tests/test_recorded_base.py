"""An experiment goes on with the base that it began with: at its commit, with its weights, as its family."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from langsearch.adapters.peft_export import read_export
from langsearch.cluster.packing import pack
from langsearch.experiment.environment import check_space
from langsearch.experiment.recorded_base import BASE_FILE, RecordedBase, check_recorded, read_recorded, recorded_source
from langsearch.model.finding import locate_base
from langsearch.search.checking import describe_check, print_check
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import BaseSource
from langsearch.trial.card_examples import adapter_lines
from langsearch.trial.standalone import train_single
from langsearch.trial.translating import translate_lines
from tests.hub_fixtures import BASE, Hub, commit_of, fill_cache, published, tiny_model, write_files

pytest_plugins = ["search_fixtures", "tests.hub_fixtures"]

SETTINGS = ["trainer.epochs=1", "baselines=[]", "architecture.rank=2", "trainer.lr=0.01"]


def train(space: Path, to: Path, base: str, *, resume: bool = False) -> None:
    train_single(Console(quiet=True), space, None, to, [*SETTINGS, f"base={base}"], resume=resume)


def test_a_training_keeps_to_the_commit_it_began_with_and_its_adapters_name_it(
    space_file: Path, hub_cache: Path, tmp_path: Path
) -> None:
    old = fill_cache(hub_cache, published("bin"))
    train(space_file, tmp_path / "out", BASE)
    assert read_recorded(tmp_path / "out") == RecordedBase(BASE, old, old, "m2m100")
    new = fill_cache(hub_cache, published("bin", tiny_model(1)))
    assert locate_base(BASE).commit == new
    train(space_file, tmp_path / "out", BASE, resume=True)
    assert recorded_source(tmp_path / "out", BaseSource(BASE)) == BaseSource(BASE, old)
    exported = read_export(tmp_path / "out" / "adapters")
    assert exported.source == BaseSource(BASE, old, "m2m100")
    adapter = next((tmp_path / "out" / "adapters").glob("*/adapter_config.json"))
    assert json.loads(adapter.read_text())["revision"] == old
    assert len(list(translate_lines(tmp_path / "out" / "adapters", [b"One."], "en", "fr", 1))) == 1


def test_another_revision_is_refused_with_both_commits(space_file: Path, hub_cache: Path, tmp_path: Path) -> None:
    old = fill_cache(hub_cache, published("bin"))
    new = fill_cache(hub_cache, published("bin", tiny_model(1)), "refs/pr/2")
    train(space_file, tmp_path / "out", BASE)
    with pytest.raises(InputError, match=rf"has the commit {old} of someone/tiny, which has {new} now. Set base.rev"):
        train(space_file, tmp_path / "out", f"{{id: {BASE}, revision: refs/pr/2}}", resume=True)
    train(space_file, tmp_path / "out", f"{{id: {BASE}, revision: {old}}}", resume=True)


def test_a_folder_whose_weights_changed_is_refused_with_both_fingerprints(
    space_file: Path, hub_cache: Path, tmp_path: Path
) -> None:
    folder = write_files(tmp_path / "base", published("bin"))
    train(space_file, tmp_path / "out", str(folder))
    first = locate_base(str(folder)).fingerprint()
    write_files(folder, published("bin", tiny_model(1)))
    second = locate_base(str(folder)).fingerprint()
    with pytest.raises(InputError, match=rf"has the weights {first} of .*, which has {second} now. Put the weights"):
        train(space_file, tmp_path / "out", str(folder), resume=True)


def test_what_an_earlier_version_began_goes_on(space_file: Path, hub_cache: Path, tmp_path: Path) -> None:
    folder = write_files(tmp_path / "base", published("safetensors"))
    train(space_file, tmp_path / "out", str(folder))
    (tmp_path / "out" / BASE_FILE).unlink()
    train(space_file, tmp_path / "out", str(folder), resume=True)
    assert read_recorded(tmp_path / "out") is not None


def test_another_family_is_refused(tmp_path: Path) -> None:
    found = locate_base("tiny-m2m")
    (tmp_path / BASE_FILE).write_text(
        json.dumps({"id": "tiny-m2m", "commit": None, "fingerprint": found.fingerprint(), "family": "m2m100"})
    )
    check_recorded(tmp_path, found, "m2m100")
    with pytest.raises(InputError, match="took tiny-m2m for a base of the family m2m100, which is small100 now"):
        check_recorded(tmp_path, found, "small100")
    (tmp_path / BASE_FILE).write_text("{}")
    with pytest.raises(InputError, match="must be as langsearch wrote it"):
        read_recorded(tmp_path)


def test_a_check_says_what_a_run_will_fetch_and_fetches_none_of_it(
    space_file: Path, start_hub: Callable[[Hub], Hub]
) -> None:
    hub = start_hub(Hub({"main": published("sharded bin")}))
    checked = check_space(load_space(space_file, [f"base={BASE}"]))
    assert not [name for name in hub.fetched if name.endswith(".bin")]
    console = Console(record=True, width=300, quiet=True)
    with console.capture() as captured:
        console.quiet = False
        print_check(console, checked)
    text = captured.get()
    assert f"someone/tiny at {commit_of(published('sharded bin'))}, m2m100: 1+1 layers" in text
    assert "2 files of pytorch_model.bin.index.json" in text
    assert "MB are fetched by `run`; kept as safetensors in" in text
    described = describe_check(checked)["base"]
    assert described["bytes_to_fetch"] == sum(
        len(content) for name, content in published("sharded bin").items() if name.endswith(".bin")
    )


def test_a_check_refuses_a_base_whose_weights_are_torn(space_file: Path, hub_cache: Path) -> None:
    fill_cache(hub_cache, published("bin") | {"pytorch_model.bin": published("bin")["pytorch_model.bin"][:5000]})
    with pytest.raises(InputError, match="weights must be whole"):
        check_space(load_space(space_file, [f"base={BASE}"]))


def test_a_card_loads_the_base_at_its_commit(hub_cache: Path, space_file: Path) -> None:
    from langsearch.model.base import load_base

    commit = fill_cache(hub_cache, published("safetensors"))
    checked = check_space(load_space(space_file, [f"base={BASE}"]))
    architecture = checked.space.architecture({"rank.high": 2, "rank.low": 2, "trainer.lr": 0.001}, checked.shape)
    lines = adapter_lines(load_base(checked.base), checked.directions, architecture)
    assert lines[1] == f'place = "{BASE}"'
    loading = [line for line in lines if ".from_pretrained(place" in line]
    assert len(loading) == 2 and all(f'(place, revision="{commit}", ' in line for line in loading)


def test_of_a_bases_folder_what_loading_takes_goes_along(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    files = published("both")
    write_files(tmp_path / "base", files | {"tf_model.h5": b"x", "optimizer.pt": b"x"})
    space = load_space(space_file, ["base={id: base, family: m2m100}"])
    (tmp_path / "packed").mkdir()
    assert pack(space, tmp_path / "packed") == ["base"]
    packed = load_space(tmp_path / "packed" / "space.yaml")
    assert packed.base_source == BaseSource("files/0-base", family="m2m100")
    names = {path.name for path in (tmp_path / "packed" / "files" / "0-base").iterdir()}
    assert names == set(files) - {"pytorch_model.bin"}


@pytest.mark.parametrize(
    ("written", "resolved"),
    [
        ("tiny-m2m", "base: tiny-m2m"),
        ("{id: tiny-m2m}", "base: tiny-m2m"),
        ("{id: a/b, revision: refs/pr/3}", "base: {id: a/b, revision: refs/pr/3}"),
        ("{id: a/b, family: small100}", "base: {id: a/b, family: small100}"),
    ],
)
def test_a_base_is_resolved_to_its_shortest_form(written: str, resolved: str, space_file: Path) -> None:
    assert resolved in load_space(space_file, [f"base={written}"]).text.splitlines()


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{id: a/b, revision: 12}", "`base.revision` must be text, but got 12"),
        ("{revision: main}", "`base.id` must be given, but is missing"),
        ("[a]", r"`base` must be text, but got \['a'\]"),
        ("{id: a/b, family: t5}", "`base.family` must be one of m2m100, small100, nllb, mbart50, but got 't5'"),
        ("{id: a/b, tag: x}", "`base.tag` must be a key of `base`, but is none"),
    ],
)
def test_a_base_that_is_written_wrong_is_told(written: str, problem: str, space_file: Path) -> None:
    with pytest.raises(InputError, match=problem):
        load_space(space_file, [f"base={written}"])
