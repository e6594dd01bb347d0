"""How much gradual pruning takes: the schedule, and what it leaves of an architecture. Known before any training."""

from collections import defaultdict

from langsearch.space.architecture import Architecture, BaseShape


def pruned_share(epoch: int, target: float, start: int, duration: int) -> float:
    """Returns the share of entries that are pruned in an epoch, by the cubic law.

    Zhu & Gupta 2017 (arXiv 1710.01878, section 3, equation 1) with an initial sparsity of 0.

    Args:
        epoch: Counted from 1.
        target: The share in the end, in [0, 1].
        start: The first epoch of pruning; its own share is still 0.
        duration: Epochs from the start to the target.
    """
    if epoch < start:
        return 0.0
    if epoch > start + duration:
        return target
    return target - target * (1 - (epoch - start) / duration) ** 3


def num_nonzero(architecture: Architecture, shape: BaseShape, epoch: int) -> int:
    """Returns the stored parameters that pruning leaves in an epoch: exactly what the trained adapters will have.

    Args:
        architecture: The adapters, pruned or not.
        shape: The base's sizes.
        epoch: Counted from 1; a trial's last one for what it ends with.
    """
    count, pruning = architecture.num_parameters(shape), architecture.pruning
    if pruning is None:
        return count
    targets, entries = dict(pruning.targets), defaultdict[object, int](int)
    shares: dict[object, float] = {}
    for adapter in architecture.adapters:
        site = adapter.site
        _, num_out = shape.features(site.stack, site.module, architecture.ffn_slice)
        for slot, rank in adapter.ranks:
            if slot in targets:
                # What is ranked together, as `adapters.pruning` has it.
                key = slot if pruning.scope == "language" else (site.stack, site.layer)
                entries[key] += num_out * architecture.pair_rank(rank)
                shares[key] = pruned_share(epoch, targets[slot], pruning.start, pruning.duration)
    return count - sum(round(shares[key] * number) for key, number in entries.items())
