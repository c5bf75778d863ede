"""The words of the command line: commands, flags and what they mean."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unspool_benchmarks as benchmarks
import unspool_lab
from unspool import __version__
from unspool.cli import commands
from unspool.config import ArgumentParser, add_flags
from unspool.search import Sampling
from unspool.tasks import TASKS, check_files, check_pairs, check_recordings
from unspool.training import SECTIONS

_MODEL = "folder", Path, "DIR", "folder of the model"
_LISTENING = (
    ("--beam-size", int, "N", "hypotheses side by side"),
    ("--language-model", str, "LM", "recogniser: .arpa, a folder, or train: words of the training texts"),
    ("--lm-weight", float, "X", "recogniser: of the language model (default: 0.5)"),
    ("--lm-order", int, "N", "recogniser: words of an n-gram of the training texts (default: 3)"),
    ("--symbol-bonus", float, "X", "recogniser: nats for each symbol written"),
    ("--hot-boost", float, "X", "recogniser: nats for each letter of hot words (default: 1)"),
)
_PREDICT = (
    ("--out", Path, "FILE", "where to write; standard output by default"),
    ("--n-best", int, "N", "the N likeliest of each sentence, as lines of JSON"),
    ("--text", bool, "", "tagger: IN is plain text"),
    ("--skip-bad", bool, "", "pass malformed sentences on as they are; leave bad sound out, and name it"),
    ("--length-penalty", float, "X", "translator: 0 favours short translations"),
    ("--coverage-penalty", float, "X", "translator: favours reading everything"),
    ("--no-repeat-ngram", int, "N", "translator: no N symbols occur twice"),
    ("--scores", bool, "", "translator: give scores, as lines of JSON"),
    ("--temperature", float, "X", "translator: draw, do not search; 0 is greedy"),
    ("--top-k", int, "N", "translator: draw from the N likeliest symbols"),
    ("--top-p", float, "X", "translator: draw from the likeliest X of probability"),
    ("--seed", int, "N", "translator: of what is drawn (default: 0)"),
    ("--attention", Path, "FILE.html", "translator: a page of where it looked"),
    ("--precision", str, "KIND", "translator: float32, or bfloat16 products, faster where there is AMX"),
    ("--format", str, "KIND", "recogniser: text, json, srt or vtt (default: text)"),
    ("--raw-rate", int, "N", "recogniser: samples a second of raw sound on stdin"),
    ("--endpoint-seconds", float, "X", "recogniser: silence that ends an utterance"),
)


def build_parser() -> ArgumentParser:
    """The parser of all commands; `run` of what it has parsed is a function of `commands`."""
    parser = ArgumentParser("unspool", description="Sequence models from recurrent networks.")
    parser.add_argument("--version", action="version", version=f"unspool {__version__}")
    work = parser.add_subparsers(required=True, metavar="COMMAND")

    train = work.add_parser("train", help="train a model on your files", description="Trains a model.")
    tasks = train.add_subparsers(required=True, metavar="TASK")
    for name, task in TASKS.items():
        one = _command(tasks, name, task.__doc__ or "", "", commands.run_train)
        one.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the model")
        one.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags go before them")
        one.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
        _json(one, "print the outcome as JSON, and nothing else")
        add_flags(one, {**task.sections, **SECTIONS})
        one.set_defaults(task=task)

    evaluate = _command(work, "evaluate", "measure a model on data", "Measures a model.", commands.run_evaluate)
    data = "file, folder or -; or train, validation, test for the run's own data, if it has such"
    source = "translation: sentences to read, or a .tsv with both languages"
    target = "translation: how people translated them, line by line"
    _flags(evaluate, _MODEL, ("--data", str, "DATA", data), ("--source", str, "FILE", source))
    _flags(evaluate, ("--target", str, "FILE", target), *_LISTENING)
    evaluate.add_argument("--hot-words", nargs="+", metavar="WORD", help="recogniser: words that are expected")
    _json(evaluate)

    generate = _command(work, "generate", "let a language model write", "Writes text.", commands.run_generate)
    _flags(generate, _MODEL)
    generate.add_argument("--prompt", default="", help="text to go on from")
    generate.add_argument("--length", type=int, default=200, help="units to draw")
    generate.add_argument("--temperature", type=float, default=Sampling.temperature, help="0: always the likeliest")
    generate.add_argument("--top-k", type=int, default=Sampling.top_k, help="only the k likeliest symbols; 0: all")
    generate.add_argument("--top-p", type=float, default=Sampling.top_p, help="only the likeliest of this probability")
    generate.add_argument("--seed", type=int, default=0, help="equal seeds give equal texts")
    unknown = "what to do with unknown symbols of the prompt"
    generate.add_argument("--unknown", choices=("error", "token"), default="error", help=unknown)

    does = "Predicts tags, translates line by line, or writes down what is said."
    predict = _command(work, "predict", "tag, translate or transcribe files", does, commands.run_predict)
    _flags(predict, _MODEL)
    sources = "tagger: sentences in columns; translator: lines; recogniser: sound files or lists; - for stdin"
    predict.add_argument("source", metavar="IN", nargs="+", help=sources)
    _flags(predict, *_PREDICT, *_LISTENING)
    predict.add_argument("--hot-words", nargs="+", metavar="WORD", help="recogniser: words that are expected")

    check = work.add_parser("check", help="look at data before training", description="Looks at data.")
    kinds = check.add_subparsers(required=True, metavar="TASK")
    does = "Names malformed lines, counts tags and words, and compares splits with the first file."
    tagging = _command(kinds, "tagging", "sentences in columns", does, commands.run_check)
    tagging.add_argument("files", nargs="+", metavar="FILE", help="sentences: those to train on, then other splits")
    tagging.add_argument("--format", dest="kind", default="conllu", help="as for train tagging (default: conllu)")
    tagging.add_argument("--targets", default="", help="as for train tagging")
    does = "Names empty and unlike lines, counts, and compares splits with the first."
    pairs = _command(kinds, "translation", "two aligned files", does, commands.run_check)
    files = "source and target of each split, the one to train on first; or .tsv"
    pairs.add_argument("files", nargs="+", metavar="FILE", help=files)
    does = "Names recordings that cannot be read, are silent or clipped, and texts too long for their sound."
    sound = _command(kinds, "speech", "recordings with what is said in them", does, commands.run_check)
    sound.add_argument("files", nargs="+", metavar="LIST", help="those to train on, then other splits")
    sound.add_argument("--stride", type=int, default=3, help="as for train speech (default: 3)")
    for one, look in ((tagging, check_files), (pairs, check_pairs), (sound, check_recordings)):
        _json(one)
        one.set_defaults(look=look)

    does = "Measures how far gradients reach in a trained model, what saturates, and says what to do."
    diagnose = _command(work, "diagnose", "see how gradients flow through a model", does, commands.run_diagnose)
    _flags(diagnose, _MODEL)
    diagnose.add_argument("--data", default="validation", help="what to read: as for evaluate (default: validation)")
    diagnose.add_argument("--out", type=Path, metavar="FILE.html", help="write a page with figures and the text")
    diagnose.add_argument("--steps", type=int, default=1024, help="length of the sequences, at most (default: 1024)")
    sequences = "how many are read, at most; they do not overlap (default: 8)"
    diagnose.add_argument("--sequences", type=int, default=8, help=sequences)
    diagnose.add_argument("--dependency", type=int, help="steps over which the task needs memory, if you know")
    _json(diagnose, "print every number as JSON, and nothing else")

    does = f"{unspool_lab.__doc__}".splitlines()[0]
    lab = _command(work, "lab", "put a textbook's claims to the test", does, commands.run_lab)
    lab.add_argument("names", nargs="*", metavar="NAME", help=", ".join(unspool_lab.EXPERIMENTS))
    lab.add_argument("--all", action="store_true", help="every experiment")
    lab.add_argument("--out", type=Path, metavar="DIR", help="write one page of all, lab.html, into this folder")
    lab.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    _json(lab)

    config = _command(work, "config", "print every setting of a task as commented TOML", "", commands.run_config)
    config.add_argument("task", choices=sorted(TASKS), metavar="TASK", help=", ".join(sorted(TASKS)))

    bench = work.add_parser("bench", help="measure this machine and this engine", description="Measures.")
    suites = bench.add_subparsers(required=True, metavar="SUITE")
    does = benchmarks.run_engine.__doc__ or ""
    engine = _command(suites, "engine", "the engine against its peers", does, commands.run_bench_engine)
    engine.add_argument("--list", action="store_true", help="name the sections and measure nothing")
    only = "sections, or SECTION:TEXT for some cases"
    engine.add_argument("--only", nargs="+", default=[], metavar="NAME", help=only)
    engine.add_argument("--sizes", nargs="+", default=[], metavar="T,B,H", help="sizes")
    engine.add_argument("--threads", nargs="+", default=[2, 1], type=int, metavar="N", help="thread counts, in turn")
    engine.add_argument("--rounds", type=int, help="samples of each contender; by default what fits into the seconds")
    engine.add_argument("--seconds-per-case", type=float, default=3.0, metavar="S", help="budget of one case")
    peers = benchmarks.PEERS
    engine.add_argument("--peers", nargs="+", default=peers, metavar="PEER", help=", ".join(peers))
    engine.add_argument("--out", type=Path, metavar="FILE", help="keep the document, rewritten after every case")
    _json(engine, "print one JSON document, and nothing else")
    return parser


def _command(among: Any, name: str, help: str, description: str, run: Callable[..., None]) -> argparse.ArgumentParser:
    parser = among.add_parser(name, help=help.splitlines()[0], description=description or help or None)
    parser.set_defaults(run=run)
    return parser


def _flags(parser: argparse.ArgumentParser, *rows: tuple[str, type[Any], str, str]) -> None:
    """Flags that leave None where they are not given: name, type, what stands for the value, help."""
    for name, kind, value, text in rows:
        if kind is bool:
            parser.add_argument(name, action="store_true", default=None, help=text)
        else:
            parser.add_argument(name, type=kind, metavar=value, help=text)


def _json(parser: argparse.ArgumentParser, text: str = "print JSON, and nothing else") -> None:
    parser.add_argument("--json", action="store_true", help=text)
