"""The embedding rows of languages that a base has no token for: trained vectors beside the frozen embedding.

The encoder's and the decoder's embedding are one in all families, and so are the rows of a new language: its token
looks them up on either side. The output projection has no row for them, so that a new token can be forced and read, but
never be said.

Shapes: languages = those that are new; d = d_model.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from langsearch.model.base import NewLanguage
from langsearch.model.families import TranslationModel

STATE_NAME = "new_languages.rows"
"""The rows' name in a checkpoint."""

EMBEDDINGS = ("model.shared", "model.encoder.embed_tokens", "model.decoder.embed_tokens")
"""Where the families have their embedding."""


class EmbeddingWithRows(nn.Module):
    """A frozen embedding whose vocabulary goes on behind its end.

    Args:
        base: The frozen embedding, weight (vocab, d), which scales what it looks up.
        rows: (languages, d): what the ids from vocab on look up.
    """

    def __init__(self, base: nn.Embedding, rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        self.rows = rows

    @property
    def weight(self) -> Tensor:
        """The frozen embedding's own, (vocab, d)."""
        return self.base.weight

    def forward(self, input_ids: Tensor) -> Tensor:
        """Returns the scaled rows of ids, (rows, len) -> (rows, len, d)."""
        place = input_ids - self.base.num_embeddings
        is_new = place >= 0
        known = self.base(input_ids.masked_fill(is_new, 0))
        new = F.embedding(place.clamp(min=0), self.rows.to(self.base.weight.dtype))
        return torch.where(is_new[..., None], new * getattr(self.base, "embed_scale", 1.0), known)


class LanguageRows:
    """The rows of the new languages of a base, each as that of the language which it is like.

    Args:
        model: The base's model; its embeddings are read, and stay where they are.
        languages: The new languages, by their ids.
    """

    def __init__(self, model: TranslationModel, languages: Sequence[NewLanguage]) -> None:
        self.languages = tuple(languages)
        self._embeddings = {path: model.get_submodule(path) for path in EMBEDDINGS}
        weight = model.get_input_embeddings().weight
        like = torch.tensor([language.like_index for language in languages], device=weight.device)
        # In fp32 as the adapters are, whatever type the base's weights are held in.
        self.weight = nn.Parameter(weight.detach()[like].float())
        """(languages, d)."""

    def modules(self) -> dict[str, nn.Module]:
        """Returns what takes the place of the base's embeddings, by their paths."""
        found: dict[str, nn.Module] = {}
        for path, embedding in self._embeddings.items():
            assert isinstance(embedding, nn.Embedding), f"{path} has new languages already"
            found[path] = EmbeddingWithRows(embedding, self.weight)
        return found

    @torch.no_grad()
    def merge(self, model: TranslationModel) -> None:
        """Makes these rows the end of the embedding of a copy of the model that they are mounted in."""
        for path in EMBEDDINGS:
            model.set_submodule(path, model.get_submodule(path).base)
        model.resize_token_embeddings(model.config.vocab_size + len(self.languages), mean_resizing=False)
        weight = model.get_input_embeddings().weight
        weight[-len(self.languages) :] = self.weight.to(weight.dtype)
        model.requires_grad_(False)
