import itertools

import pytest
import torch

from unspool import GRU, LSTM
from unspool.cells import CELLS
from unspool.data.batching import IGNORED
from unspool.models.seq2seq import BEGIN, END, PairBatch, Seq2Seq, Translating
from unspool.search import Beam, beam_search

SIZES = {"embedding_size": 6, "hidden_size": 8, "dropout": 0.2}


def batch(source_lengths=(5, 3), target_lengths=(4, 2)):
    rows = len(source_lengths)
    source, targets = torch.randint(4, 9, (max(source_lengths), rows)), torch.randint(4, 7, (max(target_lengths), rows))
    inputs = torch.cat([torch.full((1, rows), BEGIN), targets[:-1]])
    for b, (s, t) in enumerate(zip(source_lengths, target_lengths, strict=True)):
        source[s - 1, b], source[s:, b] = END, 0
        targets[t - 1, b], targets[t:, b], inputs[t:, b] = END, IGNORED, 0
    return PairBatch(source, torch.tensor(source_lengths), inputs, targets, torch.tensor(target_lengths))


def model(cell=GRU, **options):
    return Seq2Seq(9, 7, cell, **{**SIZES, **options}).double().eval()


OPTIONS = [{"attention": "dot"}, {"attention": "general"}, {"attention": "additive"}, {"attention": "none"},
           {"input_feeding": True}, {"num_layers": 2}, {"cell": LSTM, "num_layers": 2}]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_give_what_the_whole_sequence_gives(options):
    one = model(**options)
    pairs = batch()
    whole = one.logits(one(pairs)).log_softmax(-1)
    work = Translating(one, pairs.source, pairs.source_lengths)
    state, seen = work.start, []
    for tokens in pairs.inputs:
        choices, state = work.step(tokens, state)
        chances, symbols = choices.likeliest(7)
        seen.append(torch.empty_like(chances).scatter(1, symbols, chances))
    real = pairs.targets != IGNORED
    torch.testing.assert_close(torch.stack(seen)[real], whole[real])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_padding_and_neighbours_change_nothing(options):
    one, pairs = model(**options), batch()
    alone = PairBatch(
        pairs.source[:3, 1:],
        pairs.source_lengths[1:],
        pairs.inputs[:2, 1:],
        pairs.targets[:2, 1:],
        pairs.target_lengths[1:],
    )
    torch.testing.assert_close(one(pairs)[:2, 1:], one(alone))
    padded = pairs._replace(source=torch.where(pairs.source == 0, 5, pairs.source))
    torch.testing.assert_close(one(padded)[:2, 1:], one(alone))


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.__name__)
def test_any_cell_reads_and_writes(cell):
    one = Seq2Seq(9, 7, cell, **SIZES).train()
    loss = one.loss(batch())
    (loss.sum / loss.count + loss.penalty).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in one.parameters())


def test_the_smoothed_loss_is_the_cross_entropy_of_the_smoothed_target():
    one, pairs = model(dropout=0.0, label_smoothing=0.1).train(), batch()
    loss = one.loss(pairs)
    known = pairs.targets.flatten() != IGNORED
    logits = one.logits(one(pairs)).flatten(0, 1)[known]
    wanted = torch.nn.functional.cross_entropy(logits, pairs.targets.flatten()[known], label_smoothing=0.1)
    torch.testing.assert_close(loss.sum / loss.count + loss.penalty, wanted)
    torch.testing.assert_close(
        one.eval().loss(pairs).sum / loss.count,
        torch.nn.functional.cross_entropy(logits, pairs.targets.flatten()[known]),
    )


@pytest.mark.parametrize("options", [OPTIONS[1], OPTIONS[3], OPTIONS[4]], ids=str)
def test_a_beam_finds_the_likeliest_translation_of_all_and_its_log_likelihood(options):
    one, pairs, longest = model(**options), batch((4, 3, 5), (1, 1, 1)), 3
    work = Translating(one, pairs.source, pairs.source_lengths)
    first = torch.full((3,), BEGIN)
    beam = Beam(size=7**longest, length_penalty=0.0)
    found = beam_search(work, work.start, first, END, torch.full((3,), longest), beam, keep_attention=True)
    for b, (best,) in enumerate(found):
        ways = {}
        for length in range(longest + 1):
            for tokens in itertools.product([s for s in range(7) if s != END], repeat=length):
                inputs = torch.tensor([[BEGIN], *([t] for t in tokens)])
                targets = torch.tensor([*([t] for t in tokens), [END]])
                size = torch.tensor([length + 1])
                pair = PairBatch(pairs.source[:, b : b + 1], pairs.source_lengths[b : b + 1], inputs, targets, size)
                ways[tokens] = -float(one.loss(pair).sum.detach())
        wanted = max(ways, key=ways.get)
        assert tuple(best.tokens) == wanted
        assert best.log_probability == pytest.approx(ways[wanted], rel=1e-5)
        if one.attention is not None:
            assert best.attention.shape == (len(wanted) + 1, 5)
            torch.testing.assert_close(best.attention.sum(-1), torch.ones(len(wanted) + 1, dtype=torch.float64))


def test_a_model_may_read_what_it_wrote_itself():
    one = model(dropout=0.0).train()
    one.teacher_forcing = 0.5
    assert one.loss(batch()).sum.isfinite()
    one.teacher_forcing = 1.0
    whole = one(batch((5, 3), (4, 2)))
    assert whole.shape == (4, 2, 6)
