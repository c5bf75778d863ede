"""What a measurement of gradients costs beside a training step of the same layer, and what watching costs a run.

python benchmarks/diagnosis/cost.py [--out docs/results/diagnosis-cost.json]
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from unspool import GRU, LSTM, Elman, Recurrent, checkpoint
from unspool.config import build_settings
from unspool.diagnostics import gradient_flow
from unspool.tasks import LanguageModeling
from unspool.training import SECTIONS, Trainer
from unspool_benchmarks.machine import describe_machine

SIZES = [(128, 32, 64), (128, 8, 256), (128, 32, 256), (1000, 16, 320), (10_000, 1, 64), (10_000, 8, 128)]
CELLS = {"lstm": LSTM, "gru": GRU, "elman": Elman}
RUN = {"hidden_size": 256, "embedding_size": 64, "num_layers": 1, "batch_size": 32, "bptt_steps": 64, "epochs": 1}
RUN |= {"dropout": 0.0, "output_dropout": 0.0}  # two runs in one process would draw from one generator


def layer_rows(rounds):
    for name, cell in CELLS.items():
        for num_steps, batch_size, hidden_size in SIZES:
            torch.manual_seed(0)
            layer = Recurrent(cell(hidden_size, hidden_size))
            x, end = torch.randn(num_steps, batch_size, hidden_size), torch.randn(batch_size, hidden_size)

            def train(layer=layer, x=x, end=end):
                layer.zero_grad()
                (layer(x).output[-1] * end).sum().backward()

            def measure(layer=layer, x=x, end=end):
                return gradient_flow(layer, lambda: (layer(x).output[-1] * end).sum())

            seconds = {train: [], measure: []}
            for _ in range(rounds + 1):
                for function, samples in seconds.items():
                    began = time.perf_counter()
                    function()
                    samples.append(time.perf_counter() - began)
            step, probe = (statistics.median(samples[1:]) for samples in seconds.values())
            row = {"cell": name, "size": [num_steps, batch_size, hidden_size], "training_ms": step * 1e3}
            row |= {"measuring_ms": probe * 1e3, "ratio": probe / step}
            print(
                f"{name:6s} {row['size']!s:18s} {step * 1e3:9.2f} {probe * 1e3:9.2f} ms  ratio {probe / step:.2f}",
                flush=True,
            )
            yield row


def watching_row(updates):
    """Seconds of two runs that differ in --watch-gradients alone, in turns of 20 updates."""
    with tempfile.TemporaryDirectory() as place:
        trainers = {}
        for watch in (False, True):
            flags = {**RUN, "max_steps": updates, "watch_gradients": watch, "average": "none"}
            settings = build_settings({**LanguageModeling.sections, **SECTIONS}, flags=flags)
            folder = Path(place) / str(watch)
            task = checkpoint.create_folder(folder, LanguageModeling, settings, "bench")
            trainers[watch] = Trainer(task, settings["training"], folder, quiet=True)
        seconds = {False: 0.0, True: 0.0}
        for _ in range(updates // 20):
            for watch, trainer in trainers.items():
                began = time.perf_counter()
                for _ in range(20):
                    trainer._update()
                seconds[watch] += time.perf_counter() - began
        same = all(
            torch.equal(a, b)
            for a, b in zip(trainers[False].model.parameters(), trainers[True].model.parameters(), strict=True)
        )
        looks = sum('"event": "gradients"' in line for line in (Path(place) / "True/metrics.jsonl").open())
    row = {"updates": updates, "seconds": seconds[False], "watched_seconds": seconds[True], "looks": looks}
    row |= {"cost": seconds[True] / seconds[False] - 1, "same_bits": same}
    print(row)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    document = {
        "command": f"python benchmarks/diagnosis/cost.py --rounds {options.rounds} --updates {options.updates}",
        "machine": describe_machine(),
        "layers": list(layer_rows(options.rounds)),
        "watching": watching_row(options.updates),
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")


main()
