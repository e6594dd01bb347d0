"""Trials an hour against a plain script, in one run; start it by `python -m tests.benchmarks.plain_peer`.

The peer is what one writes from the tutorials: Ray Tune with OptunaSearch and ASHA, one process a trial; PEFT's LoRA,
one for all languages, in a loop of PyTorch; after each epoch `generate` direction by direction, and sacreBLEU. Both
search on the embedded base and sentences, with as many pairs, tokens a batch and epochs, the same scored directions
and sentences, greedy, the same rungs, and two trials at once with a core each. The peer's pairs are split into pieces
once a trial, not once an epoch, and its batches are sorted by length where it decodes.

The peer trains one LoRA for all languages, since PEFT has no other in a batch of mixed directions: it does less than
langsearch, which gives every language its own.

Given are trials an hour from the start of each command to the end of its last trial, with whatever each of them starts
before; from the first trial's start to there; and the same of epochs, since early stopping need not end as many trials
in both.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from langsearch.data.directions import all_directions, sample_directions
from langsearch.data.embedded import read_embedded
from langsearch.model.finding import EMBEDDED_FOLDER

_CLASSES = {"high": ("en", "fr", "de", "es"), "medium": ("nl", "id"), "low": ("sw", "cy")}
_LANGUAGES = tuple(language for members in _CLASSES.values() for language in members)
_BASE = EMBEDDED_FOLDER / "tiny-m2m"
_EPOCHS, _PAIRS, _TOKENS, _DIRECTIONS, _ROWS = 3, 1_000, 1_000, 14, 32
_TARGETS = ["q_proj", "k_proj", "v_proj", "fc1", "fc2"]
_SPACE = Path(__file__).parents[2] / "search_spaces" / "quickstart.yaml"


def main() -> None:
    """Runs the benchmark, prints a table and writes a JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4, help="of each of the two")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer is not None:
        _search_as_a_peer(arguments.trials, arguments.peer)
        return
    with tempfile.TemporaryDirectory() as name:
        figures = {
            "plain script": _time_peer(arguments.trials, Path(name)),
            "langsearch": _time_langsearch(arguments.trials, Path(name)),
        }
    print(
        f"{'':<14}{'trials':>8}{'epochs':>8}{'best':>7}{'seconds':>9}{'an hour':>9}{'first to last, an hour':>24}"
        f"{'epochs':>8}"
    )
    for system, found in figures.items():
        print(
            f"{system:<14}{found['trials']:>8}{found['epochs']:>8}{found['best']:>7.2f}{found['seconds']:>9.1f}"
            f"{found['trials_an_hour']:>9.0f}{found['trials_an_hour_between']:>24.0f}"
            f"{found['epochs_an_hour_between']:>8.0f}"
        )
    ours, peers = figures["langsearch"], figures["plain script"]
    keys = ("trials_an_hour", "trials_an_hour_between", "epochs_an_hour_between")
    ratios = [ours[key] / peers[key] for key in keys]
    print(f"langsearch over the script: {ratios[0]:.2f}, first to last {ratios[1]:.2f}, its epochs {ratios[2]:.2f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _figures(began: float, starts: list[float], ends: list[float], epochs: int, best: float) -> dict[str, Any]:
    seconds, between = max(ends) - began, max(ends) - min(starts)
    return {
        "trials": len(ends),
        "epochs": epochs,
        "best": best,
        "seconds": seconds,
        "trials_an_hour": 3600 * len(ends) / seconds,
        "trials_an_hour_between": 3600 * len(ends) / between,
        "epochs_an_hour_between": 3600 * epochs / between,
    }


def _run(command: list[str]) -> float:
    """Runs a command to its end; returns when it began."""
    began = time.time()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed:\n{ended.stdout[-2000:]}{ended.stderr[-2000:]}")
    return began


def _time_langsearch(num_trials: int, folder: Path) -> dict[str, Any]:
    from langsearch.experiment.folder import read_rows

    settings = ["baselines=[]", f"search.trials={num_trials}", "evaluation.final.directions=2"]
    given = [f"--set={setting}" for setting in (*settings, "evaluation.final.sentences=2")]
    command = [sys.executable, "-m", "langsearch", "run", str(_SPACE), *given, "--experiments", str(folder)]
    began = _run(command)
    rows = read_rows(folder / "quickstart" / "results.parquet")
    times = [[datetime.fromisoformat(row[key]).timestamp() for row in rows] for key in ("started", "finished")]
    best = max(row["spbleu"] for row in rows)
    return _figures(began, times[0], times[1], sum(row["epochs"] for row in rows), best)


def _time_peer(num_trials: int, folder: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.benchmarks.plain_peer", "--peer", str(folder / "peer")]
    began = _run([*command, "--trials", str(num_trials)])
    told = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "peer").glob("told-*.json"))]
    return _figures(
        began,
        [trial["started"] for trial in told],
        [trial["ended"] for trial in told],
        sum(trial["epochs"] for trial in told),
        max(trial["spbleu"] for trial in told),
    )


