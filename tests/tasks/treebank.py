"""What tests of tagging share: a small treebank, a small network, and the command line."""

import random

from unspool.cli import main

NETWORK = ["--hidden-size", 16, "--num-layers", 1, "--embedding-size", 8, "--spelling-size", 12, "--character-size", 8]


def treebank(count, seed):
    """Sentences in which ``well`` is an adverb after a verb and a noun after an article: context decides."""
    chance, text = random.Random(seed), []
    words = {
        "DET": ["the", "a"],
        "NOUN": ["well", "dog", "cat"],
        "VERB": ["ran", "slept", "dried"],
        "ADV": ["well", "fast"],
    }
    for number in range(count):
        tags = ["DET", "NOUN", "VERB", "ADV"][: chance.choice([3, 4])]
        text.append(f"# sent_id = {number}")
        for place, tag in enumerate(tags, start=1):
            word = chance.choice(words[tag])
            text.append(f"{place}\t{word}\t{word}\t{tag}\t{tag[0]}\tKind={tag.title()}\t0\troot\t_\tKept={place}")
        text.append("")
    return "\n".join(text) + "\n"


def call(*words):
    return main([str(word) for word in words])
