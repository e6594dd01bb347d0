"""Files as people and public data sets have them, with texts written anew; plain functions that tests import."""

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from langsearch.data.parallel import ParallelText
from langsearch.data.readers import read_sources
from langsearch.space.problems import InputError
from langsearch.space.settings import Source

PAIRS = (("The boat is late.", "Mashua imechelewa."), ('She said "no".', 'Alisema "hapana".'))
"""English and Swahili."""


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Writes files below a folder and returns it."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def bitext(folder: Path, src: str, tgt: str, num: int) -> Source:
    """Returns a table whose sentences say their languages and their row."""
    rows = "".join(f"{src}{tgt}{row} of {src}\t{src}{tgt}{row} of {tgt}\n" for row in range(num))
    write(folder, {f"{src}-{tgt}.tsv": f"{src}\t{tgt}\n{rows}"})
    return Source("tsv", str(folder / f"{src}-{tgt}.tsv"), None)


def zstd(text: str) -> bytes:
    """Returns a text compressed as `.zst`."""
    return bytes(pa.Codec("zstd").compress(text.encode(), asbytes=True))


def gz(text: str) -> bytes:
    """Returns a text compressed as `.gz`."""
    return gzip.compress(text.encode())


def column(side: int) -> str:
    """Returns a side of the pairs, one a line."""
    return "".join(f"{pair[side]}\n" for pair in PAIRS)


def hub_records() -> str:
    """Returns the pairs as the hub's JSONL."""
    return "".join(json.dumps({"translation": {"en": en, "sw": sw}}) + "\n" for en, sw in PAIRS)


def save_dataset(folder: Path, columns: Mapping[str, Sequence[object]], num_shards: int = 1) -> Path:
    """Writes a folder as `Dataset.save_to_disk` of Hugging Face `datasets` 4.2 does."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    names = [f"data-{index:05d}-of-{num_shards:05d}.arrow" for index in range(num_shards)]
    size = -(-table.num_rows // num_shards)
    for index, name in enumerate(names):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table.slice(index * size, size))
    state: dict[str, object] = {
        "_data_files": [{"filename": name} for name in names],
        "_fingerprint": "0123456789abcdef",
        "_format_columns": None,
        "_format_kwargs": {},
        "_format_type": None,
        "_output_all_columns": False,
        "_split": None,
    }
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))
    return folder


def tmx(units: str, head: str = "") -> str:
    """Returns a translation memory with these units."""
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{head}<tmx version="1.4"><header/><body>\n{units}\n</body></tmx>\n'


def text_of(kind: str, path: Path | str, *languages: str, split: str | None = None, **keys: object) -> ParallelText:
    """Reads one source."""
    return read_sources([Source(kind, str(path), split, **keys)], languages or ("en", "sw"))  # type: ignore[arg-type]


def rows_of(text: ParallelText) -> list[tuple[str | None, ...]]:
    """Returns the rows of a text, one sentence a language."""
    return list(zip(*(text.sentences[language] for language in text.languages), strict=True))


def refusal(kind: str, path: Path | str, *languages: str, split: str | None = None, **keys: object) -> str:
    """Returns the one problem of a source that cannot be read, without its folder."""
    try:
        text_of(kind, path, *languages, split=split, **keys)
    except InputError as error:
        (problem,) = error.problems
        return problem.replace(f"{Path(path).parent}/", "")
    raise AssertionError("the source was read")
