"""Many bitexts in one space: their rows, caps and weights, what is held out of them, and directions without rows."""

import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from langsearch.data.directions import Direction, all_directions
from langsearch.data.epochs import SourceWeights, plan_epoch
from langsearch.data.parallel import ParallelText
from langsearch.data.presence import held_out_rows, presence, row_groups
from langsearch.data.readers import find_place, read_parts
from langsearch.data.store import TokenStore
from langsearch.experiment.corpus import Corpus, DirectionRows, count_rows, read_corpus, row_problems
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from langsearch.space.settings import DataSettings, Source
from tests.format_fixtures import bitext, rows_of
from tests.space_fixtures import load

if TYPE_CHECKING:
    pass

LANGUAGES = ("en", "fr", "sw")


@pytest.fixture
def three(tmp_path: Path) -> tuple[Source, ...]:
    return bitext(tmp_path, "en", "sw", 700), bitext(tmp_path, "en", "fr", 200), bitext(tmp_path, "fr", "sw", 100)


def copies(sources: tuple[Source, ...], part: str) -> tuple[Source, ...]:
    """Returns sources with the same rows in other files: parts must share none."""
    made = [replace(source, path=f"{source.path}.{part}.tsv", weight=1.0) for source in sources]
    for source, copy in zip(sources, made, strict=True):
        if Path(source.path or "").exists():
            shutil.copy(source.path or "", copy.path or "")
    return tuple(made)


def settings(train: tuple[Source, ...], **values: object) -> DataSettings:
    given: dict[str, object] = {"train": train, "validation": (), "holdout": 10, "holdout_rows": "spread"}
    return DataSettings(**given | {"test": copies(train, "test")} | values)  # type: ignore[arg-type]


def corpus_of(data: DataSettings) -> Corpus:
    return read_corpus(data, LANGUAGES, all_directions(LANGUAGES))


# What is held out


def test_a_holdout_is_taken_from_every_source_in_proportion(three: tuple[Source, ...]) -> None:
    corpus = corpus_of(settings(three))
    held = Counter(next(filter(None, row))[:4] for row in rows_of(corpus.validation))
    assert held == {"ensw": 7, "enfr": 2, "frsw": 1}
    assert len(corpus.train) == 990
    assert not {*rows_of(corpus.train)} & {*rows_of(corpus.validation)}
    assert rows_of(corpus.validation)[0] == ("ensw693 of en", None, "ensw693 of sw")


def test_every_direction_keeps_a_row_in_both_parts(tmp_path: Path) -> None:
    sources = bitext(tmp_path, "en", "sw", 5000), bitext(tmp_path, "en", "fr", 2), bitext(tmp_path, "fr", "sw", 3)
    corpus = corpus_of(settings(sources))
    counts = count_rows(corpus, all_directions(LANGUAGES))
    assert counts[Direction("en", "sw")] == DirectionRows(4992, 8, 5000)
    assert counts[Direction("fr", "en")] == DirectionRows(1, 1, 2)
    assert counts[Direction("sw", "fr")] == DirectionRows(2, 1, 3)


