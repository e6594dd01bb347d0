"""The families of bases: which model class each has, how it names languages, and where it places their tokens.

| family | source | target | languages |
|---|---|---|---|
| m2m100 | [src] X [eos] | [tgt] X [eos] | `__en__` |
| small100 | [tgt] X [eos] | X [eos] | `__en__` |
| nllb | [src] X [eos] | [tgt] X [eos] | `eng_Latn` |
| mbart50 | [src] X [eos] | [tgt] X [eos] | `en_XX` |

The decoder starts with `decoder_start_token_id` (eos in all published ones), to which the target is appended.
Sources: the tokenizers of transformers (models m2m_100, nllb, mbart50), and for SMaLL-100 the model card of
alirezamsh/small100 ("source: [tgt_lang_code] + src_tokens + [EOS], target: tgt_tokens + [EOS]") with its
tokenization_small100.py, which differs from `M2M100Tokenizer` in nothing else and is never executed here.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import transformers
from transformers import AutoConfig, M2M100Tokenizer, MBart50Tokenizer, NllbTokenizer

from langsearch.data.batches import SentenceForm
from langsearch.model.collecting import without_collecting
from langsearch.space.problems import InputError

if TYPE_CHECKING:
    from transformers import M2M100ForConditionalGeneration, MBartForConditionalGeneration

TranslationModel: TypeAlias = "M2M100ForConditionalGeneration | MBartForConditionalGeneration"


@dataclass(frozen=True, kw_only=True)
class Family:
    """What bases of a family have in common, and others have otherwise."""

    name: str

    model_type: str
    """`model_type` of config.json."""

    model_name: str
    """The class of its model in transformers."""

    tokenizer_names: tuple[str, ...]
    """What `tokenizer_class` of config.json or tokenizer_config.json names; () for any that no other family names."""

    tokenizer_class: type[Any]
    """What reads the tokenizer's files."""

    language_token: re.Pattern[str]
    """Matches a language's token; its group is the language's code."""

    token_format: str
    """The token of a code."""

    form: SentenceForm

    @property
    def model_class(self) -> type[Any]:
        """The model's class, imported at its first use: that takes longer than all else that looks at a space."""
        with without_collecting():
            found: type[Any] = getattr(transformers, self.model_name)
        return found

    def read_language_ids(self, tokenizer: Any, vocab_size: int) -> dict[str, int]:
        """Returns the token of each language that a base has an embedding for, by the base's own code.

        Args:
            tokenizer: The base's tokenizer.
            vocab_size: Rows of the base's embedding. Tokenizers add the languages of their class whether the base
                has them or not, and `len(tokenizer)` need not count them.
        """
        ids: dict[str, int] = dict(getattr(tokenizer, "lang_code_to_id", {}))
        # M2M-124 has its languages within the vocabulary, and `lang_code_to_id` is wrong there.
        vocabulary: Mapping[str, int] = tokenizer.get_vocab()
        for token in vocabulary:
            if match := self.language_token.fullmatch(token):
                ids[match.group(1)] = vocabulary[token]
        return {code: index for code, index in ids.items() if index < vocab_size and index != tokenizer.unk_token_id}


_M2M100 = Family(
    name="m2m100",
    model_type="m2m_100",
    model_name="M2M100ForConditionalGeneration",
    tokenizer_names=(),
    tokenizer_class=M2M100Tokenizer,
    language_token=re.compile(r"__([A-Za-z_]+?)__"),
    token_format="__{}__",
    form=SentenceForm(),
)