def _search_as_a_peer(num_trials: int, folder: Path) -> None:
    """The plain script, up to its trials' training."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.optuna import OptunaSearch

    folder.mkdir(parents=True)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = {
        "rank": tune.choice([2, 4, 8, 16]),
        "lr": tune.loguniform(5e-3, 2e-2),
        "folder": str(folder),
        "path": os.pathsep.join(sys.path),
    }
    tuner = tune.Tuner(
        tune.with_resources(_train, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(metric="spbleu", mode="max"),
            scheduler=ASHAScheduler(metric="spbleu", mode="max", max_t=_EPOCHS, grace_period=1, reduction_factor=2),
            num_samples=num_trials,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    )
    tuner.fit()


def _train(config: dict[str, Any]) -> None:
    """One trial of the plain script."""
    started = time.time()
    sys.path[:0] = config["path"].split(os.pathsep)
    import torch
    from peft import LoraConfig, get_peft_model
    from ray import tune
    from transformers import M2M100ForConditionalGeneration, M2M100Tokenizer

    torch.manual_seed(0)
    tokenizer = M2M100Tokenizer.from_pretrained(_BASE)
    base = M2M100ForConditionalGeneration.from_pretrained(_BASE, dtype=torch.float32)
    lora = LoraConfig(r=config["rank"], lora_alpha=config["rank"], target_modules=_TARGETS, lora_dropout=0.0)
    model = get_peft_model(base, lora)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=config["lr"])
    pairs, rng = _tokenized_pairs(tokenizer), np.random.default_rng(0)
    told = Path(config["folder"]) / f"told-{tune.get_context().get_trial_id()}.json"
    for epoch in range(1, _EPOCHS + 1):
        model.train()
        for batch in _batches(pairs, rng, tokenizer):
            loss = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
            loss = torch.nn.functional.cross_entropy(
                loss.flatten(0, 1), batch["labels"].flatten(), ignore_index=-100, label_smoothing=0.1
            )
            torch.autograd.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        spbleu = _score(model, tokenizer)
        values = {"started": started, "ended": time.time(), "epochs": epoch, "spbleu": spbleu}
        told.write_text(json.dumps(values), encoding="utf-8")
        tune.report({"spbleu": spbleu})


def _tokenized_pairs(tokenizer: Any) -> list[tuple[list[int], list[int]]]:
    text = read_embedded("quickstart", "train", _LANGUAGES)
    found = []
    for direction in all_directions(_LANGUAGES):
        tokenizer.src_lang, tokenizer.tgt_lang = direction.src, direction.tgt
        encoded = tokenizer(list(text.sentences[direction.src]), text_target=list(text.sentences[direction.tgt]))
        found += list(zip(encoded["input_ids"], encoded["labels"], strict=True))
    return found


def _batches(pairs: list[tuple[list[int], list[int]]], rng: Any, tokenizer: Any) -> list[dict[str, Any]]:
    """Returns an epoch's batches, shuffled: random pairs of like length, as many as fit into the tokens of a batch."""
    chosen = [pairs[index] for index in rng.permutation(len(pairs))[:_PAIRS]]
    batches: list[dict[str, Any]] = []
    batch: list[tuple[list[int], list[int]]] = []
    longest = 0
    for pair in sorted(chosen, key=lambda pair: max(map(len, pair))):
        length = max(map(len, pair))
        if batch and max(longest, length) * (len(batch) + 1) > _TOKENS:
            batches.append(_collate(batch, tokenizer))
            batch, longest = [], 0
        batch.append(pair)
        longest = max(longest, length)
    batches.append(_collate(batch, tokenizer))
    rng.shuffle(batches)
    return batches


def _collate(batch: list[tuple[list[int], list[int]]], tokenizer: Any) -> dict[str, Any]:
    import torch

    inputs = tokenizer.pad({"input_ids": [src for src, _ in batch]}, return_tensors="pt")
    labels = tokenizer.pad({"input_ids": [tgt for _, tgt in batch]}, return_tensors="pt")["input_ids"]
    # M2M-100's decoder starts from the end token, which stands before the language's.
    start = torch.full((len(labels), 1), tokenizer.eos_token_id)
    targets = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
    return {**inputs, "decoder_input_ids": torch.cat([start, labels[:, :-1]], dim=1), "labels": targets}


def _score(model: Any, tokenizer: Any) -> float:
    """Returns the mean spBLEU of the scored directions, on pieces of the base's own model."""
    import sentencepiece
    import torch
    from sacrebleu.metrics import BLEU

    text = read_embedded("quickstart", "validation", _LANGUAGES)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(_BASE / "sentencepiece.bpe.model"))
    bleu, scores = BLEU(tokenize="none", force=True), []

    def pieces(rows: Any) -> list[str]:
        return [" ".join(processor.encode(row, out_type=str)) for row in rows]

    for direction in sample_directions(all_directions(_LANGUAGES), _DIRECTIONS, _CLASSES):
        tokenizer.src_lang = direction.src
        rows = list(text.sentences[direction.src])
        order = sorted(range(len(rows)), key=lambda row: len(rows[row] or ""))
        found = [""] * len(rows)
        for start in range(0, len(order), _ROWS):
            part = order[start : start + _ROWS]
            inputs = tokenizer([rows[row] for row in part], return_tensors="pt", padding=True)
            limit = 2 * inputs["input_ids"].shape[1] + 10
            with torch.no_grad():
                ids = model.generate(
                    **inputs,
                    forced_bos_token_id=tokenizer.get_lang_id(direction.tgt),
                    num_beams=1,
                    max_new_tokens=limit,
                )
            for row, said in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                found[row] = said
        references = pieces(text.sentences[direction.tgt])
        scores.append(bleu.corpus_score(pieces(found), [references]).score)
    return float(np.mean(scores))


if __name__ == "__main__":
    main()
