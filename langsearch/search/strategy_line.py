"""How a space is searched, in a line of `check`."""

from collections.abc import Iterator

from optuna.distributions import BaseDistribution, CategoricalDistribution

from langsearch.experiment.cut_tasks import donor_names, donor_task
from langsearch.experiment.environment import CheckedSpace
from langsearch.experiment.try_tasks import tuned_names
from langsearch.space.schema import Space


def strategy_line(checked: CheckedSpace) -> str:
    """Returns what is trained, what is cut out of it where something is, and the baselines."""
    search = checked.space.search
    baselines = f"baselines: {', '.join(_baselines(checked.space)) or 'none'}"
    if search.strategy == "trials":
        return f"{search.trials} searched by {search.sampler}, {baselines}"
    names = donor_names(checked.space)
    sizes = [donor_task(checked.space, checked.shape, name).num_trainable(checked.shape) for name in names]
    settings = search.one_shot
    donors = "1 wide training" if len(names) == 1 else f"{len(names)} wide trainings"
    epochs = "1 epoch" if settings.epochs == 1 else f"{settings.epochs} epochs"
    return (
        f"{donors} of up to {max(sizes):,} parameters, {settings.cuts} cuts of these searched by {search.sampler} and "
        f"scored untrained, {settings.sample} trained alone to see whether cuts can be trusted, the {settings.winners} "
        f"best trained on for {epochs}; {baselines}"
    )


def tuning_lines(space: Space) -> Iterator[str]:
    """Yields what each tuned baseline is searched in: "shared_lora: lr 0.0003 to 0.03, log; epochs 5, 10"."""
    for name in tuned_names(space):
        found = space.baseline_dimensions(name).items()
        yield f"{name}: " + "; ".join(f"{key.removeprefix('trainer.')} {show_values(one)}" for key, one in found)


def show_values(distribution: BaseDistribution) -> str:
    """Returns what a dimension can be: "0, 2, 4", or "0.001 to 0.01, log"."""
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    low, high = distribution.low, distribution.high
    log = ", log" if distribution.log else ""
    return f"{low:g} to {high:g}{log}"


def _baselines(space: Space) -> Iterator[str]:
    for baseline in space.baselines:
        num = space.num_tries(baseline.name)
        yield f"{baseline.name} ({num} tries)" if num else baseline.name
