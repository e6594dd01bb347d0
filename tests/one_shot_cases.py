"""Spaces that are searched by cuts, and their runs."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from langsearch.cli.app import main

SPACES = Path(__file__).parents[1] / "search_spaces"
EFFICIENCY = Path(__file__).parent / "benchmarks" / "search_efficiency" / "space.yaml"
ONE_SHOT = ["search.strategy=one_shot"]
KINDS: dict[str, Any] = {
    "architecture.adapter": {"choice": ["lora", "two_sided+layer_norm", "factorized+bridge"]},
    "architecture.layer_norm": {"stacks": {"choice": ["both", "decoder"]}},
    "architecture.shared_rank": {"choice": [0, 2, 4]},
    "architecture.scaling": {"choice": ["none", "alpha/r"]},
    "architecture.rank": {"high": {"choice": [0, 1, 4]}, "low": {"choice": [1, 4]}},
    "search.donors": 99,
    "search.strategy": "one_shot",
}
KINDS_OF = KINDS["architecture.adapter"]["choice"]


def one_shot_space(folder: Path, text: str, **settings: object) -> Path:
    """Writes the tiny space as one that is searched by cuts."""
    path = folder / "tiny.yaml"
    more = {"cuts": 12, "winners": 2, "sample": 3, **settings}
    text = text.replace("baselines: [pretrained, full_finetuning, shared_lora, published]", "baselines: [pretrained]")
    path.write_text(text.replace("scheduler: none", f"strategy: one_shot, one_shot: {json.dumps(more)}"))
    return path


def run_command(monkeypatch: pytest.MonkeyPatch, *given: str) -> object:
    """Runs a command; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["langsearch", *given])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0
