"""The device that a process trains and decodes on."""

import torch

from langsearch.model.base import Base, to_device


def on_device(base: Base) -> Base:
    """Returns the base with its weights on this process's GPU, or on the CPU if it has none."""
    return to_device(base, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