@pytest.mark.parametrize(
    ("holdout", "message"),
    [
        (2, r"must give every direction a sentence, for which 3 rows are needed, but got 2\. Hold more out\."),
        (998, r"must leave a row of each source and set of languages to train on, but takes 998 of 1,000\."),
        (1000, r"must leave sentences to train on, but takes 1000 of 1000\."),
    ],
)
def test_a_holdout_that_cannot_serve_every_direction_is_refused(
    three: tuple[Source, ...], holdout: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        corpus_of(settings(three, holdout=holdout))


@pytest.mark.parametrize("num", [3, 10, 40, 250, 900])
def test_a_holdout_has_its_size_and_leaves_every_direction_in_both_parts(num: int) -> None:
    rng = np.random.default_rng(num)
    there = rng.random((1000, 3)) < 0.6
    names = dict(enumerate(LANGUAGES))
    columns = {names[i]: tuple(f"{row}" if has else None for row, has in enumerate(there[:, i])) for i in range(3)}
    text = ParallelText(LANGUAGES, columns, "x")
    held = held_out_rows(text, [600, 300, 100], num, all_directions(LANGUAGES))
    assert len(held) == len(set(held.tolist())) == num
    for rows in (held, np.setdiff1d(np.arange(1000), held)):
        part = there[rows]
        assert all((part[:, a] & part[:, b]).any() for a in range(3) for b in range(a))


def test_the_last_rows_of_a_single_text_are_held_out_as_ever(tmp_path: Path) -> None:
    source = bitext(tmp_path, "en", "sw", 20)
    corpus = read_corpus(settings((source,), holdout=4, holdout_rows="last"), ("en", "sw"))
    assert [row[0] for row in rows_of(corpus.validation)] == [f"ensw{row} of en" for row in range(16, 20)]
    assert corpus.weights is None


HELD = "data: {train: {tsv: a.tsv}, validation: {holdout: 3}, test: {tsv: c.tsv}}\narchitecture: {rank: 4}\n"
SPACE = f"base: tiny-m2m\nlanguages: {{high: [en, fr], low: [sw]}}\n{HELD}"


@pytest.mark.parametrize(
    ("train", "rows"),
    [
        ("{tsv: a.tsv}", "last"),
        ("{flores101: dev, folder: f}", "last"),
        ("{files: d}", "last"),
        ("{embedded: quickstart, part: train}", "last"),
        ("[{tsv: a.tsv}, {tsv: b.tsv}]", "spread"),
        ("{tsv: [a.tsv, b.tsv]}", "spread"),
        ("{tsv: '*.tsv'}", "spread"),
        ("{tsv: a.tsv, max_rows: 9}", "spread"),
        ("{jsonl: a.jsonl}", "spread"),
    ],
)
def test_only_a_single_text_has_its_last_rows_held_out(tmp_path: Path, train: str, rows: str) -> None:
    space = load(tmp_path, SPACE.replace("{tsv: a.tsv}", train))
    assert space.data.holdout_rows == rows
    assert (f"rows: {rows}" in space.text) == (rows == "spread")
    (tmp_path / "again.yaml").write_text(space.text)
    assert load_space(tmp_path / "again.yaml").data == space.data


def test_an_experiment_from_before_keeps_its_last_rows_and_a_new_space_differs_from_it(tmp_path: Path) -> None:
    space = f"{SPACE}baselines: []\n"  # what was recorded before there was a default
    text = space.replace("{tsv: a.tsv}", "[{tsv: a.tsv}, {tsv: b.tsv}]")
    new = load(tmp_path, text)
    old = load_space(tmp_path / "small.yaml", is_recorded=True)
    assert (old.data.holdout_rows, new.data.holdout_rows) == ("last", "spread")
    assert old.text != new.text
    assert load(tmp_path, text.replace("{holdout: 3}", "{holdout: 3, rows: last}")).text == old.text
    # A single source means the same as ever, so that its recorded text does not change.
    single = load(tmp_path, space)
    assert load_space(tmp_path / "small.yaml", is_recorded=True).text == single.text


# Caps and weights


def test_a_cap_holds_for_each_set_of_languages_over_all_files(tmp_path: Path, three: tuple[Source, ...]) -> None:
    assert len(three) == 3
    source = Source("tsv", f"{tmp_path}/*.tsv", None, max_rows=150)
    read = read_parts([source], LANGUAGES)
    assert [len(rows) for rows in row_groups(presence(read.text))] == [150, 150, 100]
    english = [row[0] for row in rows_of(read.text) if row[0] and row[2]]
    assert (english[0], english[1], english[-1]) == ("ensw0 of en", "ensw5 of en", "ensw699 of en")
    assert read.lines == (f"tsv in {tmp_path}/*.tsv: 3 files, 400 rows, at most 150 of a set of languages",)
    row = next(index for index, row in enumerate(rows_of(read.text)) if row[0] == "ensw699 of en")
    assert find_place([source], LANGUAGES, "sw", row) == f"{tmp_path}/en-sw.tsv:701: column sw"


def test_a_held_out_sentence_is_found_in_its_file(three: tuple[Source, ...]) -> None:
    data = settings(three)
    corpus = corpus_of(data)
    for part, row in (("validation", 9), ("train", 892), ("test", 2)):
        sentence = getattr(corpus, part).sentences["sw"][row]
        place = corpus.place(data, part, "sw", row)
        path, line, _ = place.split(":")
        assert sentence == Path(path).read_text().splitlines()[int(line) - 1].split("\t")[1]


@pytest.fixture
def store(tmp_path: Path, three: tuple[Source, ...]) -> Callable[[Corpus], TokenStore]:
    assert len(three) == 3

    def build(corpus: Corpus) -> TokenStore:
        return TokenStore.build(corpus.train, lambda rows: [[len(row)] for row in rows], "length", tmp_path / "store")

    return build


def plan(store: TokenStore, weights: SourceWeights | None, epoch: int = 0, **changes: object) -> list[tuple[int, int]]:
    given: dict[str, object] = {
        "seed": 3,
        "temperature": 1.0,
        "max_tokens": 300,
        "pairs_per_epoch": 600,
        "max_length": 9,
    }
    epochs = plan_epoch(store, all_directions(LANGUAGES), epoch=epoch, weights=weights, **given | changes)  # type: ignore[arg-type]
    return [tuple(pair) for rows in epochs.microbatches for pair in rows.tolist()]


def test_a_weight_draws_rows_of_a_source_more_often(tmp_path: Path, store: Callable[[Corpus], TokenStore]) -> None:
    second = bitext(tmp_path / "b", "en", "sw", 100)
    first = Source("tsv", f"{tmp_path}/en-sw.tsv", None, weight=0.5)
    others = tuple(Source("tsv", f"{tmp_path}/{pair}.tsv", None) for pair in ("en-fr", "fr-sw"))
    corpus = corpus_of(settings((first, second, *others), validation=copies(others, "validation"), holdout=None))
    assert corpus.weights == SourceWeights((700, 800, 1000, 1100), (0.5, 1.0, 1.0, 1.0))
    drawn = Counter(
        "first" if row < 700 else "second" if row < 800 else "others"
        for epoch in range(4)
        for _, row in plan(store(corpus), corpus.weights, epoch)
    )
    # 0.5 x 700, 1 x 100 and 300 of 750, of 2,400 pairs.
    assert abs(drawn["first"] - 1120) <= 8 and abs(drawn["second"] - 320) <= 8 and abs(drawn["others"] - 960) <= 8
    rows = [row for _, row in plan(store(corpus), corpus.weights, pairs_per_epoch=None)]
    assert len(rows) == 2 * 750
    assert max(Counter(row for row in rows if row >= 700).values()) == 2  # once in each of two directions


def test_equal_weights_are_no_weights(three: tuple[Source, ...], store: Callable[[Corpus], TokenStore]) -> None:
    data = settings(tuple(Source("tsv", source.path, None, weight=3.0) for source in three))
    assert corpus_of(data).weights is None
    made = store(corpus_of(data))
    one = SourceWeights((made.num_sentences,), (1.0,))
    assert sorted(Counter(index for index, _ in plan(made, None)).items()) == sorted(
        Counter(index for index, _ in plan(made, one)).items()
    )


# Directions without rows


def test_directions_that_would_be_scored_on_nothing_are_refused_with_the_way_out() -> None:
    rows = {
        Direction("en", "sw"): DirectionRows(5, 1, 1),
        Direction("sw", "en"): DirectionRows(5, 1, 1),
        Direction("fr", "sw"): DirectionRows(0, 0, 1),
        Direction("sw", "fr"): DirectionRows(0, 0, 1),
    }
    data = settings((Source("tsv", "x", None),))
    assert row_problems(rows, data) == [
        "`data.validation` must have a sentence in every direction, but has none for 2 of 4: fr-sw, sw-fr. Leave them "
        "out, `data.directions: [en-sw, sw-en]`, or give a source that has them."
    ]
    lost = {Direction("en", "sw"): DirectionRows(5, 0, 1), Direction("en", "fr"): DirectionRows(5, 2, 1)}
    assert row_problems(lost, settings((Source("tsv", "x", None),), holdout_rows="last")) == [
        "`data.validation` must have a sentence in every direction, but has none for 1 of 2: en-sw. Hold rows of every "
        "source out: `data.validation: {holdout: N, rows: spread}`."
    ]


def test_a_direction_without_training_rows_is_zero_shot_and_one_must_have_some() -> None:
    rows = {Direction("en", "sw"): DirectionRows(0, 3, 3), Direction("sw", "en"): DirectionRows(0, 3, 3)}
    assert all(count.is_zero_shot for count in rows.values())
    (problem,) = row_problems(rows, settings((Source("tsv", "x", None),)))
    assert problem.startswith(
        "`data.train` must have a sentence in some direction, but none of 2 has one: en-sw, sw-en."
    )
    assert (
        row_problems(rows | {Direction("en", "fr"): DirectionRows(1, 1, 1)}, settings((Source("tsv", "x", None),)))
        == []
    )
