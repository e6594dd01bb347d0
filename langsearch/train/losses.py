"""The losses of an epoch's updates, read without the device being waited for."""

import math
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite; more training cannot mend it."""


@dataclass(frozen=True)
class UpdateLoss:
    """The loss of an update."""

    loss: Tensor
    """Summed over its target tokens, a scalar on the device."""

    num_tokens: int
    """Target tokens."""

    update: int
    """Counted from 1."""

    epoch: int
    lr: float
    """The learning rate of the update before it."""


class EpochLosses:
    """The sum of an epoch's losses, in the order of the updates.

    Args:
        behind: How many losses may be unread. 0: each is read at once.
        loss_sum: What has been summed before, of earlier updates of the epoch.
        num_tokens: Likewise.
    """

    def __init__(self, behind: int, loss_sum: float = 0.0, num_tokens: int = 0) -> None:
        self._behind = behind
        self._unread: deque[tuple[UpdateLoss, Tensor, torch.cuda.Event | None]] = deque()
        self.loss_sum, self.num_tokens = loss_sum, num_tokens
        """Of the updates whose losses have been read."""

    def add(self, loss: UpdateLoss) -> None:
        """Takes in the loss of an update, and reads what is due, which waits for those updates alone.

        Raises:
            NonFiniteLossError: If one that is read is not finite; it names the update.
        """
        value, is_there = loss.loss, None
        if value.is_cuda:
            # A copy that is asked for now comes behind this update; one asked for later, behind those given since.
            value = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            is_there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            is_there.record(torch.cuda.current_stream(loss.loss.device))
        self._unread.append((loss, value, is_there))
        self._read(self._behind)

    def read_all(self) -> None:
        """Reads what is left. Raises NonFiniteLossError as `add` does."""
        self._read(0)

    def _read(self, num_left: int) -> None:
        while len(self._unread) > num_left:
            loss, tensor, is_there = self._unread.popleft()
            if is_there is not None:
                is_there.synchronize()
            value = float(tensor)
            if not math.isfinite(value):
                raise NonFiniteLossError(
                    f"The loss must stay finite, but it is {value} at update {loss.update} (epoch {loss.epoch}, "
                    f"learning rate {loss.lr:.2g}). Lower `trainer.lr`, set `trainer.clip_norm`, or "
                    "lengthen the warmup."
                )
            self.loss_sum += value
            self.num_tokens += loss.num_tokens
