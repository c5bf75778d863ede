import pytest
import torch

from unspool import GRU, LSTM, LayerNormLSTM, MinGRU, stack_cells
from unspool.errors import ConfigError, DivergenceError, ShapeError
from unspool.kernels import isa
from unspool.models import LanguageModel, Writer
from unspool.search import Sampling, filter_logits

native = pytest.mark.skipif(not isa.instruction_sets(), reason="there is no native engine")
START = torch.zeros(1, dtype=torch.long)


def build(cell=LSTM, vocabulary_size=23, hidden_size=12, tied=False, **options):
    model = LanguageModel(vocabulary_size, stack_cells(cell, 7, hidden_size, 2, **options), tied=tied).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    return model


def with_logits(logits):
    """A model that gives these logits whatever it has read."""
    model = build(vocabulary_size=len(logits))
    with torch.no_grad():
        model.softmax.weight.zero_()
        model.softmax.bias.copy_(logits)
    return model


def drawn(logits, sampling, count=20_000, forbidden=(), seed=0):
    tokens = Writer(with_logits(logits), seed=seed).write(START, count, sampling, forbidden)
    return torch.bincount(tokens.flatten(), minlength=len(logits)) / count


@pytest.mark.parametrize("batch_size", [1, 3, 17])
@pytest.mark.parametrize(
    "options",
    [{}, {"tied": True}, {"tied": True, "hidden_size": 7}, {"cell": MinGRU, "residual": True}, {"cell": LayerNormLSTM}],
)
def test_the_likeliest_symbols_are_those_of_a_plain_loop(options, batch_size):
    model, prompt = build(**options), torch.randint(23, (5, batch_size))
    writer = Writer(model, batch_size)
    writer.read(prompt[:-1])
    found = [writer.write(prompt[-1], 7, Sampling(0.0), forbidden=[2])]
    found.append(writer.write(found[0][-1], 13, Sampling(0.0), forbidden=[2]))
    with torch.no_grad():
        state, tokens = model.stack(model.embed(prompt[:-1])).state, prompt[-1]
        for token in torch.cat(found):
            logits, state = model.step(tokens, state)
            logits[:, 2] = -torch.inf
            tokens = logits.argmax(-1)
            assert token.tolist() == tokens.tolist()


@native
@pytest.mark.parametrize("hidden_size", [64, 300])
def test_large_models_and_narrow_weights_write_too(hidden_size):
    model = LanguageModel(101, stack_cells(GRU, 32, hidden_size, 2)).eval()
    wide, narrow = Writer(model, 2), Writer(model, 2, narrow=True)
    tokens = torch.zeros(2, dtype=torch.long)
    assert wide.write(tokens, 20).shape == narrow.write(tokens, 20).shape == (20, 2)
    for own, other in zip(wide.state, narrow.state, strict=True):
        assert own.h.isfinite().all()
        assert own.h.shape == other.h.shape


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.3),
        Sampling(temperature=4.0),
        Sampling(top_k=1),
        Sampling(top_k=7),
        Sampling(top_k=200),
        Sampling(top_p=0.6),
        Sampling(top_p=0.999),
        Sampling(top_p=1e-9),
        Sampling(temperature=1.5, top_k=20, top_p=0.8),
    ],
)
@pytest.mark.parametrize("size", [5, 60])
def test_draws_follow_the_exact_distribution(sampling, size):
    logits = torch.randn(size) * 1.5
    wanted = filter_logits(logits[None], sampling).softmax(-1)[0]
    found = drawn(logits, sampling)
    assert not found[wanted == 0].any()
    assert (found[wanted > 1e-3] > 0).all()
    assert float((found - wanted).abs().sum()) / 2 < 0.03


@pytest.mark.parametrize("size", [40, 1000])
def test_the_kept_symbols_are_exactly_those_of_the_filter(size):
    logits = torch.linspace(0.0, 1.0, size)[torch.randperm(size)]
    for sampling in (Sampling(top_k=11), Sampling(top_p=11.5 / size), Sampling(0.2, top_k=30, top_p=0.5)):
        kept = filter_logits(logits[None], sampling)[0].isfinite()
        assert ((drawn(logits, sampling, 30_000) > 0) == kept).all()


