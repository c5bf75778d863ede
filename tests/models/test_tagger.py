import pytest
import torch

from unspool import GRU
from unspool.cells import CELLS
from unspool.data.batching import IGNORED
from unspool.models.crf import CRF
from unspool.models.tagger import Tagger, TaggingBatch


def tagger(**options):
    sizes = {"embedding_size": 6, "character_size": 4, "spelling_size": 5, "hidden_size": 7, **options}
    crfs = [CRF(3, learned=False), CRF(4, learned=False)]
    return Tagger([1] * 7, 8, (3, 4), crfs, GRU, **sizes)


def batch():
    words = torch.tensor([[2, 3], [4, 1], [5, 0]])
    types = torch.tensor([[0, 1], [2, 3], [0, 0]])
    characters = torch.randint(1, 8, (4, 4))
    spellings = torch.tensor([4, 2, 1, 3])
    targets = torch.tensor([[[0, 1], [2, 2], [1, IGNORED]], [[3, 0], [IGNORED, 1], [2, IGNORED]]])
    return TaggingBatch(words, torch.tensor([3, 2]), types, characters, spellings, targets, torch.zeros(3, 2, 0))


def test_the_loss_is_the_cross_entropy_of_every_known_tag():
    model, one = tagger().double().eval(), batch()
    loss = model.loss(one)
    outputs = model(one)
    wanted = 0.0
    for head, targets in zip(model.heads, one.targets, strict=True):
        chances = head(outputs).log_softmax(-1)
        wanted -= sum(chances[t, b, targets[t, b]] for t in range(3) for b in range(2) if targets[t, b] != IGNORED)
    torch.testing.assert_close(loss.sum, wanted / 2)
    assert (loss.count, loss.state) == (5, ())


def test_sentences_do_not_hear_each_other_or_the_padding():
    model, one = tagger().double().eval(), batch()
    together = model(one)
    alone = model(
        one._replace(
            words=one.words[:2, 1:], types=one.types[:2, 1:], lengths=torch.tensor([2]), features=one.features[:2, 1:]
        )
    )
    torch.testing.assert_close(together[:2, 1], alone[:, 0])
    padded = one._replace(characters=torch.where(torch.arange(4).unsqueeze(1) < one.spellings, one.characters, 7))
    torch.testing.assert_close(model(padded), together)


def test_a_dropped_word_is_known_by_its_spelling_alone():
    model, one = tagger(word_dropout=1e9, dropout=0.0).train(), batch()
    unknown = one._replace(words=torch.where(one.words > 0, 1, 0))
    torch.testing.assert_close(model(one), model(unknown))


@pytest.mark.parametrize("cell", CELLS.values(), ids=lambda cell: cell.__name__)
def test_any_cell_tags(cell):
    chains = [CRF(3), CRF(4, learned=False)]
    model = Tagger([1] * 7, 8, (3, 4), chains, cell, embedding_size=6, character_size=4, spelling_size=6, hidden_size=8)
    assert model.loss(batch()).sum.isfinite()
    assert [len(row) for row in model.best(batch())[0]] == [3, 2]


def test_only_the_last_word_counts_where_that_is_asked():
    targets = batch().last_step().targets
    assert targets[:, :, 0].tolist() == [[IGNORED, IGNORED, 1], [IGNORED, IGNORED, 2]]
    assert targets[:, :, 1].tolist() == [[IGNORED, 2, IGNORED], [IGNORED, 1, IGNORED]]
