"""Beam search beside the enumeration of everything that it could find."""

import itertools
import math

import pytest
import torch

from unspool.errors import ConfigError, DivergenceError
from unspool.search import Beam, Softmax, beam_search

VOCABULARY, END, LONGEST = 4, 3, 4


class Table:
    """A model of symbols whose chances depend on all that came before, for two sentences."""

    def __init__(self, seed=0):
        self.generator = torch.Generator().manual_seed(seed)
        self.logits = {}

    def of(self, sentence, prefix):
        key = sentence, prefix
        if key not in self.logits:
            self.logits[key] = 1.5 * torch.randn(VOCABULARY, generator=self.generator)
        return self.logits[key]

    def step(self, tokens, state):
        state = torch.cat([state, tokens.unsqueeze(1)], 1)
        rows = [self.of(int(row[0]), tuple(row[2:].tolist())) for row in state]
        return Softmax(torch.stack(rows)), state

    def select(self, state, rows):
        return state[rows]

    def attention(self, state):
        return None


def enumerated(model, sentence, beam, allowed=lambda tokens: True):
    """Every sequence with its log-probability, ranked as the penalty says, the best first."""
    found = []
    for length in range(LONGEST + 1):
        for tokens in itertools.product([s for s in range(VOCABULARY) if s != END], repeat=length):
            if not allowed(tokens):
                continue
            total = 0.0
            for place, symbol in enumerate([*tokens, END]):
                chances = model.of(sentence, tokens[:place]).log_softmax(-1)
                if place < LONGEST:  # at the maximal length the end is given, but counts
                    total += float(chances[symbol])
                else:
                    total += float(chances[END])
            found.append((total / ((6 + length) / 6) ** beam.length_penalty, total, list(tokens)))
    return sorted(found, reverse=True)


def run(model, beam, sentences=2):
    state = torch.arange(sentences).unsqueeze(1)
    first = torch.zeros(sentences, dtype=torch.long)
    return beam_search(model, state, first, END, torch.full((sentences,), LONGEST), beam)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 1.0, 2.0])
def test_a_beam_as_large_as_the_space_finds_what_enumeration_finds(penalty):
    for seed in range(5):
        model = Table(seed)
        beam = Beam(size=VOCABULARY**LONGEST, length_penalty=penalty, num_best=6)
        for sentence, found in enumerate(run(model, beam)):
            wanted = enumerated(model, sentence, beam)[:6]
            assert [one.tokens for one in found] == [tokens for *_, tokens in wanted]
            for one, (score, total, _) in zip(found, wanted, strict=True):
                assert math.isclose(one.score, score, rel_tol=1e-4)
                assert math.isclose(one.log_probability, total, rel_tol=1e-4)


def test_greedy_search_takes_the_likeliest_symbol_each_time():
    model = Table(7)
    for sentence, (best,) in enumerate(run(model, Beam(size=1))):
        tokens = ()
        while len(tokens) < LONGEST and int(model.of(sentence, tokens).argmax()) != END:
            tokens = (*tokens, int(model.of(sentence, tokens).argmax()))
        assert tuple(best.tokens) == tokens


def test_what_occurred_does_not_occur_again():
    def allowed(tokens):
        pairs = list(itertools.pairwise(tokens))
        return len(set(pairs)) == len(pairs)

    model = Table(3)
    beam = Beam(size=VOCABULARY**LONGEST, length_penalty=2.0, num_best=20, no_repeat_ngram=2)
    for sentence, found in enumerate(run(model, beam)):
        wanted = enumerated(model, sentence, beam, allowed)[:20]
        assert [one.tokens for one in found] == [tokens for *_, tokens in wanted]


def test_sentences_do_not_hear_each_other():
    together = run(Table(1), Beam(size=3, num_best=3), sentences=2)
    model = Table(1)
    run(model, Beam(size=3, num_best=3), sentences=2)  # the same table
    alone = beam_search(
        model, torch.tensor([[1]]), torch.zeros(1, dtype=torch.long), END, torch.tensor([LONGEST]), Beam(3, num_best=3)
    )
    assert [one.tokens for one in alone[0]] == [one.tokens for one in together[1]]


def test_a_sequence_may_be_empty():
    found = beam_search(
        Table(), torch.tensor([[0]]), torch.zeros(1, dtype=torch.long), END, torch.tensor([0]), Beam(size=5)
    )
    assert found[0][0].tokens == []


def test_mistakes_are_named():
    for options in ({"size": 0}, {"num_best": 6}, {"length_penalty": -1.0}):
        with pytest.raises(ConfigError, match="must be (at|between)"):
            Beam(**options)


def looks(sentence, step):
    """Where `Looking` looks: three source steps, of which the second sentence has two."""
    real = 3 - sentence
    return [0.8 + 0.2 / real if s == step % real else 0.2 / real if s < real else 0.0 for s in range(3)]


class Looking(Table):
    """Looks at one source step after the other, and a little at the rest."""

    def attention(self, state):
        return torch.tensor([looks(int(row[0]), state.shape[1] - 2) for row in state])


def test_coverage_asks_for_the_steps_that_there_are():
    beam = Beam(size=VOCABULARY**LONGEST, coverage_penalty=2.0, num_best=100)
    for sentence, found in enumerate(run(Looking(1), beam)):
        for one in found:
            steps = [looks(sentence, step) for step in range(len(one.tokens) + 1)]
            covered = [sum(column) for column in zip(*steps, strict=True)][: 3 - sentence]
            plain = one.log_probability / ((6 + len(one.tokens)) / 6)
            expected = plain + 2.0 * sum(math.log(min(1.0, c)) for c in covered)
            assert math.isclose(one.score, expected, rel_tol=1e-4)


def test_scores_that_are_no_numbers_end_the_search_with_a_word():
    model = Table(0)
    model.logits[0, ()] = torch.full((VOCABULARY,), torch.nan)
    with pytest.raises(DivergenceError, match="probabilities that are no numbers"):
        run(model, Beam())
