"""Adapters to test: every kind, and some of them together."""

from typing import Any

from langsearch.adapters.kinds import KINDS, build_adapters
from langsearch.space.architecture import Bridge, Gate, LayerNorms, Pool, ZNorm

OWNERS = ("en", "fr", "sw")
"""The languages that have adapters."""

NORMS, BRIDGE = LayerNorms(slots=OWNERS), Bridge(slots=OWNERS, rank=3)
POOL = {
    "slots": dict.fromkeys(("en", "fr", "de", "sw"), "all"),
    "ranks": {"all": 2},
    "pool": Pool(size=3),
    "pruning": None,
}
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "lora": (KINDS["lora"], {}),
    "mixed_sides": (KINDS["mixed_sides"], {}),
    "shared_lora": (KINDS["shared_lora"], {"shared_rank": 2}),
    "shared_lora+bridge": (build_adapters, {"shared_rank": 2, "bridge": BRIDGE}),
    "pool": (KINDS["pool"], POOL),
    "pool+layer_norm": (build_adapters, {**POOL, "layer_norm": LayerNorms(slots=("all",))}),
    "gated": (KINDS["gated"], {"kind": "gated", "gate": Gate(skip=0.0)}),
    "factorized": (KINDS["factorized"], {"kind": "factorized"}),
    "two_sided": (KINDS["two_sided"], {"kind": "two_sided", "pruning": None}),
    "two_sided+bridge": (build_adapters, {"kind": "two_sided", "pruning": None, "bridge": BRIDGE}),
    "layer_norm": (KINDS["layer_norm"], {"layer_norm": NORMS}),
    "layer_norm by source": (
        KINDS["layer_norm"],
        {"layer_norm": LayerNorms(slots=OWNERS, stacks=("encoder",), side="src")},
    ),
    "bridge": (KINDS["bridge"], {"bridge": BRIDGE}),
    "full bridge": (KINDS["bridge"], {"bridge": Bridge(slots=OWNERS)}),
    "lora+layer_norm+bridge": (build_adapters, {"layer_norm": NORMS, "bridge": BRIDGE}),
    "factorized+layer_norm": (build_adapters, {"kind": "factorized", "layer_norm": NORMS}),
    "lora+encoder_znorm": (build_adapters, {"encoder_znorm": ZNorm(pivot="en")}),
    "factorized+layer_norm+encoder_znorm+bridge": (
        build_adapters,
        {"kind": "factorized", "layer_norm": NORMS, "encoder_znorm": ZNorm(), "bridge": BRIDGE},
    ),
    "bridge alone": (build_adapters, {"ranks": {}, "bridge": BRIDGE}),
}
"""Every kind, some of them together, and what their architectures have beside the pairs at sites."""
