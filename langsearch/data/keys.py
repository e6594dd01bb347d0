"""What of a sentence counts when two are compared, its letters and digits, and what of it shows at all."""

import re
import unicodedata
from collections.abc import Sequence

MIN_LETTERS = 40
"""A sentence of so many letters and digits does not come twice by chance. A letter of Chinese, Japanese or Korean
counts as three: so many letters of English say about as much."""

_WIDE = re.compile(
    "[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff]"
)
_WIDTH = 3

_SHOWING_NOTHING = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Letters, marks and a symbol that are blank by their definition: joiners, fillers, an empty braille cell."""


def is_blank(sentence: str) -> bool:
    """Returns whether nothing of a sentence shows: it is empty, or spaces, controls, marks of width zero, fillers."""
    return not any(map(_shows, sentence))


def sentence_key(sentence: str) -> str:
    """Returns the letters, marks and digits of a sentence in compatibility form and without case.

    So a sentence stays the same one when it is copied with other spaces, quotes or line ends, tokenized, or
    normalised. One that has none of them is its own key.

    Args:
        sentence: Any text.
    """
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return folded.translate(_KEPT) or "".join(filter(_shows, sentence))


def is_long(key: str) -> bool:
    """Returns whether a sentence of this key is long enough to be told by itself: `MIN_LETTERS`."""
    if len(key) >= MIN_LETTERS:
        return True
    if key.isascii() or len(key) * _WIDTH < MIN_LETTERS:
        return False
    return len(key) + (_WIDTH - 1) * len(_WIDE.findall(key)) >= MIN_LETTERS


def _shows(character: str) -> bool:
    if unicodedata.category(character) in ("Zs", "Zl", "Zp", "Cc", "Cf") or character in _SHOWING_NOTHING:
        return False
    # Variation selectors change how the character before them looks.
    return not ("\ufe00" <= character <= "\ufe0f" or "\u180b" <= character <= "\u180f" or character >= "\U000e0100")


class _Kept(dict[int, int | None]):
    """What `str.translate` asks for: each letter, mark and digit stays, all else goes. Each is looked up once."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        # Unassigned and private codes stay: letters of scripts that are newer than Python's tables.
        is_kept = unicodedata.category(character)[0] in "LMNC" and _shows(character)
        self[code] = code if is_kept else None
        return self[code]


_KEPT = _Kept()


def character_class(codes: Sequence[int]) -> str:
    """Returns rising code points as the inside of a regular expression's brackets."""
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