def test_forbidden_symbols_are_never_drawn_and_the_others_share_their_part():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.1]))
    found = drawn(logits, Sampling(), forbidden=[1, 0])
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, 0.6, 0.4]), atol=0.02, rtol=0)
    assert drawn(logits, Sampling(top_p=0.5), forbidden=[0])[1] == 1.0


def test_no_temperature_overflows():
    assert drawn(torch.tensor([1.0, 2.0, -torch.inf]), Sampling(1e-40), 50).tolist() == [0.0, 1.0, 0.0]
    assert drawn(torch.tensor([3e38, -3e38]), Sampling(1e30), 50).tolist() != [0.0, 1.0]


def test_equal_seeds_write_equal_texts_however_they_are_cut():
    model = build()
    whole = Writer(model, seed=3).write(START, 40)
    writer, parts, last = Writer(model, seed=3), [], START
    for count in (1, 0, 16, 7, 16):
        parts.append(writer.write(last, count))
        last = torch.cat(parts)[-1]
    assert torch.cat(parts).tolist() == whole.tolist()
    assert Writer(model, seed=4).write(START, 40).tolist() != whole.tolist()
    beside = Writer(model, 2, seed=3).write(torch.zeros(2, dtype=torch.long), 40)
    assert (beside[:, :1] != beside[:, 1:]).any()


def test_changed_weights_are_followed():
    model = with_logits(torch.tensor([50.0, 0.0, 0.0]))
    writer = Writer(model)
    assert writer.write(START, 3).flatten().tolist() == [0, 0, 0]
    with torch.no_grad():
        model.softmax.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    assert writer.write(START, 3).flatten().tolist() == [2, 2, 2]


@native
@pytest.mark.parametrize("logits", [[torch.nan, 0.0], [torch.inf, 0.0], [-torch.inf, -torch.inf]])
def test_logits_that_are_no_numbers_are_an_error(logits):
    for sampling in (Sampling(), Sampling(0.0), Sampling(top_k=1), Sampling(top_p=0.5)):
        with pytest.raises(DivergenceError, match="no symbol can be drawn"):
            Writer(with_logits(torch.tensor(logits))).write(START, 2, sampling)


def test_what_is_out_of_range_is_refused():
    model = build()
    writer = Writer(model)
    with pytest.raises(ConfigError, match=r"tokens must lie in 0\.\.22, got 23\.\.23"):
        writer.write(torch.tensor([23]), 1)
    with pytest.raises(ShapeError, match=r"tokens must be \[1\] of torch.int64, got \[2\]"):
        writer.write(torch.tensor([1, 2]), 1)
    with pytest.raises(ShapeError, match="torch.float32"):
        writer.read(torch.zeros(2, 1))
    with pytest.raises(ConfigError, match="count"):
        writer.write(START, -1)
    with pytest.raises(ConfigError, match="forbidden"):
        writer.write(START, 1, forbidden=[-1])
    with pytest.raises(ConfigError, match="seed"):
        Writer(model, seed=-1)
    with pytest.raises(ConfigError, match="training mode"):
        Writer(model.train())


def test_models_in_float64_write_in_pytorch():
    model = build().double()
    writer = Writer(model)
    assert writer.explain().startswith("PyTorch: ")
    assert writer.write(START, 9).tolist() == Writer(model).write(START, 9).tolist()


@native
def test_a_model_with_a_step_of_its_own_is_taken_as_it_is():
    class Backwards(LanguageModel):
        def logits(self, outputs):
            return -super().logits(outputs)

    model = Backwards(23, stack_cells(LSTM, 7, 12, 1)).eval()
    with pytest.warns(RuntimeWarning, match="Backwards has a step of its own"):
        writer = Writer(model)
    with torch.no_grad():
        assert int(writer.write(START, 1, Sampling(0.0))) == int(model.step(START, model.initial_state(1))[0].argmax())


@native
@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # known answers of Random123 1.09, tests/kat_vectors: philox4x32 with 10 rounds
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_chance_is_philox(counter, key, words):
    assert tuple(isa._native.philox(list(counter), list(key))) == words
