import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.error import URLError

import pytest
import sacrebleu.tokenizers.tokenizer_spm
import sentencepiece
from sacrebleu.metrics import BLEU

from langsearch.data.directions import Direction
from langsearch.data.embedded import read_embedded
from langsearch.evaluate import spbleu as spbleu_module
from langsearch.evaluate.spbleu import ScoreTokenizer, SpBleu, find_tokenizer
from langsearch.model.finding import EMBEDDED_FOLDER
from langsearch.space.problems import InputError

SPM = EMBEDDED_FOLDER / "tiny-m2m" / "sentencepiece.bpe.model"
EN_FR, FR_EN, SW_EN = Direction("en", "fr"), Direction("fr", "en"), Direction("sw", "en")

Texts = dict[Direction, list[str]]


def garbled(sentences: Sequence[str | None], seed: int) -> list[str]:
    """Returns sentences with some words dropped and some swapped, as a weak translation."""
    rng = random.Random(seed)
    found = []
    for sentence in sentences:
        assert sentence is not None
        words = [word for word in sentence.split() if rng.random() > 0.15]
        if len(words) > 2 and rng.random() < 0.5:
            place = rng.randrange(len(words) - 1)
            words[place], words[place + 1] = words[place + 1], words[place]
        found.append(" ".join(words))
    return found


@pytest.fixture(scope="module")
def texts() -> tuple[Texts, Texts]:
    """Hypotheses and references of 52 sentences in three directions."""
    text = read_embedded("quickstart", "validation", ("en", "fr", "sw"))
    references = {d: [row for row in text.sentences[d.tgt] if row is not None] for d in (EN_FR, FR_EN, SW_EN)}
    return {d: garbled(rows, seed) for seed, (d, rows) in enumerate(references.items())}, references


@pytest.fixture(scope="module")
def stand_in() -> SpBleu:
    return SpBleu(find_tokenizer("base", SPM))


