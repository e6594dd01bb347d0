"""What terms on encodings have come to: lines found in the pivot language, the language that a probe reads."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from rich.console import Console

from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.data.store import TokenStore
from langsearch.experiment.environment import Environment
from langsearch.experiment.folder import TrialFolder, read_json
from langsearch.model.base import Base
from langsearch.report.choice_figures import choice_views
from langsearch.report.choices import choice_sentences, read_choices
from langsearch.report.experiment_reader import read_experiment
from langsearch.report.page import render_page
from langsearch.report.showing import print_trial
from langsearch.report.summary import summarise
from langsearch.space.architecture import Architecture
from langsearch.space.loss_settings import AlignSettings, LanguageAdversarySettings, LossSettings
from langsearch.train.retrieval import retrieval_accuracy
from langsearch.train.sampling import states_of
from langsearch.trial import probing
from langsearch.trial.probing import encoding_findings
from langsearch.trial.trial import run_trial
from tests.report_fixtures import make_experiment

if TYPE_CHECKING:
    from tests.search_fixtures import TaskMaker

pytest_plugins = ["search_fixtures"]

LANGUAGES = ("en", "fr", "de", "sw")
BOTH = LossSettings(align=AlignSettings(pivot="en"), language_adversary=LanguageAdversarySettings())
Architect = Callable[..., Architecture]


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_found_as_far_as_encodings_are_alike(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    others, lines = torch.randn(100, 16, generator=generator), torch.arange(100)
    assert retrieval_accuracy(3 * others, others, lines) == 1
    assert retrieval_accuracy(torch.randn(100, 16, generator=generator), others, lines) <= 0.1
    half = torch.where(lines[:, None] < 50, others, -others)
    assert retrieval_accuracy(half, others, lines) == pytest.approx(0.5, abs=0.02)


def test_of_lines_that_read_the_same_each_is_right() -> None:
    others = torch.eye(3)[[0, 1, 1]]
    assert retrieval_accuracy(torch.eye(3)[[0, 1, 1]], others, torch.tensor([0, 1, 1])) == 1
    assert retrieval_accuracy(torch.eye(3)[[0, 1, 1]], others, torch.arange(3)) < 1


def test_the_base_is_what_it_was_before_and_is_asked_once(
    new_base: Callable[[], Base],
    make_architecture: Architect,
    quickstart_store: TokenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = new_base()
    given = quickstart_store, base.vocabulary(LANGUAGES), BOTH
    learner = adapt(base, make_architecture(), LANGUAGES)
    encoded: list[str] = []

    def watched(*given: Any, **how: Any) -> torch.Tensor:
        encoded.append(given[3])
        return states_of(*given, **how)

    monkeypatch.setattr(probing, "states_of", watched)
    untrained = encoding_findings(learner, *given, {})
    assert sorted(encoded) == sorted(2 * LANGUAGES), "lines that all have are encoded once in the pivot language"
    for shares in untrained["retrieval"]["languages"].values():
        assert shares["before"] == shares["after"] and shares["num_sentences"] == quickstart_store.num_sentences
    assert set(untrained["retrieval"]["languages"]) == {"fr", "de", "sw"}
    assert untrained["probe"]["before"] == untrained["probe"]["after"] and untrained["probe"]["chance"] == 0.25
    generator = torch.Generator().manual_seed(0)
    for value in learner.state().values():
        value.add_(torch.randn(value.shape, generator=generator))
    mounted = list(learner.model.modules())
    trained = encoding_findings(learner, *given, {})
    assert [*map(id, learner.model.modules())] == [*map(id, mounted)]
    languages = trained["retrieval"]["languages"]
    assert {name: one["before"] for name, one in languages.items()} == {
        name: one["before"] for name, one in untrained["retrieval"]["languages"].items()
    }
    assert any(one["before"] != one["after"] for one in languages.values())
    monkeypatch.setattr(probing, "base_teacher", lambda _: pytest.fail("the base must not be asked again"))
    assert encoding_findings(learner, *given, trained) == trained
    assert encoding_findings(learner, *given[:2], LossSettings(), {}) == {}


def test_a_language_without_lines_in_the_pivot_is_left_out(
    new_base: Callable[[], Base], make_architecture: Architect, quickstart_store: TokenStore, tmp_path: Path
) -> None:
    from langsearch.data.parallel import ParallelText

    sentences = {
        name: tuple(None if name == "en" and row >= 9 else f"{row} x" for row in range(20)) for name in LANGUAGES
    }
    base = new_base()
    text = ParallelText(LANGUAGES, sentences, "few")
    store = TokenStore.build(text, base.tokenizer.encode, base.tokenizer.fingerprint, tmp_path)
    learner: AdaptedModel = adapt(base, make_architecture(), LANGUAGES)
    assert encoding_findings(learner, store, base.vocabulary(LANGUAGES), BOTH, {}) == {}


def test_a_trial_writes_them_with_its_kept_adapters_and_a_plain_one_writes_nothing(
    base: Base, environment: Environment, make_task: "TaskMaker", tmp_path: Path
) -> None:
    task = make_task(epochs=2)
    plain, folder = TrialFolder(tmp_path / "00000"), TrialFolder(tmp_path / "00001")
    for _ in run_trial(base, environment, replace(task, trainer=replace(task.trainer, epochs=1)), plain):
        pass
    assert not plain.choices.exists()
    for _ in run_trial(base, environment, replace(task, trainer=replace(task.trainer, loss=BOTH)), folder):
        pass
    found = read_json(folder.choices)
    assert set(found) == {"retrieval", "probe"} and found["retrieval"]["pivot"] == "en"
    assert set(found["retrieval"]["languages"]) == {"fr", "sw"}
    assert all(0 <= one[key] <= 1 for one in found["retrieval"]["languages"].values() for key in ("before", "after"))
    assert found["probe"]["chance"] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("with_retrieval", [True, False])
def test_they_are_in_show_and_in_the_report(with_retrieval: bool, tmp_path: Path) -> None:
    path = make_experiment(tmp_path / "aligned")
    best = summarise(read_experiment(path)).best
    assert best is not None
    languages = {"fr": {"before": 0.2, "after": 0.9, "num_sentences": 50}, "sw": {"before": 0.1, "after": 0.6}}
    found = {"probe": {"before": 0.98, "after": 0.54, "chance": 0.25}}
    if with_retrieval:
        found["retrieval"] = {"pivot": "en", "languages": languages | {"de": {"before": "x"}}}  # type: ignore[dict-item]
    folder = path / "trials" / (best.same_as or best.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "choices.json").write_text(json.dumps(found), encoding="utf-8")
    experiment = read_experiment(path)
    choices = read_choices(experiment, best)
    *lines, probe = choice_sentences(choices)
    assert probe == (
        "A fresh probe reads the source's language of 54% of the validation sentences, 98% before training "
        "(chance 25%)."
    )
    page = render_page(experiment)
    assert "What the best trial" in page and "98% before training" in page and 'href="#choices"' in page
    out = io.StringIO()
    print_trial(Console(file=out, width=200), experiment, best)
    assert probe in out.getvalue()
    assert (lines != []) == with_retrieval == ("lines found in en" in page)
    if with_retrieval:
        assert choices.retrieval == {"fr": (0.2, 0.9), "sw": (0.1, 0.6)}
        assert lines == [
            "The nearest encoding in en is that of the same line for 15% of the validation sentences before training, "
            "and for 75% after it, mean over languages."
        ]
        assert lines[0] in page and lines[0] in out.getvalue()
        ((title, figure),) = choice_views(choices, ("sw", "fr"))
        assert title == "lines found in en" and figure["data"][0]["z"] == [[10, 60], [20, 90]]
        assert "% of lines found in en" in out.getvalue()
