"""Writes lists of recordings for `unspool train speech` from corpora as they are distributed.

python benchmarks/speech/lists.py an4 AN4_MFCC OUT            validation: every ninth speaker of the training set
python benchmarks/speech/lists.py fsdd RECORDINGS OUT         takes 0-4 test, 5-9 validation, the rest training
python benchmarks/speech/lists.py fsdd RECORDINGS OUT --without george      that speaker is the test set
python benchmarks/speech/lists.py digits RECORDINGS OUT       strings of 3 to 7 recordings of one speaker, silence between
python benchmarks/speech/lists.py ljspeech LJSPEECH OUT       train.ids and valid.ids; lower case, letters alone
"""

import argparse
import csv
import json
import random
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import soundfile

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
STRINGS = {"train": 2400, "dev": 150, "test": 300}


def write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def an4(source: Path, out: Path) -> None:
    with (source / "train.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    held = set(sorted({row["speaker"] for row in rows})[::9])
    with (source / "test.tsv").open(encoding="utf-8") as file:
        test = list(csv.DictReader(file, delimiter="\t"))
    train, dev = ([row for row in rows if (row["speaker"] in held) == wanted] for wanted in (False, True))
    for name, listed, features in (("train", train, "train"), ("dev", dev, "train"), ("test", test, "test")):
        text = "".join(f"{row['utterance']}\t{row['text']}\n" for row in listed)
        (out / f"{name}.tsv").write_text("utterance\ttext\n" + text, encoding="utf-8")
        link = out / f"{name}.npz"
        link.unlink(missing_ok=True)
        link.symlink_to((source / f"{features}.npz").resolve())


def takes(source: Path, without: str) -> dict[str, list[tuple[str, str, Path]]]:
    """Digit, speaker and file of each split."""
    found: dict[str, list[tuple[str, str, Path]]] = {"train": [], "dev": [], "test": []}
    for path in sorted(source.glob("*.wav")):
        digit, speaker, take = path.stem.split("_")
        held = speaker == without if without else int(take) < 5
        split = "test" if held else "dev" if int(take) < 10 else "train"
        found[split].append((digit, speaker, path.resolve()))
    return found


def fsdd(source: Path, out: Path, without: str) -> None:
    for split, rows in takes(source, without).items():
        write(out / f"{split}.jsonl", ({"audio_filepath": str(p), "text": DIGITS[int(d)]} for d, _, p in rows))


def digits(source: Path, out: Path) -> None:
    for seed, (split, rows) in enumerate(takes(source, "").items()):
        chance, listed = random.Random(seed), []
        speakers = sorted({speaker for _, speaker, _ in rows})
        for number in range(STRINGS[split]):
            speaker = chance.choice(speakers)
            chosen = chance.choices([row for row in rows if row[1] == speaker], k=chance.randint(3, 7))
            sound = []
            for _, _, path in chosen:
                samples, rate = soundfile.read(path, dtype="float32")
                quiet = np.random.default_rng((seed, number)).normal(0, 1e-3, int(rate * chance.uniform(0.1, 0.6)))
                sound += [quiet.astype(np.float32), samples]
            name = f"{split}{number:04d}.wav"
            soundfile.write(out / name, np.concatenate(sound), rate)
            listed.append({"audio_filepath": name, "text": " ".join(DIGITS[int(d)] for d, _, _ in chosen)})
        write(out / f"{split}.jsonl", listed)


def ljspeech(source: Path, out: Path) -> None:
    lines = (source / "metadata.csv").read_text(encoding="utf-8").splitlines()
    texts = {line.split("|")[0]: line.split("|")[2] for line in lines}
    for split, name in (("train", "train.ids"), ("dev", "valid.ids")):
        ids = (source / name).read_text(encoding="utf-8").split()
        rows = [{"audio_filepath": str((source / "wavs" / f"{one}.flac").resolve()),
                 "text": " ".join(re.sub(r"[^a-z' ]", " ", texts[one].lower()).split())} for one in ids]  # fmt: skip
        write(out / f"{split}.jsonl", rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", choices=["an4", "fsdd", "digits", "ljspeech"])
    parser.add_argument("source", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--without", default="", help="fsdd: the speaker to test on")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.corpus == "fsdd":
        fsdd(options.source, options.out, options.without)
    else:
        {"an4": an4, "digits": digits, "ljspeech": ljspeech}[options.corpus](options.source, options.out)


if __name__ == "__main__":
    main()
