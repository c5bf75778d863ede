"""What each command does with its flags: ask the rooms, print what they say."""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.progress import track

import unspool_benchmarks as benchmarks
import unspool_lab
from unspool import __version__
from unspool.checkpoint import create_folder, load, load_model, open_folder, stored_settings
from unspool.config import build_settings, commented_toml, require, to_json
from unspool.diagnostics import KnownTraining, diagnose, draw, report, selective_units, signals
from unspool.errors import ConfigError, DataError, UnspoolError, did_you_mean
from unspool.files import write_whole
from unspool.tasks import TASKS, Checked, LanguageModeling, predict
from unspool.tasks.prediction import LISTENING_OPTIONS, listening
from unspool.training import SECTIONS, Trainer, find_device, model_size, typical_gradient_norm


def run_train(options: argparse.Namespace) -> None:
    """Trains a model, or goes on with one."""
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


def run_evaluate(options: argparse.Namespace) -> None:
    """Measures a model."""
    loaded = load_model(options.folder)
    given = {name: value for name in ("data", "source", "target") if (value := getattr(options, name)) is not None}
    wanted = loaded.task.inputs
    if set(given) - set(wanted) or wanted[0] not in given:
        flags = " and ".join(f"--{name}" for name in wanted)
        raise ConfigError(f"evaluate: a model for {loaded.task.name} is measured with {flags}.")
    search = {name: value for name in sorted(LISTENING_OPTIONS) if (value := getattr(options, name, None)) is not None}
    if search and loaded.task.name != "speech":
        raise ConfigError(f"evaluate: --{next(iter(search)).replace('_', '-')} means nothing to {loaded.task.name}.")
    settings = {"listening": listening(search)} if search else {}
    values = loaded.task.evaluate(loaded.model, "\t".join(given.values()), **settings)
    print(to_json(values) if options.json else "\n".join(loaded.task.summary(values)))


def run_generate(options: argparse.Namespace) -> None:
    """Lets a language model write."""
    pieces = load(options.folder, LanguageModeling.name).stream(
        options.prompt, options.length, options.temperature, options.top_k, options.top_p, options.seed, options.unknown
    )
    print(options.prompt, end="", flush=True)
    for piece in pieces:
        print(piece, end="", flush=True)
    print()


def run_predict(options: argparse.Namespace) -> None:
    """Tags, translates or transcribes."""
    own = {"folder", "source", "out", "run"}
    given = {name: value for name, value in vars(options).items() if name not in own and value is not None}
    pieces = predict(load(options.folder), options.source, **given)
    encoded = (piece.encode("utf-8", "surrogateescape") for piece in pieces)
    if options.out:
        console = Console(stderr=True)
        shown = track(encoded, "working", console=console, transient=True, disable=not console.is_terminal)
        write_whole(options.out, iter(shown))
    else:
        for piece in encoded:
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()  # what is heard is shown at once


def run_check(options: argparse.Namespace) -> None:
    """Looks at files before training."""
    settings = {name: value for name, value in vars(options).items() if name in ("kind", "targets", "stride")}
    found: Checked = options.look(options.files, **settings)
    print(to_json(found._asdict()) if options.json else "\n".join(found.lines()))
    if found.problems:
        raise DataError(f"{len(found.problems)} problems in {', '.join(options.files)}.")


def run_diagnose(options: argparse.Namespace) -> None:
    """Looks at gradients."""
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


def run_lab(options: argparse.Namespace) -> None:
    """Runs experiments."""
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


def run_config(options: argparse.Namespace) -> None:
    """Prints settings."""
    print(commented_toml({**TASKS[options.task].sections, **SECTIONS}))


def run_bench_engine(options: argparse.Namespace) -> None:
    """Measures the engine."""
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
