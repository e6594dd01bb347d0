"""The optimizer, its schedule, and its state as named tensors."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import torch
from torch import Tensor, nn

from langsearch.space.settings import TrainerSettings


def make_optimizer(parameters: Mapping[str, nn.Parameter], settings: TrainerSettings) -> torch.optim.Optimizer:
    """Returns Adam or AdamW with betas (0.9, 0.98) and eps 1e-8 (METHOD section 5, the published code).

    On a GPU an update of all parameters is one kernel, or few, and the host waits for nothing.
    """
    # A fused one takes no part of a parameter that has holes, as one of a smaller rank than others.
    is_whole = all(parameter.is_contiguous() for parameter in parameters.values())
    optimizer_class = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return optimizer_class(
        list(parameters.values()),
        lr=settings.lr,
        betas=(0.9, 0.98),
        eps=1e-8,
        weight_decay=settings.weight_decay,
        fused=(is_whole and _is_fused({parameter.device.type for parameter in parameters.values()})) or None,
    )


def _is_fused(device_types: AbstractSet[str]) -> bool:
    # On a CPU there is a fused one too, whose rounding is another: what was begun would not resume bitwise.
    return device_types == {"cuda"}


def learning_rate(update: int, settings: TrainerSettings) -> float:
    """Returns the learning rate of an update, counted from 1.

    Linear warmup, then constant or lr * sqrt(warmup / update) (Vaswani et al. 2017, section 5.3, as in fairseq).
    """
    warmup = max(settings.warmup_updates, 1)
    if update < warmup:
        return settings.lr * update / warmup
    if settings.schedule == "constant":
        return settings.lr
    return float(settings.lr * (warmup / update) ** 0.5)


def optimizer_state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Returns the optimizer's state as {"NAME/exp_avg": tensor, ...}; nothing for parameters not yet updated."""
    return {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], state: Mapping[str, Tensor]
) -> None:
    """Takes back what `optimizer_state` gave, of a fused optimizer or of one that was none."""
    is_fused = bool(optimizer.defaults["fused"])
    for name, parameter in parameters.items():
        entries = {key.rpartition("/")[2]: value for key, value in state.items() if key.rpartition("/")[0] == name}
        if entries:
            optimizer.state[parameter] = {
                # The count of updates stands where the optimizer looks for it: beside what it counts if it is fused.
                key: value.to("cpu" if key == "step" and not is_fused else parameter.device, copy=True)
                for key, value in entries.items()
            }
