"""Makes a small corpus of speech that anyone may have: sentences of a toy language, said by espeak-ng.

    apt-get install espeak-ng
    python examples/make_speech.py FOLDER [--train 400] [--dev 40] [--test 40] [--seed 0]
    unspool train speech --train FOLDER/train.jsonl --dev FOLDER/dev.jsonl --out DIR --speeds 0.9,1,1.1
    unspool evaluate DIR --data FOLDER/test.jsonl

Voices, speeds and pitches differ from sentence to sentence; the test sentences are said by a voice that is in no other
list. Each list is a file of JSON lines.
"""

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

WHO = ["the captain", "a friend", "my sister", "the old doctor", "nobody", "every teacher"]
DOES = ["buys", "sells", "paints", "finds", "forgets", "wants"]
HOW_MANY = ["one", "two", "three", "seven", "twelve", "twenty"]
WHAT = ["red apples", "small boats", "yellow lamps", "new books", "grey horses", "cups of tea"]
WHEN = ["today", "on monday", "in the winter", "before breakfast", "again"]
VOICES = ["en-us", "en-gb", "en-gb-scotland", "en-us+f3", "en-gb+m3"]
TEST_VOICE = "en-us+m7"


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choice(words) for words in (WHO, DOES, HOW_MANY, WHAT, WHEN))


def say(text: str, path: Path, voice: str, chance: random.Random) -> None:
    speed, pitch = chance.randint(140, 190), chance.randint(35, 65)
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "-w", str(path), text]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=400, help="sentences (default: 400)")
    parser.add_argument("--dev", type=int, default=40)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        for split in ("train", "dev", "test"):
            with (options.folder / f"{split}.jsonl").open("w", encoding="utf-8") as listing:
                for number in range(getattr(options, split)):
                    text, name = sentence(chance), f"{split}{number:04d}.wav"
                    voice = TEST_VOICE if split == "test" else chance.choice(VOICES)
                    say(text, options.folder / name, voice, chance)
                    listing.write(json.dumps({"audio_filepath": name, "text": text}) + "\n")
    except FileNotFoundError:
        print("espeak-ng is not installed; on Debian: apt-get install espeak-ng", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
