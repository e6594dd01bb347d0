"""Adapters that nobody trained: what was planted, written down, and so sufficient.

A swap of two words a and b is x + (b - a) s(x), where s is 1 at a, -1 at b and 0 at all other words: a rank for each
pair. At the encoder's `fc2` x is what the layer adds to, and s reads the hidden units; at the decoder's `v_proj` of the
cross-attention both are what the encoder says. Vectors are means over sentences and s is a ridge regression, so that a
rank for each pair is enough as far as that regression is right: the score says it.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from langsearch.adapters.learners import AdaptedModel
from langsearch.adapters.lora import LanguageLoRA
from langsearch.model.base import Base
from tests.benchmarks.planted.languages import LENGTHS, WORDS, swaps

NUM_SENTENCES = 800
RIDGE = 1e-4
"""Of the mean square of the inputs, a token."""


@torch.no_grad()
def write_by_hand(base: Base, learner: AdaptedModel) -> None:
    """Writes the swaps of the ciphered languages into adapters of as many ranks.

    Args:
        base: The base that the adapters are in; they must change nothing yet.
        learner: With adapters of `fc2` of the encoder's layer for source_four alone, and of `cross_v_proj` of the
            decoder's second layer for target_two and target_twelve; all other ones stay as they are.
    """
    words = np.array([base.tokenizer.encode([word])[0][0] for word in WORDS])
    adapters = learner.adapters
    assert isinstance(adapters, LanguageLoRA)
    hub = torch.full((NUM_SENTENCES,), adapters.languages.index("hub"))
    with learner.route(hub, hub):
        hidden, residual, encoded, tokens = _states(base, words)
    for site, layer in adapters.layers.items():
        reads, moves, languages = hidden, residual, ["source_four"]
        if site.stack == "decoder":
            reads, moves, languages = encoded, encoded @ layer.base.weight.T, ["target_two", "target_twelve"]
        for language in languages:
            pairs = [(words[one], words[other]) for one, other in swaps(language)]
            a, b = layer.pair(language)
            a.copy_(_tell(reads, tokens, pairs))
            b.copy_(torch.stack([_mean(moves, tokens, other) - _mean(moves, tokens, one) for one, other in pairs], 1))


def _states(base: Base, words: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns fc2's inputs, the layer's and the encoder's outputs, (tokens, width) each, and the tokens' ids."""
    rng = np.random.default_rng(1)
    vocabulary = base.vocabulary(["hub"])
    ids = np.full((NUM_SENTENCES, LENGTHS[1] + 2), vocabulary.pad_id)
    for row in ids:
        length = rng.integers(LENGTHS[0], LENGTHS[1] + 1)
        row[: length + 2] = [vocabulary.language_ids["hub"], *rng.choice(words, length), vocabulary.eos_id]
    source = torch.from_numpy(ids)
    encoder: Any = base.model.model.encoder
    found: dict[str, Tensor] = {}

    def keep_input(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found["hidden"] = inputs[0]

    def keep_output(_: nn.Module, inputs: tuple[Tensor, ...], output: Any) -> None:
        found["residual"] = output if isinstance(output, Tensor) else output[0]

    hooks = [
        encoder.layers[0].fc2.register_forward_hook(keep_input),
        encoder.layers[0].register_forward_hook(keep_output),
    ]
    is_real = source != vocabulary.pad_id
    encoded = encoder(input_ids=source, attention_mask=is_real.long()).last_hidden_state
    for hook in hooks:
        hook.remove()
    return found["hidden"][is_real], found["residual"][is_real], encoded[is_real], source[is_real]


def _tell(states: Tensor, tokens: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """Returns what tells each pair's words from each other and from the rest, by ridge regression: (pairs, width)."""
    wanted = torch.stack([(tokens == one).double() - (tokens == other).double() for one, other in pairs], dim=1)
    x = states.double()
    ridge = RIDGE * len(x) * x.square().mean() * torch.eye(x.shape[1], dtype=x.dtype)
    found: Tensor = torch.linalg.solve(x.T @ x + ridge, x.T @ wanted)
    return found.T


def _mean(states: Tensor, tokens: Tensor, token: int) -> Tensor:
    return states[tokens == token].mean(dim=0)
