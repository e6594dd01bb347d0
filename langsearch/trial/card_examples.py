"""The Python of model cards: it loads, forces the language, translates and prints, with plain PEFT and transformers."""

import json
from collections.abc import Sequence

from langsearch.adapters.export_folder import BASE_FOLDER
from langsearch.adapters.merged_export import NUM_BEAMS, marked_language, most_new_tokens
from langsearch.adapters.peft_limits import active_adapters
from langsearch.adapters.protocol import TOKENS_NAME, adapter_name
from langsearch.adapters.tokenizer_export import PlainTokenizer, plain_tokenizer
from langsearch.data.directions import Direction
from langsearch.data.store import TokenStore
from langsearch.model.base import Base
from langsearch.model.finding import is_embedded
from langsearch.space.architecture import Architecture
from langsearch.space.languages import is_english
from langsearch.trial.example_sentences import example_sentence

ADAPTER_PACKAGES = "peft transformers sentencepiece"
"""What pip must install for the example of adapters."""

MERGED_PACKAGES = "torch transformers sentencepiece"
"""What pip must install for that of a merged model."""


def adapter_lines(
    base: Base, directions: Sequence[Direction], architecture: Architecture, store: TokenStore | None = None
) -> list[str]:
    """Returns the lines that translate a sentence with exported adapters, run in their folder.

    They load the base in fp32, its tokenizer and the adapters of one direction: one with adapters on both sides and
    from English, if there is one. Where languages are new to the base, they widen it and load their rows, and the
    tokenizer that has their tokens.

    Args:
        base: The base.
        directions: Of which one is translated.
        architecture: Of the adapters.
        store: Sentences of which a short one may be shown where the embedded data lack its language.
    """
    new = dict(architecture.new_languages)
    direction = example_direction(directions, architecture)
    # PEFT cannot load an adapter without rows once it has one with them.
    active = [*_active(architecture, direction), *([TOKENS_NAME] if new else [])]
    # A base that travels with langsearch has no place of its own that a card could name: it lies beside the adapters.
    place = json.dumps(BASE_FOLDER if is_embedded(base.name) else base.name)
    revision = f', revision="{base.revision}"' if base.revision is not None else ""
    plain = plain_tokenizer(base.tokenizer, marked_language(base, direction), direction.tgt)
    widen = f"base.resize_token_embeddings({base.model.config.vocab_size + len(new)}, mean_resizing=False)"
    return [
        "import peft, torch, transformers",
        f"place = {place}",
        *_tokenizer_lines(base, plain, revision, has_new=bool(new)),
        *_source_lines(plain, has_new=bool(new)),
        f"base = transformers.AutoModelForSeq2SeqLM.from_pretrained(place{revision}, dtype=torch.float32)",
        *([widen] if new else []),
        f'model = peft.PeftModel.from_pretrained(base, "{active[0]}", adapter_name="{active[0]}")',
        *[f'model.load_adapter("{name}", adapter_name="{name}")' for name in active[1:]],
        f"model.base_model.set_adapter({json.dumps(active)})",
        _input_line(direction, store),
        *_target_lines(base, direction, plain),
        f"ids = model.eval().generate(**inputs, {', '.join(_settings(base))})",
        "print(tokenizer.batch_decode(ids, skip_special_tokens=True)[0])",
    ]


def example_direction(directions: Sequence[Direction], architecture: Architecture) -> Direction:
    """Returns the direction that a card shows: with adapters on both sides, new to the base, from English if it can."""
    new = dict(architecture.new_languages)

    def rate(direction: Direction) -> tuple[int, bool, bool]:
        return len(_active(architecture, direction)), direction.tgt in new, is_english(direction.src)

    return max(directions, key=rate)


def merged_lines(base: Base, direction: Direction, store: TokenStore | None = None) -> list[str]:
    """Returns the lines that translate a sentence with a merged model, run in its folder; see `adapter_lines`."""
    plain = plain_tokenizer(base.tokenizer, marked_language(base, direction), direction.tgt)
    return [
        "import torch, transformers",
        'tokenizer = transformers.AutoTokenizer.from_pretrained(".")',
        *plain.lines,
        'model = transformers.AutoModelForSeq2SeqLM.from_pretrained(".", dtype=torch.float32)',
        _input_line(direction, store),
        "print(tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0])",
    ]


def _tokenizer_lines(base: Base, plain: PlainTokenizer, revision: str, *, has_new: bool) -> list[str]:
    """Returns the lines that load the tokenizer."""
    if has_new:
        return [f'tokenizer = transformers.AutoTokenizer.from_pretrained("{TOKENS_NAME}")']
    # By its class: that of SMaLL-100's files is not in transformers, and it differs in nothing that is not set here.
    load = f"transformers.{base.tokenizer.family.tokenizer_class.__name__}.from_pretrained"
    settings = ["place" + revision] + ([f'src_lang="{plain.src_lang}"'] if not plain.lines else [])
    if plain.is_special:
        return [f"tokenizer = {load}({', '.join(settings)})"]
    # Without this, M2M-100's decoding does not know that the languages' tokens are special, and keeps them.
    return [
        f"languages = list({load}(place{revision}).lang_token_to_id)",
        f"tokenizer = {load}({', '.join([*settings, 'extra_special_tokens=languages'])})",
    ]


def _source_lines(plain: PlainTokenizer, *, has_new: bool) -> Sequence[str]:
    """Returns the lines after which sources begin with their language's token."""
    return plain.lines or ([f'tokenizer.src_lang = "{plain.src_lang}"'] if has_new else [])


def _target_lines(base: Base, direction: Direction, plain: PlainTokenizer) -> list[str]:
    """Returns the line that says what a translation is forced to begin with, where it is."""
    if not base.tokenizer.family.form.has_tgt_mark:
        return []
    token = base.tokenizer.language_token(direction.tgt)
    index = f'tokenizer.convert_tokens_to_ids("{token}")' if plain.knows_tgt else f"{plain.tgt_id}  # {token}"
    return [f"target = {index}"]


def _settings(base: Base) -> list[str]:
    """Returns the arguments of `generate`."""
    settings = ["forced_bos_token_id=target"] if base.tokenizer.family.form.has_tgt_mark else []
    settings += [f"num_beams={NUM_BEAMS}", f"max_new_tokens={most_new_tokens(base)}"]
    if base.new_languages:
        settings.append(f"bad_words_ids={[[language.index] for language in base.new_languages]}")
    return settings


def _active(architecture: Architecture, direction: Direction) -> list[str]:
    """Returns the names of the adapters that a direction activates."""
    return [adapter_name(side, slot) for side, slot in active_adapters(architecture, direction)]


def _input_line(direction: Direction, store: TokenStore | None) -> str:
    """Returns the line that encodes a sentence, and says which one it is if it is the user's own."""
    sentence, origin = example_sentence(direction.src, store)
    line = f'inputs = tokenizer([{json.dumps(sentence, ensure_ascii=False)}], return_tensors="pt")'
    return f"{line}  # {origin}" if origin else line
