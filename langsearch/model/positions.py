"""How long a sentence a base can take."""

from typing import Any


def num_positions(config: Any) -> int:
    """Returns the most tokens of a side, with language and end tokens, that a base was trained for.

    mBART-50 has learned so many positions and fails beyond them. Those of M2M-100 and NLLB are sines, which go on, but
    what lies beyond was never trained.

    Args:
        config: A base's configuration.
    """
    return int(config.max_position_embeddings)