FAMILIES = (
    Family(
        name="small100",
        model_type="m2m_100",
        model_name="M2M100ForConditionalGeneration",
        tokenizer_names=("SMALL100Tokenizer",),
        tokenizer_class=M2M100Tokenizer,
        language_token=_M2M100.language_token,
        token_format=_M2M100.token_format,
        form=SentenceForm(src_mark="tgt", has_tgt_mark=False),
    ),
    Family(
        name="nllb",
        model_type="m2m_100",
        model_name="M2M100ForConditionalGeneration",
        tokenizer_names=("NllbTokenizer",),
        tokenizer_class=NllbTokenizer,
        language_token=re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
        token_format="{}",
        form=SentenceForm(),
    ),
    Family(
        name="mbart50",
        model_type="mbart",
        model_name="MBartForConditionalGeneration",
        tokenizer_names=("MBart50Tokenizer",),
        tokenizer_class=MBart50Tokenizer,
        language_token=re.compile(r"([a-z]{2,3}_[A-Z]{2})"),
        token_format="{}",
        form=SentenceForm(),
    ),
    _M2M100,
)
"""All families; the first that fits a folder is its family."""

_SMALL100_FILE = "tokenization_small100.py"
_SMALL100_LAYERS = (12, 3)
"""Of encoder and decoder (Mohammadshahi et al. 2022, arXiv 2210.11621, section 3)."""


def read_config(folder: Path) -> Any:
    """Returns a base's configuration. Raises InputError if it cannot be read."""
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}/config.json must be a model's configuration, but cannot be read: {error}"
        ) from error


def find_family(folder: Path, told: str | None = None) -> Family:
    """Returns the family of a base, by `model_type` of its config.json and the class of its tokenizer.

    The class is what config.json or tokenizer_config.json name. A SMaLL-100 may name M2M-100's; then it is told by its
    own tokenizer beside it, as published, together with its shape.

    Args:
        folder: The base's folder.
        told: The family's name, where the space tells it. None: as the files say.

    Raises:
        InputError: If it is of none, what is told does not fit the model, or a SMaLL-100 can only be guessed.
    """
    config = read_config(folder)
    model_type = getattr(config, "model_type", None)
    if told is not None:
        family = next(family for family in FAMILIES if family.name == told)
        if family.model_type != model_type:
            raise InputError(
                f"`base.family` must fit the model of config.json, but got {told}, which is of {family.model_type!r}, "
                f"and {folder} is {model_type!r}. Leave it out, and the files tell it."
            )
        return family
    names = [_tokenizer_name(folder / name) for name in ("config.json", "tokenizer_config.json")]
    for family in FAMILIES:
        if family.model_type == model_type and (
            not family.tokenizer_names or any(name in family.tokenizer_names for name in names)
        ):
            return _small100_or(family, folder, config) if family is _M2M100 else family
    if model_type == "mbart":
        raise InputError(
            f"An mBART base must be an mBART-50, with the tokenizer MBart50Tokenizer, but {folder} has "
            f"{names[1] or names[0] or 'none named'}: mBART-25 places its language tokens otherwise."
        )
    raise InputError(
        "A base must be of the M2M-100 family (M2M-100, M2M-124, NLLB dense, SMaLL-100) or an mBART-50, "
        f"but {folder} is {model_type!r}."
    )


def _small100_or(family: Family, folder: Path, config: Any) -> Family:
    """Returns SMaLL-100's family where a base that names M2M-100's tokenizer is one, else the family."""
    has_tokenizer = (folder / _SMALL100_FILE).exists()
    has_shape = (config.encoder_layers, config.decoder_layers) == _SMALL100_LAYERS
    if has_tokenizer and has_shape:
        return next(family for family in FAMILIES if family.name == "small100")
    if not has_tokenizer and not has_shape:
        return family
    layers = f"{config.encoder_layers} + {config.decoder_layers} layers"
    found = f"{_SMALL100_FILE}, but {layers}" if has_tokenizer else f"{layers}, but no {_SMALL100_FILE}"
    raise InputError(
        "A base that names M2M-100's tokenizer must be a SMaLL-100 by both its own tokenizer and its 12 + 3 layers, or "
        f"by neither, but {folder} has {found}. Say which it is in the space: base: {{id: …, family: small100}}, or "
        "family: m2m100."
    )


def _tokenizer_name(path: Path) -> str | None:
    """Returns the tokenizer's class that a JSON file names, without the ending Fast of older versions."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = value.get("tokenizer_class") if isinstance(value, dict) else None
    return name.removesuffix("Fast") if isinstance(name, str) else None
