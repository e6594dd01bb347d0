"""Pretrains the embedded base from nothing on a GPU: `python -m tests.benchmarks.tiny_base.pretrain pairs.npz base/`.

A model as small as this takes the GPU less time than the CPU takes to ask for it, so that a whole update (batch,
forward, backward, optimizer) is captured as a CUDA graph, one for each length. The learning rate follows the clock.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import M2M100Config, M2M100ForConditionalGeneration

LENGTHS = (12, 16, 24, 32, 48, 64, 96, 124)
"""Tokens of both sides of a batch; 120 pieces, two special tokens, and a multiple of four."""

SOURCE_WEIGHTS = {
    "libreoffice": 0.3,
    "mediawiki": 0.5,
    "ebible": 0.5,
    "quran": 0.5,
    "tatoeba_opus": 3.0,
    "tatoeba_laser": 3.0,
    "ntrex": 2.0,
    "tico19": 1.5,
    "wmt_newstest": 1.5,
    "nllb_seed": 1.5,
}
"""How often a pair is drawn beside others: everyday sentences more, strings of programs less."""

TEMPERATURE = 2.0
"""A direction is drawn by the weight of its pairs to the power of one over this (arXiv 1907.05019)."""

PIVOT_SHARE = 0.35
"""Of the pairs drawn: those of two languages whose common English sentence makes them a pair."""

PEAK_LR = 3e-3
WARMUP = 0.03
PAD, EOS = 1, 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and writes `model.safetensors` of the best state by the loss on what was held out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pairs", type=Path)
    parser.add_argument("to", type=Path)
    parser.add_argument(
        "--config", type=Path, default=None, help="config.json of the base to be; default: the embedded"
    )
    parser.add_argument("--seconds", type=float, default=480.0, help="of training")
    parser.add_argument("--tokens", type=int, default=32768, help="of a side and batch, padding included")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    embedded = Path(__file__).parents[3] / "langsearch/model/embedded/tiny-m2m/config.json"
    settings = json.loads((given.config or embedded).read_text(encoding="utf-8")) | {"dtype": "float32"}
    model: Any = M2M100ForConditionalGeneration(M2M100Config(**settings)).to(device).train()
    corpus = Corpus(given.pairs, device)
    print(f"{corpus.about()}; {model.num_parameters():,} parameters", flush=True)
    given.to.mkdir(parents=True, exist_ok=True)
    update = Update(model, corpus, given.dropout, given.tokens)
    best, next_look = math.inf, 0.0
    generator = np.random.default_rng(given.seed)
    begin, updates = time.perf_counter(), 0
    total = torch.zeros((), device=device)
    for length, rows in corpus.batches(generator, given.tokens):
        passed = (time.perf_counter() - begin) / given.seconds
        if passed >= next_look or passed >= 1:
            losses = held_out_losses(model, corpus)
            mean = float(np.mean(list(losses.values())))
            shown = " ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
            trained = float(total) / max(updates, 1)
            print(
                f"{100 * passed:3.0f} % {updates} more updates, loss {trained:.3f}, held out {mean:.4f}: {shown}",
                flush=True,
            )
            if mean < best:
                best = mean
                _write(model, given.to)
            total.zero_()
            updates = 0
            next_look = passed + (0.1 if passed < 0.8 else 0.05)
        if passed >= 1:
            break
        rate = min(1.0, passed / WARMUP) * 0.5 * (1 + math.cos(math.pi * max(0.0, passed - WARMUP) / (1 - WARMUP)))
        total += update(length, rows, PEAK_LR * rate)
        updates += 1
        if device.type == "cuda" and updates % 50 == 0:
            torch.cuda.synchronize()  # else the clock of the schedule runs ahead of the device
    print(f"best on what was held out: {best:.4f}", flush=True)


def _write(model: Any, folder: Path) -> None:
    from safetensors.torch import save_file

    names = dict(model.named_parameters())  # the tied embedding once
    halves = {name: weight.detach().half().cpu().contiguous() for name, weight in names.items()}
    save_file(halves, folder / "model.safetensors", metadata={"format": "pt"})


@dataclass(frozen=True)
class Direction:
    """The pairs of a direction and how often each is drawn."""

    src: int
    tgt: int
    src_rows: np.ndarray
    tgt_rows: np.ndarray
    cumulative: np.ndarray
    """Of the pairs' weights."""


