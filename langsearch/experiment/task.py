"""What one trial is to do, as a file in its folder: the driver writes it, a worker reads it."""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from langsearch.experiment.folder import TrialFolder, read_json, write_json, write_text
from langsearch.space.architecture import Architecture, BaseShape
from langsearch.space.loss_settings import LossSettings
from langsearch.space.nesting import Nesting
from langsearch.space.plan import show_beside, show_kind, show_layers
from langsearch.space.pruned_size import num_nonzero
from langsearch.space.schema import Space
from langsearch.space.settings import TrainerSettings

Method = Literal["adapters", "full", "none"]

_SWITCHES: Mapping[str, tuple[str, ...]] = {
    "init_from": (),
    "encode_once": (),
    "first_stage": ("first_share", "freeze_first"),
    "modular_bridge": (),
    "merge_src": (),
    "merge_tgt": (),
    "train_only": (),
    "back_translation_every": ("back_translation_from_epoch", "back_translation_pivots"),
    "loss": (),
    "nesting": (),
    "start_cut": (),
}
"""Settings that are newer than the first tasks, with those that mean nothing without them. What is not used stays out
of fingerprints, so that older ones hold."""


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """One architecture, or a baseline, and how it is trained."""

    name: str
    """The trial's number in five digits, or the baseline's name; "-try-2" or "-seed-2" stand behind one's own."""

    kind: Literal["searched", "baseline", "donor", "cut", "try", "seed"]
    method: Method
    """adapters: an architecture in the frozen base. full: all parameters. none: the base as it is."""

    trainer: TrainerSettings
    architecture: Architecture | None
    """None, or without adapters, where `method` is not adapters; languages that are new to the base are in it."""

    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The languages of each class, for the summary's ranks; changes nothing else."""

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over all that decides the result: equal tasks train once."""
        adapters = self.architecture.fingerprint if self.architecture else self.method
        trainer = self._written_trainer
        for switch, settings in _SWITCHES.items():
            if not trainer[switch]:
                for name in (switch, *settings):
                    del trainer[name]
        text = json.dumps([adapters, self.method, trainer], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def _written_trainer(self) -> dict[str, Any]:
        return asdict(self.trainer) | {"loss": self.trainer.loss.written()}

    @property
    def num_epochs(self) -> int:
        """Epochs of training, 0 where nothing is trained."""
        return 0 if self.method == "none" else self.trainer.epochs

    def num_trainable(self, shape: BaseShape) -> int:
        """Returns how many parameters are trained and stored."""
        if self.method == "none":
            return 0
        own = self.architecture.num_parameters(shape) if self.architecture is not None else 0
        return own + (shape.num_parameters if self.method == "full" else 0)

    def num_nonzero(self, shape: BaseShape) -> int:
        """Returns how many of them are not zero after the last epoch, when pruning has taken what it takes."""
        if self.method != "adapters" or self.architecture is None:
            return self.num_trainable(shape)
        return num_nonzero(self.architecture, shape, self.num_epochs)

    @property
    def summary(self) -> str:
        """A line on the adapters: ranks by slot, layers by side."""
        if self.architecture is None or not self.architecture.has_any:
            words = {"full": "all parameters", "none": "the base as it is", "adapters": "no adapters"}[self.method]
            new = dict(self.architecture.new_languages) if self.architecture is not None else {}
            if self.method == "none" and new:
                return f"{words}, {', '.join(f'{like} for {language}' for language, like in new.items())}"
            return f"{words} and {_count_rows(new)}" if new else words
        return summarize(self.architecture, self.classes)

    def write(self, folder: TrialFolder) -> None:
        """Writes the task into its folder; what another task has left there goes.

        That happens where the table is older than the folder: on a remote, when the machine that wrote both was
        lost between the two.
        """
        if folder.task.exists() and read_json(folder.task).get("fingerprint") != self.fingerprint:
            shutil.rmtree(folder.path)
        if self.architecture is not None:
            write_text(folder.architecture, self.architecture.to_json() + "\n")
        value = {"name": self.name, "kind": self.kind, "method": self.method, "trainer": self._written_trainer}
        value["classes"] = {name: list(languages) for name, languages in self.classes.items()}
        write_json(folder.task, {**value, "fingerprint": self.fingerprint, "summary": self.summary})

    @classmethod
    def read(cls, folder: TrialFolder) -> "TrialTask":
        """Reads a task from its folder. Raises OSError if it has none."""
        value = read_json(folder.task)
        architecture = None
        if folder.architecture.exists():
            architecture = Architecture.from_json(folder.architecture.read_text(encoding="utf-8"))
        return cls(
            name=value["name"],
            kind=value["kind"],
            method=value["method"],
            trainer=_read_trainer(value["trainer"]),
            architecture=architecture,
            classes=value["classes"],
        )


def _read_trainer(value: Mapping[str, Any]) -> TrainerSettings:
    loss, nesting = LossSettings.of(value.get("loss", {})), value.get("nesting")
    return TrainerSettings(
        **{**value, "loss": loss, "nesting": None if nesting is None else Nesting.of(nesting)},
    )


def searched_task(space: Space, shape: BaseShape, number: int, point: dict[str, object]) -> TrialTask:
    """Returns the task of a point of the space.

    Raises:
        InputError: If another base that teaches is not there.
    """
    return TrialTask(
        name=f"{number:05d}",
        kind="searched",
        method="adapters",
        trainer=_identified(space.trainer(point)),
        architecture=space.architecture(point, shape),
        classes=space.classes,
    )


def _identified(settings: TrainerSettings) -> TrainerSettings:
    if settings.loss.larger is None:
        return settings
    from langsearch.model.larger import identified  # with what reads bases, which takes seconds to import

    return identified(settings)


def baseline_task(space: Space, shape: BaseShape, name: str) -> TrialTask:
    """Returns the task of one of the space's baselines."""
    methods: dict[str, Method] = {"pretrained": "none", "full_finetuning": "full"}
    method = methods.get(name, "adapters")
    # All parameters, or none, need no architecture but for the languages that are new to the base.
    has_own = method == "adapters" or bool(space.new_languages)
    architecture = space.baseline_architecture(name, shape) if has_own else None
    return TrialTask(
        name=name,
        kind="baseline",
        method=method,
        trainer=space.baseline_trainer(name),
        architecture=architecture,
        classes=space.classes,
    )


