from pathlib import Path

import pytest
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES as M2M100_CODES
from transformers.models.mbart50.tokenization_mbart50 import FAIRSEQ_LANGUAGE_CODES
from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES as NLLB_CODES

from langsearch.data.readers import read_sources
from langsearch.space.languages import all_languages, find_language, match_code, scripts_of
from langsearch.space.problems import InputError, near_names
from langsearch.space.settings import Source

M2M100_HUB = {"en", "fr", "zh", "ns", "no", "sw", "ar"}
NLLB = {"eng_Latn", "fra_Latn", "zho_Hans", "zho_Hant", "nob_Latn", "swh_Latn", "arb_Arab"}


TWO_SCRIPTS = {"ace", "bjn", "kas", "knc", "taq"}


def test_the_tables_hold_flores101_with_chinese_in_two_scripts_and_all_of_nllb() -> None:
    languages = all_languages()
    of_flores101 = [language for language in languages if language.flores101]
    assert len({language.m2m100 for language in of_flores101}) == 101
    assert len(of_flores101) == len({language.flores101 for language in of_flores101}) == 102
    assert sorted(language.flores200 for language in languages) == sorted(NLLB_CODES)
    assert all(language.script == language.flores200[4:] and language.family for language in languages)


@pytest.mark.parametrize("code", NLLB_CODES)
def test_each_of_nllbs_202_codes_is_found_with_and_without_its_script(code: str) -> None:
    bare, _, _ = code.partition("_")
    assert find_language(code).flores200 == match_code(code, NLLB_CODES) == code
    if bare in TWO_SCRIPTS:
        both = [other for other in NLLB_CODES if other.startswith(f"{bare}_")]
        assert scripts_of(bare) == tuple(both)
        for find in (find_language, lambda name: match_code(name, NLLB_CODES)):
            with pytest.raises(InputError, match=f"named with one, but got '{bare}'. Write {' or '.join(both)}"):
                find(bare)
        assert match_code(bare, {bare}) == bare
    elif code != "zho_Hant":  # without a script, Chinese is simplified
        assert find_language(bare).flores200 == match_code(bare, NLLB_CODES) == code
        assert match_code(code, {bare, "en"}) == bare
        assert scripts_of(bare) == ()


def test_no_code_means_two_languages() -> None:
    meanings: dict[str, set[str]] = {}
    for language in all_languages():
        for code in language.codes:
            meanings.setdefault(code, set()).add(language.flores200)
    assert {code for code, found in meanings.items() if len(found) > 1} == {"zho", "zh", "cmn"}


def test_all_of_m2m100s_codes_but_two_are_in_the_tables() -> None:
    unknown = []
    for code in M2M100_CODES["m2m100"]:
        try:
            assert match_code(find_language(code).flores200, M2M100_CODES["m2m100"]) == code
        except InputError:
            unknown.append(code)
    assert unknown == ["br", "fy"]


@pytest.mark.parametrize("kind", ["files", "tsv", "flores200"])
def test_data_names_a_language_with_or_without_its_script(kind: str, tmp_path: Path) -> None:
    languages, columns = ("kin", "eng", "sat_Beng", "taq_Tfng"), ("kin_Latn", "eng_Latn", "sat", "taq_Tfng")
    path, split = tmp_path, None
    if kind == "tsv":
        path = tmp_path / "text.tsv"
        path.write_text("\t".join(columns) + "\na\tb\tc\td\n")
    else:
        split = "dev" if kind == "flores200" else None
        folder = tmp_path / (split or "")
        folder.mkdir(exist_ok=True)
        for text, column in zip("abcd", columns, strict=True):
            (folder / f"{column}.{'dev' if split else 'txt'}").write_text(f"{text}\n")
    source = Source(kind, str(path), split)  # type: ignore[arg-type]
    read = read_sources((source,), languages)
    assert [read.sentences[language] for language in languages] == [("a",), ("b",), ("c",), ("d",)]
    with pytest.raises(InputError, match=r"taq_Latn or taq_Tfng|named taq"):
        read_sources((source,), ("kin", "taq"))


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
    with pytest.raises(InputError, match=r"FLORES-200's, by code, but got 'eng_Latm'. Did you mean eng_Latn"):
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
    found = {language.mbart50: language.flores200 for language in all_languages() if language.mbart50}
    assert set(FAIRSEQ_LANGUAGE_CODES) == set(found)
    assert len(found) == 52
    assert all(find_language(code).flores200 == flores200 for code, flores200 in found.items())


def test_a_base_s_languages_beyond_flores101_are_found_by_other_codes_too() -> None:
    assert match_code("gla_Latn", {"gd", "en"}) == "gd"
    assert match_code("mg", {"plt_Latn"}) == "plt_Latn"
    with pytest.raises(InputError, match="among the 1 known here, but got 'gd'"):
        match_code("gd", {"en"})


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("English", "en or eng_Latn"),
        ("french", "fr or fra_Latn"),
        ("Chinese", "zho or zho_Hans"),
        ("Acehnese", "ace_Arab"),
    ],
)
def test_a_name_in_the_place_of_a_code_is_told_its_codes(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=rf"by code, but got '{name}'\. Did you mean {hint}\?"):
        find_language(name)


def test_a_name_is_told_the_codes_that_are_known() -> None:
    with pytest.raises(InputError, match=r"among the 3 known here, but got 'English'\. Did you mean eng_Latn\?"):
        match_code("English", ["eng_Latn", "enx", "fr"])


def test_a_code_of_two_letters_is_met_by_one_that_begins_alike_and_not_by_any_that_shares_a_letter() -> None:
    assert near_names("sv", ["en", "sw"]) == " Did you mean sw?"
    assert near_names("de", ["en", "sw"]) == " Valid: en, sw."
    assert near_names("swa", ["en", "sw"]) == " Did you mean sw?"
