"""The command line: a switchboard from words to rooms, with no logic of its own."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

import unspool_benchmarks as benchmarks
import unspool_lab
from unspool import __version__
from unspool.checkpoint import create_folder, load, load_model, open_folder, stored_settings
from unspool.config import ArgumentParser, add_flags, build_settings, commented_toml, require, to_json
from unspool.diagnostics import KnownTraining, diagnose, draw, report, selective_units, signals
from unspool.errors import ConfigError, DataError, UnspoolError, did_you_mean
from unspool.files import write_whole
from unspool.kernels.isa import instruction_set
from unspool.search import Sampling
from unspool.tasks import TASKS, Checked, LanguageModeling, check_files, check_pairs, predict
from unspool.training import SECTIONS, Trainer, find_device, model_size, typical_gradient_norm


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0, or 2 after one line on standard error."""
    sys.path.append(os.getcwd())  # so that --cell finds a module in the folder where one is
    if sys.stdout is None:  # closed by whoever started us
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - it stays open
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        instruction_set()  # refuses a wrong UNSPOOL_ISA before any work
        options.run(options)
        sys.stdout.flush()
    except UnspoolError as error:
        return _refuse(str(error))
    except BrokenPipeError:  # the reader of our output has gone; nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        return _refuse(f"{error.filename or 'files'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130
    return 0


def _refuse(message: str) -> int:
    print("unspool: " + " ".join(message.splitlines()), file=sys.stderr)
    return 2


