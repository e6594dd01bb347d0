from pathlib import Path
from typing import Any

import pytest

from langsearch.data.lengths import long_sentences
from langsearch.data.parallel import ParallelText
from langsearch.experiment import environment
from langsearch.experiment.environment import check_space
from langsearch.space.problems import InputError
from langsearch.space.schema import load_space

FILES = """\
name: long
base: tiny-m2m
languages: {all: [en, fr]}
data:
  train: {files: FOLDER/train}
  validation: {holdout: 1}
  test: {tsv: FOLDER/test.tsv}
  allow_overlap: true
architecture: {rank: 2}
evaluation: {spbleu: base}
"""


def write_space(folder: Path, *, rows: list[str], test: str) -> Path:
    (folder / "train").mkdir()
    for language in ("en", "fr"):
        (folder / "train" / f"{language}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "test.tsv").write_text(f"fr\ten\nun\tone\n{test}\t{test}\n", encoding="utf-8")
    (folder / "long.yaml").write_text(FILES.replace("FOLDER", str(folder)), encoding="utf-8")
    return folder / "long.yaml"


@pytest.fixture
def few_positions(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(environment, "num_positions", lambda config: 24)
    return 24


LONG, SHORT = "the water is here " * 20, "the water is here"


def test_a_sentence_longer_than_the_bases_positions_is_named_by_file_and_line(
    tmp_path: Path, few_positions: int
) -> None:
    path = write_space(tmp_path, rows=[SHORT, LONG, LONG], test=LONG)
    with pytest.raises(InputError, match="positions") as caught:
        check_space(load_space(path))
    places = [problem.split(": a sentence must have at most 24 tokens")[0] for problem in caught.value.problems]
    assert places == [
        f"{tmp_path}/train/en.txt:3",
        f"{tmp_path}/train/fr.txt:3",
        f"{tmp_path}/test.tsv:3: column en",
        f"{tmp_path}/test.tsv:3: column fr",
    ]


def test_max_length_cuts_what_is_translated_and_training_leaves_out_what_is_longer(
    tmp_path: Path, few_positions: int
) -> None:
    path = write_space(tmp_path, rows=[SHORT, LONG, LONG], test=LONG)
    cut = ["evaluation.search.max_length=20", "evaluation.final.max_length=24"]
    lengths = check_space(load_space(path, cut)).lengths
    assert (lengths.positions, lengths.max_length, lengths.num_left_out, lengths.num_cut) == (24, 24, 2, 4)
    with pytest.raises(InputError, match=r"`evaluation\.final\.max_length` must be at most the base's 24 positions"):
        check_space(load_space(path, [cut[0], "evaluation.final.max_length=25"]))


def test_only_sentences_that_may_be_long_are_split_and_none_of_those_is_missed() -> None:
    seen: list[str] = []

    def tokenize(sentences: Any) -> list[list[int]]:
        seen.extend(sentences)
        return [[7] * len(sentence) for sentence in sentences]

    text = ParallelText(("en",), {"en": ("a" * 5, "b" * 9, None, "\ufdfa")}, "made")
    assert long_sentences(text, tokenize, 10) == [("en", 1, 11)]
    assert seen == ["b" * 9, "\ufdfa"], "one character that is 18 in the pieces' normal form"
