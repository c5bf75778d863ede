import itertools
import math

import torch

from unspool.data.batching import IGNORED
from unspool.models.crf import CRF

NUM_TAGS, LENGTHS = 3, (4, 1, 3)


def all_ways(crf, emissions):
    """Log-weights of every tagging of one sentence, summed up as the definition says."""
    scores, ways = crf.scores().detach(), {}
    for tags in itertools.product(range(NUM_TAGS), repeat=len(emissions)):
        path = [NUM_TAGS, *tags, NUM_TAGS]
        total = sum(scores[a, b] for a, b in itertools.pairwise(path))
        ways[tags] = float(total + sum(emissions[t, tag] for t, tag in enumerate(tags)))
    return ways


def made(**options):
    crf = CRF(NUM_TAGS, **options).double()
    torch.nn.init.normal_(crf.transitions)
    emissions = torch.randn(max(LENGTHS), len(LENGTHS), NUM_TAGS, dtype=torch.float64)
    for b, length in enumerate(LENGTHS):
        emissions[length:, b] = torch.nan
    return crf, emissions, torch.tensor(LENGTHS)


def test_the_likelihood_is_that_of_all_taggings_counted_out():
    crf, emissions, lengths = made()
    tags = torch.randint(0, NUM_TAGS, emissions.shape[:2])
    found = crf.log_likelihood(emissions, tags, lengths)
    for b, length in enumerate(LENGTHS):
        ways = all_ways(crf, emissions[:length, b])
        whole = math.log(sum(map(math.exp, ways.values())))
        assert math.isclose(found[b].item(), ways[tuple(tags[:length, b].tolist())] - whole, abs_tol=1e-9)
    found.sum().backward()
    assert crf.transitions.grad.isfinite().all()


def test_tags_that_are_not_known_are_summed_over():
    crf, emissions, lengths = made()
    emissions.requires_grad_()
    known = torch.randint(0, NUM_TAGS, emissions.shape[:2])
    known[1] = IGNORED
    found = crf.log_likelihood(emissions, known, lengths)
    for b, length in enumerate(LENGTHS):
        ways = all_ways(crf, emissions[:length, b].detach())
        whole = math.log(sum(map(math.exp, ways.values())))
        agree = [
            w
            for tags, w in ways.items()
            if all(k in (IGNORED, t) for k, t in zip(known[:length, b].tolist(), tags, strict=True))
        ]
        assert math.isclose(found[b].item(), math.log(sum(map(math.exp, agree))) - whole, abs_tol=1e-9)
    nothing = crf.log_likelihood(emissions, torch.full_like(known, IGNORED), lengths)
    torch.testing.assert_close(nothing, torch.zeros_like(nothing))
    found.sum().backward()
    assert emissions.grad.isfinite().all()


def test_long_sentences_with_unlikely_tags_are_decoded():
    crf = CRF(NUM_TAGS, may_follow=lambda i, j: (i, j) != (0, 1))
    for shift in (-200.0, 200.0):
        ((best,),) = crf.decode(torch.randn(600, 1, NUM_TAGS) + shift, torch.tensor([600]), 1)
        assert len(best.tags) == 600
        assert (0, 1) not in itertools.pairwise(best.tags)
        assert 0 <= best.probability <= 1.001


def test_decoding_gives_the_likeliest_taggings_in_order_with_their_probabilities():
    crf, emissions, lengths = made()
    for b, paths in enumerate(crf.decode(emissions, lengths, count=5)):
        ways = all_ways(crf, emissions[: LENGTHS[b], b])
        whole = sum(map(math.exp, ways.values()))
        wanted = sorted(ways, key=lambda tags: -ways[tags])[:5]
        assert [tuple(path.tags) for path in paths] == wanted
        for path in paths:
            assert math.isclose(path.probability, math.exp(ways[tuple(path.tags)]) / whole, rel_tol=1e-9)


def test_what_may_not_follow_never_does():
    crf, emissions, lengths = made(may_follow=lambda i, j: (i, j) not in ((0, 1), (None, 2)))
    for paths in crf.decode(emissions, lengths, count=100):
        assert paths
        assert math.isclose(sum(path.probability for path in paths), 1.0, rel_tol=1e-9)
        for path in paths:
            assert path.tags[0] != 2
            assert (0, 1) not in itertools.pairwise(path.tags)


def test_independent_tags_are_decoded_without_a_table_of_pairs():
    crf, slow = CRF(NUM_TAGS, learned=False).double(), CRF(NUM_TAGS).double()
    emissions, lengths = torch.randn(4, 3, NUM_TAGS, dtype=torch.float64), torch.tensor([4, 1, 3])
    for fast, wanted in zip(crf.decode(emissions, lengths, 5), slow.decode(emissions, lengths, 5), strict=True):
        assert [path.tags for path in fast] == [path.tags for path in wanted]
        for a, b in zip(fast, wanted, strict=True):
            assert math.isclose(a.probability, b.probability, rel_tol=1e-9)
