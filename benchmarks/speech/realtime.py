"""How much faster than speech a streaming recogniser is, and how long after a sound its text can show.

    python benchmarks/speech/realtime.py [MODEL] [--seconds 60] [--out result.json]

Without a MODEL: three one-directional LSTM layers of 320 units with random weights, 40 log-mel filters, a step every three
frames. Sound arrives in pieces of 20 ms, at the model's own rate. The real-time factor is the time that feeding it (features, network, search)
takes over the time that the sound lasts, a second one counts the partial result that is asked for after each piece as well;
a piece's delay is what feeding it and asking for the partial result take, beyond which the model waits for its stated
latency alone.
"""

import argparse
import json
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

import unspool
from unspool.cells import LSTM
from unspool.data import Lines, build_tokenizer
from unspool.models.ctc import CTCModel
from unspool.search.ctc import GreedySearch, PrefixSearch
from unspool.tasks.speech.alphabet import Alphabet
from unspool.tasks.speech.features import FeatureSettings
from unspool.tasks.speech.recordings import Normalizer
from unspool.tasks.speech.stream import SpeechStream
from unspool_benchmarks.machine import describe_machine

PIECE = 0.02


def random_stream(search: type) -> SpeechStream:
    alphabet = Alphabet(build_tokenizer("character", Lines(["abcdefghijklmnopqrstuvwxyz '"])))
    model = CTCModel(40, len(alphabet), LSTM, bidirectional=False).eval()
    normalizer = Normalizer("global", np.zeros(40), np.ones(40))
    return SpeechStream(model, FeatureSettings(), normalizer, alphabet, search, 16_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    result = {
        "versions": {name: version(name) for name in ("torch", "unspool")} | {"python": platform.python_version()},
        "machine": describe_machine(),
        "threads": options.threads,
        "seconds": options.seconds,
        "piece": PIECE,
    }
    for search in (GreedySearch, PrefixSearch):
        stream = unspool.load(options.model).stream() if options.model else random_stream(search)
        rate = stream.featurizer.rate
        sound = np.random.default_rng(0).normal(0, 0.05, int(options.seconds * rate)).astype(np.float32)
        size, fed, delays = int(PIECE * rate), [], []
        for at in range(0, len(sound), size):
            begin = time.perf_counter()
            stream.feed(sound[at : at + size])
            fed.append(time.perf_counter() - begin)
            stream.partial()
            delays.append(time.perf_counter() - begin)
        stream.finish()
        result[search.__name__] = {
            "real_time_factor": sum(fed) / options.seconds,
            "real_time_factor_with_partials": sum(delays) / options.seconds,
            "delay_ms_median": 1000 * statistics.median(delays),
            "delay_ms_largest": 1000 * max(delays),
            "stated_latency_ms": 1000 * stream.latency,
        }
        print(search.__name__, {name: round(value, 4) for name, value in result[search.__name__].items()})
        if options.model:
            break
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
