import json
from dataclasses import replace
from pathlib import Path

import pytest

from langsearch.experiment.environment import CheckedSpace, check_space
from langsearch.search import needs
from langsearch.search.needs import describe_needs, memory_lines, memory_needs
from langsearch.space.schema import load_space

pytest_plugins = ["search_fixtures"]


def needs_of(space_file: Path, *overrides: str) -> tuple[CheckedSpace, list[str]]:
    checked = check_space(load_space(space_file, overrides))
    return checked, memory_lines(checked, memory_needs(checked, 33_792))


def machine(monkeypatch: pytest.MonkeyPatch, total: int, cpus: int = 2) -> None:
    monkeypatch.setattr(needs, "available_cpus", lambda: cpus)
    monkeypatch.setattr(needs, "total_bytes", lambda device: total)


def test_a_trial_and_full_fine_tuning_are_told_with_their_parts(
    space_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, 24 * 10**9)
    checked, (trial, full, process, room) = needs_of(space_file, "trainer.tokens_per_batch=16000")
    assert trial.startswith("a trial about ") and "base 10 MB, trained 0 MB, gradients 0 MB" in trial
    assert "base 10 MB, trained 10 MB, gradients 14 MB, optimizer 19 MB" in full
    assert process.startswith("each beside the process itself, some 0.8 GB with its libraries")
    assert room == "this machine's CPU has 24 GB: enough for the 2 trials that share it"
    found = json.loads(json.dumps(describe_needs(checked, memory_needs(checked, 33_792))))
    assert found["device"] == {"name": "CPU", "total": 24 * 10**9}
    parts = found["full_fine-tuning"]
    assert parts.pop("total") == sum(parts.values())


def test_what_does_not_fit_is_said_with_a_way_out(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 100 * 10**6)
    _, (*_, room) = needs_of(space_file, "trainer.tokens_per_batch=16000")
    assert room.startswith("this machine's CPU has 100 MB, which is too little for a trial and full fine-tuning. ")
    assert room.endswith("Raise `trainer.accumulation`, or set `trainer.tokens_per_batch: auto`.")
    machine(monkeypatch, 20 * 10**6)
    _, (*_, room) = needs_of(space_file, "trainer.tokens_per_batch=600")
    assert room.endswith("full fine-tuning fits with no batch, however small.")


def test_memory_and_time_tell_of_as_many_trials_at_once(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, 2 * 10**9, cpus=4)
    checked, (*_, room) = needs_of(space_file)
    assert needs.num_at_once(checked.space) == 4
    assert "enough for one, but 4 trials share it, and may run out of memory together" in room
    # Tries of full fine-tuning may meet: four of them take more than one and three trials.
    machine(monkeypatch, 3_630 * 10**6, cpus=4)
    _, (*_, room) = needs_of(space_file)
    assert room.endswith("enough for the 4 trials that share it")
    _, (*_, room) = needs_of(space_file, "baselines=[{full_finetuning: {tune: 4}}]")
    assert "enough for one, but 4 trials share it" in room
    machine(monkeypatch, 2 * 10**9, cpus=4)
    _, (*_, room) = needs_of(space_file, "resources.cpu=4")
    assert room.endswith("enough for the one trial that runs at a time")


def test_a_batch_that_is_found_counts_as_its_largest_and_searched_ones_too(space_file: Path) -> None:
    def activations(setting: str) -> int:
        checked, _ = needs_of(space_file, f"trainer.tokens_per_batch={setting}")
        return memory_needs(checked, 33_792)["a trial"].activations

    assert activations("auto") == activations("16000") == activations("{choice: [auto, 600]}")
    assert activations("{int: [600, 8000]}") == activations("8000") < activations("16000")


def test_without_a_gpu_here_no_verdict_is_given(space_file: Path) -> None:
    checked = check_space(load_space(space_file))
    elsewhere = replace(checked, space=load_space(space_file, ["resources.gpu=1"]))
    if needs._room(elsewhere) is None:
        assert memory_lines(elsewhere, {})[-1].startswith("this machine shows no GPU")
