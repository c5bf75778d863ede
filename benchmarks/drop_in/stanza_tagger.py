"""Stanza's own part-of-speech tagger, untouched, with and without ``unspool.accelerate``: same losses, less time.

    pip install stanza
    python benchmarks/drop_in/stanza_tagger.py en_ewt-ud-train.conllu.gz [--out result.json]

Stanza's model class, trainer, data set and default sizes; random initial weights, no pretrained vectors. Losses are compared
along a short training without dropout; times are those of whole updates with Stanza's own dropout,
both models in turn in one process.
"""

import argparse
import contextlib
import gzip
import itertools
import json
import logging
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import torch
from stanza.models import tagger
from stanza.models.common.doc import Document
from stanza.models.pos.data import Dataset
from stanza.models.pos.trainer import Trainer
from stanza.utils.conll import CoNLL

import unspool
from unspool_benchmarks.machine import describe_machine
from unspool_benchmarks.timing import ratio_spread


def read(path, sentences):
    """The first sentences of a CoNLL-U file as Stanza's document."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    blocks = text.split("\n\n")[:sentences]
    return Document(CoNLL.conll2dict(input_str="\n\n".join(blocks) + "\n\n")[0])


def prepare(path, sentences, batch_tokens, share_hid=False):
    flags = ["--lang", "en", "--shorthand", "en_ewt", "--no_pretrain", "--train_file", str(path)]
    args = tagger.parse_args([*flags, "--share_hid"] if share_hid else flags)
    args["word_cutoff"] = 7
    document = read(path, sentences)
    vocab = Dataset.init_vocab([document], args)
    data = Dataset(document, args, None, vocab=vocab, evaluation=True)
    loader = data.to_length_limited_loader(args["batch_size"], batch_tokens)
    return args, vocab, list(loader)


def build(args, vocab, dropout):
    torch.manual_seed(1)
    chosen = dict(args) if dropout else dict(args, dropout=0.0, word_dropout=0.0)
    return Trainer(args=chosen, vocab=vocab, device="cpu")


def losses(trainer, batches, steps):
    torch.manual_seed(2)
    return [trainer.update(batch) for batch in itertools.islice(itertools.cycle(batches), steps)]


def timed(trainers, batches, rounds):
    """Seconds of each update, the two trainers in turn."""
    seconds = {name: [] for name in trainers}
    for turn in range(rounds + 1):  # the first warms up
        for batch in batches:
            for name in list(trainers)[:: 1 if turn % 2 else -1]:
                begin = time.perf_counter()
                trainers[name].update(batch)
                if turn:
                    seconds[name].append(time.perf_counter() - begin)
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("treebank", type=Path, help="CoNLL-U, may be gzipped")
    parser.add_argument("--sentences", type=int, default=100, help="how many sentences to read")
    parser.add_argument("--batch-tokens", type=int, default=500, help="words in a batch")
    parser.add_argument(
        "--share-hid", action="store_true", help="Stanza's option: linear heads in the place of biaffine ones"
    )
    parser.add_argument("--steps", type=int, default=12, help="updates along which losses are compared")
    parser.add_argument("--rounds", type=int, default=3, help="timed passes over the batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write the JSON document")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    args, vocab, batches = prepare(options.treebank, options.sentences, options.batch_tokens, options.share_hid)

    with contextlib.redirect_stdout(None):
        plain, fast = build(args, vocab, dropout=False), build(args, vocab, dropout=False)
    report = unspool.accelerate(fast.model)
    print(report)
    wanted, found = losses(plain, batches, options.steps), losses(fast, batches, options.steps)
    apart = max(abs(a - b) / abs(a) for a, b in zip(wanted, found, strict=True))
    if apart > 1e-3:
        raise SystemExit(f"losses differ by {apart:.1e}")

    trainers = {"torch": build(args, vocab, dropout=True), "unspool": build(args, vocab, dropout=True)}
    unspool.accelerate(trainers["unspool"].model)
    seconds = timed(trainers, batches, options.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = ratio_spread(seconds["torch"], seconds["unspool"])
    result = {
        "model": "stanza.models.pos.model.Tagger",
        "versions": {name: version(name) for name in ("stanza", "torch", "unspool")}
        | {"python": platform.python_version()},
        "machine": describe_machine(),
        "swapped": report.swapped,
        "kept": report.kept,
        "share_hid": options.share_hid,
        "sentences": options.sentences,
        "batches": len(batches),
        "threads": options.threads,
        "losses": {"torch": wanted, "unspool": found, "apart": apart},
        "update_ms": {name: 1e3 * value for name, value in medians.items()},
        "speed_up": ratio._asdict(),
    }
    print(f"losses over {options.steps} updates: {wanted[0]:.4f} to {wanted[-1]:.4f}; apart by {apart:.1e} at most")
    print(
        f"an update: PyTorch {1e3 * medians['torch']:.0f} ms, accelerated {1e3 * medians['unspool']:.0f} ms; "
        f"{ratio.median:.2f} times as fast ({ratio.low:.2f} to {ratio.high:.2f})"
    )
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
