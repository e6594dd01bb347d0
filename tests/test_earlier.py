"""Experiments of versions that had other defaults go on as they began."""

from pathlib import Path

import pytest

from langsearch.cluster.packing import pack
from langsearch.experiment.earlier import load_begun_space, with_earlier_defaults, with_open_defaults
from langsearch.experiment.folder import ExperimentFolder
from langsearch.experiment.opening import check_start, start_experiment
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.space_fixtures import SMALL, TINY, load

WRITTEN = "baselines: [pretrained, shared_lora]\n"


@pytest.fixture
def begun(tmp_path: Path) -> ExperimentFolder:
    """An experiment of the small space from when there was no baseline by default."""
    folder = ExperimentFolder(tmp_path / "experiments" / "small")
    return start_experiment(folder.path, load(tmp_path, SMALL + "baselines: []\n"), resume=False)


@pytest.mark.parametrize("is_older", [False, True], ids=["none written", "not written"])
def test_a_search_that_began_without_baselines_goes_on_without(
    begun: ExperimentFolder, is_older: bool, tmp_path: Path
) -> None:
    if is_older:
        begun.space.write_text(begun.space.read_text().replace("baselines: []\n", ""))
    assert load_begun_space(begun.space).baselines == ()
    space = load(tmp_path)
    assert len(space.baselines) == 2
    resumed = with_earlier_defaults(begun, space)
    assert resumed.baselines == ()
    check_start(begun.path, resumed, resume=True)
    asked = with_earlier_defaults(begun, load(tmp_path, SMALL + WRITTEN))
    with pytest.raises(InputError, match=r"baselines: \[\] -> \['pretrained', \{'shared_lora'"):
        check_start(begun.path, asked, resume=True)
    check_start(begun.path, asked, resume=True, accept_changed_space=True)


def test_a_search_that_began_with_them_goes_on_with_them(tmp_path: Path) -> None:
    space = load(tmp_path)
    folder = start_experiment(tmp_path / "experiments" / "small", space, resume=False)
    assert "shared_lora" in folder.space.read_text()
    assert with_earlier_defaults(folder, space) == space == load_begun_space(folder.space)
    check_start(folder.path, load(tmp_path, SMALL + WRITTEN), resume=True)


@pytest.mark.parametrize("written", ["", WRITTEN, "baselines: [pretrained, {shared_lora: {rank: 4}}]\n"])
def test_a_search_that_began_when_a_shared_lora_started_as_peft_does_goes_on_so(written: str, tmp_path: Path) -> None:
    space = load(tmp_path, SMALL + written)
    folder = start_experiment(tmp_path / "experiments" / "small", space, resume=False)
    text = folder.space.read_text()
    assert "{init: published" in text
    assert with_earlier_defaults(folder, space) == space
    folder.space.write_text(text.replace("{init: published}", "{}").replace("{init: published, ", "{"))
    resumed = with_earlier_defaults(folder, space)
    check_start(folder.path, resumed, resume=True)
    for found in (resumed, load_begun_space(folder.space)):
        architecture = found.baseline_architecture("shared_lora", TINY)
        assert architecture is not None
        assert architecture.init == "peft"


def test_a_search_that_began_with_another_sampler_goes_on_with_it(tmp_path: Path) -> None:
    space = load(tmp_path)
    assert space.search.sampler == "gp"
    folder = start_experiment(tmp_path / "experiments" / "small", space, resume=False)
    folder.space.write_text(folder.space.read_text().replace("sampler: gp", "sampler: tpe"))
    resumed = with_earlier_defaults(folder, space)
    assert resumed.search.sampler == "tpe"
    check_start(folder.path, resumed, resume=True)
    asked = with_earlier_defaults(folder, load(tmp_path, SMALL + "search: {sampler: gp}\n"))
    with pytest.raises(InputError, match=r"search\.sampler: tpe -> gp"):
        check_start(folder.path, asked, resume=True)


def test_a_key_that_is_written_as_nothing_is_written_and_no_default(tmp_path: Path) -> None:
    begun = load(tmp_path, SMALL, "evaluation.search.rows_per_batch=128")
    folder = start_experiment(tmp_path / "experiments" / "small", begun, resume=False)
    assert with_earlier_defaults(folder, load(tmp_path)).evaluation.search.rows_per_batch == 128
    asked = load(tmp_path, SMALL, "evaluation.search.rows_per_batch=null")
    assert with_earlier_defaults(folder, asked).evaluation.search.rows_per_batch is None
    assert "rows_per_batch" in with_open_defaults(asked)["evaluation"]["search"]


def test_a_space_that_is_sent_leaves_open_what_its_experiment_may_have_begun_with(
    begun: ExperimentFolder, tmp_path: Path
) -> None:
    begun.space.write_text(begun.space.read_text().replace("normalize: nfc", ""))
    for text, num in ((SMALL, 0), (SMALL + WRITTEN, 2)):
        sent = tmp_path / f"sent-{num}"
        sent.mkdir()
        pack(load(tmp_path, text), sent)
        there = load_space(sent / "space.yaml")
        assert there == load(tmp_path, text), "a search that begins there is the same"
        resumed = with_earlier_defaults(begun, there)
        assert (len(resumed.baselines), resumed.data.normalize) == (num, "none")
