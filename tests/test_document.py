from pathlib import Path

import pytest

from langsearch.space.document import dump, read_document
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space
from tests.space_fixtures import SMALL, load, problems


def test_overrides_are_yaml_and_make_their_way(tmp_path: Path) -> None:
    space = load(tmp_path, SMALL, "trainer.epochs=3", "search.trials=5", "trainer.lr={float: [1e-4, 1e-2], log: true}")
    assert space.trainer({"trainer.lr": 0.001}).epochs == 3
    assert space.search.trials == 5
    assert list(space.dimensions()) == ["trainer.lr"]


def test_an_override_may_lead_into_a_list(tmp_path: Path) -> None:
    text = SMALL.replace("rank: 4", "rank: 4\n  encoder: {overrides: [{rank: 2}, {layers: [1], rank: 8}]}")
    space = load(tmp_path, text, "architecture.encoder.overrides.1.rank={choice: [8, 16]}", "languages.low.0=cy")
    assert list(space.dimensions()) == ["encoder.overrides.1.rank"]
    assert space.languages == ("en", "fr", "cy")
    (problem,) = problems(tmp_path, text, "architecture.encoder.overrides.1.rank=-1")
    assert problem.startswith(
        "--set architecture.encoder.overrides.1.rank=-1: `architecture.encoder.overrides[1].rank`"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: 1\nb: \xff\n", r":2: The file must be UTF-8, but byte 8 is 0xff"),
        (b"a: [1\nb: 2\n", r":2: The file must be YAML, but expected ',' or '\]'"),
        (b"- 1\n", r":1: The file must hold a mapping"),
        (b"", r":1: The file must hold a mapping, but got nothing"),
        (
            b"a: 1\nb: {c: 1, c: 2}\na: 3\n",
            r":2: `b.c` must be written once.*\n.*:3: `a` must be written once, but line 1",
        ),
        (b"a: !!python/object:os.system 1\n", r":1: The file must be YAML, but could not determine a constructor"),
        (b"a: &a [*a]\n", "refers to itself"),
        (b"1: a\n", r":1: `the file` must have text keys, but got 1"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (k, k, b", ".join([b"*%c" % (k - 1)] * 9)) for k in range(98, 106)),
            "holds more than 20000 values",
        ),
    ],
    ids=["utf-8", "syntax", "list", "empty", "twice", "tag", "recursion", "number as key", "billion laughs"],
)
def test_a_file_that_is_no_space_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_document(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be readable, but got: No such file"):
        load_space(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer", "--set must read key.path=value, but got 'trainer'"),
        ("base.x=1", "`base` must be a mapping, but got 'tiny-m2m'"),
        ("languages.low.1=en", r"`languages.low` must have such an item, but got \['sw'\]"),
        ("languages.low.x=en", r"`languages.low` must have such an item, but got \['sw'\]"),
        ("trainer.lr=[1", "The value must be YAML"),
    ],
)
def test_a_wrong_override_is_refused(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, SMALL, override)


def test_yaml_comes_back_equal_and_in_order(tmp_path: Path) -> None:
    data = {"z": 1, "a": {"no": "no", "x": [1e-8, None, True], "text": "1e-3"}}
    path = tmp_path / "x.yaml"
    path.write_text(dump(data), encoding="utf-8")
    read = read_document(path)
    assert read.data == data and list(read.data) == ["z", "a"]
    assert read.where(("a", "x", 0)).endswith("x.yaml:4")
