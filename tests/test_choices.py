"""What adapters have chosen: measured, written, read, shown."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from langsearch.adapters.choices import gate_shares, pool_shares
from langsearch.adapters.gated import GatedLoRA
from langsearch.adapters.learners import adapt
from langsearch.adapters.pool import PooledLoRA
from langsearch.data.directions import all_directions
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.report.choice_figures import choice_views
from langsearch.report.choices import Choices, choice_sentences, read_choices
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.page import render_page
from langsearch.report.showing import find_trial, print_trial, trial_data
from langsearch.report.summary import summarise
from langsearch.space.architecture import Architecture
from tests.adapter_cases import CASES
from tests.report_fixtures import make_experiment
from tests.test_adapter_kinds import batch_of

LANGUAGES = ("en", "fr", "de", "sw")
Architect = Callable[..., Architecture]


def test_gates_are_measured_by_site_and_language_without_padding(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore
) -> None:
    base = new_base()
    learner = adapt(base, make_architecture(**CASES["gated"][1]), LANGUAGES)
    assert isinstance(learner.adapters, GatedLoRA)
    for layer in learner.adapters.layers.values():
        for index, slot in enumerate(layer.pair.slots):
            layer.c.data[index] = 20.0 if slot == "en" else -20.0
    batch = batch_of(quickstart_store, base, list(all_directions(LANGUAGES)), num_rows=3)
    found = gate_shares(learner, [batch, batch])
    assert set(found) == {str(site) for site in learner.adapters.layers}
    # German has no adapter, and so no gate.
    assert all(shares == {"en": 1.0, "fr": 0.0, "sw": 0.0} for shares in found.values())
    one = learner.adapters.layers[next(iter(learner.adapters.layers))]
    one.w.data.normal_(generator=torch.Generator().manual_seed(0)).mul_(10)
    one.c.data.zero_()
    shares = gate_shares(learner, [batch])[next(iter(found))]
    assert all(0 < share < 1 for share in shares.values())
    longer = replace(
        batch,
        src_ids=torch.nn.functional.pad(batch.src_ids, (0, 7), value=base.vocabulary(LANGUAGES).pad_id),
        src_mask=torch.nn.functional.pad(batch.src_mask, (0, 7)),
    )
    assert gate_shares(learner, [longer])[next(iter(found))] == pytest.approx(shares, abs=1e-6)
    assert pool_shares(learner) == {}


def test_a_pool_s_shares_are_a_mixture_first_and_one_member_then(
    new_base: Callable[[], Base], make_architecture: Architect
) -> None:
    learner = adapt(new_base(), make_architecture(**CASES["pool"][1]), LANGUAGES)
    assert isinstance(learner.adapters, PooledLoRA)
    soft = pool_shares(learner)
    assert set(soft) == {"src", "tgt"} and set(soft["src"]) == set(LANGUAGES)
    assert all(
        0.2 < share < 0.5 and sum(shares) == pytest.approx(1) for shares in soft["src"].values() for share in shares
    )
    learner.before_update(0.9)
    assert all(sorted(shares) == [0, 0, 1] for shares in pool_shares(learner)["tgt"].values())
    assert gate_shares(learner, []) == {}


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """One whose best trial has gates and a pool."""
    full_experiment = make_experiment(tmp_path / "chosen")
    best = summarise(read_experiment(full_experiment)).best
    assert best is not None
    choices = {
        "pool": {"src": {"en": [1.0, 0.0], "fr": [0.25, 0.75], "sw": [0.0, 1.0]}},
        "gates": {
            "encoder.0.fc1": {"en": 0.0, "sw": 0.5},
            "encoder.0.fc2": {"en": 0.5, "sw": 1.0},
            "decoder.1.fc1": {"sw": 0.25},
            "nowhere": {"en": 1.0},
        },
    }
    folder = full_experiment / "trials" / (best.same_as or best.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choices.json").write_text(json.dumps(choices), encoding="utf-8")
    return full_experiment


def test_choices_are_read_by_layer_and_shown(experiment: Path) -> None:
    read = read_experiment(experiment)
    best = summarise(read).best
    assert best is not None
    found = read_choices(read, best)
    assert found.gates == {("encoder", 0): {"en": 0.25, "sw": 0.75}, ("decoder", 1): {"sw": 0.25}}
    assert found.pool == {"src": {"en": (1.0, 0.0), "fr": (0.25, 0.75), "sw": (0.0, 1.0)}}
    gates, pool = choice_views(found, ("sw", "en"))
    assert gates[1]["data"][0]["z"] == [[75, 25], [25, None]]
    assert pool[1]["data"][0]["x"] == ["pair 1", "pair 2"]
    sentences = choice_sentences(found)
    assert sentences == [
        "Gates are open on 42% of the tokens, mean over layers.",
        "What languages as source give most: pair 1: en; pair 2: fr, sw.",
    ]
    out = io.StringIO()
    print_trial(Console(file=out, width=80), read, find_trial(read, best.name))
    assert "encoder 0" in out.getvalue() and "pair 2: fr, sw" in out.getvalue()
    assert trial_data(read, best)["choices"]["gates"]["decoder.1.fc1"] == {"sw": 0.25}
    page = render_page(read)
    assert "What the best trial" in page and "pair 1: en" in page


@pytest.mark.parametrize("text", ["{", "[]", '{"gates": 3, "pool": {"src": {"en": "x"}}}', '{"gates": {"a.b.c": 1}}'])
def test_torn_choices_are_left_out(text: str, experiment: Path) -> None:
    read = read_experiment(experiment)
    best = summarise(read).best
    assert best is not None
    (experiment / "trials" / (best.same_as or best.name) / "choices.json").write_text(text, encoding="utf-8")
    assert read_choices(read, best) == Choices()
    assert choice_views(Choices(), ()) == [] == choice_sentences(Choices())
    assert "What the best trial" not in render_page(read)
