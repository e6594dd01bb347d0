"""A slip of the finger in a base's name is met by the one that was meant."""

import pytest

from langsearch.model.finding import locate_base
from langsearch.model.published import PUBLISHED, near_bases
from langsearch.space.problems import InputError

EMBEDDED = ("tiny-m2m", "tiny-m2m-2")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("facebook/nllb-200-destilled-600M", "facebook/nllb-200-distilled-600M"),
        ("facebok/nllb-200-distilled-600m", "facebook/nllb-200-distilled-600M"),
        ("nllb-200-distilled-1.3B", "facebook/nllb-200-distilled-1.3B"),
        ("facebook/m2m100-418M", "facebook/m2m100_418M"),
        ("Facebook/M2M100_1.2b", "facebook/m2m100_1.2B"),
        ("small-100", "alirezamsh/small100"),
        ("facebook/mbart-large-50-many2many-mmt", "facebook/mbart-large-50-many-to-many-mmt"),
        ("tiny-m2n", "tiny-m2m"),
    ],
)
def test_the_base_that_was_meant_comes_first(name: str, meant: str) -> None:
    assert near_bases(name, EMBEDDED).startswith(f" Did you mean {meant}")


@pytest.mark.parametrize("name", [*PUBLISHED, *EMBEDDED, "someone/tiny", "bases/mine", "nobody/nothing", "x"])
def test_a_right_name_and_a_strange_one_are_met_by_none(name: str) -> None:
    assert near_bases(name, EMBEDDED) == ""


def test_it_is_said_where_a_base_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"HF_HUB_OFFLINE is set\. Did you mean facebook/nllb-200-distilled-600M"):
        locate_base("facebook/nllb-200-destilled-600M")
    with pytest.raises(InputError, match=r"but got 'tiny-m2n'\. Did you mean tiny-m2m, tiny-m2m-2\?"):
        locate_base("tiny-m2n")
