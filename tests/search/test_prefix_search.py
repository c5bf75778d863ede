"""Prefix search beside the enumeration of all texts, n-grams beside their equations."""

import itertools
import math

import numpy as np
import pytest

from unspool.errors import ConfigError, DataError
from unspool.search.ctc import GreedySearch, PrefixBeam, PrefixSearch
from unspool.search.ngram import BEGIN, END, UNKNOWN, HotWords, NGram, WordScorer


def log_softmax(seed, steps, symbols):
    logits = 2 * np.random.default_rng(seed).normal(size=(steps, symbols))
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def enumerated(chances):
    """log p of every text: the sum over its paths."""
    steps, symbols = chances.shape
    found = {}
    for path in itertools.product(range(symbols), repeat=steps):
        text = tuple(s for s, _ in itertools.groupby(path) if s)
        found[text] = np.logaddexp(found.get(text, -np.inf), sum(chances[t, s] for t, s in enumerate(path)))
    return found


def run(search, chances):
    for row in chances:
        search.advance(row)
    return search.best()


EXACT = PrefixBeam(size=500, prune=math.inf, num_best=20)


@pytest.mark.parametrize("seed", range(5))
def test_a_large_beam_finds_what_enumeration_finds(seed):
    chances = log_softmax(seed, 5, 3)
    found = run(PrefixSearch(EXACT), chances)
    wanted = sorted(enumerated(chances).items(), key=lambda one: -one[1])[:20]
    assert [tuple(one.symbols) for one in found] == [text for text, _ in wanted]
    for one, (_, total) in zip(found, wanted, strict=True):
        assert one.log_probability == pytest.approx(total, abs=1e-9)


class Liking:
    """Likes symbols by their neighbours, and the ends of texts of even length."""

    def start(self):
        return ()

    def extend(self, state, symbol):
        return 0.7 * symbol - 0.9 * (symbol in state[-1:]), (*state, symbol)

    def finish(self, state):
        return 0.5 * (len(state) % 2 == 0)

    def of(self, text):
        total = sum(self.extend(text[:place], symbol)[0] for place, symbol in enumerate(text))
        return total + self.finish(text)


@pytest.mark.parametrize("seed", range(3))
def test_fused_scores_count_as_often_as_they_should(seed):
    chances, liking = log_softmax(seed, 5, 3), Liking()
    beam = PrefixBeam(size=500, prune=math.inf, num_best=20, symbol_bonus=0.3)
    found = run(PrefixSearch(beam, [(0.8, liking)]), chances)
    scores = {text: total + 0.8 * liking.of(text) + 0.3 * len(text) for text, total in enumerated(chances).items()}
    wanted = sorted(scores.items(), key=lambda one: -one[1])[:20]
    assert [tuple(one.symbols) for one in found] == [text for text, _ in wanted]
    for one, (_, score) in zip(found, wanted, strict=True):
        assert one.score == pytest.approx(score, abs=1e-9)


def test_the_best_path_merges_repeats_and_says_where_symbols_are_surest():
    chances = np.log(np.array([[0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.8, 0.1, 0.1], [0.1, 0.7, 0.2], [0.1, 0.2, 0.7]]))
    for search in (GreedySearch(), PrefixSearch()):
        (found,) = run(search, chances)
        assert found.symbols == [1, 1, 2]
        assert found.steps == [1, 3, 4]
        assert found.chances == pytest.approx([0.9, 0.7, 0.7])
    (best,) = run(GreedySearch(), chances)
    assert best.log_probability == pytest.approx(math.log(0.8 * 0.9 * 0.8 * 0.7 * 0.7))


def test_nothing_said_is_an_empty_text():
    for search in (GreedySearch(), PrefixSearch()):
        assert search.best()[0].symbols == []


def test_impossible_beams_are_refused():
    with pytest.raises(ConfigError, match="size must be at least 1"):
        PrefixBeam(size=0)
    with pytest.raises(ConfigError, match="at most size"):
        PrefixBeam(size=2, num_best=3)


TEXT = [s.split() for s in ("a b a b", "a b c", "c a", "b", "a b a")]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_learned_chances_sum_to_one_after_any_history(order):
    ngram = NGram.learn(TEXT, order)
    words = ["a", "b", "c", END, UNKNOWN]
    for length in range(4):
        for history in itertools.product(["a", "b", "c", "never", BEGIN], repeat=length):
            assert sum(math.exp(ngram(history, word)) for word in words) == pytest.approx(1.0)


def test_bigrams_are_those_of_the_equations():
    ngram = NGram.learn(TEXT, 2)
    # bigrams: <s>a 3, <s>c 1, <s>b 1, ab 4, ba 2, b</s> 2, bc 1, c</s> 1, ca 1, a</s> 2; n1 = 5, n2 = 3
    discount = 5 / (5 + 2 * 3)
    # in how many contexts: a 3 (<s> b c), b 2 (<s> a), c 2 (<s> b), </s> 3 (a b c); n1 = 0: the discount is 0.5
    low = {"a": 3, "b": 2, "c": 2, END: 3}
    unigram = {w: (n - 0.5) / 10 + 0.5 * 4 / 10 / 5 for w, n in low.items()}
    after_a = 4 + 2  # of which two kinds
    expected = (4 - discount) / after_a + discount * 2 / after_a * unigram["b"]
    assert math.exp(ngram(["a"], "b")) == pytest.approx(expected)
    assert math.exp(ngram(["a"], "c")) == pytest.approx(discount * 2 / after_a * unigram["c"])
    assert math.exp(ngram([], "never")) == pytest.approx(0.5 * 4 / 10 / 5)


