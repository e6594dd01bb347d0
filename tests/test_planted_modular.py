"""Adapters that learned with a bridge alone are joined for directions that nobody trained, on a task made for it.

The task is an encoder and a decoder of one layer, whose languages' deltas are known; every claim holds over five seeds.
"""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from langsearch.adapters.lora import merged_linear
from langsearch.adapters.lora_linear import LanguageLoRALinear
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction, all_directions
from langsearch.space.architecture import Side

SEEDS = range(5)
BRIDGE, OWN = "en", ["aa", "bb", "cc"]
LANGUAGES = [BRIDGE, *OWN]
DIM, RANK, NUM_ROWS, NUM_STEPS = 16, 2, 4, 200


def frozen(generator: torch.Generator) -> nn.Linear:
    linear = nn.Linear(DIM, DIM, bias=False)
    linear.weight = nn.Parameter(torch.randn(DIM, DIM, generator=generator) * DIM**-0.5, requires_grad=False)
    return linear


def deltas(generator: torch.Generator) -> dict[str, Tensor]:
    """Of rank two for each language but the bridge, as large as what they are added to."""
    pairs = torch.randn(len(OWN), 2, DIM, RANK, generator=generator)
    return {language: a @ b.T * DIM**-0.5 * RANK**-0.5 for language, (a, b) in zip(OWN, pairs, strict=True)}


class Model(nn.Module):
    """A layer that the source indexes, and one that the target does."""

    def __init__(self, encoder: nn.Linear, decoder: nn.Linear, seed: int) -> None:
        super().__init__()
        self.routing = Routing()
        self.encoder, self.decoder = self._lora(encoder, "src", seed), self._lora(decoder, "tgt", seed + 1)

    def _lora(self, base: nn.Linear, side: Side, seed: int) -> LanguageLoRALinear:
        ranks, scales = dict.fromkeys(OWN, RANK), dict.fromkeys(OWN, 1.0)
        layer = LanguageLoRALinear(
            base, self.routing, side, ranks, LANGUAGES, in_features=DIM, out_features=DIM, scales=scales
        )
        generators = {language: torch.Generator().manual_seed(10 * seed + i) for i, language in enumerate(OWN)}
        layer.reset("peft", generators)
        return layer

    def forward(self, x: Tensor, direction: Direction) -> Tensor:
        src, tgt = (torch.full((len(x),), LANGUAGES.index(one)) for one in (direction.src, direction.tgt))
        with self.routing.languages(src, tgt):
            found: Tensor = self.decoder(torch.tanh(self.encoder(x)))
        return found

    def merged(self, direction: Direction, ratio: float) -> nn.Sequential:
        """Both adapters of a direction in the frozen layers, each times a ratio."""
        parts = []
        for layer, language in ((self.encoder, direction.src), (self.decoder, direction.tgt)):
            a, b = layer.pair(language)
            parts.append(merged_linear(layer.base, [ratio * b.double() @ a.double()]))
        return nn.Sequential(parts[0], nn.Tanh(), parts[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_adapters_of_two_languages_translate_between_them_though_either_learned_with_the_bridge_alone(
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    encoder, decoder = frozen(generator), frozen(generator)
    of_sources, of_targets = deltas(generator), deltas(generator)

    def truth(x: Tensor, direction: Direction) -> Tensor:
        def weight(linear: nn.Linear, planted: Mapping[str, Tensor], language: str) -> Tensor:
            return linear.weight + planted[language] if language in planted else linear.weight

        states = torch.tanh(x @ weight(encoder, of_sources, direction.src).T)
        return states @ weight(decoder, of_targets, direction.tgt).T

    model = Model(encoder, decoder, seed)
    trained = [direction for direction in all_directions(LANGUAGES) if BRIDGE in (direction.src, direction.tgt)]
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    for _ in range(NUM_STEPS):
        x = torch.randn(NUM_ROWS, 16, DIM, generator=generator)
        optimizer.zero_grad()
        errors = [(model(x, direction) - truth(x, direction)).square().mean() for direction in trained]
        torch.autograd.backward(sum(errors[1:], errors[0]))
        optimizer.step()
        schedule.step()

    fresh = torch.randn(NUM_ROWS, 16, DIM, generator=generator)

    def error(direction: Direction, ratio: float) -> float:
        with torch.no_grad():
            said = model.merged(direction, ratio)(fresh)
            return float((said - truth(fresh, direction)).square().mean())

    for direction in all_directions(OWN):
        base = error(direction, 0.0)
        assert error(direction, 1.0) <= 0.05 * base
        # The control: half of each is no mean between them, but half of what is needed.
        assert error(direction, 0.5) >= 0.1 * base
        with torch.no_grad():
            torch.testing.assert_close(model(fresh, direction), model.merged(direction, 1.0)(fresh))
