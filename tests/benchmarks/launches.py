"""How many operations a step and a translation give a GPU to start; run it by `python -m tests.benchmarks.launches`.

On a GPU a step of a base that is not large waits for the host to start operations, one by one, more than for the
operations themselves. How many they are can be counted without a GPU: the step goes the way that it would go there, on
a CPU, and whatever is computed or copied is counted; views are not. Forward and backward passes alone: the optimizer is
one fused operation there. Counts do not depend on the machine, and hardly on the batch.

Decoding is of 8 sentences in each of 7 directions, against a loop over the directions with `generate` and the same
adapters in the model.
"""

import argparse
import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from langsearch.model.device import Resident
from langsearch.space.settings import TrainerSettings
from langsearch.train import cross_entropy
from tests.benchmarks.gpu_decoding import decode_in_a_loop, decode_mixed, random_sentences
from tests.benchmarks.step_variants import Size, makers, random_base, random_batch

_NOTHING = ("aten.empty", "aten.new_empty", "aten.detach", "aten._unsafe_view")
"""Operations that are no views by what they say, and start nothing."""


class Launches(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations that compute or copy something."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.num: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        aliases = [returned.alias_info for returned in func._schema.returns]
        is_view = bool(aliases) and all(alias is not None and not alias.is_write for alias in aliases)
        # Some, as `contiguous`, may be either.
        is_view = is_view and _storages(found) <= _storages((args, kwargs))
        if not is_view and not str(func).startswith(_NOTHING):
            self.num += 1
        return found


def _storages(values: Any) -> set[int]:
    """Returns where the tensors among values lie."""
    return {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)}


@contextlib.contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Gives a context in which a step of this thread goes the way that it goes on a GPU."""
    here = threading.current_thread()
    with (
        patch("langsearch.train.forward._is_apart", lambda _: threading.current_thread() is here),
        patch("langsearch.adapters.lora_linear._wants_few_launches", lambda _: True),
        patch("langsearch.adapters.routing.Routing.runs", lambda *_: None),
        patch("langsearch.train.cross_entropy._CHUNK_ELEMENTS", 16 * cross_entropy._CHUNK_ELEMENTS),
    ):
        yield


def num_launches(step: Callable[[], object]) -> int:
    """Returns how many operations one step starts, after one that is not counted."""
    step()
    with Launches() as counter:
        step()
    num: int = counter.num
    return num


def main() -> None:
    """Counts and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="of the encoder and of the decoder")
    arguments = parser.parse_args()
    found = launches_by_step(arguments.layers)
    for name, num in found.items():
        print(f"{name:<36}{num:>8,}{num / found['floor']:>8.2f} x floor")
    for beams in (1, 5):
        mixed, loop = launches_of_decoding(arguments.layers, beams)
        print(f"decoding with {beams} beam{'s' * (beams > 1)}: {mixed:,}, {loop:,} in a loop, {loop / mixed:.2f} x")


def launches_by_step(num_layers: int) -> dict[str, int]:
    """Returns how many operations each variant of a step starts, with so many layers in either stack."""
    size = Size(d_model=512, layers=num_layers, ffn_dim=2048, heads=8, vocab=8000)
    with patch("tests.benchmarks.step_variants.make_optimizer", _no_optimizer), as_on_a_gpu():
        base = random_base(size, Resident(torch.device("cpu"), torch.bfloat16))
        base.model.set_attn_implementation("sdpa")
        batch = random_batch(size, 16, 8, base.model.device)
        return {name: num_launches(make(batch)) for name, make in makers(base).items()}


def launches_of_decoding(num_layers: int, beams: int) -> tuple[int, int]:
    """Returns how many operations mixed directions start, and a loop over them."""
    size = Size(d_model=32, layers=num_layers, ffn_dim=64, heads=2, vocab=512)
    with as_on_a_gpu():
        base = random_base(size, Resident(torch.device("cpu"), torch.float32))
        base.model.set_attn_implementation("sdpa")
        text = random_sentences(base, size, num_languages=8, num_sentences=8).some(7)
        return num_launches(lambda: decode_mixed(text, beams)), num_launches(lambda: decode_in_a_loop(text, beams))


def _no_optimizer(parameters: Mapping[str, nn.Parameter], _: TrainerSettings) -> torch.optim.Optimizer:
    """Returns one that drops gradients and does nothing else."""
    optimizer = torch.optim.SGD(parameters.values())
    optimizer.step = lambda *_: None  # type: ignore[method-assign]
    return optimizer


if __name__ == "__main__":
    main()