ARPA = """\\data\\
ngram 1=4
ngram 2=1

\\1-grams:
-1.0 <unk>
-0.5 </s>
-99 <s> -0.3
-0.7 a -0.2

\\2-grams:
-0.1 <s> a

\\end\\
"""


def test_arpa_files_are_read(tmp_path):
    (tmp_path / "lm.arpa").write_text(ARPA)
    ngram = NGram.read_arpa(str(tmp_path / "lm.arpa"))
    ten = math.log(10)
    assert ngram([BEGIN], "a") == pytest.approx(-0.1 * ten)
    assert ngram([BEGIN, "a"], "a") == pytest.approx((-0.2 - 0.7) * ten)
    assert ngram([BEGIN], "other") == pytest.approx((-0.3 - 1.0) * ten)
    (tmp_path / "bad.arpa").write_text(ARPA.replace("-0.1 <s> a", "-0.1 <s>"))
    with pytest.raises(DataError, match=r"bad\.arpa:12: expected a logarithm, 2 words"):
        NGram.read_arpa(str(tmp_path / "bad.arpa"))
    (tmp_path / "none.arpa").write_text("nothing\n")
    with pytest.raises(DataError, match="holds no n-grams"):
        NGram.read_arpa(str(tmp_path / "none.arpa"))


PIECES = ["", "a", "b", "c", " ", "ab", " c"]


def whole(scorer, symbols):
    state, total = scorer.start(), 0.0
    for symbol in symbols:
        score, state = scorer.extend(state, symbol)
        total += score
    return total + scorer.finish(state)


def test_a_words_score_comes_when_it_ends_however_it_is_cut():
    ngram = NGram.learn(TEXT, 3)
    expected = ngram([BEGIN], "ab") + ngram([BEGIN, "ab"], "c") + ngram(["ab", "c"], END)
    for symbols in ([1, 2, 4, 3], [5, 6], [1, 2, 6, 4]):
        assert whole(WordScorer(ngram, PIECES), symbols) == pytest.approx(expected)


def test_hot_words_count_when_they_are_whole():
    hot = HotWords(["ab", "ab c"], PIECES)
    assert whole(hot, [1, 2]) == 2
    assert whole(hot, [5, 4, 3]) == 4
    assert whole(hot, [1, 3]) == 0
    assert whole(hot, [1]) == 0
    assert whole(hot, [1, 2, 2]) == 0
    assert whole(hot, [1, 2, 2, 4, 1, 2]) == 2
    assert whole(hot, [3, 1, 2]) == 0
    assert whole(hot, [5, 4, 1]) == 2  # the shorter phrase is whole, the longer one is not
    assert hot.extend(hot.start(), 1)[0] == 1


def test_a_hot_phrase_may_begin_within_one_that_fails():
    pieces = ["", "a", "b", "c", " "]
    hot = HotWords(["a b", "b c"], pieces)
    assert whole(hot, [1, 4, 1, 4, 2]) == 3
    assert whole(HotWords(["a b", "c"], pieces), [1, 4, 3]) == 1
    assert whole(HotWords(["a b c", "b b"], pieces), [1, 4, 2, 4, 2]) == 3
    assert hot.extend(hot.start(), 1)[0] == 1


def test_what_has_left_the_beam_is_forgotten():
    search = PrefixSearch(PrefixBeam(size=4, prune=math.inf))
    for row in log_softmax(3, 300, 5):
        search.advance(row)
    root = search.prefixes[0]
    while root.parent is not None:
        root = root.parent
    nodes, left = 0, [root]
    while left:
        node = left.pop()
        nodes += 1
        left += node.children.values()
    assert nodes <= 5 * max(len(one.symbols) for one in search.best()) + 20


@pytest.mark.parametrize("seed", range(3))
def test_a_small_beam_holds_no_text_twice(seed):
    search = PrefixSearch(PrefixBeam(size=5, prune=math.inf, num_best=5))
    for row in log_softmax(seed, 60, 3):
        search.advance(row)
        texts = [tuple(one.symbols) for one in search.best()]
        assert len(set(texts)) == len(texts)


def test_a_symbol_stands_where_most_alignments_hear_it():
    said = {1: 1, 3: 2, 12: 1, 14: 2}  # step: symbol
    chances = np.full((17, 3), math.log(0.01))
    for step in range(17):
        chances[step, said.get(step, 0)] = math.log(0.98)
    (found,) = run(PrefixSearch(PrefixBeam(prune=math.inf)), chances)
    assert (found.symbols, found.steps) == ([1, 2, 1, 2], [1, 3, 12, 14])
    found = run(PrefixSearch(PrefixBeam(size=40, prune=math.inf)), np.log(np.eye(3)[[1, 0, 1, 2]].clip(1e-300)))
    assert found[0].steps == [0, 2, 3]


def test_chances_of_exactly_zero_are_no_way():
    with np.errstate(divide="ignore"):
        (found,) = run(PrefixSearch(PrefixBeam(size=3, prune=50.0)), np.log(np.eye(3)[[1, 1, 2, 0, 2]]))
    assert found.symbols == [1, 2, 2]
    assert found.log_probability == 0.0
