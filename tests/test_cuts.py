"""Cuts out of wide adapters: their pairs, their translations, many of them at once, and the training they come from."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from langsearch.adapters.cuts import CutMethod, Donor, Factors, fill
from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lora import LanguageLoRA
from langsearch.adapters.nested import nested_model
from langsearch.adapters.routing import Routing
from langsearch.evaluate import cuts as cuts_module
from langsearch.evaluate.cuts import KnownRows, evaluate_cuts
from langsearch.evaluate.decoding import DecodingRow, decode_rows
from langsearch.evaluate.evaluation import evaluate
from langsearch.evaluate.spbleu import SpBleu
from langsearch.experiment.environment import Environment
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Scaling, Site, SiteAdapters
from langsearch.space.nesting import Drawn, Nesting
from tests.cut_cases import LANGUAGES, SETTINGS, SIDES, WIDE, alone, architecture, data_of, donor_of, randomise

pytest_plugins = ["search_fixtures"]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_a_cut_by_svd_is_the_best_of_its_rank_and_never_worse_than_dropping_columns(rank: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(8, 20, generator=generator), torch.randn(30, 8, generator=generator)
    b *= torch.linspace(2, 0.1, 8)[torch.randperm(8, generator=generator)]
    product = (b @ a).double()
    cut_a, cut_b = Factors.of(a, b).pair(rank)
    error = float((product - cut_b.double() @ cut_a.double()).square().sum())
    best = float(torch.linalg.svdvals(product)[rank:].square().sum())
    assert error == pytest.approx(best, rel=1e-4)
    assert error <= float((product - (b[:, :rank] @ a[:rank]).double()).square().sum())
    assert float(cut_a.norm(dim=1).mean()) == pytest.approx(float(a.norm(dim=1).mean())), "A is as large as it was"


@pytest.mark.parametrize("scaling", ["none", "alpha/r", "alpha/sqrt_r"])
@pytest.mark.parametrize("method", ["svd", "columns"])
def test_a_cut_is_worth_the_same_whatever_the_factor_on_its_rank(
    method: CutMethod, scaling: Scaling, base: Base
) -> None:
    donor, site = donor_of(base, architecture(WIDE, scaling=scaling)), Site("decoder", 2, "fc2")
    plain = donor_of(base, architecture(WIDE))
    a, b = donor.pair(site, "sw", 3, method)
    plain_a, plain_b = plain.pair(site, "sw", 3, method)
    found, wanted = (b @ a) * donor.architecture.scale(3), (plain_b @ plain_a) * donor.architecture.scale(6)
    torch.testing.assert_close(found, wanted)


def test_a_cut_at_the_donors_own_architecture_says_what_the_donor_says(base: Base, environment: Environment) -> None:
    wide = architecture(WIDE)
    donor, data = donor_of(base, wide), data_of(environment, base)
    learner = AdaptedModel(base, donor.adapters)
    try:
        wanted = evaluate(learner, data, SETTINGS, base.tokenizer, SpBleu(environment.tokenizer))
    finally:
        learner.remove()
    for method in ("svd", "columns"):
        (found,) = evaluate_cuts(
            base, donor, [wide], data, SETTINGS, SpBleu(environment.tokenizer), known={}, method=method
        )
        assert found == wanted
    for site in SIDES:
        assert all(
            torch.equal(cut, own)
            for cut, own in zip(donor.pair(site, "fr", 4), donor.pieces.pairs["own", site].pair("fr"), strict=True)
        )


def test_many_cuts_decoded_at_once_say_what_each_says_alone(base: Base, environment: Environment) -> None:
    donor, data = donor_of(base, architecture(WIDE)), data_of(environment, base)
    some = list(SIDES)
    cuts = [
        architecture({"en": 2, "fr": 4, "sw": 1}),
        architecture({"en": 2, "fr": 1, "sw": 6}, some[:3]),
        architecture({"sw": 3}, some[3:]),
        architecture({"en": 4, "fr": 4, "sw": 6}, some[1:4]),
        Architecture(slots=tuple((language, language) for language in LANGUAGES), adapters=()),
    ]
    assert all(donor.why_not(cut) is None for cut in cuts)
    for method in ("svd", "columns"):
        found = evaluate_cuts(base, donor, cuts, data, SETTINGS, SpBleu(environment.tokenizer), known={}, method=method)
        wanted = [alone(base, donor, cut, environment, method) for cut in cuts]
        assert found == wanted
    assert len({str(evaluation.hypotheses) for evaluation in wanted}) == len(cuts), "they say different things"


def test_what_two_cuts_share_is_decoded_once(
    base: Base, environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[int] = []

    def counted(learner: object, rows: Sequence[DecodingRow], **given: object) -> object:
        decoded.append(len(rows))
        return decode_rows(learner, rows, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(cuts_module, "decode_rows", counted)
    donor, data = donor_of(base, architecture(WIDE)), data_of(environment, base)
    scorer = SpBleu(environment.tokenizer)
    known: KnownRows = {}
    num_sentences = {str(direction): len(rows) for direction, rows in data.rows.items()}
    first = architecture({"en": 2, "fr": 2, "sw": 2})
    evaluate_cuts(base, donor, [first, first], data, SETTINGS, scorer, known=known)
    assert decoded == [sum(num_sentences.values())]
    # Only what sw takes part in is another.
    evaluate_cuts(base, donor, [architecture({"en": 2, "fr": 2, "sw": 3})], data, SETTINGS, scorer, known=known)
    assert decoded[1:] == [sum(num for name, num in num_sentences.items() if "sw" in name)]
    evaluate_cuts(base, donor, [first], data, SETTINGS, scorer, known=known)
    assert len(decoded) == 2


def test_languages_that_share_a_slot_are_cut_together(base: Base, environment: Environment) -> None:
    donor, data = donor_of(base, architecture({"en": 4, "fr+sw": 4}, shared=True)), data_of(environment, base)
    cuts = [architecture({"en": 1, "fr+sw": 3}, shared=True), architecture({"en": 2}, shared=True)]
    assert all(donor.why_not(cut) is None for cut in cuts), "a slot without a pair shares nothing"
    found = evaluate_cuts(base, donor, cuts, data, SETTINGS, SpBleu(environment.tokenizer), known={})
    assert found == [alone(base, donor, cut, environment) for cut in cuts]
    assert "fr is shared" in str(donor.why_not(architecture({"en": 1, "fr": 1, "sw": 1})))


def test_what_cannot_be_cut_is_named(base: Base) -> None:
    rest = list(SIDES)[1:]
    donor = donor_of(base, architecture(WIDE, rest))
    assert donor.why_not(architecture(WIDE, rest)) is None
    assert donor.why_not(architecture({"en": 1})) == "encoder.0.q_proj is not adapted"
    assert donor.why_not(architecture({"sw": 7}, rest)) == "sw has rank 6 at encoder.0.v_proj, less than 7"
    other = Architecture(
        slots=tuple((language, language) for language in LANGUAGES),
        adapters=(SiteAdapters(rest[0], "tgt", (("en", 1),)),),
    )
    assert donor.why_not(other) == "encoder.0.v_proj is indexed by the other side"
    assert donor.why_not(architecture({"en": 1}, rest, "alpha/r")) == "its scaling is another"


NESTING = Nesting(
    ranks=(("en", (1, 4)), ("fr", (0, 2)), ("sw", (6,))),
    layers=("encoder.2",),
    modules=("decoder.fc2",),
    drop_layers=0.5,
    drop_modules=0.5,
)


@pytest.mark.parametrize("num_rows", [3, 300], ids=["rows with copies", "rows sorted"])
def test_an_update_of_a_nested_training_is_that_of_the_narrower_pairs(base: Base, num_rows: int) -> None:
    wide = architecture(WIDE, [Site("decoder", 2, "fc2")])
    nested = LanguageLoRA(base, wide, LANGUAGES)
    randomise(nested)
    (layer,) = nested.layers.values()
    narrow = LanguageLoRA(base, architecture({"en": 2, "sw": 5}, [Site("decoder", 2, "fc2")]), LANGUAGES)
    fill(narrow, Donor(nested), {"en": "en", "sw": "sw"}, "columns")
    (narrow_layer,) = narrow.layers.values()
    x = torch.randn(num_rows, 4, layer.base.in_features, generator=torch.Generator().manual_seed(1))
    languages = torch.arange(num_rows) * 3 // num_rows

    def run(routing: Routing, module: torch.nn.Module) -> tuple[Tensor, Tensor]:
        inputs = x.clone().requires_grad_()
        with routing.languages(languages, languages):
            y = module(inputs)
        torch.autograd.backward(y.square().sum())
        assert inputs.grad is not None
        return y.detach(), inputs.grad

    nested.use(Drawn({"en": 2, "fr": 0, "sw": 5}, frozenset()))
    found, wanted = run(nested.routing, layer), run(narrow.routing, narrow_layer)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other)
    for slot, rank in (("en", 2), ("sw", 5), ("fr", 0)):
        index = layer.slots.index(slot)
        assert layer.A.grad is not None and layer.B.grad is not None
        assert not layer.A.grad[index, rank:].any() and not layer.B.grad[index, :, rank:].any()
        if rank:
            place = narrow_layer.slots.index(slot)
            assert narrow_layer.A.grad is not None and narrow_layer.B.grad is not None
            torch.testing.assert_close(layer.A.grad[index, :rank], narrow_layer.A.grad[place, :rank])
            torch.testing.assert_close(layer.B.grad[index, :, :rank], narrow_layer.B.grad[place, :, :rank])


def test_between_updates_a_nested_model_is_whole_and_a_resumed_run_draws_the_same(base: Base) -> None:
    wide = architecture(WIDE)
    model = nested_model(base, wide, LANGUAGES, 3, NESTING)
    try:
        adapters = model.adapters
        assert isinstance(adapters, LanguageLoRA)

        def drawn(progress: float) -> list[list[int]]:
            model.before_update(progress)
            return [list(layer.used_ranks) for layer in adapters.layers.values()]

        found = [drawn(update / 40) for update in range(40)]
        model.after_update()
        assert all(layer.used_ranks == layer.ranks and layer.is_used is None for layer in adapters.layers.values())
        assert found[7] == drawn(7 / 40), "by the update alone"
        by_site = dict(zip(adapters.layers, zip(*found, strict=True), strict=True))
        kept = {tuple(ranks) for ranks in by_site[Site("encoder", 0, "q_proj")]}
        assert kept == {(en, fr, 6) for en in (1, 4) for fr in (0, 2)}, "what no cut lacks is always there"
        for site in (Site("encoder", 2, "fc1"), Site("decoder", 2, "fc2")):
            share = np.mean([not any(ranks) for ranks in by_site[site]])
            assert 0.25 < share < 0.75
    finally:
        model.remove()


@pytest.mark.parametrize("seed", range(5))
def test_nested_training_orders_the_columns_and_plain_training_does_not(seed: int) -> None:
    """A product of rank 8 whose parts matter less and less; what is left of it in the first two columns of a pair."""
    generator = torch.Generator().manual_seed(seed)
    left, _ = torch.linalg.qr(torch.randn(24, 8, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(24, 8, generator=generator))
    strength = 0.5 ** torch.arange(8)
    target = left * strength @ right.T
    best = float(strength[2:].square().sum())

    def lost(ranks: Sequence[int]) -> float:
        a = torch.nn.Parameter(torch.randn(8, 24, generator=generator) * 24**-0.5)
        b = torch.nn.Parameter(torch.zeros(24, 8))
        optimizer = torch.optim.Adam([a, b], lr=0.02)
        rng = np.random.default_rng(seed)
        for _ in range(1500):
            rank = int(rng.choice(ranks))
            optimizer.zero_grad()
            torch.autograd.backward((b[:, :rank] @ a[:rank] - target).square().sum())
            optimizer.step()
        return float((b[:, :2] @ a[:2] - target).detach().square().sum()) / best

    assert lost([1, 2, 4, 8]) < 1.5
    assert lost([8]) > 3
