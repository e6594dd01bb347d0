"""The benchmark for GPUs, on a CPU: that it runs to its end, and tells what it leaves out."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.model.device import Resident
from tests.benchmarks import gpu, gpu_decoding, gpu_parts
from tests.benchmarks.gpu_decoding import decode_in_a_loop, decode_mixed, random_sentences
from tests.benchmarks.step_variants import random_base
from tests.benchmarks.timing import time_in_turn

CPU = torch.device("cpu")
SMALL = ["--device", "cpu", "--sizes", "small", "--minutes", "2"]


@pytest.fixture(autouse=True)
def small_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_parts, "_MAX_ROUNDS", 2)
    monkeypatch.setattr(gpu_parts, "_MAX_DECODINGS", 1)
    monkeypatch.setattr(gpu_decoding, "_MAX_TOKENS", 6)


def run(path: Path) -> list[dict[str, Any]]:
    gpu.main([*SMALL, "--json", str(path)])
    rows: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return rows


def test_every_part_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    rows = run(tmp_path / "figures.json")
    assert [row["what"].split(",")[0] for row in rows] == [
        "floor",
        "langsearch",
        "PEFT",
        "full fine-tuning",
        *(f"langsearch in {name}" for name in ("fp32", "bf16", "fp16")),
        *("greedy", "greedy", "beam 5", "beam 5"),
    ]
    for row in rows:
        assert row["milliseconds"] > 0 and row["ratio"] > 0 and row["per_second"] > 0 and row["num_rounds"] > 0, row
        assert (row["note"], row["weights"], row["trained"], row["working"]) == ("", None, None, None)
        assert row["ratio_to"] == ("loop" if "directions" in row["what"] else "floor")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("no GPU")
    assert "trainer.precision: auto is fp32 here" in printed
    assert any(line.startswith("a step: 4 x 6 tokens a side") for line in printed)
    assert len(printed) == 7 + len(rows)
    assert all(len(line) < 160 for line in printed)


def test_torch_and_transformers_are_enough() -> None:
    absent = ["ray", "optuna", "peft", "pyarrow", "sacrebleu", "sentencepiece", "pydantic", "ruamel.yaml", "typer"]
    # None in sys.modules makes an import fail as if the package were not installed.
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
    code += "from tests.benchmarks import gpu, gpu_decoding, gpu_parts\n"
    code += f"gpu_parts._MAX_ROUNDS = gpu_parts._MAX_DECODINGS = 1\ngpu_decoding._MAX_TOKENS = 6\ngpu.main({SMALL})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr
    assert "PEFT is not installed: left out" in result.stdout
    assert "langsearch, 12 languages" in result.stdout and "beam 5, 6 directions in a loop" in result.stdout
    assert "PEFT, one shared LoRA" not in result.stdout


def test_what_does_not_fit_into_memory_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*values: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has …")

    monkeypatch.setattr(gpu_parts, "full", fail)
    monkeypatch.setattr(gpu_parts, "shared_peft", fail)
    monkeypatch.setattr(gpu_parts, "find_spec", lambda name: True)
    monkeypatch.setattr(gpu_parts, "decode_mixed", fail)
    rows = {row["what"]: row for row in run(tmp_path / "figures.json")}
    left_out = {name for name, row in rows.items() if row["milliseconds"] is None}
    assert left_out == {"PEFT, one shared LoRA", "full", "greedy", "beam 5"}
    assert {rows[name]["note"] for name in left_out} == {"left out, does not fit: CUDA out of memory"}


def test_without_time_nothing_is_measured_and_all_of_it_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    gpu.main([*SMALL[:-1], "0"])
    assert capsys.readouterr().out.count("left out: no time was left") == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_machine_without_a_gpu_is_told_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main([])
    told = capsys.readouterr().err
    assert told.startswith("This benchmark needs a GPU that CUDA can use, but here: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--device", "cpu"], "--device cpu must come with --sizes small"),
        (["--device", "cpu", "--sizes", "small,512"], "--device cpu must come with --sizes small"),
        (["--sizes", "513"], "--sizes must be some of 512, 1024, 2048, small, but got 513."),
    ],
)
def test_wrong_options_are_told_in_a_sentence(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert capsys.readouterr().err.startswith(told)


def test_both_ways_of_decoding_do_the_same_work() -> None:
    size = gpu.SIZES["small"]
    text = random_sentences(random_base(size, Resident(CPU, torch.float32)), size, 3, 2)
    assert (len(text.rows), text.num_rows, text.some(4).num_rows) == (6, 12, 8)
    rows = [row for of_direction in text.rows.values() for row in of_direction]
    looped = decode_in_a_loop(text, 1)
    for row, mixed, alone in zip(rows, decode_mixed(text, 1), looped, strict=True):
        assert len(mixed) == len(row.tokens) + 12
        assert alone[1 : len(mixed)] == mixed[:-1]
        assert len(alone) - 1 >= len(mixed)
    assert all(len(tokens) >= len(row.tokens) + 12 for row, tokens in zip(rows, decode_mixed(text, 5), strict=True))


def test_a_part_takes_the_time_that_the_ones_before_it_left() -> None:
    given = dict(gpu_parts.shares({"a": 1.0, "b": 3.0}, 8.0))
    assert given["a"] == pytest.approx(2.0, abs=0.5)
    assert given["b"] == pytest.approx(8.0, abs=0.5)


def test_rounds_end_with_the_time() -> None:
    steps = {"a": lambda: None, "b": lambda: None}
    assert {name: len(taken) for name, taken in time_in_turn(steps, CPU, num_rounds=5).items()} == {"a": 5, "b": 5}
    assert {len(taken) for taken in time_in_turn(steps, CPU, num_rounds=5, seconds=0.0).values()} == {1}
