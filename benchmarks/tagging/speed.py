"""Prediction of a trained tagger: file to file, and the tagging stage beside Stanza's tagger processor.

    pip install stanza
    python benchmarks/tagging/speed.py MODEL en_ewt-ud-train.conllu.gz en_ewt-ud-test.conllu.gz [--out result.json]

Stanza's model class and processor at its default sizes (character LSTM of 400, two bidirectional layers of 200), its
vocabulary from the training file, random weights, no pretrained vectors; its stage is `POSProcessor.process` of a document
that is tokenized already: batches, network, tags as text. Ours is the same stage: words in memory to tags as text.
All contenders in turn in one process.
"""

import argparse
import json
import logging
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from stanza.models import tagger as stanza_tagger
from stanza.models.pos.data import Dataset
from stanza.models.pos.trainer import Trainer
from stanza.pipeline.pos_processor import POSProcessor

import unspool
from unspool.tasks.tagging.files import sound_sentences
from unspool_benchmarks.machine import describe_machine
from unspool_benchmarks.timing import ratio_spread


def document(sentences: list[list[str]]) -> Any:
    """Tokenized sentences as Stanza's document."""
    from stanza.models.common.doc import Document

    return Document([[{"id": (n + 1,), "text": word} for n, word in enumerate(words)] for words in sentences])


def stanza_processor(train: Path, sentences: int) -> tuple[Any, int]:
    """Stanza's processor with its default network, and the number of its parameters."""
    from stanza.models.common.doc import Document
    from stanza.utils.conll import CoNLL

    lines = []
    for sentence in sound_sentences(str(train), unspool.data.columns.CONLLU):
        lines.append("".join(line for line in sentence.lines))
        if len(lines) == sentences:
            break
    args = stanza_tagger.parse_args(["--lang", "en", "--shorthand", "en_ewt", "--no_pretrain", "--train_file", "-"])
    args["word_cutoff"] = 7
    vocab = Dataset.init_vocab([Document(CoNLL.conll2dict(input_str="".join(lines))[0])], args)
    trainer = Trainer(args=args, vocab=vocab, device="cpu")
    trainer.model.eval()
    settings = {**args, "batch_size": 250}
    processor = SimpleNamespace(
        config=settings, pretrain=None, vocab=vocab, trainer=trainer, _tqdm=False, _trainer=trainer
    )
    return processor, sum(p.numel() for p in trainer.model.parameters())


def seconds_of(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a trained tagger")
    parser.add_argument("train", type=Path, help="CoNLL-U for Stanza's vocabulary")
    parser.add_argument("data", type=Path, help="CoNLL-U to tag")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="where to write the JSON document")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    ours = unspool.load(options.model)
    sentences = [s.column(1) for s in sound_sentences(str(options.data), ours.task.format)]
    words = sum(map(len, sentences))
    processor, size = stanza_processor(options.train, 20_000)
    stage: dict[str, Callable[[], Any]] = {
        "stanza": lambda: POSProcessor.process(processor, document(sentences)),
        "unspool": lambda: ours.task.predict(ours.model, sentences),
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.conllu"

        def file_to_file() -> None:
            with out.open("w", encoding="utf-8") as file:
                file.writelines(ours.predict_file(str(options.data)))

        contenders = {**stage, "unspool, file to file": file_to_file}
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(options.rounds + 1):  # the first warms up
            for name in list(contenders)[:: 1 if turn % 2 else -1]:
                taken = seconds_of(contenders[name])
                if turn:
                    seconds[name].append(taken)
    ratio = ratio_spread(seconds["stanza"], seconds["unspool"])
    result = {
        "versions": {name: version(name) for name in ("stanza", "torch", "unspool")}
        | {"python": platform.python_version()},
        "machine": describe_machine(),
        "threads": options.threads,
        "words": words,
        "parameters": {"stanza": size, "unspool": sum(p.numel() for p in ours.model.parameters())},
        "words_per_second": {name: words / statistics.median(taken) for name, taken in seconds.items()},
        "speed_up": ratio._asdict(),
    }
    for name, speed in result["words_per_second"].items():
        print(f"{name:24s} {speed:9,.0f} words/s")
    print(f"stage beside Stanza's: {ratio.median:.1f} times as fast ({ratio.low:.1f} to {ratio.high:.1f})")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
