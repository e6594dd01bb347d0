"""The estimate of memory against what is measured, on the CPU, in a process of its own for each case."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import M2M100Config

from langsearch.space.architecture import Architecture, uniform_ranks
from langsearch.space.sites import Site
from langsearch.train.need import first_layers, training_need

MEASURE = """
import json, sys
from dataclasses import replace
from pathlib import Path

import torch
from transformers import M2M100Config, M2M100ForConditionalGeneration

from langsearch.adapters.learners import FullModel, adapt
from langsearch.data.directions import Direction
from langsearch.data.parallel import ParallelText
from langsearch.data.store import TokenStore
from langsearch.model.base import load_base
from langsearch.space.architecture import MODULES, Architecture, BaseShape, uniform_ranks
from langsearch.space.settings import TrainerSettings
from langsearch.space.sites import Site
from langsearch.train.loop import TrainingData, train
from langsearch.train.need import first_layers, training_need
from langsearch.trial.monitor import peak_memory_bytes, reset_peak_memory

case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
kept = torch.bfloat16 if case["is_bf16"] else torch.float32
dropout, tokens, length, first = case["dropout"], case["tokens"], case["length"], case["first_encoder"]
config = M2M100Config(
    vocab_size=8111, d_model=256, encoder_layers=4, decoder_layers=4, encoder_attention_heads=4,
    decoder_attention_heads=4, encoder_ffn_dim=1024, decoder_ffn_dim=1024, max_position_embeddings=256,
    attention_dropout=case["attention_dropout"], scale_embedding=True,
)
model = M2M100ForConditionalGeneration(config).requires_grad_(False).eval().to(kept)
num_parameters = sum(parameter.numel() for parameter in model.parameters())
shape = BaseShape(
    encoder_layers=4, decoder_layers=4, d_model=256, encoder_ffn_dim=1024, decoder_ffn_dim=1024,
    num_parameters=num_parameters,
)
base = replace(load_base("tiny-m2m"), model=model, shape=shape)
languages = ("en", "fr")
text = ParallelText(languages, {name: ("x",) * (tokens // length) for name in languages}, "made")
store = TokenStore.build(text, lambda part: [[30] * (length - 2) for _ in part], "made", folder)
data = TrainingData(store, [Direction("en", "fr")], languages, base.vocabulary(languages))
sites = [
    (Site(stack, layer, module), "tgt")
    for stack, modules in MODULES.items()
    for layer in range(first if stack == "encoder" else 0, 4)
    for module in modules if not module.endswith("out_proj")
]
architecture = Architecture(
    slots=tuple((name, name) for name in languages), adapters=uniform_ranks(sites, dict.fromkeys(languages, 8))
)
settings = TrainerSettings(epochs=1, tokens_per_batch=tokens, accumulation=1, dropout=dropout)
reset_peak_memory(torch.device("cpu"))
before = peak_memory_bytes(torch.device("cpu"))
learner = FullModel(base) if case["is_full"] else adapt(base, architecture, languages)
*_, last = train(learner, data, settings)
measured = peak_memory_bytes(torch.device("cpu")) - before
assert last.updates == 1
need = training_need(
    config,
    num_parameters=num_parameters,
    num_trained=sum(parameter.numel() for parameter in learner.parameters().values()),
    is_full=case["is_full"],
    tokens=tokens,
    longest=length,
    dropout=dropout,
    layers=first_layers(None if case["is_full"] else architecture, config),
    bytes_per_value=kept.itemsize,
)
print(json.dumps([need.total - need.base, measured]))
"""

CASES = [
    pytest.param({}, id="adapters"),
    pytest.param({"is_full": True}, id="full fine-tuning"),
    # Each takes a process ten seconds.
    pytest.param({"is_bf16": True}, id="a base resident in bf16", marks=pytest.mark.integration),
    pytest.param(
        {"first_encoder": 4, "attention_dropout": 0.1, "length": 100},
        id="the decoder alone, with dropout on long attention",
        marks=pytest.mark.integration,
    ),
]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks of a process are measured on Linux")
@pytest.mark.parametrize("case", CASES)
def test_the_estimate_is_within_a_factor_of_2_of_the_measured_peak(case: dict[str, object], tmp_path: Path) -> None:
    whole = {
        "dropout": 0.1, "attention_dropout": 0.0, "tokens": 4000, "length": 40, "first_encoder": 0, "is_full": False,
        "is_bf16": False,
    } | case  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEASURE, json.dumps(whole), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    estimated, measured = json.loads(done.stdout.splitlines()[-1])
    assert measured / 2 < estimated < 2 * measured, f"{estimated / 1e6:.0f} MB against {measured / 1e6:.0f} MB"


def test_layers_below_the_lowest_adapted_one_take_no_gradient() -> None:
    config = M2M100Config(encoder_layers=6, decoder_layers=4)

    def architecture(*sites: str) -> Architecture:
        adapters = uniform_ranks([(Site.parse(site), "tgt") for site in sites], {"en": 2})
        return Architecture(slots=(("en", "en"),), adapters=adapters)

    assert first_layers(None, config) == (0, 0)
    assert first_layers(architecture("decoder.2.fc1", "decoder.3.q_proj"), config) == (6, 2)
    assert first_layers(architecture("encoder.5.fc1", "decoder.3.q_proj"), config) == (5, 0)
    assert first_layers(architecture(), config) == (6, 4)


def test_a_larger_batch_needs_more_and_fixed_parts_stay() -> None:
    config = M2M100Config()
    small, large = (
        training_need(
            config,
            num_parameters=1000,
            num_trained=10,
            is_full=False,
            tokens=tokens,
            longest=256,
            dropout=0.1,
        )
        for tokens in (1000, 4000)
    )
    assert (small.fixed, small.base, small.optimizer) == (4160, 4000, 80) and large.fixed == small.fixed
    assert 2 * small.activations < large.activations < 4 * small.activations
