"""A simple tokenizer: plain text to sentences of words, for any language that puts white space between words."""

import re
from collections.abc import Collection

_LONGEST = 60  # characters of a word that is looked at for joined parts
_CLOSING = "\"'”’»)]}"
_STOP = "[.!?…。！？؟۔।]"
_SENTENCE_END = re.compile(rf"(?<!{_STOP}){_STOP}++[{re.escape(_CLOSING)}]*+(?=\s++[^\s\w]*+(\w))")
_NO_END = re.compile(r"(?:^|\W)(?:\w|\w{1,3}\.\w{1,3}|Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|vs|etc|No|Fig|Inc|Co|Ltd)\.$")
_WORD = re.compile(
    r"""(?:https?://|www\.)[^\s<>"]*[\w/]          # addresses
      | [\w.+-]{1,64}@[\w-]+(?:\.\w+)+
      | \d+(?:[.,:/]\d+)*                          # numbers, times, dates
      | (?:\w\.){2,}                               # U.S., e.g.
      | (?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr)\.
      | [^\W_\d](?:[\w\u0300-\u036f]|['’‑-](?=\w))*   # words, with what joins their parts
      | (?P<mark>[^\w\s])(?P=mark)*                # a run of one mark
      | \w | \S""",
    re.VERBOSE,
)


def split_text(text: str, known: Collection[str]) -> list[list[str]]:
    """The sentences of a text, each a list of its words; no character but white space is lost.

    Args:
        text: the text; a line break always ends a sentence.
        known: words of training in lower case: joined words that are not among them are split where their parts are
            (``don't`` as ``do n't``, if training has ``n't``).
    """
    found = []
    for line in text.splitlines():
        begin = 0
        for end in _SENTENCE_END.finditer(line):
            is_short = _NO_END.search(line[max(begin, end.end() - 12) : end.end()])
            if not end[1].islower() and not is_short:
                found.append(line[begin : end.end()])
                begin = end.end()
        found.append(line[begin:])
    sentences = [[part for word in _WORD.finditer(s) for part in _split_word(word[0], known)] for s in found]
    return [words for words in sentences if words]


def _split_word(word: str, known: Collection[str]) -> list[str]:
    ends: list[str] = []
    while len(word) <= _LONGEST and not word.isalnum() and word.lower() not in known:
        tails = (word[place:] for place in range(1, len(word)))
        tail = next((t for t in tails if t.lower() in known and ("'" in t or "’" in t)), None)
        if tail is None:
            break
        word, ends = word[: -len(tail)], [tail, *ends]
    if "-" in word[1:-1] and "-" in known and word.lower() not in known:
        return [*(part for part in re.split("(-)", word) if part), *ends]
    return [word, *ends]