def summarize(architecture: Architecture, classes: Mapping[str, Sequence[str]]) -> str:
    """Returns an architecture in a short line: "rank 2;4;8 · enc 0-2 dec 1 · 3 src 8 tgt".

    Ranks are the largest of each class, in the classes' order as the published notation has them; a class whose
    languages differ shows its range. Then the adapted layers, then the number of sites indexed by either side.
    """
    slots = dict(architecture.slots)
    largest = dict.fromkeys(slots.values(), 0)
    for entry in architecture.adapters:
        for slot, rank in entry.ranks:
            largest[slot] = max(largest[slot], rank)
    groups = classes or {"all": list(slots)}
    ranks = []
    for languages in groups.values():
        found = sorted({largest[slots[language]] for language in languages})
        ranks.append(str(found[0]) if len(found) == 1 else f"{found[0]}-{found[-1]}")
    layers = {"encoder": set[int](), "decoder": set[int]()}
    for entry in architecture.adapters:
        layers[entry.site.stack].add(entry.site.layer)
    text = f"enc {show_layers(layers['encoder'])} dec {show_layers(layers['decoder'])}"
    new = f" · {_count_rows(architecture.new_languages)}" if architecture.new_languages else ""
    beside = [show_kind(architecture), *show_beside(architecture)]
    new = "".join(f" · {part}" for part in beside if part) + new
    if not architecture.adapters:
        return new.removeprefix(" · ")
    if len(largest) == 1:
        return f"shared rank {ranks[0]} · {text} · {len(architecture.adapters)} sites{new}"
    num_src = sum(entry.side == "src" for entry in architecture.adapters)
    if architecture.kind == "two_sided":
        return f"rank {';'.join(ranks)} · {text} · {len(architecture.adapters)} sites{new}"
    return f"rank {';'.join(ranks)} · {text} · {num_src} src {len(architecture.adapters) - num_src} tgt{new}"


def _count_rows(new_languages: Sized) -> str:
    return f"{len(new_languages)} new language{'' if len(new_languages) == 1 else 's'}"
