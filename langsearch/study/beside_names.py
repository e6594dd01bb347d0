"""The names of what lies with the baselines: tries of tuned ones, further trainings with other seeds, differences.

"shared_lora-try-2"; "00012-seed-2", "shared_lora-seed-3". What shows experiments reads names without a study.
"""

import re

COMPARED = {
    "pretrained": "test_to_pretrained",
    "full_finetuning": "test_to_full",
    "shared_lora": "test_to_shared_lora",
    "published": "test_to_published",
}
"""Baselines, and what the columns of differences to each begin with."""


def try_name(baseline: str, number: int) -> str:
    """Returns the name of a baseline's try, numbered from 1."""
    return f"{baseline}-try-{number}"


def try_of(name: str) -> tuple[str, int] | None:
    """Returns which baseline a name is a try of, and its number. None: it is no try."""
    return _parted(name, "try")


def baseline_of(name: str) -> str:
    """Returns the baseline that a try, by its name, is one of; any other name is returned as it is."""
    found = try_of(name)
    return name if found is None else found[0]


def seed_name(original: str, number: int) -> str:
    """Returns the name of a further training of a trial or a baseline; its own is number 1, so that they begin at 2."""
    return f"{original}-seed-{number}"


def seed_of(name: str) -> tuple[str, int] | None:
    """Returns which training a name is a further one of, and its number. None: it is no further one."""
    return _parted(name, "seed")


def original_of(name: str) -> str:
    """Returns the name of the trial or baseline that a training is one of: its own, unless it is a further one."""
    found = seed_of(name)
    return name if found is None else found[0]


def _parted(name: str, word: str) -> tuple[str, int] | None:
    found = re.fullmatch(rf"(.+)-{word}-([0-9]+)", name)
    return None if found is None else (found[1], int(found[2]))
