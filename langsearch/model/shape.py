"""A base's sizes, from its configuration alone."""

from pathlib import Path
from typing import Any

from langsearch.model.families import find_family, read_config
from langsearch.space.architecture import BaseShape


def read_shape(folder: Path, family: str | None = None) -> BaseShape:
    """Returns a base's sizes from its configuration alone; neither weights nor the model's class are loaded.

    Args:
        folder: The base's folder.
        family: Its family, where it is told. None: as the files say.
    """
    find_family(folder, family)
    config = read_config(folder)
    return BaseShape(
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        d_model=config.d_model,
        encoder_ffn_dim=config.encoder_ffn_dim,
        decoder_ffn_dim=config.decoder_ffn_dim,
        num_parameters=_num_parameters(config),
    )


def _num_parameters(config: Any) -> int:
    """Returns how many weights a model has, tied ones once, by the sizes in its configuration.

    As transformers builds them (modeling_m2m_100.py, modeling_mbart.py): products with biases, LayerNorms of two
    vectors; an mBART learns its positions, two more than it says, and normalises the embeddings of either stack too.
    """
    d: int = config.d_model
    is_mbart = config.model_type == "mbart"
    attention, norm = 4 * (d * d + d), 2 * d
    encoder_ffn, decoder_ffn = (2 * d * dim + dim + d for dim in (config.encoder_ffn_dim, config.decoder_ffn_dim))
    layers = config.encoder_layers * (attention + encoder_ffn + 2 * norm)
    layers += config.decoder_layers * (2 * attention + decoder_ffn + 3 * norm)
    tables = config.vocab_size * d * (1 if config.tie_word_embeddings else 4)
    positions = 2 * (config.max_position_embeddings + 2) * d if is_mbart else 0
    total: int = tables + positions + layers + norm * (4 if is_mbart else 2)
    return total
