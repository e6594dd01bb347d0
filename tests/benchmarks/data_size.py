"""What millions of pairs take, from their files to an epoch; run it by `python -m tests.benchmarks.data_size`.

Two files of so many lines are made of the real pairs in ../shared/data/corpora, or of the embedded ones where that is
absent, each with a number behind it so that no two are equal. Every stage is a process of its own:

- read: the files are read and checked as a space's are, and a test part of a thousand rows is compared with them;
- look: what `langsearch check` looks at beyond: scripts, copies, lengths, unknown pieces;
- tokens: the store is built by two processes;
- epoch: an epoch of all pairs in both directions is planned, and 200 of its batches are made.

Seconds are given as wall clock and as CPU time of all processes together; memory as what the main process had resident
at most, and what of it was its own and no page of a file, which the system takes back when it needs room.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from langsearch.data.batches import collate
from langsearch.data.directions import all_directions
from langsearch.data.embedded import read_embedded
from langsearch.data.epochs import plan_epoch
from langsearch.data.overlap import find_overlap
from langsearch.data.parallel import ParallelText
from langsearch.data.readers import read_source
from langsearch.data.store import TokenStore
from langsearch.experiment.dirt import look_at
from langsearch.experiment.tokenizing import tokenizing
from langsearch.model.base import BaseTokenizer
from langsearch.model.finding import locate_base
from langsearch.model.splitter import Splitter
from langsearch.space.settings import Source

_CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpora" / "eng-deu.parquet"
_LANGUAGES = ("en", "de")
_STAGES = ("read", "look", "tokens", "epoch")
_NUM_BATCHES = 200


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--words", action="store_true", help="tokens are words: the same memory, hardly any time")
    parser.add_argument("--folder", type=Path, help="where the files are made; several GB. [a temporary one]")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--stage", choices=_STAGES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage is not None:
        print(json.dumps(_measured(arguments.stage, arguments.folder, arguments.processes, arguments.words)))
        return
    figures = []
    print(f"{'rows':>11} {'stage':<8}{'seconds':>9}{'CPU s':>9}{'resident GB':>13}{'own GB':>9}", flush=True)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        for num_rows in arguments.rows:
            folder = Path(name) / str(num_rows)
            _make(folder, num_rows)
            for stage in _STAGES:
                found = _run(stage, folder, arguments.processes, arguments.words) | {"rows": num_rows, "stage": stage}
                figures.append(found)
                sizes = f"{found['resident_bytes'] / 1e9:>13.2f}{found['own_bytes'] / 1e9:>9.2f}"
                print(
                    f"{num_rows:>11,} {stage:<8}{found['seconds']:>9.1f}{found['cpu_seconds']:>9.1f}{sizes}", flush=True
                )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _make(folder: Path, num_rows: int) -> None:
    (folder / "train").mkdir(parents=True)
    (folder / "test").mkdir()
    pairs = cycle(_pairs())
    for part, num in (("train", num_rows), ("test", 1_000)):
        with (folder / part / "en.txt").open("w") as en, (folder / part / "de.txt").open("w") as de:
            for number, (one, other) in enumerate(islice(pairs, num)):
                en.write(f"{one} {part} {number}\n")
                de.write(f"{other} {part} {number}\n")


def _pairs() -> list[tuple[str, str]]:
    if _CORPUS.exists():
        table = pq.read_table(_CORPUS, columns=["eng", "deu"]).to_pydict()
        return list(zip(table["eng"], table["deu"], strict=True))
    text = read_embedded("quickstart", "train", _LANGUAGES)
    return [(en or "", de or "") for en, de in zip(*(text.sentences[name] for name in _LANGUAGES), strict=True)]


def _run(stage: str, folder: Path, processes: int, by_words: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.data_size", "--stage", stage, "--folder", str(folder)]
    command += ["--processes", str(processes), *(["--words"] if by_words else [])]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def _measured(stage: str, folder: Path, processes: int, by_words: bool) -> dict[str, float]:
    """Does a stage in this process, and returns what it took."""
    stop, own = threading.Event(), [0]

    def watch() -> None:
        while not stop.wait(0.1):
            own[0] = max(own[0], _status()["RssAnon"])

    watching = threading.Thread(target=watch)
    watching.start()
    started, used = time.perf_counter(), _cpu_seconds()
    _do(stage, folder, processes, by_words)
    seconds, cpu_seconds = time.perf_counter() - started, _cpu_seconds() - used
    stop.set()
    watching.join()
    resident = _status()["VmHWM"]
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "resident_bytes": resident, "own_bytes": own[0]}


def _do(stage: str, folder: Path, processes: int, by_words: bool) -> None:
    def read(part: str) -> ParallelText:
        return read_source(Source("files", str(folder / part), None), _LANGUAGES)

    if stage == "read":
        parts = {part: read(part) for part in ("train", "test")}
        assert not find_overlap(parts, [_LANGUAGES])
        return
    tokenizer = BaseTokenizer(locate_base("tiny-m2m").folder)
    if stage == "look":
        look_at({part: read(part) for part in ("train", "test")}, [_LANGUAGES], tokenizer.unknown_shares)
        return
    if stage == "tokens":
        from rich.console import Console

        with tokenizing(Console(stderr=True)) as tell:
            TokenStore.build(
                read("train").normalized("nfc"),
                _words if by_words else Splitter(tokenizer),
                tokenizer.fingerprint,
                folder / "store",
                num_processes=processes,
                tell=tell,
            )
        return
    files = {language: next((folder / "store").glob(f"{language}-*.arrow")) for language in _LANGUAGES}
    store, directions = TokenStore.open(files), all_directions(_LANGUAGES)
    settings: Mapping[str, Any] = {"temperature": 5.0, "max_tokens": 4_000, "pairs_per_epoch": None, "max_length": 256}
    plan = plan_epoch(store, directions, epoch=0, seed=0, **settings)
    vocabulary = tokenizer.vocabulary(_LANGUAGES, decoder_start_id=2)
    for rows in _first(iter(plan.microbatches)):
        collate(store, directions, rows, vocabulary, _LANGUAGES)


def _words(sentences: Sequence[str]) -> list[list[int]]:
    return [[10 + len(word) for word in sentence.split(" ")] for sentence in sentences]


def _first(batches: Iterator[Any]) -> Iterator[Any]:
    return islice(batches, _NUM_BATCHES)


def _status() -> dict[str, int]:
    """Returns the sizes in this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}


def _cpu_seconds() -> float:
    """Returns the CPU time of this process and of those that it started and has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
