"""What a one-shot search's cuts and wide trainings came to, in sentences."""

from langsearch.report import wording
from langsearch.report.experiment_values import Experiment
from langsearch.report.lenient import as_number, as_texts, read_json


def cut_sentences(experiment: Experiment) -> tuple[str, ...]:
    """Returns how many cuts there are, what they cost, whether they are trusted, and what came of the best of them."""
    donors = [trial for trial in experiment.beside if trial.kind == "donor"]
    cuts = [trial for trial in experiment.beside if trial.kind == "cut" and trial.same_as is None]
    scored = [trial for trial in cuts if trial.state == "complete"]
    if not donors:
        return ()
    wide = wording.counted(len(donors), "wide training")
    spent = wording.duration(sum(trial.seconds or 0.0 for trial in donors))
    if not scored:
        return (f"{wide}, which took {spent}, to be cut.",)
    seconds = wording.duration(sum(trial.seconds or 0.0 for trial in scored))
    lines = [
        f"{wording.counted(len(scored), 'architecture')} were cut out of {wide} and scored untrained: {seconds} for "
        f"the cuts, {spent} for the wide trainings, of all workers together. A cut's score is no trial's."
    ]
    decided = read_json(experiment.folder / "one_shot.json", [])
    sample, winners = as_texts(decided.get("sample")), as_texts(decided.get("winners"))
    correlation = as_number(decided.get("correlation"))
    if correlation is not None:
        trusted = (
            "so the best cuts were trained on"
            if decided.get("is_trusted") is True
            else ("too little to trust them, so the search went on without")
        )
        lines.append(
            f"{len(sample)} of their architectures were trained alone as well: Spearman {correlation:+.2f} with their "
            f"scores as cuts, {trusted}."
        )
    if winners and (trained := {trial.cut: trial for trial in experiment.trials if trial.is_from_cut}):
        words = [f"{name} as trial {trained[name].name}" for name in winners if name in trained]
        lines.append(f"Trained on: {', '.join(words)}.")
    return tuple(lines)