class Corpus:
    """All sentences on the device, and the pairs to draw."""

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            self.languages: list[str] = about["languages"]
            self.sources: list[str] = about["sources"]
            ids = [arrays[f"ids_{language}"] for language in self.languages]
            lengths = [arrays[f"lengths_{language}"].astype(np.int64) for language in self.languages]
            pairs, held_out = arrays["pairs"], arrays["held_out"]
        self.device = device
        self.ids = torch.from_numpy(np.concatenate([*ids, np.full(256, PAD)]).astype(np.int32)).to(device)
        self.lengths = np.concatenate(lengths)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])
        self._bases = np.cumsum([0, *(len(row) for row in lengths)])
        self.tokens = np.array([about["tokens"][language] for language in self.languages])
        self._held_out = pairs[held_out]
        self.num_pairs = len(pairs)
        self._directions = list(self._centric(pairs[~held_out])) + list(self._pivoted(pairs[~held_out]))

    def about(self) -> str:
        """Returns in a line what there is."""
        return f"{self.num_pairs:,} pairs, {int(self.lengths.sum()):,} pieces, {len(self._directions)} directions"

    def _centric(self, pairs: np.ndarray) -> Iterator[Direction]:
        weights = np.array([SOURCE_WEIGHTS[source] for source in self.sources])
        for language in range(1, len(self.languages)):
            rows = pairs[pairs[:, 0] == language]
            cumulative = np.cumsum(weights[rows[:, 3]])
            english, other = rows[:, 1] + self._bases[0], rows[:, 2] + self._bases[language]
            yield Direction(0, language, english, other, cumulative)
            yield Direction(language, 0, other, english, cumulative)

    def _pivoted(self, pairs: np.ndarray) -> Iterator[Direction]:
        weights = np.array([SOURCE_WEIGHTS[source] for source in self.sources])
        by_language = {}
        for language in range(1, len(self.languages)):
            rows = pairs[pairs[:, 0] == language]
            by_language[language] = rows[np.unique(rows[:, 1], return_index=True)[1]]  # one of a sentence's
        for first, left in by_language.items():
            for second, right in by_language.items():
                if first != second:
                    _, at_left, at_right = np.intersect1d(left[:, 1], right[:, 1], return_indices=True)
                    cumulative = np.cumsum(weights[left[at_left, 3]])
                    src_rows = left[at_left, 2] + self._bases[first]
                    yield Direction(first, second, src_rows, right[at_right, 2] + self._bases[second], cumulative)

    def batches(self, generator: np.random.Generator, tokens: int) -> Iterator[tuple[int, Tensor]]:
        """Yields for ever a length and rows of (src start, src length, src token, tgt start, tgt length, tgt token)."""
        centric = len(self.languages) * 2 - 2
        mass = np.array([direction.cumulative[-1] for direction in self._directions]) ** (1 / TEMPERATURE)
        mass[:centric] *= (1 - PIVOT_SHARE) / mass[:centric].sum()
        mass[centric:] *= PIVOT_SHARE / mass[centric:].sum()
        while True:
            parts = []
            for direction, count in zip(self._directions, generator.multinomial(40 * tokens // 8, mass), strict=True):
                points = generator.random(count) * direction.cumulative[-1]
                drawn = np.searchsorted(direction.cumulative, points, side="right")
                parts.append(self._rows(direction, drawn))
            rows = np.concatenate(parts)
            needed = np.maximum(rows[:, 1], rows[:, 4]) + 2
            batches = []
            for shorter, length in zip((0, *LENGTHS[:-1]), LENGTHS, strict=True):
                bucket = rows[(needed > shorter) & (needed <= length)]
                bucket, size = generator.permutation(bucket), tokens // length
                batches += [(length, part) for part in (bucket[i : i + size] for i in range(0, len(bucket), size))]
            whole = [(length, part) for length, part in batches if len(part) == tokens // length]
            for index in generator.permutation(len(whole)):
                length, part = whole[index]
                yield length, torch.from_numpy(part)

    def _rows(self, direction: Direction, drawn: np.ndarray) -> np.ndarray:
        src, tgt = direction.src_rows[drawn], direction.tgt_rows[drawn]
        src_token, tgt_token = (np.full(len(drawn), self.tokens[index]) for index in (direction.src, direction.tgt))
        sides = [self.starts[src], self.lengths[src], src_token, self.starts[tgt], self.lengths[tgt], tgt_token]
        return np.stack(sides, axis=1).astype(np.int64)

    def held_out(self) -> Iterator[tuple[str, Tensor]]:
        """Yields each source's held-out rows, both ways, at most 600 a language and way."""
        for number, source in enumerate(self.sources):
            parts = []
            for language in range(1, len(self.languages)):
                chosen = self._held_out[(self._held_out[:, 3] == number) & (self._held_out[:, 0] == language)][:600]
                english, other = chosen[:, 1] + self._bases[0], chosen[:, 2] + self._bases[language]
                every = np.arange(len(chosen))
                parts.append(self._rows(Direction(0, language, english, other, every), every))
                parts.append(self._rows(Direction(language, 0, other, english, every), every))
            yield source, torch.from_numpy(np.concatenate(parts))


def gather(corpus: Corpus, rows: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns source ids, decoder inputs and labels, (rows, length) each, padded by PAD."""
    places = torch.arange(length, device=rows.device)

    def side(start: Tensor, count: Tensor, token: Tensor) -> Tensor:
        """Language token, pieces, end."""
        within = (places >= 1) & (places <= count[:, None])
        ids = corpus.ids[(start[:, None] + places - 1).clamp_min(0) * within].long()
        ids = torch.where(within, ids, PAD)
        ids = torch.where(places == 0, token[:, None], ids)
        return torch.where(places == count[:, None] + 1, EOS, ids)

    columns = rows.unbind(dim=1)
    labels = side(*columns[3:])
    inputs = torch.cat([torch.full_like(labels[:, :1], EOS), labels[:, :-1]], dim=1)
    inputs = torch.where(inputs == EOS, torch.where(places == 0, EOS, PAD), inputs)
    return side(*columns[:3]), inputs, labels


def loss_of(model: Any, batch: tuple[Tensor, Tensor, Tensor], dropout: float, smoothing: float) -> Tensor:
    """Returns the mean cross-entropy in nats a target token; M2M100's forward without branches on a mask's values."""
    src, inputs, labels = batch
    core = model.model
    hidden = _embed(core.encoder, src, dropout)
    mask = (src != PAD)[:, None, None, :]
    for layer in core.encoder.layers:
        normed = layer.self_attn_layer_norm(hidden)
        hidden = hidden + _drop(_attend(layer.self_attn, normed, normed, mask), dropout)
        hidden = hidden + _drop(_feed(layer, layer.final_layer_norm(hidden)), dropout)
    encoded = core.encoder.layer_norm(hidden)
    hidden = _embed(core.decoder, inputs, dropout)
    for layer in core.decoder.layers:
        normed = layer.self_attn_layer_norm(hidden)
        hidden = hidden + _drop(_attend(layer.self_attn, normed, normed, None), dropout)
        normed = layer.encoder_attn_layer_norm(hidden)
        hidden = hidden + _drop(_attend(layer.encoder_attn, normed, encoded, mask), dropout)
        hidden = hidden + _drop(_feed(layer, layer.final_layer_norm(hidden)), dropout)
    logits = model.lm_head(core.decoder.layer_norm(hidden))
    flat, targets = logits.flatten(0, 1).float(), labels.flatten()
    return functional.cross_entropy(flat, targets, ignore_index=PAD, label_smoothing=smoothing)


def _embed(stack: Any, ids: Tensor, dropout: float) -> Tensor:
    # Positions count from 2 and are PAD's at padding, as fairseq has it.
    real = (ids != PAD).int()
    positions = (torch.cumsum(real, dim=1) * real).long() + PAD
    return _drop(stack.embed_tokens(ids) + stack.embed_positions.weights[positions], dropout)


def _drop(hidden: Tensor, dropout: float) -> Tensor:
    return functional.dropout(hidden, dropout) if dropout else hidden


def _feed(layer: Any, hidden: Tensor) -> Tensor:
    out: Tensor = layer.fc2(torch.relu(layer.fc1(hidden)))
    return out


def _attend(attention: Any, queries: Tensor, states: Tensor, mask: Tensor | None) -> Tensor:
    def heads(projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], attention.num_heads, -1).transpose(1, 2)

    query, key, value = attention.q_proj(queries), attention.k_proj(states), attention.v_proj(states)
    mixed = functional.scaled_dot_product_attention(
        heads(query), heads(key), heads(value), attn_mask=mask, is_causal=mask is None
    )
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
    return out


class Update:
    """One update for a batch of a length; on a GPU a captured graph."""

    def __init__(self, model: nn.Module, corpus: Corpus, dropout: float, tokens: int) -> None:
        self._model, self._corpus, self._dropout = model, corpus, dropout
        device = corpus.device
        self._is_cuda = device.type == "cuda"
        self._rate = torch.tensor(0.0, device=device)
        self._parameters = list(model.parameters())
        decayed = [parameter for parameter in self._parameters if parameter.dim() > 1]
        others = [parameter for parameter in self._parameters if parameter.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(
            groups, lr=self._rate, betas=(0.9, 0.98), fused=self._is_cuda, capturable=self._is_cuda
        )
        self._static = {length: torch.zeros(tokens // length, 6, dtype=torch.long, device=device) for length in LENGTHS}
        self._graphs: dict[int, tuple[Callable[[], None], Tensor]] = {}
        self._pool: Any = None

    def __call__(self, length: int, rows: Tensor, rate: float) -> Tensor:
        """Updates by a batch; returns its loss, which the next call overwrites."""
        self._rate.fill_(rate)
        static = self._static[length]
        static.copy_(rows.pin_memory() if self._is_cuda else rows, non_blocking=True)
        if not self._is_cuda:
            return self._run(length).detach()
        if length not in self._graphs:
            self._capture(length)
        replay, loss = self._graphs[length]
        replay()
        return loss

    def _run(self, length: int) -> Tensor:
        self._optimizer.zero_grad(set_to_none=True)
        batch = gather(self._corpus, self._static[length], length)
        with torch.autocast(self._corpus.device.type, torch.bfloat16, cache_enabled=False):
            loss = loss_of(self._model, batch, self._dropout, smoothing=0.1)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._parameters, 1.0, foreach=True)
        self._optimizer.step()
        return loss

    def _capture(self, length: int) -> None:
        rate = self._rate.clone()
        self._rate.zero_()  # the updates of warming up are to change nothing but the moments
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._run(length)
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss = self._run(length).detach()
        self._pool = self._pool or graph.pool()
        self._graphs[length] = (graph.replay, loss)
        self._rate.copy_(rate)


@torch.no_grad()
def held_out_losses(model: Any, corpus: Corpus) -> dict[str, float]:
    """Returns each source's loss on its held-out pairs, without dropout and smoothing, in nats a token."""
    losses = {}
    for source, rows in corpus.held_out():
        total, count = torch.zeros((), device=corpus.device), 0
        for part in torch.split(rows.to(corpus.device), 256):
            batch = gather(corpus, part, LENGTHS[-1])
            tokens = int((batch[2] != PAD).sum())
            with torch.autocast(corpus.device.type, torch.bfloat16):
                total += loss_of(model, batch, dropout=0.0, smoothing=0.0) * tokens
            count += tokens
        if count:
            losses[source] = float(total) / count
    return losses


if __name__ == "__main__":
    main()
