"""The languages of FLORES-101 and the codes that data sets and bases know them by."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from langsearch.space.problems import InputError, near_names

_HUB_M2M100_CODES = {"zho": "zh", "nso": "ns"}
"""Where `facebook/m2m100_418M` on the hub names a language otherwise than fairseq's mm100 list does."""

_OTHER_CODES = {"nb": "nob", "fil": "tgl", "swa": "swh"}
"""Codes in common use that no family of the table has, by their FLORES-101 code."""

_BEYOND_FLORES101 = (
    *(("bak_Cyrl", "bak", "ba"), ("bre", "br"), ("fry", "fy"), ("gla_Latn", "gla", "gd"), ("hat_Latn", "hat", "ht")),
    *(("ilo_Latn", "ilo"), ("plt_Latn", "plt", "mlg", "mg"), ("sin_Sinh", "sin", "si", "si_LK")),
    *(("als_Latn", "als", "sqi", "sq"), ("ssw_Latn", "ssw", "ss"), ("sun_Latn", "sun", "su")),
    *(("tsn_Latn", "tsn", "tn"), ("ydd_Hebr", "ydd", "yid", "yi")),
)
"""The codes of each language that M2M-100 or mBART-50 knows and FLORES-101 lacks: FLORES-200, ISO 639-3 and 639-1,
mBART-50. Sources: the tokenizers of transformers; the language list of FLORES-200."""


@dataclass(frozen=True, kw_only=True)
class LanguageInfo:
    """One language of FLORES-101 with its codes. Source: the header of languages.tsv."""

    flores101: str
    """Code in FLORES-101: eng, zho_simpl."""

    flores200: str
    """Code in FLORES-200 and NLLB-200: eng_Latn, zho_Hans."""

    m2m100: str
    """Code in the mm100 list of M2M-100 and M2M-124, ISO 639-1 where there is one: en, zho."""

    iso639_3: str
    """ISO 639-3 code of the language itself, not of its macrolanguage: arb, cmn."""

    name: str
    script: str
    """ISO 15924 code: Latn, Cyrl."""

    family: str
    """Topmost group in Glottolog."""

    mbart50: str | None = None
    """Code in mBART-50: en_XX; None where it lacks the language."""

    @property
    def codes(self) -> tuple[str, ...]:
        """All codes, those that say most first."""
        other = [code for code, flores101 in _OTHER_CODES.items() if flores101 == self.flores101]
        hub = _HUB_M2M100_CODES.get(self.m2m100, self.m2m100)
        codes = [self.flores200, self.flores101, self.mbart50, self.m2m100, hub, self.iso639_3, *other]
        return tuple(dict.fromkeys(code for code in codes if code))


@cache
def all_languages() -> tuple[LanguageInfo, ...]:
    """Returns the 101 languages in the table's order, Chinese twice: simplified and traditional."""
    lines = files("langsearch.space").joinpath("languages.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    records = [dict(zip(rows[0], row, strict=True)) for row in rows[1:]]
    return tuple(
        LanguageInfo(
            flores101=record["code"],
            flores200=record["flores200_code"],
            m2m100=record["mm100_code"],
            iso639_3=record["iso639_3"],
            name=record["name"],
            script=record["script"],
            family=record["family"],
            mbart50=None if record["mbart50_code"] == "-" else record["mbart50_code"],
        )
        for record in records
    )


@cache
def _languages_by_code() -> dict[str, LanguageInfo]:
    # Chinese has two rows and one mm100 code: the first row, simplified, is what the bare code means.
    by_code: dict[str, LanguageInfo] = {}
    for language in all_languages():
        for code in language.codes:
            by_code.setdefault(code, language)
    return by_code


def find_language(code: str) -> LanguageInfo:
    """Returns the language that a code means, in any of the code families (en, eng, eng_Latn).

    Args:
        code: Case matters. A code of several rows (zho, cmn) means the first of them, simplified Chinese.

    Raises:
        InputError: If the table has no such code.
    """
    by_code = _languages_by_code()
    if code in by_code:
        return by_code[code]
    named = [language.m2m100 for language in all_languages() if language.name.casefold() == code.casefold()]
    hint = f" Did you mean {named[0]}?" if named else near_names(code, by_code)
    raise InputError(f"A language must be one of FLORES-101's, by code, but got {code!r}.{hint}")


def match_code(code: str, known: Collection[str]) -> str:
    """Returns the code by which a base or a data set knows the language that `code` means.

    Args:
        code: A code of any family. If it is in `known` it is returned as it is, in the table or not.
        known: The codes of the base or the data set.

    Raises:
        InputError: If no code in `known` means that language.
    """
    if code in known:
        return code
    language = _languages_by_code().get(code)
    beyond = next((codes for codes in _BEYOND_FLORES101 if code in codes), ())
    for candidate in language.codes if language else beyond:
        if candidate in known:
            return candidate
    name = f" ({language.name})" if language else ""
    hint = near_names(code, sorted(known))
    raise InputError(f"A language must be among the {len(known)} known here, but got {code!r}{name}.{hint}")
