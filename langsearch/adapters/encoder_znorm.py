"""The first two moments of a language taken out of what the encoder says, and another's put in their place.

Language-agnostic representations (Zhao et al. 2021, arXiv 2008.09112, section 3.2) give each coordinate mean 0 and
variance 1 within a language, over the sentences at hand. Here the moments are those of the base over the training part,
fixed, so that a translation does not depend on its neighbours; and states are coloured again, since a frozen decoder
reads raw ones:

    h' = m_p + s_p (h - m_l) / sqrt(v_l + 1e-9)

with the moments of a pivot language, or the mean of all. `strength` is how far h goes towards h'. Nothing is trained;
adapters learn through it. It is one more scale and offset of the source language, so that it folds into the encoder's
last norm. Unlike all else it changes what a new model says. Where content, not only language, has another mean in a
language, it is taken out as well.

Shapes: rows = sentences of a batch, len = tokens, languages = those of the model, d = d_model.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from langsearch.adapters.layer_norm import plain_norm
from langsearch.adapters.mounting import ENCODER_NORM
from langsearch.adapters.protocol import NOTHING_BELOW, Below, PeftAdapter, Pieces, Unscheduled, by_owner, zero_pair
from langsearch.adapters.routing import Routing
from langsearch.data.directions import Direction
from langsearch.model.base import Base
from langsearch.space.architecture import Architecture, Side, ZNorm

_EPS = 1e-9


class ZNormedNorm(nn.Module):
    """The encoder's last norm with each source language's scale and offset behind it, at first 1 and 0.

    Args:
        base: The norm, frozen or a language's own.
        routing: Where the rows' languages stand.
        num_languages: Languages.
        d_model: The states' width.
        device: Where the rows are.
    """

    def __init__(
        self, base: nn.Module, routing: Routing, num_languages: int, d_model: int, device: torch.device
    ) -> None:
        super().__init__()
        self.base, self.routing = base, routing
        self.gain = torch.ones(num_languages, d_model, device=device)
        self.shift = torch.zeros(num_languages, d_model, device=device)

    @property
    def sides(self) -> frozenset[Side]:
        """Whose language picks a row's scale and offset."""
        return frozenset({"src"})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the norm of x (rows, len, d), scaled and moved by each row's source language."""
        h: Tensor = self.base(x)
        languages = self.routing.rows("src", h.shape[0])
        return h * self.gain[languages][:, None].to(h.dtype) + self.shift[languages][:, None].to(h.dtype)


class EncoderZNorm(Unscheduled):
    """The scales and offsets of all source languages; a part of `Together` that trains nothing.

    Args:
        base: The base; its norm is read, and stays where it is.
        architecture: Has `encoder_znorm`.
        languages: The order that the rows' language indices refer to.
        routing: The rows' languages, shared with the other parts.
    """

    def __init__(self, base: Base, architecture: Architecture, languages: Sequence[str], *, routing: Routing) -> None:
        assert architecture.encoder_znorm is not None, "the architecture must have it"
        self.architecture = architecture
        self.languages = tuple(languages)
        self.routing = routing
        self._own, self._d_model = architecture.encoder_znorm, base.shape.d_model
        norm = base.model.get_submodule(ENCODER_NORM)
        assert isinstance(norm, nn.LayerNorm), f"{ENCODER_NORM} is adapted already"
        self._norm = norm
        self.layer = ZNormedNorm(norm, routing, len(languages), self._d_model, norm.weight.device)

    @torch.no_grad()
    def set_moments(self, means: Tensor, variances: Tensor, is_known: Tensor) -> None:
        """Sets scales and offsets from each language's moments over the base's states.

        Args:
            means: (languages, d).
            variances: (languages, d), biased.
            is_known: (languages,) bool; the others stay as they are, and are not in the mean.
        """
        gain, shift = coloured(means, variances, is_known, self._own, self.languages)
        self.layer.gain.copy_(gain)
        self.layer.shift.copy_(shift)

    def modules(self) -> dict[str, nn.Module]:
        """Returns the encoder's last norm with these behind it, by its path."""
        return {ENCODER_NORM: self.layer}

    def parameters(self) -> dict[str, nn.Parameter]:
        """Returns nothing."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """Returns the scales and offsets."""
        return {"encoder_znorm.gain": self.layer.gain, "encoder_znorm.shift": self.layer.shift}

    def owned(self, side: Side | None = None) -> dict[str, list[Tensor]]:
        """Returns nothing: nothing of it is trained."""
        return {}

    def num_parameters(self) -> int:
        """Returns 0: moments are counted, not trained."""
        return 0

    def pieces(self) -> Pieces:
        """Returns each language's scale and offset."""
        return Pieces(of_languages=by_owner(self.languages, self.state()))

    @torch.no_grad()
    def merged(self, direction: Direction, below: Below = NOTHING_BELOW) -> dict[str, nn.Module]:
        """Returns the encoder's last norm with the source's scale and offset in its own."""
        norm = below.get(ENCODER_NORM, self._norm)
        assert isinstance(norm, nn.LayerNorm), f"{ENCODER_NORM} must be plain"
        return {ENCODER_NORM: self._merged(norm, self.languages.index(direction.src))}

    def to_peft(self, below: Sequence[PeftAdapter] = ()) -> list[PeftAdapter]:
        """Returns the adapters below with the norm in each source language's, as a module that PEFT stores whole."""
        known = {(adapter.side, adapter.slot): adapter for adapter in below}
        for index, language in enumerate(self.languages):
            key: tuple[Side, str] = ("src", language)
            mine = known.get(key, PeftAdapter(*key, zero_pair(self._d_model)))
            known[key] = PeftAdapter(*key, mine.pairs, {**mine.norms, ENCODER_NORM: self._merged(self._norm, index)})
        return [known[key] for key in sorted(known)]

    @torch.no_grad()
    def _merged(self, norm: nn.LayerNorm, language: int) -> nn.LayerNorm:
        gain, shift = self.layer.gain[language].double(), self.layer.shift[language].double()
        return plain_norm(norm, norm.weight.double() * gain, norm.bias.double() * gain + shift)


def coloured(
    means: Tensor, variances: Tensor, is_known: Tensor, znorm: ZNorm, languages: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Returns the scale and offset of each language that bring its moments to those of the pivot, (languages, d) each.

    Args:
        means: (languages, d).
        variances: (languages, d).
        is_known: (languages,) bool; scale 1 and offset 0 for the others.
        znorm: Parts, strength and pivot. Without a pivot it is the mean over the known languages.
        languages: Their codes.
    """
    means, deviations = means.double(), (variances.double() + _EPS).sqrt()
    chosen = is_known if znorm.pivot is None else torch.tensor([code == znorm.pivot for code in languages])
    mean, deviation = means[chosen].mean(dim=0), deviations[chosen].mean(dim=0)
    gain = deviation / deviations if znorm.parts == "both" else torch.ones_like(deviations)
    shift = mean - means * gain
    gain, shift = 1 + znorm.strength * (gain - 1), znorm.strength * shift
    known = is_known[:, None]
    return torch.where(known, gain, 1.0).float(), torch.where(known, shift, 0.0).float()
