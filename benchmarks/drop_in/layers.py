"""``unspool.nn`` against ``torch.nn``, a module each: forward and backward with all gradients, in turn in one process.

python benchmarks/drop_in/layers.py [--threads 2] [--out docs/results/drop-in.json]
"""

import argparse
import json
import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import unspool.nn
from unspool_benchmarks.machine import describe_machine
from unspool_benchmarks.timing import Pace, interleave, ratio_spread, spread

# name, module, options, (T, B, size), packed
CASES = [
    ("LSTM, one layer", "LSTM", {}, (64, 8, 128), False),
    ("LSTM, 2 layers, both directions", "LSTM", {"num_layers": 2, "bidirectional": True}, (50, 16, 200), False),
    ("the same, packed", "LSTM", {"num_layers": 2, "bidirectional": True}, (50, 16, 200), True),
    ("LSTM, both directions, packed characters", "LSTM", {"bidirectional": True}, (12, 300, 50), True),
    ("LSTM, projection", "LSTM", {"proj_size": 64}, (64, 8, 128), False),
    ("GRU, one layer", "GRU", {}, (64, 8, 128), False),
    ("GRU, 2 layers, both directions", "GRU", {"num_layers": 2, "bidirectional": True}, (50, 16, 200), False),
    ("the same, packed", "GRU", {"num_layers": 2, "bidirectional": True}, (50, 16, 200), True),
    ("RNN, one layer", "RNN", {}, (64, 8, 128), False),
    ("LSTM, one sequence", "LSTM", {}, (128, 1, 64), False),
    ("GRU, one sequence", "GRU", {}, (128, 1, 64), False),
]


def run(module, x):
    output = module(x)[0]
    data = output.data if isinstance(output, nn.utils.rnn.PackedSequence) else output
    return data, torch.autograd.grad(data.sum(), list(module.parameters()))


def measure(kind, options, size, packed, pace):
    steps, rows, width = size
    torch.manual_seed(0)
    theirs = getattr(nn, kind)(width, width, **options)
    ours = getattr(unspool.nn, kind)(width, width, **options)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(steps, rows, width)
    if packed:
        lengths = torch.randint(max(1, steps // 4), steps + 1, (rows,))
        lengths[0] = steps
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
    (mine, gradients), (wanted, its) = run(ours, x), run(theirs, x)
    torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-4)
    for a, b in zip(gradients, its, strict=True):
        assert (a - b).abs().max() <= 1e-4 * b.abs().max()
    samples = interleave({"torch": partial(run, theirs, x), "unspool": partial(run, ours, x)}, pace)
    ratio = ratio_spread(samples["torch"], samples["unspool"])
    return {
        "milliseconds": {name: 1e3 * spread(values).median for name, values in samples.items()},
        "speed_up": {"median": ratio.median, "low": ratio.low, "high": ratio.high},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds-per-case", type=float, default=4.0)
    parser.add_argument("--out", type=Path, help="where to write the JSON document")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = []
    for name, kind, arguments, size, packed in CASES:
        pace = Pace(seconds=options.seconds_per_case, settle_seconds=0.02)
        found = measure(kind, arguments, size, packed, pace)
        cases.append({"name": name, "module": kind, "options": arguments, "size": size, "packed": packed, **found})
        ms, ratio = found["milliseconds"], found["speed_up"]
        print(
            f"{name:42} {ms['torch']:8.2f} ms {ms['unspool']:8.2f} ms {ratio['median']:6.2f} "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})",
            flush=True,
        )
    document = {
        "machine": describe_machine(),
        "threads": options.threads,
        "versions": {name: version(name) for name in ("torch", "unspool")} | {"python": platform.python_version()},
        "cases": cases,
    }
    if options.out:
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
