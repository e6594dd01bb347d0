from collections import Counter

import pytest

from langsearch.data.directions import (
    Direction,
    all_directions,
    class_pair,
    parse_directions,
    sample_directions,
)
from langsearch.space.problems import InputError

CLASSES = {
    "high": ("en", "fr", "it", "de"),
    "medium": ("nl", "zh", "ja", "ko"),
    "low": ("oc", "or", "sd", "wo"),
}
TWELVE = tuple(language for members in CLASSES.values() for language in members)


def names(directions: tuple[Direction, ...]) -> list[str]:
    return [str(direction) for direction in directions]


def test_all_directions_are_the_ordered_pairs() -> None:
    assert names(all_directions(["en", "fr", "de"])) == ["en-fr", "en-de", "fr-en", "fr-de", "de-en", "de-fr"]
    # METHOD, section 1: 12 languages = 132 directions, 30 languages = 870.
    assert len(all_directions(TWELVE)) == 132
    assert len(all_directions([str(number) for number in range(30)])) == 870


def test_directions_are_parsed() -> None:
    languages = ["en", "fr", "de"]
    assert parse_directions("all", languages) == parse_directions(None, languages) == all_directions(languages)
    assert names(parse_directions("english", languages)) == ["en-fr", "en-de", "fr-en", "de-en"]
    assert names(parse_directions("english", ["fra", "eng"])) == ["fra-eng", "eng-fra"]
    assert names(parse_directions(["de-en", "en-fr"], languages)) == ["de-en", "en-fr"]


def test_codes_with_hyphens_are_parsed() -> None:
    assert parse_directions(["zh-Hans-en"], ["zh-Hans", "en"]) == (Direction("zh-Hans", "en"),)


def test_all_wrong_directions_are_named_at_once() -> None:
    with pytest.raises(InputError, match="direction") as caught:
        parse_directions(["en-fr", "en-fx", "fr-fr", "en-fr"], ["en", "fr", "de"])
    assert caught.value.problems == (
        "A direction must be named once, but got 'en-fr' 2 times",
        "A direction must be SRC-TGT with languages of the space, but got 'en-fx'. Did you mean en-fr, en-de, de-fr?",
        "A direction must have two different languages, but got 'fr-fr'",
    )


@pytest.mark.parametrize(
    ("spec", "languages", "message"),
    [
        ("english", ["fr", "de"], "directions: english needs English, but the languages are fr, de"),
        ("every", ["fr", "de"], r"must be all, english, or a list such as \[en-fr, fr-en\], but got 'every'"),
        ("all", ["fr"], "two languages are needed"),
        ([], ["fr", "de"], "There must be a direction or more"),
    ],
)
def test_wrong_specifications_state_the_rule(spec: str | list[str], languages: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_directions(spec, languages)


def test_class_pair_names_the_classes() -> None:
    assert class_pair(Direction("wo", "en"), CLASSES) == ("low", "high")
    with pytest.raises(ValueError, match="must be in a class, but xx is in none of high, medium, low"):
        class_pair(Direction("en", "xx"), CLASSES)


@pytest.mark.parametrize("num", [1, 5, 9, 24, 60, 131])
def test_a_sample_is_spread_evenly_over_class_pairs(num: int) -> None:
    sample = sample_directions(all_directions(TWELVE), num, CLASSES)
    assert len(sample) == len(set(sample)) == num
    counts = Counter(class_pair(direction, CLASSES) for direction in sample)
    per_pair = [counts[src, tgt] for src in CLASSES for tgt in CLASSES]
    # Class pairs have 12 or 16 directions, so all stay within one of each other while none runs out.
    if num <= 9 * 12:
        assert max(per_pair) - min(per_pair) <= 1


def test_a_sample_spreads_over_languages() -> None:
    sample = sample_directions(all_directions(TWELVE), 24, CLASSES)
    assert {direction.src for direction in sample} == {direction.tgt for direction in sample} == set(TWELVE)


def test_a_sample_depends_on_the_seed_alone() -> None:
    directions = all_directions(TWELVE)
    sample = sample_directions(directions, 24, CLASSES, seed=3)
    assert sample == sample_directions(directions, 24, CLASSES, seed=3)
    assert set(sample) == set(sample_directions(directions[::-1], 24, CLASSES, seed=3))
    assert sample != sample_directions(directions, 24, CLASSES, seed=4)
    assert list(sample) == [direction for direction in directions if direction in sample]


def test_a_sample_of_all_is_all() -> None:
    directions = all_directions(TWELVE)
    assert sample_directions(directions, None, CLASSES) == directions
    assert sample_directions(directions, 500, CLASSES) == directions
    with pytest.raises(ValueError, match="`num >= 1` must hold, but got 0"):
        sample_directions(directions, 0, CLASSES)
