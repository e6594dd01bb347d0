"""Reads an experiment's folder. Optional files may be missing: a note says so, and nothing fails.

Only JSON, Parquet and text are read, so a folder from somebody else cannot run code here.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

from langsearch.experiment.folder import TRAINING
from langsearch.experiment.places import earlier_training_words
from langsearch.report.experiment_values import (
    METRICS,
    SPLITS,
    STATES,
    CurvePoint,
    DirectionScore,
    Experiment,
    Failure,
    Kind,
    PairedDifference,
    Score,
    Trial,
    TrialDetails,
)
from langsearch.report.lenient import (
    as_integer,
    as_mapping,
    as_number,
    as_text,
    as_texts,
    parse_object,
    read_json,
    read_rows,
    read_text,
)
from langsearch.space.architecture import Architecture
from langsearch.space.problems import InputError
from langsearch.study.beside_names import COMPARED

_FINAL_BEAMS = re.compile(r"\bfinal: *\{[^}]*\bbeams: *([0-9]+)")
"""In a space as it is written down, with all defaults; a reader of YAML would take long to load for one number."""

_EXPERIMENT_FILES = ("experiment.json", "results.parquet", "space.yaml")


def read_experiment(folder: Path, trials: Sequence[Trial] | None = None, note: str | None = None) -> Experiment:
    """Reads what describes an experiment and its trial table; the trials' own files stay for `read_details`.

    Args:
        folder: The experiment.
        trials: What is newer than results.parquet. None: that is read.
        note: A sentence for the page.

    Raises:
        InputError: If the folder is missing, or holds none of the files that make an experiment.
    """
    if not folder.is_dir():
        raise InputError(f"An experiment must be a folder, but {folder} is not one. `langsearch run` writes it.")
    if not any((folder / name).is_file() for name in _EXPERIMENT_FILES):
        raise InputError(
            f"An experiment's folder must hold one of {', '.join(_EXPERIMENT_FILES)}, but {folder} holds none of them. "
            f"Name the folder of one experiment, such as experiments/NAME.{earlier_training_words(folder)}"
        )
    notes: list[str] = [] if note is None else [note]
    about = read_json(folder / "experiment.json", notes)
    if trials is None:
        trials = _trials(read_rows(folder / "results.parquet", notes), notes)
    space_text = read_text(folder / "space.yaml", notes)
    classes = {str(name): as_texts(members) for name, members in as_mapping(about.get("classes")).items()}
    tokenizer = as_mapping(about.get("tokenizer"))
    return Experiment(
        folder=folder,
        name=as_text(about.get("name")) or folder.resolve().name,
        base=as_text(about.get("base")),
        base_parameters=as_integer(about.get("base_parameters")),
        languages=as_texts(about.get("languages")) or tuple(code for members in classes.values() for code in members),
        classes=MappingProxyType(classes),
        directions=as_texts(about.get("directions")),
        zero_shot=as_texts(about.get("zero_shot")),
        tokenizer=as_text(tokenizer.get("name")),
        is_stand_in=tokenizer.get("stand_in") is True,
        signature=as_text(about.get("signature"))
        or next((trial.signature for trial in trials if trial.signature), None),
        versions=MappingProxyType({str(key): str(value) for key, value in as_mapping(about.get("versions")).items()}),
        git_commit=as_text(about.get("git_commit")),
        seed=as_integer(about.get("seed")),
        objectives=MappingProxyType(
            {str(key): str(value) for key, value in as_mapping(about.get("objectives")).items()}
        ),
        started=as_text(about.get("started")),
        finished=as_text(about.get("finished")),
        seconds=as_number(about.get("seconds")),
        num_trials=as_integer(about.get("num_trials")),
        resources=MappingProxyType(dict(as_mapping(about.get("resources")))),
        constraints=as_texts(about.get("constraints")),
        space_text=space_text,
        trials=tuple(trial for trial in trials if trial.kind in ("searched", "baseline")),
        beside=tuple(trial for trial in trials if trial.kind in ("donor", "cut", "try", "seed")),
        num_validation_sentences=as_integer(about.get("num_validation_sentences")),
        notes=tuple(notes),
        final_beams=_final_beams(space_text),
        is_training=about.get("command") == TRAINING,
    )


def _final_beams(space_text: str | None) -> int | None:
    """Returns the beams of final scores, which a space that was written down names; None where it cannot be read."""
    found = _FINAL_BEAMS.search(space_text or "")
    return None if found is None else int(found[1])


def read_curve(experiment: Experiment, name: str) -> tuple[CurvePoint, ...]:
    """Reads a trial's curve by epoch, empty where it is missing or torn."""
    folder = trial_folder(experiment, name)
    rows = [] if folder is None else read_rows(folder / "curve.parquet", [])
    points = (point for row in rows if (point := _curve_point(row)) is not None)
    return tuple(sorted(points, key=lambda point: point.epoch))


