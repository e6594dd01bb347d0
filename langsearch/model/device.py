"""Where a trial computes and in which type: chosen from what was asked for, never from what happens to be there.

The frozen base is resident in the type that its products are made in, so that no weight is cast in a forward pass or
kept twice for the backward pass. Adapters, the optimizer and the loss are in fp32.
"""

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Literal

import torch

from langsearch.model.base import Base
from langsearch.model.cpus import available_cpus
from langsearch.space.problems import InputError

CpuPrecision = Literal["fp32", "bf16"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_PROBE = "import torch; x = torch.ones(8, 8, device='cuda'); assert float((x @ x).sum()) == 512"


@dataclass(frozen=True)
class Resident:
    """Where a base's weights are, and in which type."""

    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Compute:
    """What the trials of an experiment compute on."""

    gpu: float = 0.0
    """How much of a GPU a trial takes, at most 1; 0: it stays on the CPU, also where GPUs are visible."""

    cpu_precision: CpuPrecision = "fp32"
    """What `trainer.precision: auto` means on the CPU; measured once an experiment."""

    def device(self) -> torch.device:
        """Returns the device of this process.

        Raises:
            InputError: If it is to be a GPU and there is no usable one.
        """
        if self.gpu == 0:
            return torch.device("cpu")
        if not torch.cuda.is_available():
            raise InputError(
                f"`resources.gpu` {self.gpu:g} needs a usable CUDA device, but this process has none. "
                "`langsearch doctor` says what each node has."
            )
        return torch.device("cuda")

    def resident(self, precision: str, *, is_full: bool = False) -> Resident:
        """Returns how the base of a trial is kept.

        Args:
            precision: The trainer's: auto, fp32, bf16 or fp16.
            is_full: Whether all parameters are trained: they are kept in fp32, and products are cast by autocast.
        """
        device = self.device()
        if is_full:
            return Resident(device, torch.float32)
        if device.type == "cpu":
            name = self.cpu_precision if precision == "auto" else precision
            # Not every product of a CPU exists in fp16.
            return Resident(device, torch.bfloat16 if name == "bf16" else torch.float32)
        return Resident(device, product_dtype(precision, device))


def product_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Returns the type that products are made in.

    Args:
        precision: fp32, bf16, fp16, or auto: bf16 on a GPU that really has it, fp16 on an older one, fp32 on a CPU.
        device: The device.
    """
    if precision != "auto":
        return _DTYPES[precision]
    if device.type != "cuda":
        return torch.float32
    # T4 and V100 say yes when emulation counts, and are slow then.
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def settle(base: Base, resident: Resident) -> Base:
    """Returns the base on a device and in a type; nothing is copied where both are right already."""
    limit_threads()
    choose_attention(resident.device)
    model = base.model.to(device=resident.device, dtype=resident.dtype)
    if resident.device.type == "cpu" and resident.dtype is torch.bfloat16:
        # The backward pass of PyTorch's fused attention loses in bf16 on a CPU what the products gain.
        model.set_attn_implementation("eager")
    return replace(base, model=model)


def choose_attention(device: torch.device) -> None:
    """Keeps PyTorch's fused attention of a GPU to kernels that take any shape.

    On data-centre cards of NVIDIA's Hopper and Blackwell it prefers cuDNN's, which builds a plan of some 30 ms for
    every new shape (PyTorch, `sdp_utils.cpp`, `check_prefer_cudnn_attention`, and the cache in `cudnn/MHA.cpp`).
    Batches differ in their rows and lengths, and each token that is decoded makes the keys one longer: there it would
    build plans and do little else.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def limit_threads() -> None:
    """Has PyTorch take no more threads than this process may use CPUs: it counts the machine's, also in a container."""
    if torch.get_num_threads() > (num_cpus := available_cpus()):
        torch.set_num_threads(num_cpus)


def settle_here(base: Base) -> Base:
    """Returns the base where a command decodes that no space says anything about: on a GPU if there is a usable one."""
    compute = Compute(gpu=1.0 if torch.cuda.is_available() else 0.0)
    return settle(base, compute.resident("auto"))


def require_gpu(gpu: float) -> None:
    """Raises InputError if trials of this machine are to take a GPU, or a share of one, and it has no usable one."""
    if gpu > 0 and (problem := cuda_problem()) is not None:
        raise InputError(
            f"`resources.gpu` {gpu:g} needs a GPU that CUDA can use, but here: {problem}. "
            "Set resources.gpu=0 to stay on the CPU, or run on a cluster with --address."
        )


def allow_tf32(device: torch.device, *, is_full: bool) -> None:
    """Lets products of fp32 be made in TF32 on a GPU where all parameters are trained, and nowhere else."""
    # Of a CPU's products it would be the type, too, where there is such a one.
    torch.set_float32_matmul_precision("high" if is_full and device.type == "cuda" else "highest")


def cuda_problem() -> str | None:
    """Returns why CUDA cannot be used on this machine, None if it can; a process of its own tries a product.

    The driver itself must not begin to use a GPU: it would hold some of its memory as long as it runs.
    """
    if torch.version.cuda is None and torch.version.hip is None:
        return f"this PyTorch ({torch.__version__}) was built without CUDA: install a build with it"
    try:
        subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, check=True, timeout=180)
    except subprocess.TimeoutExpired:
        return "a product on the GPU did not end within 3 minutes"
    except subprocess.CalledProcessError as error:
        lines = [line for line in str(error.stderr).splitlines() if line.strip()]
        return lines[-1] if lines else "a product on the GPU failed"
    return None
