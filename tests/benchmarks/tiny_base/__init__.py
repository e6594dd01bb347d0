"""How the embedded base was made: pairs from ../shared/data/corpora, its network as one CUDA graph a length, training.

`python -m tests.benchmarks.tiny_base.pairs pairs.npz`, then, where there is a GPU, `python -m
tests.benchmarks.tiny_base.pretrain pairs.npz base/`, then `python -m tests.benchmarks.tiny_base.compare base/`.
"""
