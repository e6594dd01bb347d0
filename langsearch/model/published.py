"""The published bases by their ids on the hub, for a slip of the finger."""

import difflib

PUBLISHED = (
    "alirezamsh/small100",
    "facebook/m2m100_1.2B",
    "facebook/m2m100_418M",
    "facebook/mbart-large-50",
    "facebook/mbart-large-50-many-to-many-mmt",
    "facebook/mbart-large-50-many-to-one-mmt",
    "facebook/mbart-large-50-one-to-many-mmt",
    "facebook/nllb-200-1.3B",
    "facebook/nllb-200-3.3B",
    "facebook/nllb-200-distilled-1.3B",
    "facebook/nllb-200-distilled-600M",
)
"""The hub's pages of M2M-100, mBART-50, NLLB-200 and SMaLL-100."""

_LIKENESS = 0.75
"""From this share of letters in common on (difflib's ratio) a name may have been meant."""

_MAX_SUGGESTED = 3


def near_bases(name: str, embedded: tuple[str, ...] = ()) -> str:
    """Returns " Did you mean a, b?" for the known bases that look like a name, "" if none does or it is one.

    Args:
        name: What was written; of an id on the hub the part behind the slash will do.
        embedded: The bases that travel with the package.
    """
    known = {base.lower(): base for base in (*PUBLISHED, *embedded)}
    known |= {base.partition("/")[2].lower(): base for base in PUBLISHED}
    if name in PUBLISHED or name in embedded:
        return ""
    wanted = [name.lower(), name.rpartition("/")[2].lower()]
    close = [
        one for text in wanted for one in difflib.get_close_matches(text, known, n=_MAX_SUGGESTED, cutoff=_LIKENESS)
    ]
    names = list(dict.fromkeys(known[one] for one in close))[:_MAX_SUGGESTED]
    return f" Did you mean {', '.join(names)}?" if names else ""