def _parser() -> ArgumentParser:
    parser = ArgumentParser("unspool", description="Sequence models from recurrent networks.")
    parser.add_argument("--version", action="version", version=f"unspool {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a model on your files", description="Trains a model.")
    tasks = train.add_subparsers(required=True, metavar="TASK")
    for name, task in TASKS.items():
        one = tasks.add_parser(name, help=(task.__doc__ or "").splitlines()[0], description=task.__doc__)
        one.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder of the model")
        one.add_argument("--config", type=Path, metavar="FILE.toml", help="settings; flags go before them")
        one.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
        one.add_argument("--json", action="store_true", help="print the outcome as JSON, and nothing else")
        add_flags(one, {**task.sections, **SECTIONS})
        one.set_defaults(run=_train, task=task)

    evaluate = commands.add_parser("evaluate", help="measure a model on data", description="Measures a model.")
    evaluate.add_argument("folder", type=Path, metavar="DIR", help="folder of the model")
    evaluate.add_argument(
        "--data", help="file, folder or -; or train, validation, test for the run's own data, if it has such"
    )
    evaluate.add_argument("--source", help="translation: sentences to read, or a .tsv with both languages")
    evaluate.add_argument("--target", help="translation: how people translated them, line by line")
    evaluate.add_argument("--json", action="store_true", help="print JSON")
    evaluate.set_defaults(run=_evaluate)

    generate = commands.add_parser("generate", help="let a language model write", description="Writes text.")
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
    generate.set_defaults(run=_generate)

    predict = commands.add_parser(
        "predict", help="tag or translate a file", description="Predicts tags, or translates line by line."
    )
    predict.add_argument("folder", type=Path, metavar="DIR", help="folder of a tagger or translator")
    predict.add_argument("source", metavar="IN", help="tagger: sentences in columns; translator: lines; - for stdin")
    predict.add_argument("--out", type=Path, metavar="FILE", help="where to write; standard output by default")
    predict.add_argument("--n-best", type=int, metavar="N", help="the N likeliest of each sentence, as lines of JSON")
    predict.add_argument("--text", action="store_true", default=None, help="tagger: IN is plain text")
    predict.add_argument(
        "--skip-bad", action="store_true", default=None, help="tagger: pass malformed sentences on as they are"
    )
    predict.add_argument("--beam-size", type=int, metavar="N", help="translator: hypotheses side by side; 1: greedy")
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
    predict.set_defaults(run=_predict)

    check = commands.add_parser("check", help="look at data before training", description="Looks at data.")
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
    tagging.set_defaults(run=_check_tagging)
    pairs = kinds.add_parser(
        "translation",
        help="two aligned files",
        description="Names empty and unlike lines, counts, and compares splits with the first.",
    )
    pairs.add_argument(
        "files", nargs="+", metavar="FILE", help="source and target of each split, the one to train on first; or .tsv"
    )
    pairs.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    pairs.set_defaults(run=_check_translation)

    diagnose = commands.add_parser(
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
    diagnose.set_defaults(run=_diagnose)

    lab = commands.add_parser(
        "lab", help="put a textbook's claims to the test", description=f"{unspool_lab.__doc__}".splitlines()[0]
    )
    lab.add_argument("names", nargs="*", metavar="NAME", help=", ".join(unspool_lab.EXPERIMENTS))
    lab.add_argument("--all", action="store_true", help="every experiment")
    lab.add_argument("--out", type=Path, metavar="DIR", help="write one page of all, lab.html, into this folder")
    lab.add_argument("--seed", type=int, default=0, help="of everything random (default: 0)")
    lab.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    lab.set_defaults(run=_lab)

    config = commands.add_parser("config", help="print every setting of a task as commented TOML")
    config.add_argument("task", choices=sorted(TASKS), metavar="TASK", help=", ".join(sorted(TASKS)))
    config.set_defaults(run=_config)

    bench = commands.add_parser("bench", help="measure this machine and this engine", description="Measures.")
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
    engine.set_defaults(run=_bench_engine)
    return parser


def _train(options: argparse.Namespace) -> None:
    task_type, folder = options.task, options.out
    sections = {**task_type.sections, **SECTIONS}
    known = {field for section in sections.values() for field in section.__dataclass_fields__}
    flags = {name: value for name, value in vars(options).items() if name in known}
    if options.resume:
        task, stored = open_folder(folder, task_type.name)
        settings = stored_settings(SECTIONS, stored, folder / "model.json")
        changed = sorted(name for name, value in flags.items() if not _stored_alike(stored, name, value))
        if changed or options.config:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in changed) or "--config"
            raise UnspoolError(f"{folder}: a resumed run keeps its settings; leave out {names}, or name a new --out.")
    else:
        settings = build_settings(sections, options.config, flags)
        find_device(settings["training"].device)
        task = create_folder(folder, task_type, settings, __version__)
    trainer = Trainer(task, settings["training"], folder, quiet=options.json)
    if options.resume:
        trainer.resume()
    elif not options.json:
        print(
            f"{task_type.name}: {model_size(trainer.model):,} parameters, {trainer.num_steps:,} updates, into {folder}",
            file=sys.stderr,
        )
    outcome = trainer.run()
    if options.json:
        print(to_json({"folder": str(folder), **vars(outcome)}))
    elif outcome.finished:
        print(
            f"done after {outcome.step} updates and {outcome.seconds:.0f} s; the model is in {folder}", file=sys.stderr
        )
    else:
        print(f"stopped after {outcome.step} updates; go on with --resume --out {folder}", file=sys.stderr)


def _stored_alike(stored: dict[str, dict[str, Any]], name: str, value: Any) -> bool:
    return any(section.get(name) == value for section in stored.values())


def _evaluate(options: argparse.Namespace) -> None:
    loaded = load_model(options.folder)
    given = {name: value for name in ("data", "source", "target") if (value := getattr(options, name)) is not None}
    wanted = loaded.task.inputs
    if set(given) - set(wanted) or wanted[0] not in given:
        flags = " and ".join(f"--{name}" for name in wanted)
        raise ConfigError(f"evaluate: a model for {loaded.task.name} is measured with {flags}.")
    values = loaded.task.evaluate(loaded.model, "\t".join(given.values()))
    print(to_json(values) if options.json else "\n".join(loaded.task.summary(values)))


