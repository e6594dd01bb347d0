import pytest
import sacrebleu

from langsearch.data.directions import Direction
from langsearch.evaluate.chrf import score_chrf

HYPOTHESES = {
    Direction("en", "fr"): ["Le chat dort.", "Il pleut beaucoup"],
    Direction("fr", "en"): ["The cat sleeps.", "It rains"],
}
REFERENCES = {
    Direction("en", "fr"): ["Le chat dort bien.", "Il pleut."],
    Direction("fr", "en"): ["The cat sleeps.", "It is raining."],
}


def test_chrf_is_sacrebleus_corpus_score_averaged_over_directions() -> None:
    scores = score_chrf(HYPOTHESES, REFERENCES)
    wanted = {
        direction: sacrebleu.corpus_chrf(HYPOTHESES[direction], [REFERENCES[direction]]).score
        for direction in HYPOTHESES
    }
    assert dict(scores.by_direction) == wanted
    assert scores.chrf == pytest.approx(sum(wanted.values()) / 2)
    assert 0 < scores.chrf < 100
    assert scores.signature.startswith("nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:")


def test_equal_texts_score_100() -> None:
    assert score_chrf(REFERENCES, REFERENCES).chrf == pytest.approx(100)
