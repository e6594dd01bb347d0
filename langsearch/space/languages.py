"""The languages of FLORES-101 and NLLB-200, and the codes that data sets and bases know them by."""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from langsearch.space.problems import InputError, near_names

_HUB_M2M100_CODES = {"zho": "zh", "nso": "ns"}
"""Where `facebook/m2m100_418M` on the hub names a language otherwise than fairseq's mm100 list does."""

_OTHER_CODES = {"nb": "nob", "fil": "tgl", "swa": "swh"}
"""Codes in common use that no family of the table has, by their FLORES-101 code."""

_BEYOND_THE_TABLES = (("bre", "br"), ("fry", "fy"))
"""The codes of each language that M2M-100 knows and NLLB-200 lacks: ISO 639-3 and 639-1."""


@dataclass(frozen=True, kw_only=True)
class LanguageInfo:
    """One language in one script, with its codes. Sources: the headers of languages.tsv and languages_nllb.tsv."""

    flores101: str | None
    """Code in FLORES-101: eng, zho_simpl; None where it lacks the language."""

    flores200: str
    """Code in FLORES-200 and NLLB-200: eng_Latn, zho_Hans."""

    m2m100: str | None
    """Code in the mm100 list of M2M-100 and M2M-124, ISO 639-1 where there is one: en, zho; None where they lack it."""

    iso639_3: str
    """ISO 639-3 code of the language itself, not of its macrolanguage: arb, cmn."""

    name: str
    script: str
    """ISO 15924 code: Latn, Cyrl."""

    family: str
    """Topmost group in Glottolog."""

    mbart50: str | None = None
    """Code in mBART-50: en_XX; None where it lacks the language."""

    others: tuple[str, ...] = ()
    """Further codes in common use, without a script."""

    needs_script: bool = False
    """Whether NLLB-200 has the language in another script too, so that no code without one tells which."""

    @property
    def bare(self) -> str | None:
        """The code without a script: FLORES-101's, or ISO 639-3; None where it would not tell which."""
        return self.flores101 or (None if self.needs_script else self.iso639_3)

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes, those that say most first."""
        hub = _HUB_M2M100_CODES.get(self.m2m100 or "", self.m2m100)
        bare = () if self.needs_script else (self.iso639_3, *self.others)
        codes = [self.flores200, self.flores101, self.mbart50, self.m2m100, hub, *bare]
        return tuple(dict.fromkeys(code for code in codes if code))


@cache
def all_languages() -> tuple[LanguageInfo, ...]:
    """Returns the 202 languages of NLLB-200: those of FLORES-101, Chinese in two scripts, then the others."""
    named: dict[str, list[str]] = {}
    for code, flores101 in _OTHER_CODES.items():
        named.setdefault(flores101, []).append(code)
    first = [
        LanguageInfo(
            flores101=record["code"],
            flores200=record["flores200_code"],
            m2m100=record["mm100_code"],
            iso639_3=record["iso639_3"],
            name=record["name"],
            script=record["script"],
            family=record["family"],
            mbart50=record["mbart50_code"],
            others=tuple(named.get(record["code"] or "", ())),
        )
        for record in _read_table("languages.tsv")
    ]
    further = _read_table("languages_nllb.tsv")
    scripts = Counter(record["code"].partition("_")[0] for record in further)
    return *first, *(_beyond_flores101(record, scripts) for record in further)


def _beyond_flores101(record: Mapping[str, Any], scripts: Mapping[str, int]) -> LanguageInfo:
    iso639_3, _, script = record["code"].partition("_")
    return LanguageInfo(
        flores101=None,
        flores200=record["code"],
        m2m100=record["mm100_code"],
        iso639_3=iso639_3,
        name=record["name"],
        script=script,
        family=record["family"],
        mbart50=record["mbart50_code"],
        others=tuple((record["other_codes"] or "").split()),
        needs_script=scripts[iso639_3] > 1,
    )


def _read_table(name: str) -> list[dict[str, Any]]:
    """Returns the rows of a table; a dash is None."""
    lines = files("langsearch.space").joinpath(name).read_text(encoding="utf-8").splitlines()
    header, *rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [{key: None if value == "-" else value for key, value in zip(header, row, strict=True)} for row in rows]


@cache
def _languages_by_code() -> dict[str, LanguageInfo]:
    # Chinese has two rows and one mm100 code: the first row, simplified, is what the bare code means.
    by_code: dict[str, LanguageInfo] = {}
    for language in all_languages():
        for code in language.codes:
            by_code.setdefault(code, language)
    return by_code


def scripts_of(code: str) -> tuple[str, ...]:
    """Returns the codes with a script that a code without one may stand for; none where it tells the language."""
    return tuple(
        language.flores200
        for language in all_languages()
        if language.needs_script and code in (language.iso639_3, *language.others)
    )


def _check_script(code: str) -> None:
    if scripts := scripts_of(code):
        raise InputError(
            f"A language in two scripts must be named with one, but got {code!r}. Write {' or '.join(scripts)}."
        )


def find_language(code: str) -> LanguageInfo:
    """Returns the language that a code means, in any of the code families (en, eng, eng_Latn).

    Args:
        code: Case matters. A code of several rows (zho, cmn) means the first of them, simplified Chinese.

    Raises:
        InputError: If the tables have no such code, or the language has several scripts and the code says none.
    """
    by_code = _languages_by_code()
    if code in by_code:
        return by_code[code]
    _check_script(code)
    hint = _name_hint(code) or near_names(code, by_code)
    raise InputError(f"A language must be one of FLORES-200's, by code, but got {code!r}.{hint}")


def is_english(code: str) -> bool:
    """Returns whether a code of any family means English; one that the tables lack does not."""
    try:
        return find_language(code).iso639_3 == "eng"
    except InputError:
        return False


@cache
def language_named(name: str) -> LanguageInfo | None:
    """Returns the language of an English name, None if it is none. Of several scripts or regions it is the first."""
    wanted = name.strip().casefold()
    names = [(language.name.casefold(), language) for language in all_languages()]
    exact = next((language for found, language in names if found == wanted), None)
    # "Chinese Simpl" is Chinese, and "Spanish (Latin American)" is Spanish; a word inside a name says too little.
    return exact or next((language for found, language in names if wanted and found.startswith(f"{wanted} ")), None)


def _name_hint(name: str, known: Collection[str] = ()) -> str:
    """Returns " Did you mean en or eng_Latn?" for the name of a language, "" for what is none.

    Args:
        name: What stands where a code should.
        known: The codes that would have been right. None given: of any family.
    """
    language = language_named(name)
    if language is None:
        return ""
    codes = [code for code in language.codes if code in known] if known else []
    short = language.m2m100 or language.bare or language.flores200
    return f" Did you mean {' or '.join(dict.fromkeys(codes or [short, language.flores200]))}?"


def match_code(code: str, known: Collection[str]) -> str:
    """Returns the code by which a base or a data set knows the language that `code` means.

    Args:
        code: A code of any family. If it is in `known` it is returned as it is, in the table or not.
        known: The codes of the base or the data set.

    Raises:
        InputError: If no code in `known` means that language, or it has several scripts and the code says none.
    """
    if code in known:
        return code
    language = _languages_by_code().get(code)
    if language is None:
        _check_script(code)
    beyond = next((codes for codes in _BEYOND_THE_TABLES if code in codes), ())
    for candidate in language.codes if language else beyond:
        if candidate in known:
            return candidate
    name = f" ({language.name})" if language else ""
    hint = (_name_hint(code, known) if language is None else "") or near_names(code, sorted(known))
    raise InputError(f"A language must be among the {len(known)} known here, but got {code!r}{name}.{hint}")
