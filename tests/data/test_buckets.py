import random

import pytest

from unspool.data.buckets import Buckets
from unspool.errors import ConfigError


def lengths(count, longest=40):
    chance = random.Random(count)
    return [chance.randrange(longest) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 7, 500])
def test_every_sequence_is_in_one_batch_of_every_epoch(count):
    own = lengths(count)
    buckets = Buckets(own, 100, seed=3)
    for epoch in range(3):
        batches = [buckets.rows(epoch, index) for index in range(len(buckets))]
        assert sorted(row for rows in batches for row in rows) == list(range(count))
        for rows in batches:
            assert len(rows) == 1 or len(rows) * max(own[row] for row in rows) <= 100


def test_a_batch_depends_on_seed_and_place_alone():
    own = lengths(300)
    one, same, other = Buckets(own, 200, 1), Buckets(own, 200, 1), Buckets(own, 200, 2)
    backwards = [same.rows(epoch, index) for epoch in (1, 0) for index in reversed(range(len(same)))][::-1]
    assert [one.rows(epoch, index) for epoch in (0, 1) for index in range(len(one))] == backwards
    assert one.rows(0, 0) != one.rows(1, 0)
    assert [one.rows(0, i) for i in range(5)] != [other.rows(0, i) for i in range(5)]


def test_without_a_seed_the_order_is_that_of_the_lengths():
    own = lengths(50)
    buckets = Buckets(own, 60)
    order = [row for index in range(len(buckets)) for row in buckets.rows(0, index)]
    assert order == sorted(range(50), key=lambda row: own[row])


def test_no_sequences_make_no_batches():
    assert len(Buckets([], 10)) == 0


def test_a_sequence_longer_than_a_batch_is_a_batch_of_its_own():
    assert [Buckets([500, 3, 600], 10).rows(0, i) for i in range(3)] == [[1], [0], [2]]
    with pytest.raises(ConfigError, match="batch_units must be at least 1, got 0"):
        Buckets([1], 0)
