import re
from pathlib import Path

import pytest

from langsearch.experiment.environment import check_space
from langsearch.model.finding import EMBEDDED_FOLDER
from langsearch.space.schema import load_space
from tests.benchmarks import where_it_learns
from tests.benchmarks.search_efficiency.for_real import METHODS, settings_of
from tests.benchmarks.search_efficiency.replay import FOLDER as EFFICIENCY

FOLDER = Path(__file__).parents[1] / "search_spaces"
SHIPPED = sorted(FOLDER.rglob("*.yaml"))


def test_every_shipped_space_is_known_here() -> None:
    assert [str(path.relative_to(FOLDER)) for path in SHIPPED] == [
        "flores12.yaml",
        "flores30.yaml",
        "flores8.yaml",
        "grains.yaml",
        "planted.yaml",
        "quickstart.yaml",
        "systems.yaml",
        "verses10.yaml",
    ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_space_loads_under_its_files_name(path: Path) -> None:
    assert load_space(path).name == path.stem


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_header_tells_command_hardware_time_and_score(path: Path) -> None:
    header = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert header is not None
    for word in ("Command", "Hardware", "Time", "Score"):
        assert re.search(rf"^# {word}:\s+\S", header[0], flags=re.MULTILINE), f"{word} is missing"
    assert f"langsearch run search_spaces/{path.name}" in header[0]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_space_that_needs_nothing_from_outside_is_right_as_a_whole(path: Path) -> None:
    space = load_space(path)
    sources = {source.kind for source in (*space.data.train, *space.data.validation, *space.data.test)}
    if not (EMBEDDED_FOLDER / space.base).is_dir() or sources != {"embedded"}:
        pytest.skip("needs a base or sentences that are not in the package")
    assert check_space(space).space is space


@pytest.mark.shared
def test_flores8_is_right_with_the_real_sentences(shared_folder: Path) -> None:
    space = load_space(FOLDER / "flores8.yaml", [f"data.folder={shared_folder / 'data' / 'flores101'}"])
    corpus = check_space(space).corpus
    assert [len(text) for text in (corpus.train, corpus.validation, corpus.test)] == [897, 100, 1012]


@pytest.mark.shared
def test_flores30_is_right_with_the_real_sentences_on_a_base_of_its_kind(shared_folder: Path) -> None:
    # The embedded base has the same hundred languages, and fewer layers.
    instead = ["base=tiny-m2m", "evaluation.spbleu=base", f"data.folder={shared_folder / 'data' / 'flores101'}"]
    layers = ["architecture.encoder={source_layers: {int: [0, 3]}}", "architecture.decoder={layers: {window: [0, 3]}}"]
    checked = check_space(load_space(FOLDER / "flores30.yaml", [*instead, *layers, "resources={cpu: 1}"]))
    corpus = checked.corpus
    assert [len(text) for text in (corpus.train, corpus.validation, corpus.test)] == [897, 100, 1012]
    assert len(checked.directions) == 870


@pytest.mark.parametrize("method", METHODS)
def test_the_searches_of_the_efficiency_benchmark_are_right(method: str) -> None:
    space = load_space(EFFICIENCY / "space.yaml", settings_of(method, 1))
    assert (space.prior.sides, space.prior.subspace, space.search.seed) == (None, None, 1)


@pytest.mark.parametrize("name", [*where_it_learns.PARTS, *where_it_learns.ADAPTERS])
def test_a_part_of_the_study_s_base_is_trained_at_the_rate_that_the_benchmark_names(name: str) -> None:
    space = where_it_learns.space_of(name)
    assert space.baselines or not space.dimensions(), "a trial of its own is fixed"
    trainers = [space.baseline_trainer(item.name) for item in space.baselines] or [space.trainer({})]
    (rate,) = {trainer.lr for trainer in trainers}
    assert rate == (where_it_learns.FULL_RATE if name in where_it_learns.PARTS else where_it_learns.LORA_RATE)