def read_details(experiment: Experiment, name: str) -> TrialDetails:
    """Reads a trial's architecture, curve, direction scores and failure; what is missing or torn is left out."""
    folder = trial_folder(experiment, name)
    if folder is None:
        return TrialDetails(architecture=None, curve=(), scores=(), failure=None)
    ignored: list[str] = []
    scores = [_direction_score(row) for row in read_rows(folder / "scores.parquet", ignored)]
    failure = read_json(folder / "failure.json", ignored)
    return TrialDetails(
        architecture=_read_architecture(folder / "architecture.json"),
        curve=read_curve(experiment, name),
        scores=tuple(score for score in scores if score is not None),
        failure=Failure(
            cause=as_text(failure.get("cause")) or "unknown",
            message=as_text(failure.get("message")) or "",
            traceback=as_text(failure.get("traceback")) or "",
        )
        if failure
        else None,
    )


def trial_folder(experiment: Experiment, name: str) -> Path | None:
    """Returns a trial's folder, None for a name that would lead out of the experiment: names come from a file."""
    if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
        return None
    return experiment.folder / "trials" / name


def _trials(rows: list[dict[str, Any]], notes: list[str]) -> tuple[Trial, ...]:
    trials = [as_trial(row) for row in rows]
    known = [trial for trial in trials if trial is not None]
    if len(known) < len(trials):
        notes.append(f"{len(trials) - len(known)} rows of results.parquet have no name or no known state; left out.")
    return tuple(known)


def as_trial(row: Mapping[str, Any]) -> Trial | None:
    """Returns a row of results.parquet as a trial, None where it has no name or no known state."""
    name, state = as_text(row.get("name")), as_text(row.get("state"))
    known_state = next((known for known in STATES if known == state), None)
    if name is None or known_state is None:
        return None
    return Trial(
        name=name,
        kind=next((kind for kind in get_args(Kind) if kind == row.get("kind")), "searched"),
        state=known_state,
        cause=as_text(row.get("cause")),
        epochs=as_integer(row.get("epochs")),
        max_epochs=as_integer(row.get("max_epochs")),
        validation=_score(row, ""),
        test=_test_score(row),
        trainable_parameters=as_integer(row.get("trainable_parameters")),
        trainable_percent=as_number(row.get("trainable_percent")),
        nonzero_parameters=as_integer(row.get("nonzero_parameters")),
        train_seconds=as_number(row.get("train_seconds")),
        seconds=as_number(row.get("seconds")),
        peak_memory_bytes=as_integer(row.get("peak_memory_bytes")),
        is_front=row.get("is_front") is True,
        fingerprint=as_text(row.get("fingerprint")),
        signature=as_text(row.get("signature")),
        started=as_text(row.get("started")),
        finished=as_text(row.get("finished")),
        worker=as_text(row.get("worker")),
        params=MappingProxyType(parse_object(row.get("params"))),
        summary=as_text(row.get("summary")) or "",
        differences=MappingProxyType(
            {name: found for name, column in COMPARED.items() if (found := _difference(row, column)) is not None}
        ),
        final=_score(row, "full_"),
        kept_epoch=as_integer(row.get("kept_epoch")),
        beams=as_integer(row.get("beams")),
        note=as_text(row.get("note")) or None,
        seed_of=as_text(row.get("seed_of")),
        same_as=as_text(row.get("same_as")),
        tuned_from=as_text(row.get("tuned_from")),
        retry_of=as_text(row.get("retry_of")),
        retried_as=as_text(row.get("retried_as")),
        cut=as_text(row.get("cut")),
        is_from_cut=row.get("is_from_cut") is True,
        space_version=as_integer(row.get("space_version")),
        is_feasible=row.get("is_feasible") if isinstance(row.get("is_feasible"), bool) else None,
        violations=MappingProxyType(_numbers(parse_object(row.get("violations")))),
        metrics=MappingProxyType(_numbers({name: row.get(name) for name in METRICS})),
    )


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: number for name, value in values.items() if (number := as_number(value)) is not None}


