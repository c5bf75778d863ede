"""The words of the command line: commands, flags and what they mean."""

import argparse
from pathlib import Path

import unspool_benchmarks as benchmarks
import unspool_lab
from unspool import __version__
from unspool.cli import commands
from unspool.config import ArgumentParser, add_flags
from unspool.search import Sampling
from unspool.tasks import TASKS
from unspool.training import SECTIONS


def build_parser() -> ArgumentParser:
    """The parser of all commands; `run` of what it has parsed is a function of `commands`."""
    parser = ArgumentParser("unspool", description="Sequence models from recurrent networks.")
    parser.add_argument("--version", action="version", version=f"unspool {__version__}")
    kinds_of_work = parser.add_subparsers(required=True, metavar="COMMAND")

    train = kinds_of_work.add_parser("train", help="train a model on your files", description="Trains a model.")
    tasks = train.add_subparsers(required=True, metavar="TASK")
    for name, task in TASKS.items():
        one = tasks.add_parser(name, help=(task.__doc__ or "").splitlines()[0], description=task.__doc__)
        one.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the model")
        one.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags go before them")
        one.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
        one.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")
        add_flags(one, {**task.sections, **SECTIONS})
        one.set_defaults(run=commands.run_train, task=task)

    evaluate = kinds_of_work.add_parser("evaluate", help="measure a model on data", description="Measures a model.")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="folder of the model")
    evaluate.add_argument(
        "--data", help="file, folder or -; or train, validation, test for the run's own data, if it has such"
    )
    evaluate.add_argument("--source", help="translation: sentences to read, or a .tsv with both languages")
    evaluate.add_argument("--target", help="translation: how people translated them, line by line")
    evaluate.add_argument("--beam-size", type=int, metavar="N", help="recogniser: hypotheses side by side")
    _add_listening(evaluate)
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=commands.run_evaluate)

    generate = kinds_of_work.add_parser("generate", help="let a language model write", description="Writes text.")
    generate.add_argument("folder", type=Path, metavar="DIR", help="folder of a language model")
    generate.add_argument("--prompt", default="", help="text to go on from")
    generate.add_argument("--length", type=int, default=200, help="units to draw")
    generate.add_argument("--temperature", type=float, default=Sampling.temperature, help="0: always the likeliest")
    generate.add_argument("--top-k", type=int, default=Sampling.top_k, help="only the k likeliest symbols; 0: all")
    generate.add_argument(
        "--top-p", type=float, default=Sampling.top_p, help="only the likeliest with this probability"
    )
    generate.add_argument("--seed", type=int, default=0, help="equal seeds give equal texts")
    generate.add_argument(
        "--unknown", choices=("error", "token"), default="error", help="what to do with unknown symbols of the prompt"
    )
    generate.set_defaults(run=commands.run_generate)

    predict = kinds_of_work.add_parser(
        "predict",
        help="tag, translate or transcribe files",
        description="Predicts tags, translates line by line, or writes down what is said.",
    )
    predict.add_argument("folder", type=Path, metavar="DIR", help="folder of a tagger, translator or recogniser")
    predict.add_argument(
        "source",
        metavar="IN",
        nargs="+",
        help="tagger: sentences in columns; translator: lines; recogniser: sound files or lists; - for stdin",
    )
    predict.add_argument("--out", type=Path, metavar="FILE", help="where to write; standard output by default")
    predict.add_argument("--n-best", type=int, metavar="N", help="the N likeliest of each sentence, as lines of JSON")
    predict.add_argument("--text", action="store_true", default=None, help="tagger: IN is plain text")
    predict.add_argument(
        "--skip-bad",
        action="store_true",
        default=None,
        help="tagger: pass malformed sentences on as they are; recogniser: leave out what cannot be read, and name it",
    )
    predict.add_argument("--beam-size", type=int, metavar="N", help="hypotheses side by side; translator: 1 is greedy")
    predict.add_argument("--length-penalty", type=float, metavar="X", help="translator: 0 favours short translations")
    predict.add_argument("--coverage-penalty", type=float, metavar="X", help="translator: favours reading everything")
    predict.add_argument("--no-repeat-ngram", type=int, metavar="N", help="translator: no N symbols occur twice")
    predict.add_argument(
        "--scores", action="store_true", default=None, help="translator: give scores, as lines of JSON"
    )
    predict.add_argument("--temperature", type=float, metavar="X", help="translator: draw, do not search; 0 is greedy")
    predict.add_argument("--top-k", type=int, metavar="N", help="translator: draw from the N likeliest symbols")
    predict.add_argument(
        "--top-p", type=float, metavar="X", help="translator: draw from the likeliest X of probability"
    )
    predict.add_argument("--seed", type=int, metavar="N", help="translator: of what is drawn (default: 0)")
    predict.add_argument("--attention", type=Path, metavar="FILE.html", help="translator: a page of where it looked")
    predict.add_argument("--format", metavar="KIND", help="recogniser: text, json, srt or vtt (default: text)")
    predict.add_argument("--raw-rate", type=int, metavar="N", help="recogniser: samples a second of raw sound on stdin")
    predict.add_argument(
        "--endpoint-seconds", type=float, metavar="X", help="recogniser: silence that ends an utterance"
    )
    _add_listening(predict)
    predict.set_defaults(run=commands.run_predict)

    check = kinds_of_work.add_parser("check", help="look at data before training", description="Looks at data.")
    kinds = check.add_subparsers(required=True, metavar="TASK")
    tagging = kinds.add_parser(
        "tagging",
        help="sentences in columns",
        description="Names malformed lines, counts tags and words, and compares splits with the first file.",
    )
    tagging.add_argument("files", nargs="+", metavar="FILE", help="sentences: those to train on, then other splits")
    tagging.add_argument("--format", default="conllu", help="as for train tagging (default: conllu)")
    tagging.add_argument("--targets", default="", help="as for train tagging")
    tagging.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    tagging.set_defaults(run=commands.run_check_tagging)
    pairs = kinds.add_parser(
        "translation",
        help="two aligned files",
        description="Names empty and unlike lines, counts, and compares splits with the first.",
    )
    pairs.add_argument(
        "files", nargs="+", metavar="FILE", help="source and target of each split, the one to train on first; or .tsv"
    )
    pairs.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    pairs.set_defaults(run=commands.run_check_translation)

    sound = kinds.add_parser(
        "speech",
        help="recordings with what is said in them",
        description="Names recordings that cannot be read, are silent or clipped, and texts too long for their sound.",
    )
    sound.add_argument("files", nargs="+", metavar="LIST", help="those to train on, then other splits")
    sound.add_argument("--stride", type=int, default=2, help="as for train speech (default: 2)")
    sound.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    sound.set_defaults(run=commands.run_check_speech)

    diagnose = kinds_of_work.add_parser(
        "diagnose",
        help="see how gradients flow through a model",
        description="Measures how far gradients reach in a trained model, what saturates, and says what to do.",
    )
    diagnose.add_argument("folder", type=Path, metavar="DIR", help="folder of the model")
    diagnose.add_argument("--data", default="validation", help="what to read: as for evaluate (default: validation)")
    diagnose.add_argument("--out", type=Path, metavar="FILE.html", help="write a page with figures and the text")
    diagnose.add_argument("--steps", type=int, default=1024, help="length of the sequences, at most (default: 1024)")
    diagnose.add_argument(
        "--sequences", type=int, default=8, help="how many are read, at most; they do not overlap (default: 8)"
    )
    diagnose.add_argument("--dependency", type=int, help="steps over which the task needs memory, if you know")
    diagnose.add_argument("--json", action="store_true", help="print every number as JSON, and nothing else")
    diagnose.set_defaults(run=commands.run_diagnose)

    lab = kinds_of_work.add_parser(
        "lab", help="put a textbook's claims to the test", description=f"{unspool_lab.__doc__}".splitlines()[0]
    )
    lab.add_argument("names", nargs="*", metavar="NAME", help=", ".join(unspool_lab.EXPERIMENTS))
    lab.add_argument("--all", action="store_true", help="every experiment")
    lab.add_argument("--out", type=Path, metavar="DIR", help="write one page of all, lab.html, into this folder")
    lab.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    lab.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    lab.set_defaults(run=commands.run_lab)

    config = kinds_of_work.add_parser("config", help="print every setting of a task as commented TOML")
    config.add_argument("task", choices=sorted(TASKS), metavar="TASK", help=", ".join(sorted(TASKS)))
    config.set_defaults(run=commands.run_config)

    bench = kinds_of_work.add_parser("bench", help="measure this machine and this engine", description="Measures.")
    suites = bench.add_subparsers(required=True, metavar="SUITE")
    engine = suites.add_parser("engine", help="the engine against its peers", description=benchmarks.run_engine.__doc__)
    engine.add_argument("--list", action="store_true", help="name the sections and measure nothing")
    engine.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="sections, or SECTION:TEXT for some cases"
    )
    engine.add_argument("--sizes", nargs="+", default=[], metavar="T,B,H", help="sizes")
    engine.add_argument("--threads", nargs="+", default=[2, 1], type=int, metavar="N", help="thread counts, in turn")
    engine.add_argument("--rounds", type=int, help="samples of each contender; by default what fits into the seconds")
    engine.add_argument("--seconds-per-case", type=float, default=3.0, metavar="S", help="budget of one case")
    engine.add_argument(
        "--peers", nargs="+", default=benchmarks.PEERS, metavar="PEER", help=", ".join(benchmarks.PEERS)
    )
    engine.add_argument("--json", action="store_true", help="print one JSON document, and nothing else")
    engine.add_argument("--out", type=Path, metavar="FILE", help="keep the document, rewritten after every case")
    engine.set_defaults(run=commands.run_bench_engine)
    return parser


def _add_listening(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--language-model",
        metavar="LM",
        help="recogniser: .arpa, folder of a character language model, or train: words of the training texts",
    )
    parser.add_argument("--lm-weight", type=float, metavar="X", help="recogniser: of the language model (default: 0.5)")
    parser.add_argument(
        "--lm-order", type=int, metavar="N", help="recogniser: words of an n-gram of the training texts"
    )
    parser.add_argument("--symbol-bonus", type=float, metavar="X", help="recogniser: nats for each symbol written")
    parser.add_argument("--hot-words", nargs="+", metavar="WORD", help="recogniser: words or phrases that are expected")
    parser.add_argument("--hot-boost", type=float, metavar="X", help="recogniser: nats for each of their letters")
