"""What holds for cuts of every kind of adapters that can be cut, and that the others say why they cannot."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from langsearch.adapters.cuts import CutMethod, fill
from langsearch.adapters.kinds import build_adapters
from langsearch.adapters.learners import AdaptedModel, adapt
from langsearch.adapters.nested import nested_model
from langsearch.adapters.protocol import Adapters
from langsearch.data.batches import collate
from langsearch.data.directions import Direction
from langsearch.evaluate.cuts import evaluate_cuts
from langsearch.evaluate.evaluation import evaluate
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import Environment
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, LayerNorms, Stack
from langsearch.space.nesting import Drawn, Nesting
from langsearch.space.problems import InputError
from tests.adapter_cases import CASES
from tests.cut_cases import KINDS, LANGUAGES, SETTINGS, SIDES, WIDE, alone, data_of, donor_of, of_kind

pytest_plugins = ["search_fixtures"]

SOME = list(SIDES)
DRAWN = {"en": 2, "fr": 1, "sw": 0, "all": 1}


def storages(values: Mapping[str, Tensor]) -> set[int]:
    return {value.untyped_storage().data_ptr() for value in values.values()}


@pytest.mark.parametrize("case", CASES)
def test_a_kind_is_cut_with_all_of_its_state_or_says_why_it_cannot_be(
    case: str, base: Base, make_architecture: Callable[..., Architecture]
) -> None:
    build, fields = CASES[case]
    languages = ("en", "fr", "de", "sw")
    adapters: Adapters = build(base, make_architecture(**({"pruning": None} | fields)), languages, 0)
    if any(word in case for word in ("gated", "pool")):
        with pytest.raises(InputError, match="cannot be cut: "):
            adapters.pieces()
        return
    pieces = adapters.pieces()
    found = {f"{key}.{name}": getattr(layer, name) for key, layer in pieces.pairs.items() for name in ("A", "B")}
    for beside in (pieces.of_slots, pieces.of_languages):
        found |= {f"{name}.{key}": value for name, of in beside.items() for key, value in of.items()}
    assert storages({**found, **pieces.common}) == storages(adapters.state())


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_at_the_donors_own_architecture_says_what_the_donor_says(
    kind: str, base: Base, environment: Environment
) -> None:
    wide = of_kind(kind, WIDE)
    donor, data, scorer = donor_of(base, wide), data_of(environment, base), SpBleu(environment.tokenizer)
    learner = AdaptedModel(base, donor.adapters)
    try:
        wanted = evaluate(learner, data, SETTINGS, base.tokenizer, scorer)
    finally:
        learner.remove()
    for method in ("svd", "columns"):
        assert donor.why_not(wide) is None
        (found,) = evaluate_cuts(base, donor, [wide], data, SETTINGS, scorer, known={}, method=method)
        assert found == wanted
        cut = build_adapters(base, wide, LANGUAGES, seed=3)
        fill(cut, donor, donor.slots_of(wide), method)
        state = donor.adapters.state()
        assert all(torch.equal(value, state[name]) for name, value in cut.state().items())


@pytest.mark.parametrize("kind", KINDS)
def test_many_cuts_decoded_at_once_say_what_each_says_alone(kind: str, base: Base, environment: Environment) -> None:
    donor, data, scorer = donor_of(base, of_kind(kind, WIDE)), data_of(environment, base), SpBleu(environment.tokenizer)
    cuts = [
        of_kind(kind, {"en": 2, "fr": 4, "sw": 1}),
        of_kind(kind, {"en": 2, "fr": 1, "sw": 6}, SOME[:3], 0, ("encoder",)),
        of_kind(kind, {"fr": 3}, SOME[3:], 2, ("decoder",)),
        of_kind(kind, {}),
    ]
    assert all(donor.why_not(cut) is None for cut in cuts)
    found = evaluate_cuts(base, donor, cuts, data, SETTINGS, scorer, known={}, method="svd")
    wanted = [alone(base, donor, cut, environment, "svd") for cut in cuts]
    assert found == wanted
    assert len({str(evaluation.hypotheses) for evaluation in wanted}) == len(cuts), "they say different things"


def test_norms_alone_are_cut_by_stacks(base: Base, environment: Environment) -> None:
    norms = LayerNorms(slots=("en", "sw"))
    slots = tuple((language, language) for language in LANGUAGES)
    stacks: tuple[tuple[Stack, ...], ...] = norms.stacks, ("encoder",), ("decoder",)
    cuts = [Architecture(slots=slots, adapters=(), layer_norm=replace(norms, stacks=some)) for some in stacks]
    donor, data, scorer = donor_of(base, cuts[0]), data_of(environment, base), SpBleu(environment.tokenizer)
    assert all(donor.why_not(cut) is None for cut in cuts)
    found = evaluate_cuts(base, donor, cuts, data, SETTINGS, scorer, known={})
    assert found == [alone(base, donor, cut, environment) for cut in cuts]
    assert len({str(evaluation.hypotheses) for evaluation in found}) == len(cuts)
    assert donor_of(base, cuts[1]).why_not(cuts[0]) == "the decoder has no norms of its own"
    assert donor.why_not(replace(cuts[0], layer_norm=replace(norms, side="src"))) == "its layer_norm is another"


@pytest.mark.parametrize("kind", KINDS)
def test_a_cut_by_svd_is_never_worse_than_dropping_columns(kind: str, base: Base) -> None:
    donor = donor_of(base, of_kind(kind, WIDE))
    num = 0
    for (role, site), layer in donor.pieces.pairs.items():
        for slot, full in zip(layer.slots, layer.ranks, strict=True):
            a, b = (part.double() for part in layer.pair(slot))
            for rank in range(1, full):
                factor = donor.architecture.scale(rank) / donor.architecture.scale(full)
                lost = []
                for method in get_args(CutMethod):
                    cut_a, cut_b = (part.double() for part in donor.pair(site, slot, rank, method, role))
                    lost.append(float((b @ a - factor * cut_b @ cut_a).square().sum()))
                by_columns, by_svd = lost
                assert by_svd < by_columns
                num += 1
    assert num, "there are pairs"


Key = tuple[str, str, str]


def gradients(learner: AdaptedModel, environment: Environment, base: Base) -> tuple[Tensor, dict[Key, Tensor]]:
    """Returns the logits of some sentences, and the gradients of a loss of these by what has them and its slot."""
    directions = [Direction(src, tgt) for src in LANGUAGES for tgt in LANGUAGES if src != tgt]
    pairs = torch.tensor([[number, 0] for number in range(len(directions))], dtype=torch.int32).numpy()
    batch = collate(environment.validation, directions, pairs, base.vocabulary(LANGUAGES), LANGUAGES)
    learner.model.eval()
    parameters = learner.parameters()
    for value in parameters.values():
        value.grad = None
    with learner.route(batch.src_lang, batch.tgt_lang):
        logits: Tensor = learner.model(
            input_ids=batch.src_ids, attention_mask=batch.src_mask, decoder_input_ids=batch.decoder_input_ids
        ).logits
        torch.autograd.backward(logits.square().mean())
    found: dict[Key, Tensor] = {}
    pieces = learner.adapters.pieces()
    for (role, site), layer in pieces.pairs.items():
        assert layer.A.grad is not None and layer.B.grad is not None
        for index, (slot, rank) in enumerate(zip(layer.slots, layer.ranks, strict=True)):
            found[f"{role} {site}", slot, "A"] = layer.A.grad[index, :rank]
            found[f"{role} {site}", slot, "B"] = layer.B.grad[index, :, :rank]
    for name, of_slots in pieces.of_slots.items():
        gradient = parameters[name].grad
        assert gradient is not None
        found |= {(name, slot, ""): part for slot, part in zip(of_slots, gradient, strict=True)}
    return logits.detach(), {key: value.clone() for key, value in found.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_of_a_nested_training_is_that_of_the_cut_that_was_drawn(
    kind: str, base: Base, environment: Environment
) -> None:
    kept = [site for site in SOME if (site.stack, site.layer) != ("encoder", 2) and site.module != "fc2"]
    narrow = of_kind(kind, {"en": 2, "fr": 1}, kept, DRAWN["all"], ("decoder",))
    donor = donor_of(base, of_kind(kind, WIDE))
    model = AdaptedModel(base, donor.adapters)
    try:
        whole, _ = gradients(model, environment, base)
        donor.adapters.use(Drawn(DRAWN, frozenset({"encoder.2", "decoder.fc2", "encoder.layer_norm"})))
        logits, found = gradients(model, environment, base)
        donor.adapters.use(None)
        again, _ = gradients(model, environment, base)
    finally:
        model.remove()
    assert torch.equal(again, whole) and not torch.allclose(logits, whole), "between updates all of it is there"
    cut = adapt(base, narrow, LANGUAGES)
    try:
        fill(cut.adapters, donor, donor.slots_of(narrow))
        wanted_logits, wanted = gradients(cut, environment, base)
    finally:
        cut.remove()
    torch.testing.assert_close(logits, wanted_logits, rtol=1e-4, atol=1e-4)
    assert any(key[2] == "B" and value.any() for key, value in wanted.items())
    for key, gradient in found.items():
        if key not in wanted:
            assert not gradient.any(), f"{key} is in no such cut"
            continue
        inside = gradient[tuple(slice(size) for size in wanted[key].shape)]
        assert inside.count_nonzero() == gradient.count_nonzero(), f"{key} is trained beyond the cut"
        factor = 1.0
        if key[2] == "B":  # a cut has in it by how much the wide rank's factor is another
            factor = narrow.scale(gradient.shape[1]) / narrow.scale(inside.shape[1])
        torch.testing.assert_close(inside, wanted[key] * factor, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_between_updates_a_nested_model_of_a_kind_is_as_any_other(kind: str, base: Base) -> None:
    nesting = Nesting(ranks=(("en", (1,)), ("fr", (0,)), ("all", (1,))), layers=("encoder.2",), drop_layers=0.9)
    model = nested_model(base, of_kind(kind, WIDE), LANGUAGES, 3, nesting)
    try:
        layers = [*model.adapters.pieces().pairs.values()]
        model.before_update(0.25)
        assert any(layer.used_ranks != layer.ranks for layer in layers)
        model.after_update()
        assert all(layer.used_ranks == layer.ranks and layer.is_used is None for layer in layers)
    finally:
        model.remove()
