"""Wide adapters of every kind that can be cut, and what is compared with cuts of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from langsearch.adapters.cuts import CutMethod, Donor, fill
from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.learners import adapt
from langsearch.adapters.protocol import Adapters
from langsearch.evaluate.evaluation import Evaluation, EvaluationSet, evaluate, evaluation_set
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import Environment
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Bridge, LayerNorms, Scaling, Site, SiteAdapters, Stack, ZNorm
from langsearch.space.settings import DecodingSettings

LANGUAGES = ("en", "fr", "sw")
SIDES = {
    Site("encoder", 0, "q_proj"): "src",
    Site("encoder", 0, "v_proj"): "src",
    Site("encoder", 2, "fc1"): "tgt",
    Site("decoder", 0, "cross_k_proj"): "tgt",
    Site("decoder", 2, "fc2"): "tgt",
}
WIDE = {"en": 4, "fr": 4, "sw": 6}
SETTINGS = DecodingSettings(sentences=4, max_length_factor=1.0, rows_per_batch=9)


def architecture(
    ranks: dict[str, int], sites: Sequence[Site] = tuple(SIDES), scaling: Scaling = "none", shared: bool = False
) -> Architecture:
    return Architecture(
        slots=tuple((language, "fr+sw" if shared and language != "en" else language) for language in LANGUAGES),
        adapters=tuple(SiteAdapters(site, SIDES[site], tuple(ranks.items())) for site in sites),  # type: ignore[arg-type]
        scaling=scaling,
        alpha=4.0,
    )


def donor_of(base: Base, wide: Architecture, seed: int = 0) -> Donor:
    adapters = build_adapters(base, wide, LANGUAGES)
    randomise(adapters, seed)
    return Donor(adapters)


@torch.no_grad()
def randomise(adapters: Adapters, seed: int = 0) -> None:
    """Gives adapters values that are far from their start; padding stays zero."""
    generator = torch.Generator().manual_seed(seed)
    pieces = adapters.pieces()
    for layer in pieces.pairs.values():
        for slot in layer.slots:
            for matrix in layer.pair(slot):
                matrix.copy_(torch.randn(matrix.shape, generator=generator) * 0.3)
    for name, values in (*pieces.of_slots.items(), *pieces.of_languages.items()):
        for value in values.values():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1 + float("gain" in name))


def data_of(environment: Environment, base: Base) -> EvaluationSet:
    return evaluation_set(
        environment.validation,
        environment.directions,
        SETTINGS,
        environment.classes,
        base.vocabulary(LANGUAGES),
        environment.train,
    )


def alone(
    base: Base, donor: Donor, cut: Architecture, environment: Environment, method: CutMethod = "columns"
) -> Evaluation:
    learner = adapt(base, cut, LANGUAGES)
    fill(learner.adapters, donor, donor.slots_of(cut), method)
    try:
        return evaluate(learner, data_of(environment, base), SETTINGS, base.tokenizer, SpBleu(environment.tokenizer))
    finally:
        learner.remove()


NORMS, BRIDGE = LayerNorms(slots=("en", "sw")), Bridge(slots=("fr", "sw"), rank=3)
KINDS: Mapping[str, dict[str, Any]] = {
    "lora": {},
    "scaled lora": {"scaling": "alpha/r", "alpha": 4.0},
    "one for all": {"slots": "all"},
    "shared rank": {"shared_rank": 4, "scaling": "alpha/sqrt_r", "alpha": 2.0},
    "two_sided": {"kind": "two_sided", "scaling": "alpha/r", "alpha": 4.0},
    "factorized": {"kind": "factorized"},
    "lora+layer_norm+bridge": {"layer_norm": NORMS, "bridge": BRIDGE},
    "shared rank+layer_norm by source": {"shared_rank": 3, "layer_norm": LayerNorms(slots=("en", "fr"), side="src")},
    "two_sided+bridge": {"kind": "two_sided", "bridge": Bridge(slots=("en",))},
    "factorized+layer_norm+encoder_znorm": {
        "kind": "factorized",
        "layer_norm": NORMS,
        "encoder_znorm": ZNorm(pivot="en"),
    },
}
"""Kinds that can be cut, and what their architectures have beside ranks."""


def of_kind(
    kind: str,
    ranks: Mapping[str, int],
    sites: Sequence[Site] = tuple(SIDES),
    shared_rank: int | None = None,
    stacks: tuple[Stack, ...] = ("encoder", "decoder"),
) -> Architecture:
    """Returns an architecture of a kind; a pair of all languages has the rank of fr, or of its own where they share."""
    fields = dict(KINDS[kind])
    slot = fields.pop("slots", None)
    if "shared_rank" in fields and shared_rank is not None:
        fields["shared_rank"] = shared_rank
    if "layer_norm" in fields:
        fields["layer_norm"] = replace(fields["layer_norm"], stacks=stacks)
    of_slots = dict(ranks) if slot is None else {slot: ranks.get("fr", 0)}
    return Architecture(
        slots=tuple((language, slot or language) for language in LANGUAGES),
        adapters=tuple(SiteAdapters(site, SIDES[site], tuple(of_slots.items())) for site in sites),  # type: ignore[arg-type]
        **fields,
    )
