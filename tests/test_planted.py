"""The benchmark of planted ciphers: what is planted, what is called the truth, and its easiest part as a whole."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from langsearch.experiment.environment import build_environment, check_space
from langsearch.model.base import load_base
from tests.benchmarks.planted.__main__ import (
    PLANTED,
    digest,
    make,
    score_by_hand,
    space_in,
    train_in_doubt,
    train_points,
)
from tests.benchmarks.planted.found import SEARCHED, near_truth, share, smallest, trainings_until
from tests.benchmarks.planted.languages import NUM_PAIRS, NUM_SENTENCES, WORDS, swaps, write_sentences
from tests.benchmarks.planted.truth import in_doubt, neighbours, truth_of
from tests.benchmarks.search_efficiency.make_table import grid, pretrained_spbleu, shares
from tests.benchmarks.search_efficiency.replay import Trained, replay, trained_of


def row(size: int, spbleu: float, **params: Any) -> dict[str, Any]:
    epoch = {"spbleu_1": spbleu, "train_seconds_1": 1.0, "seconds_1": 1.5}
    return {"params": json.dumps(params), "trainable_parameters": size, "epochs": 1, **epoch}


def windows(size: int, spbleu: float, rank: int, start: int, length: int) -> dict[str, Any]:
    return row(size, spbleu, **{"rank": rank, "decoder.layers.start": start, "decoder.layers.length": length})


ROWS = {
    "a": windows(100, 60.0, 1, 0, 1),
    "b": windows(100, 97.4, 1, 1, 1),
    "c": windows(200, 85.0, 2, 0, 1),
    "d": windows(200, 99.3, 2, 1, 1),
    "e": windows(400, 99.9, 4, 1, 1),
    "f": windows(400, 99.8, 2, 0, 2),
}


def test_a_cipher_swaps_as_many_disjoint_pairs_of_words_as_it_is_said_to(tmp_path: Path) -> None:
    write_sentences(tmp_path)
    for language, num_pairs in NUM_PAIRS.items():
        pairs = swaps(language)
        assert len({word for pair in pairs for word in pair}) == 2 * num_pairs
        changes = {WORDS[one]: WORDS[other] for pair in pairs for one, other in (pair, pair[::-1])}
        for part, num in NUM_SENTENCES.items():
            hub, own = ((tmp_path / part / f"{name}.txt").read_text().splitlines() for name in ("hub", language))
            assert own == [" ".join(changes.get(word, word) for word in line.split()) for line in hub]
            assert len(own) == num


def test_the_planted_architecture_is_a_point_of_the_space_and_has_neighbours_on_all_sides() -> None:
    space = space_in(Path("unmade"))
    points = [point for point in grid(space) if point["decoder.layers.start"] + point["decoder.layers.length"] <= 2]
    assert PLANTED in points and len(points) == 324
    rows = {str(number): row(1, 1.0, **point) for number, point in enumerate(points)}
    # The other rank of plain, of source two, of light two, of heavy one below; the other side; two other windows.
    assert len(neighbours(rows, [str(points.index(dict(PLANTED)))])) == 9


def test_the_truth_is_the_smallest_whose_mean_score_reaches_the_best_less_the_margin() -> None:
    assert truth_of(ROWS, {}).names == ("d",)
    lucky = {"d": windows(200, 98.1, 2, 1, 1)}
    # 98.7 is a mean of trainings that are 1.2 apart: their spread is 0.85, the margin 1.7.
    truth = truth_of(ROWS, lucky)
    assert truth.names == ("d",) and truth.spread == pytest.approx(0.8485, abs=1e-4)
    assert truth.margin == pytest.approx(1.697, abs=1e-3)
    assert truth_of(ROWS, lucky | {"d": windows(200, 96.0, 2, 1, 1), "e": windows(400, 99.9, 4, 1, 1)}).names != ("d",)
    assert truth_of({**ROWS, "g": windows(200, 99.5, 3, 1, 1)}, {}).names == ("d", "g")


def test_the_truth_its_neighbours_and_what_is_smaller_and_nearly_as_good_are_in_doubt() -> None:
    truth = truth_of(ROWS, {})
    assert neighbours(ROWS, truth.names) == ["b", "c", "e", "f"]
    # a is two steps away, and far worse.
    assert in_doubt(ROWS, truth) == ["b", "c", "d", "e", "f"]


def test_searches_are_counted_by_what_they_cost_until_they_have_the_truth_or_something_near_it() -> None:
    trained = Trained(ROWS, {}, 50.0, 1.0, 0.5, {})
    truth = truth_of(ROWS, {})
    assert near_truth(trained, truth) == ("d", "d")
    # Of six trainings, half of the cost is three.
    runs = [[(0.25, "a"), (0.5, "d")], [(0.5, "e"), (1.0, "f")]]
    assert trainings_until(runs[0], truth.names, trained) == 3.0
    assert [share(runs, truth.names, trained, num) for num in (2, 3, 6)] == [0.0, 0.5, 0.5]
    assert [smallest(runs, trained, truth, num) for num in (2, 3)] == ["none", "1.50"]


@pytest.mark.integration
def test_what_is_planted_suffices_by_hand_and_a_search_finds_the_smallest_of_the_easiest_part(tmp_path: Path) -> None:
    """Only light and the decoder's layers are searched: nine architectures, of which one is the truth."""
    torch.set_num_threads(1)
    make(tmp_path)
    whole = check_space(space_in(tmp_path))
    base = load_base(whole.space.base)
    environment = build_environment(whole, base, tmp_path / "store")
    _, by_hand = score_by_hand(base, whole, environment)
    assert by_hand >= 99.5

    fixed = ["rank.plain=0", "rank.source=4", "rank.heavy=12", "encoder.source_layers=1"]
    changes = [*(f"architecture.{change}" for change in fixed), "prior=null"]
    checked, again = (check_space(space_in(tmp_path, seed, changes)) for seed in (0, 1))
    kept = tmp_path / f"kept-{digest(tmp_path, checked.space)}"
    rows = train_points(base, checked, environment, grid(checked.space), kept / "seed0")
    assert len(rows) == 9
    seconds, truth = train_in_doubt(base, again, environment, rows, kept)
    [point] = [json.loads(rows[name]["params"]) for name in truth.names]
    assert point == {"rank.light": 2, "decoder.layers.start": 1, "decoder.layers.length": 1}
    assert truth.best >= 99.5

    trained = trained_of(rows, seconds, pretrained_spbleu(base, environment), shares())
    found = replay(SEARCHED["tpe"], 0, checked.space, trained, {}, max_cost=2.0)
    assert trainings_until(found, truth.names, trained) <= len(rows)