def _difference(row: Mapping[str, Any], name: str) -> PairedDifference | None:
    value, low, high = (as_number(row.get(name + end)) for end in ("", "_low", "_high"))
    if value is None or low is None or high is None:
        return None
    return PairedDifference(
        value=value,
        low=low,
        high=high,
        p=as_number(row.get(f"{name}_p")),
        holm_p=as_number(row.get(f"{name}_holm_p")),
        num_seeds=as_integer(row.get(f"{name}_num_seeds")) or 1,
        sentences_sd=as_number(row.get(f"{name}_sentences_sd")),
    )


def _test_score(row: Mapping[str, Any]) -> Score | None:
    """Returns the score on test: of several seeds, the mean over them."""
    one, num, mean = (
        _score(row, "test_"),
        as_integer(row.get("test_num_seeds")),
        as_number(row.get("test_seeds_spbleu")),
    )
    if one is None or num is None or num < 2 or mean is None:
        return one
    return replace(
        one,
        spbleu=mean,
        low=as_number(row.get("test_seeds_spbleu_low")),
        high=as_number(row.get("test_seeds_spbleu_high")),
        num_seeds=num,
        seeds_sd=as_number(row.get("test_seeds_spbleu_sd")),
    )


def _score(row: Mapping[str, Any], prefix: str) -> Score | None:
    spbleu = as_number(row.get(f"{prefix}spbleu"))
    if spbleu is None:
        return None
    return Score(
        spbleu=spbleu,
        low=as_number(row.get(f"{prefix}spbleu_low")),
        high=as_number(row.get(f"{prefix}spbleu_high")),
        num_sentences=as_integer(row.get(f"{prefix}num_sentences")),
        num_directions=as_integer(row.get(f"{prefix}num_directions")),
    )


def _curve_point(row: Mapping[str, Any]) -> CurvePoint | None:
    epoch = as_integer(row.get("epoch"))
    if epoch is None:
        return None
    return CurvePoint(
        epoch=epoch,
        updates=as_integer(row.get("updates")),
        train_loss=as_number(row.get("train_loss")),
        spbleu=as_number(row.get("spbleu")),
        lr=as_number(row.get("lr")),
        seconds=as_number(row.get("seconds")),
        nonzero_parameters=as_integer(row.get("nonzero_parameters")),
        num_sentences=as_integer(row.get("num_sentences")),
        num_directions=as_integer(row.get("num_directions")),
        beams=as_integer(row.get("beams")),
    )


def _direction_score(row: Mapping[str, Any]) -> DirectionScore | None:
    src, tgt, spbleu = as_text(row.get("src")), as_text(row.get("tgt")), as_number(row.get("spbleu"))
    if src is None or tgt is None or spbleu is None:
        return None
    return DirectionScore(
        split=next((split for split in SPLITS if split == row.get("split")), "validation"),
        src=src,
        tgt=tgt,
        spbleu=spbleu,
        num_sentences=as_integer(row.get("num_sentences")),
    )


def _read_architecture(path: Path) -> Architecture | None:
    try:
        return Architecture.from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
