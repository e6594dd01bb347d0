"""How updates follow one another on a device: on a GPU the host runs ahead, and waits for nothing within an update."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Pace:
    """What lies between the host and the device; the default is that of a CPU, where both are the same."""

    batches_ahead: int = 0
    """Updates whose batches a thread makes ahead, in pinned memory where there is a GPU. 0: made when they are needed.
    """

    losses_behind: int = 0
    """A loss is read, and found not to be finite, only when so many further updates have been given to the device."""

    length_multiple: int = 1
    """Lengths of batches are padded up to its multiples, so that the same shapes, and fast ones, come again."""

    @classmethod
    def of(cls, device: torch.device) -> "Pace":
        """Returns that of a device."""
        return cls(batches_ahead=2, losses_behind=1, length_multiple=8) if device.type == "cuda" else cls()