def _generate(options: argparse.Namespace) -> None:
    pieces = load(options.folder, LanguageModeling.name).stream(
        options.prompt, options.length, options.temperature, options.top_k, options.top_p, options.seed, options.unknown
    )
    print(options.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def _predict(options: argparse.Namespace) -> None:
    names = ("n_best", "text", "skip_bad", "beam_size", "length_penalty", "coverage_penalty", "no_repeat_ngram",
             "scores", "attention", "temperature", "top_k", "top_p", "seed")  # fmt: skip
    given = {name: value for name in names if (value := getattr(options, name)) is not None}
    pieces = predict(load(options.folder), options.source, **given)
    encoded = (piece.encode("utf-8", "surrogateescape") for piece in pieces)
    if options.out:
        console = Console(stderr=True)
        write_whole(
            options.out,
            iter(track(encoded, "working", console=console, transient=True, disable=not console.is_terminal)),
        )
    else:
        sys.stdout.buffer.writelines(encoded)


def _check_tagging(options: argparse.Namespace) -> None:
    _show_checked(check_files(options.files, options.format, options.targets), options)


def _check_translation(options: argparse.Namespace) -> None:
    _show_checked(check_pairs(options.files), options)


def _show_checked(found: Checked, options: argparse.Namespace) -> None:
    print(to_json(found._asdict()) if options.json else "\n".join(found.lines()))
    if found.problems:
        raise DataError(f"{len(found.problems)} problems in {', '.join(options.files)}.")


def _diagnose(options: argparse.Namespace) -> None:
    for name, least in (("steps", 4), ("sequences", 1), ("dependency", 1)):
        value = getattr(options, name)
        require(value is None or value >= least, name, value, f"at least {least}")
    if options.out:
        draw(lambda figure: None)  # what a page needs is missed before the work, not after it
        options.out.open("a").close()
    loaded = load_model(options.folder)
    reading = loaded.task.reading(options.data, options.steps, options.sequences)
    last, training = reading.batch.last_step(), loaded.settings.get("training", {})
    known = KnownTraining(
        truncation=reading.truncation,
        dependency=options.dependency,
        clip=training.get("gradient_clip"),
        gradient_norm=typical_gradient_norm(options.folder),
        learning_rate=training.get("learning_rate"),
    )
    found = diagnose(loaded.model, lambda: loaded.model.loss(last).sum, training=known)
    if options.out:
        followed = [one for one in found.recordings if reading.symbols and one.layer.startswith(reading.layers)]
        seen = signals(followed)
        chosen = selective_units(seen, reading.symbols)
        title = f"{options.folder}: {reading.words}"
        options.out.write_text(report(title, found, reading.symbols, seen, chosen), encoding="utf-8")
    if options.json:
        print(to_json({"read": reading.words, **found.to_values()}))
        return
    print(f"read {reading.words}" + (f"; the page is {options.out}" if options.out else ""), file=sys.stderr)
    for verdict in found.verdicts:
        print(verdict, *(f"  {n}. {remedy}" for n, remedy in enumerate(verdict.remedies, start=1)), sep="\n")


def _lab(options: argparse.Namespace) -> None:
    known = unspool_lab.EXPERIMENTS
    if options.all and options.names:
        raise ConfigError("lab: --all runs every experiment; leave out the names.")
    for name in options.names:
        if name not in known:
            raise ConfigError(f"lab: no experiment {name!r} among {', '.join(known)}{did_you_mean(name, known)}.")
    names = list(known) if options.all else list(dict.fromkeys(options.names))
    if not names:
        raise ConfigError(f"lab: name an experiment ({', '.join(known)}), or all of them with --all.")
    require(0 <= options.seed < 2**63, "seed", options.seed, "at least 0 and below 2**63")
    lab = unspool_lab.LabOptions(options.seed, options.json, options.out)
    unspool_lab.run_lab([known[name] for name in names], lab)


def _config(options: argparse.Namespace) -> None:
    print(commented_toml({**TASKS[options.task].sections, **SECTIONS}))


def _bench_engine(options: argparse.Namespace) -> None:
    if options.list:
        print(*benchmarks.section_lines(), sep="\n")
        return
    benchmarks.run_engine(
        benchmarks.EngineOptions(
            only=tuple(options.only),
            sizes=tuple(map(benchmarks.parse_size, options.sizes)),
            threads=tuple(options.threads),
            rounds=options.rounds,
            seconds=options.seconds_per_case,
            peers=tuple(options.peers),
            json=options.json,
            out=options.out,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
