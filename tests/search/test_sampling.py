import itertools
import math

import pytest
import torch

from unspool.errors import ConfigError
from unspool.search import Beam, Draws, Sampling, Softmax, filter_logits, sample, sample_sequences

LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.15, 0.1]]))


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(), [0, 1, 2, 3]),
        (Sampling(top_k=2), [0, 1]),
        (Sampling(top_k=10), [0, 1, 2, 3]),
        (Sampling(top_p=0.5), [0]),
        (Sampling(top_p=0.51), [0, 1]),
        (Sampling(top_p=0.76), [0, 1, 2]),
        (Sampling(top_p=1e-9), [0]),
        (Sampling(temperature=0.0), [0]),
        (Sampling(top_k=3, top_p=0.85), [0, 1, 2]),
        (Sampling(top_k=3, top_p=0.8), [0, 1]),
    ],
)
def test_filters_keep_the_likeliest_symbols(sampling, kept):
    assert filter_logits(LOGITS, sampling)[0].isfinite().nonzero().flatten().tolist() == kept


def test_temperature_divides_logits():
    found = filter_logits(LOGITS, Sampling(temperature=0.5)).softmax(-1)
    torch.testing.assert_close(found, (LOGITS * 2).softmax(-1))
    assert filter_logits(LOGITS, Sampling(temperature=1e-40)).softmax(-1).tolist() == [[1.0, 0.0, 0.0, 0.0]]


class Counter:
    """Always likeliest: the symbol after the one read."""

    def step(self, tokens, state):
        return torch.nn.functional.one_hot((tokens + 1) % 5, 5) * 50.0, state + 1


def test_each_drawn_symbol_is_read_before_the_next_is_drawn():
    drawn = sample(Counter(), torch.zeros(()), torch.eye(5)[:1] * 50.0, Sampling(), torch.Generator().manual_seed(0))
    assert [int(t) for t in itertools.islice(drawn, 7)] == [0, 1, 2, 3, 4, 0, 1]


def test_draws_follow_the_probabilities_and_never_take_what_is_forbidden():
    class Constant:
        def step(self, tokens, state):
            return LOGITS, state

    drawn = sample(Constant(), None, LOGITS, Sampling(), torch.Generator().manual_seed(0), forbidden=[1])
    counts = torch.bincount(torch.tensor([int(t) for t in itertools.islice(drawn, 4000)]), minlength=4) / 4000
    torch.testing.assert_close(counts, torch.tensor([0.5, 0.0, 0.15, 0.1]) / 0.75, atol=0.03, rtol=0)


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sampling(**wrong)


class Coin:
    """Two symbols and an end (2), with the same chances at every step."""

    chances = torch.tensor([0.5, 0.3, 0.2]).log()

    def step(self, tokens, state):
        return Softmax(self.chances.expand(len(tokens), -1)), state

    def select(self, state, rows):
        return state[rows]

    def attention(self, state):
        return None


def drawn(count, **options):
    first = torch.zeros(2, dtype=torch.long)
    draws = Draws(Sampling(**options), count, torch.Generator().manual_seed(3))
    return sample_sequences(Coin(), torch.zeros(2, 1), first, 2, torch.tensor([6, 0]), draws)


def test_sequences_are_drawn_as_often_as_they_are_likely():
    long, short = drawn(20_000)
    assert all(one.tokens == [] for one in short)
    assert max(len(one.tokens) for one in long) == 6
    for tokens in ([], [0], [1, 0]):
        chance = math.exp(sum(float(Coin.chances[t]) for t in [*tokens, 2]))
        share = sum(one.tokens == tokens for one in long) / len(long)
        assert abs(share - chance) < 4 * math.sqrt(chance / len(long))
    assert [one.score for one in long] == sorted((one.score for one in long), reverse=True)
    for one in long[::1000]:
        wanted = sum(float(Coin.chances[t]) for t in [*one.tokens, 2])
        assert math.isclose(one.log_probability, wanted, rel_tol=1e-5)


def test_without_heat_the_likeliest_sequence_is_drawn():
    assert [one.tokens for one in drawn(2, temperature=0.0)[0]] == [[0] * 6] * 2


def test_a_number_beyond_all_floats_is_within_bounds_or_refused_by_name():
    assert Sampling(top_k=10**400).top_k == 10**400
    with pytest.raises(ConfigError, match="num_best must be at most size"):
        Beam(num_best=10**400)
