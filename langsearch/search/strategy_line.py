"""How a space is searched, in a line of `check`."""

from langsearch.experiment.cut_tasks import donor_names, donor_task
from langsearch.experiment.environment import CheckedSpace


def strategy_line(checked: CheckedSpace) -> str:
    """Returns what is trained, what is cut out of it where something is, and the baselines."""
    search = checked.space.search
    baselines = f"baselines: {', '.join(baseline.name for baseline in checked.space.baselines) or 'none'}"
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
