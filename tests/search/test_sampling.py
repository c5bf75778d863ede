import itertools

import pytest
import torch

from unspool.errors import ConfigError
from unspool.search import Sampling, filter_logits, sample

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
