"""Where each second of a trial goes, and what is left to the floor.

Run it by `python -m tests.benchmarks.trial_profile`; it takes two minutes.

Two trials, each in a process of its own, on one thread: one of the quickstart as it is, and one of the same space on a
random base of d 512 with 6+6 layers, made on the fly, of one epoch and fewer translations. CPU seconds, which other
work on the machine moves less than the clock's; what the clock has more is waiting, for the disk or for the cores.

Parts of the training step are told apart by PyTorch's profiler in some further updates: a product with a matrix of the
base's own sizes is the frozen base's, any other an adapter's. The floor is what the frozen products of a step would
take at the pace of a large product on the same core.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_BASES = ("quickstart", "d512")
_FEWER = (
    *("trainer.epochs=1", "evaluation.search.sentences=8", "trainer.precision=fp32"),
    *("evaluation.search.max_length_factor=1.5", "search.scheduler=none"),
)
"""What makes a trial on the larger base short: a random base ends no sentence by itself."""

_NUM_PROFILED = 4


def main() -> None:
    """Runs the benchmark, prints tables and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", nargs="*", choices=_BASES, default=list(_BASES))
    parser.add_argument("--one", choices=_BASES, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(_profile(arguments.one)))
        return
    figures = {}
    for name in arguments.bases:
        command = [sys.executable, "-m", "tests.benchmarks.trial_profile", "--one", name]
        found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures[name] = json.loads(found.splitlines()[-1])
        _print(name, figures[name])
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _print(name: str, found: dict[str, Any]) -> None:
    total = sum(found["seconds"].values())
    print(f"\n{name}: {total:.1f} CPU s, {found['clock_s']:.1f} s by the clock; {found['told']}")
    for part, seconds in found["seconds"].items():
        print(f"  {part:<34}{seconds:>8.2f} s{100 * seconds / total:>6.1f} %")
    print("  of a training step:")
    for part, share in found["step"].items():
        print(f"  {part:<34}{100 * share:>17.1f} %")
    for line in found["floor"]:
        print(f"  {line}")


def _profile(name: str) -> dict[str, Any]:
    """Runs a trial in this process, which must not have imported anything yet, and returns where its seconds went."""
    clock_began = time.perf_counter()
    import langsearch.search.worker  # noqa: F401, what a worker imports
    from langsearch.model.families import FAMILIES
    from tests.benchmarks.trial_parts import Sections, floor_lines, profiled_step, run_profiled_trial

    assert FAMILIES[0].model_class is not None
    sections = Sections()
    sections.seconds["imports"] = time.process_time()
    with tempfile.TemporaryDirectory(prefix="trial-profile-") as temporary:
        folder = Path(temporary)
        overrides: tuple[str, ...] = ()
        if name == "d512":
            with sections.within("(not of the trial)"):
                _write_base(folder / "base")
            overrides = (f"base={folder / 'base'}", *_FEWER)
        ready, told = run_profiled_trial(sections, folder, overrides)
        step, flops = profiled_step(ready, _NUM_PROFILED)
    sections.seconds.pop("(not of the trial)", None)
    clock_s = time.perf_counter() - clock_began
    lines = floor_lines(ready, _NUM_PROFILED, step, flops)
    total = sum(step.values())
    shares = {part: seconds / total for part, seconds in sorted(step.items(), key=lambda item: -item[1])}
    return {"seconds": sections.seconds, "clock_s": clock_s, "told": told, "step": shares, "floor": lines}


def _write_base(folder: Path) -> None:
    """Writes a random base of d 512 with 6+6 layers and the embedded base's tokenizer."""
    import torch
    from transformers import M2M100ForConditionalGeneration

    from langsearch.model.base import TOKENIZER_FILES, quiet_transformers
    from langsearch.model.families import read_config
    from langsearch.model.finding import EMBEDDED_FOLDER

    folder.mkdir()
    embedded = EMBEDDED_FOLDER / "tiny-m2m"
    for file in TOKENIZER_FILES:
        if (embedded / file).exists():
            (folder / file).write_bytes((embedded / file).read_bytes())
    config = read_config(embedded)
    config.d_model, config.encoder_layers, config.decoder_layers = 512, 6, 6
    config.encoder_ffn_dim = config.decoder_ffn_dim = 2048
    config.encoder_attention_heads = config.decoder_attention_heads = 8
    torch.manual_seed(0)
    with quiet_transformers():
        M2M100ForConditionalGeneration(config).save_pretrained(folder)


if __name__ == "__main__":
    main()