@pytest.fixture
def sacrebleu_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of ~/.sacrebleu, and no network."""

    def unreachable(url: str, path: str) -> None:
        Path(path).touch()  # as sacreBLEU leaves it
        raise URLError("no network")

    for module in (spbleu_module, sacrebleu.tokenizers.tokenizer_spm):
        monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
    monkeypatch.setattr(sacrebleu.tokenizers.tokenizer_spm, "download_file", unreachable)
    (tmp_path / "models").mkdir()
    return tmp_path


def by_name(direction_scores: Mapping[Direction, float]) -> dict[str, float]:
    return {str(direction): score for direction, score in direction_scores.items()}


def test_scores_are_sacrebleus_on_the_pieces(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    hypotheses, references = texts
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SPM))

    def pieces(rows: list[str]) -> list[str]:
        return [" ".join(processor.encode(row, out_type=str)) for row in rows]

    bleu = BLEU(tokenize="none", force=True)
    expected = {d: bleu.corpus_score(pieces(hypotheses[d]), [pieces(references[d])]).score for d in hypotheses}
    scores = stand_in.score(hypotheses, references)
    assert {score.direction: score.spbleu for score in scores.by_direction} == pytest.approx(expected, abs=1e-9)
    assert all(10 < score.spbleu < 90 for score in scores.by_direction)
    assert scores.spbleu == pytest.approx(sum(expected.values()) / 3)
    assert (scores.num_sentences, [score.num_sentences for score in scores.by_direction]) == (52, [52] * 3)


@pytest.mark.parametrize(
    ("name", "file"), [("flores101", "sacrebleu_tokenizer_spm.model"), ("flores200", "flores200sacrebleuspm")]
)
def test_scores_and_signature_are_those_of_sacrebleus_own_tokenizer(
    name: str, file: str, texts: tuple[Texts, Texts], sacrebleu_folder: Path
) -> None:
    (sacrebleu_folder / "models" / file).write_bytes(SPM.read_bytes())
    tokenizer = find_tokenizer(name, Path("nowhere"))
    assert (tokenizer.name, tokenizer.is_stand_in) == (name, False)
    hypotheses, references = texts
    hypotheses = {
        d: [*rows[:-3], "", "  two  spaces\tand a tab ", "ends in a space "] for d, rows in hypotheses.items()
    }
    bleu = BLEU(tokenize=name)
    expected = {d: bleu.corpus_score(hypotheses[d], [references[d]]).score for d in hypotheses}
    scores = SpBleu(tokenizer).score(hypotheses, references)
    found = {score.direction: score.spbleu for score in scores.by_direction}
    assert by_name(found) == pytest.approx(by_name(expected), abs=1e-9)
    assert scores.signature == str(bleu.get_signature())
    assert scores.signature == f"nrefs:1|case:mixed|eff:no|tok:{name}|smooth:exp|version:{sacrebleu.__version__}"


def test_a_stand_in_is_called_so(stand_in: SpBleu, tmp_path: Path) -> None:
    version = sacrebleu.__version__
    assert stand_in.tokenizer.is_stand_in
    assert stand_in.tokenizer.name == "spm:base"
    # The digits are the start of the embedded model's SHA-256.
    digits = stand_in.tokenizer.sha256[:8]
    assert stand_in.signature == f"nrefs:1|case:mixed|eff:no|tok:spm:base-{digits}|smooth:exp|version:{version}"
    (tmp_path / "xlmr.model").write_bytes(SPM.read_bytes())
    named = find_tokenizer(f"spm:{tmp_path / 'xlmr.model'}", Path("nowhere"))
    assert (named.name, named.is_stand_in, named.sha256) == ("spm:xlmr", True, stand_in.tokenizer.sha256)
    assert f"tok:spm:xlmr-{digits}|" in SpBleu(named).signature


def test_a_perfect_translation_scores_100_and_an_empty_one_0(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    _, references = texts
    perfect = stand_in.score(references, references)
    assert (perfect.spbleu, perfect.spbleu_low, perfect.spbleu_high) == pytest.approx((100, 100, 100))
    empty = stand_in.score({d: [""] * 52 for d in references}, references)
    assert (empty.spbleu, empty.spbleu_low, empty.spbleu_high) == (0, 0, 0)


def test_statistics_add_up(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    hypotheses, references = texts
    rows = stand_in.statistics(hypotheses[EN_FR], references[EN_FR])
    assert rows.shape == (52, 10)
    (score, *_) = stand_in.score(hypotheses, references).by_direction
    assert stand_in.from_statistics(rows.sum(axis=0)) == score.spbleu
    again = stand_in.statistics(hypotheses[EN_FR][10:20], references[EN_FR][10:20])
    assert (again == rows[10:20]).all()


def test_the_interval_holds_the_score_and_shrinks_with_more_sentences(
    texts: tuple[Texts, Texts], stand_in: SpBleu
) -> None:
    hypotheses, references = texts
    widths = []
    for num in (13, 52):
        scores = stand_in.score(
            {d: rows[:num] for d, rows in hypotheses.items()}, {d: rows[:num] for d, rows in references.items()}
        )
        assert scores.spbleu_low < scores.spbleu < scores.spbleu_high
        widths.append(scores.spbleu_high - scores.spbleu_low)
    # Four times the sentences halve a standard error.
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.4)
    assert stand_in.score(hypotheses, references) == stand_in.score(hypotheses, references)


def test_the_interval_is_sacrebleus(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    # sacreBLEU's bootstrap gives a mean and half the width of the 95 % interval, with other random numbers.
    hypotheses, references = texts
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SPM))
    pieces = [[" ".join(processor.encode(row, out_type=str)) for row in rows[EN_FR]] for rows in texts]
    theirs = BLEU(tokenize="none", force=True).corpus_score(pieces[0], [pieces[1]], n_bootstrap=1000)
    ours = stand_in.score({EN_FR: hypotheses[EN_FR]}, {EN_FR: references[EN_FR]})
    assert ours.spbleu_high - ours.spbleu_low == pytest.approx(2 * theirs._ci, rel=0.2)


def test_a_paired_difference_is_sharper_than_two_intervals(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    hypotheses, references = texts
    better = {d: [*references[d][:6], *rows[6:]] for d, rows in hypotheses.items()}
    one, other = stand_in.score(better, references), stand_in.score(hypotheses, references)
    mine, theirs = stand_in.resample(better, references), stand_in.resample(hypotheses, references)
    found = mine.minus(theirs)
    assert found.value == pytest.approx(one.spbleu - other.spbleu)
    assert 0 < found.low < found.value < found.high
    assert found.high - found.low < (one.spbleu_high - one.spbleu_low) / 1.5
    turned = theirs.minus(mine)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))
    same = theirs.minus(theirs)
    assert (same.value, same.low, same.high) == (0, 0, 0)


def test_means_by_class_pair_are_over_the_pairs_directions(texts: tuple[Texts, Texts], stand_in: SpBleu) -> None:
    scores = stand_in.score(*texts)
    found = {score.direction: score.spbleu for score in scores.by_direction}
    pairs = scores.by_class_pair({"high": ["en", "fr"], "low": ["sw"]})
    assert pairs == pytest.approx({("high", "high"): (found[EN_FR] + found[FR_EN]) / 2, ("low", "high"): found[SW_EN]})


def test_a_tokenizer_travels_by_value(stand_in: SpBleu, texts: tuple[Texts, Texts]) -> None:
    copied = ScoreTokenizer(stand_in.tokenizer.name, bytes(stand_in.tokenizer.model), stand_in.tokenizer.sha256)
    assert SpBleu(copied).score(*texts) == stand_in.score(*texts)


def test_unknown_and_unusable_tokenizers_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must be flores101, flores200, base or spm:FILE, but got '13a'"):
        find_tokenizer("13a", SPM)
    with pytest.raises(InputError, match=r"must name a SentencePiece file, but .*absent.model does not exist"):
        find_tokenizer(f"spm:{tmp_path / 'absent.model'}", SPM)
    with pytest.raises(InputError, match="must name a SentencePiece file"):
        find_tokenizer("spm:", SPM)
    torn = tmp_path / "torn.model"
    for content in (b"", b"no model", SPM.read_bytes()[:1000], json.dumps({"a": 1}).encode()):
        torn.write_bytes(content)
        with pytest.raises(InputError, match=r"torn.model must be a SentencePiece model, but cannot be read as one\.$"):
            find_tokenizer(f"spm:{torn}", SPM)


@pytest.mark.parametrize("name", ["flores101", "flores200"])
def test_without_a_network_the_error_shows_the_ways_out(name: str, sacrebleu_folder: Path) -> None:
    with pytest.raises(
        InputError, match=rf"could not be fetched \(URLError\).*run `sacrebleu --tok {name}`.*SACREBLEU.*spm:FILE"
    ):
        find_tokenizer(name, SPM)
    assert not [path for path in (sacrebleu_folder / "models").iterdir() if path.stat().st_size == 0]


def test_sacrebleus_way_to_exit_is_an_input_error_too(sacrebleu_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def leave(url: str, path: str) -> None:
        raise SystemExit(1)  # what sacreBLEU does on an error of the certificates

    monkeypatch.setattr(sacrebleu.tokenizers.tokenizer_spm, "download_file", leave)
    with pytest.raises(InputError, match=r"could not be fetched \(SystemExit\)"):
        find_tokenizer("flores101", SPM)


def test_a_torn_model_of_sacrebleu_names_the_way_out(sacrebleu_folder: Path) -> None:
    (sacrebleu_folder / "models" / "flores200sacrebleuspm").write_bytes(SPM.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"cannot be read as one\. Delete it; it is fetched again"):
        find_tokenizer("flores200", SPM)


def test_the_worst_class_has_the_lowest_mean_of_the_directions_from_or_into_it(
    stand_in: SpBleu, texts: tuple[Texts, Texts]
) -> None:
    scores = stand_in.score(*texts)
    by_name = {str(score.direction): score.spbleu for score in scores.by_direction}
    classes = {"high": ("en",), "low": ("sw",), "unscored": ("de",)}
    high = sum(by_name.values()) / 3
    assert scores.worst_class(classes) == pytest.approx(min(high, by_name["sw-en"]))
    assert scores.worst_class({"romance": ("fr",)}) == pytest.approx((by_name["en-fr"] + by_name["fr-en"]) / 2)
    assert scores.worst_class({}) == scores.spbleu
