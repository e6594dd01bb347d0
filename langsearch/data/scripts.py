"""In which scripts a language is written, and which letters of a sentence are of another one."""

import re
import sys
import unicodedata
from functools import cache

from langsearch.data.keys import character_class
from langsearch.space.languages import find_language
from langsearch.space.problems import InputError

_WORDS: dict[str, tuple[str, ...]] = {
    "Adlm": ("ADLAM",),
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cher": ("CHEROKEE",),
    "Copt": ("COPTIC",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hang": ("HANGUL", "CJK"),
    "Hans": ("CJK",),
    "Hant": ("CJK", "BOPOMOFO"),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",),
    "Mong": ("MONGOLIAN",),
    "Mtei": ("MEETEI",),
    "Mymr": ("MYANMAR",),
    "Nkoo": ("NKO",),
    "Olck": ("OL",),
    "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",),
    "Syrc": ("SYRIAC",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Tfng": ("TIFINAGH",),
    "Thaa": ("THAANA",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
}
"""How the names of a script's letters begin in Unicode, by its ISO 15924 code. Letters of no script listed here, such
as modifiers (ʻ, ʼ) and signs, are at home in all of them."""

_FURTHER: dict[str, tuple[str, ...]] = {
    "azj": ("Cyrl", "Arab"),
    "bam": ("Nkoo",),
    "bel": ("Latn",),
    "bos": ("Cyrl",),
    "cmn": ("Hans", "Hant"),
    "fuv": ("Adlm", "Arab"),
    "hau": ("Arab",),
    "kaz": ("Latn", "Arab"),
    "khk": ("Mong",),
    "kir": ("Arab",),
    "kmr": ("Arab", "Cyrl"),
    "mni": ("Mtei",),
    "pan": ("Arab",),
    "sat": ("Olck",),
    "snd": ("Deva",),
    "srp": ("Latn",),
    "swh": ("Arab",),
    "tat": ("Latn",),
    "tgk": ("Latn", "Arab"),
    "tuk": ("Cyrl",),
    "tzm": ("Latn",),
    "uig": ("Cyrl", "Latn"),
    "uzn": ("Cyrl", "Arab"),
    "wol": ("Arab",),
    "zsm": ("Arab",),
}
"""Scripts that a language is written in beside the one of the tables, by ISO 639-3: a code that names no script (sr,
ha) may mean any of them, one that does (srp_Cyrl, hau_Latn) means what it says."""

_BARE_SCRIPTS = {"zho_simpl": "Hans", "zho_trad": "Hant", "zh_CN": "Hans"}

_SIMPLIFIED = frozenset(
    "这国们来时会个说对学发过还开关问见长门车马鸟鱼让认识语读写听书东风气电机无业当应该谁岁钱银远运进连边转轻较"
)
_TRADITIONAL = frozenset(
    "這國們來時會個說對學發過還開關問見長門車馬鳥魚讓認識語讀寫聽書東風氣電機無業當應該誰歲錢銀遠運進連邊轉輕較"
)
"""Frequent characters that the two ways of writing Chinese do not have in common: hardly a long sentence has none."""

_LATIN = re.compile(r"[\u0000-\u036f\u1e00-\u1eff\u2000-\u206f]*")
"""Of all scripts here these characters have letters of Latin alone: what is written in them needs no closer look."""

_MIN_OF_CHINESE = 3
_DENSE = frozenset({"Hans", "Hant", "Jpan", "Hang"})
_WIDTH = 3


def scripts_of_language(code: str) -> frozenset[str] | None:
    """Returns the ISO 15924 codes of the scripts that a language code may mean; None where nothing is known of it.

    Args:
        code: Of any family. NLLB's names its script, as does any other that ends in one.
    """
    suffix = code.rpartition("_")[2]
    if suffix in _WORDS and suffix != code:
        return frozenset({suffix})
    if code in _BARE_SCRIPTS:
        return frozenset({_BARE_SCRIPTS[code]})
    try:
        found = find_language(code)
    except InputError:
        return None
    return frozenset({found.script, *_FURTHER.get(found.iso639_3, ())})


def foreign_share(sentence: str, scripts: frozenset[str]) -> tuple[float, int]:
    """Returns which share of a sentence's letters is of other scripts, in [0, 1], and how many letters those are.

    A letter of Chinese, Japanese or Korean says as much as three others, and counts so. In Chinese of one way of
    writing, and of that alone, the characters that only one of the two has count too.

    Args:
        sentence: Any text.
        scripts: As `scripts_of_language` returns them.
    """
    if "Latn" in scripts and (sentence.isascii() or _LATIN.fullmatch(sentence)):
        return 0.0, 0
    pattern = _foreign(scripts)
    num_foreign = sum(map(len, pattern.findall(sentence))) if pattern.search(sentence) else 0
    share = 0.0
    if num_foreign:
        num_own = max(sum(map(str.isalpha, sentence)) - num_foreign, 0)
        share = num_foreign / (num_foreign + num_own * (_WIDTH if scripts & _DENSE else 1))
    if scripts in ({"Hans"}, {"Hant"}):
        own, other = (_SIMPLIFIED, _TRADITIONAL) if "Hans" in scripts else (_TRADITIONAL, _SIMPLIFIED)
        num_own, num_other = (sum(map(kind.__contains__, sentence)) for kind in (own, other))
        if num_other >= _MIN_OF_CHINESE and num_other / (num_own + num_other) > share:
            return num_other / (num_own + num_other), sum(map(str.isalpha, sentence))
    return share, num_foreign


@cache
def _foreign(scripts: frozenset[str]) -> re.Pattern[str]:
    """Returns a pattern of runs of letters of all other scripts."""
    own = {word for script in scripts for word in _WORDS[script]}
    codes = sorted(code for word, codes in _letters().items() if word not in own for code in codes)
    return re.compile(f"[{character_class(codes)}]+")


@cache
def _letters() -> dict[str, list[int]]:
    """Returns the letters of each script, by the word that their names begin with."""
    known = {word for words in _WORDS.values() for word in words}
    found: dict[str, list[int]] = {word: [] for word in known}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if unicodedata.category(character)[0] == "L":
            name = unicodedata.name(character, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
            word = name.partition(" ")[0]
            if word in known:
                found[word].append(code)
    return found
