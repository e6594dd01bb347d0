import pytest
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES

from langsearch.space.languages import all_languages, find_language, match_code
from langsearch.space.problems import InputError

M2M100_HUB = {"en", "fr", "zh", "ns", "no", "sw", "ar"}
NLLB = {"eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant", "nob_Latn", "swh_Latn", "arb_Arab"}


def test_the_table_holds_the_101_languages_of_flores101_with_chinese_in_two_scripts() -> None:
    languages = all_languages()
    assert len({language.m2m100 for language in languages}) == 101
    assert len(languages) == len({language.flores101 for language in languages}) == 102
    assert len({language.flores200 for language in languages}) == 102


@pytest.mark.parametrize("code", ["or", "ory", "ory_Orya"])
def test_a_language_is_found_by_the_code_of_any_family(code: str) -> None:
    language = find_language(code)
    assert (language.flores101, language.flores200, language.m2m100) == ("ory", "ory_Orya", "or")
    assert (language.iso639_3, language.name, language.script, language.family) == (
        "ory",
        "Oriya",
        "Orya",
        "Indo-European",
    )


@pytest.mark.parametrize("code", ["zh", "zho", "cmn", "zho_simpl", "zho_Hans"])
def test_chinese_without_a_script_is_simplified(code: str) -> None:
    assert find_language(code).flores101 == "zho_simpl"


def test_an_unknown_code_is_refused_with_near_names() -> None:
    with pytest.raises(InputError, match=r"FLORES-101's, by code, but got 'eng_Latm'. Did you mean eng_Latn"):
        find_language("eng_Latm")
    with pytest.raises(InputError, match=r"but got 'Welsh'. Did you mean cy"):
        find_language("Welsh")


@pytest.mark.parametrize(
    ("code", "expected"),
    [("eng", "en"), ("zho_simpl", "zh"), ("nso", "ns"), ("nob_Latn", "no"), ("swh", "sw"), ("ara", "ar")],
)
def test_a_code_is_matched_to_m2m100(code: str, expected: str) -> None:
    assert match_code(code, M2M100_HUB) == expected


@pytest.mark.parametrize(
    ("code", "expected"), [("en", "eng_Latn"), ("zh", "zho_Hans"), ("zho_trad", "zho_Hant"), ("no", "nob_Latn")]
)
def test_a_code_is_matched_to_nllb(code: str, expected: str) -> None:
    assert match_code(code, NLLB) == expected


def test_a_code_that_is_known_wins_even_if_the_table_lacks_it() -> None:
    assert match_code("ba", {"ba", "en"}) == "ba"
    assert match_code("en", {"en", "eng_Latn"}) == "en"


def test_a_language_that_the_base_lacks_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"among the 7 known here, but got 'wo' \(Wolof\)"):
        match_code("wo", M2M100_HUB)


@pytest.mark.parametrize(
    ("code", "expected"),
    [("en", "en_XX"), ("zh", "zh_CN"), ("swh_Latn", "sw_KE"), ("lvs", "lv_LV"), ("si", "si_LK"), ("sin_Sinh", "si_LK")],
)
def test_a_code_is_matched_to_mbart50(code: str, expected: str) -> None:
    assert match_code(code, FAIRSEQ_LANGUAGE_CODES) == expected


def test_every_code_of_mbart50_is_in_the_table_and_means_one_language() -> None:
    found = {language.mbart50: language.flores101 for language in all_languages() if language.mbart50}
    assert set(FAIRSEQ_LANGUAGE_CODES) - set(found) == {"si_LK"}
    assert len(found) == 51
    assert all(find_language(code).flores101 == flores101 for code, flores101 in found.items())


def test_a_base_s_languages_beyond_flores101_are_found_by_other_codes_too() -> None:
    assert match_code("gla_Latn", {"gd", "en"}) == "gd"
    assert match_code("mg", {"plt_Latn"}) == "plt_Latn"
    with pytest.raises(InputError, match="among the 1 known here, but got 'gd'"):
        match_code("gd", {"en"})
