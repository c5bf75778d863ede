"""unspool.accelerate: what it swaps, what it leaves and why, and the way back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, rnn

import unspool
from unspool.kernels.explanation import recording
from unspool.kernels.isa import instruction_sets


class Renamed(nn.LSTM):
    """A subclass that leaves forward alone."""

    def __init__(self, *args, note="kept", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note


class Bent(nn.GRU):
    """A subclass that does not."""

    def forward(self, input, hx=None):
        return super().forward(input * 2, hx)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 4)
        self.encoder = nn.LSTM(4, 6, 2, batch_first=True, bidirectional=True)
        self.renamed = Renamed(12, 6, batch_first=True)
        self.bent = Bent(6, 6, batch_first=True)
        self.cell = nn.GRUCell(6, 6)
        self.out = nn.Linear(6, 3)

    def forward(self, tokens, lengths):
        packed = rnn.pack_padded_sequence(self.embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
        x, _ = rnn.pad_packed_sequence(self.encoder(packed)[0], batch_first=True)
        x, _ = self.bent(self.renamed(x)[0])
        return self.out(self.cell(x[:, 0]))


def explain_model(model):
    with recording() as found, torch.no_grad():
        model(torch.randint(11, (4, 7)), torch.tensor([7, 3, 5, 1]))
    return found


def train(model, steps=5):
    torch.manual_seed(3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        tokens, targets = torch.randint(11, (4, 7)), torch.randint(3, (4,))
        loss = nn.functional.cross_entropy(model(tokens, torch.tensor([7, 3, 5, 1])), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


def test_training_goes_the_same_way_and_back():
    plain = Model()
    fast = copy.deepcopy(plain)
    parameters = dict(fast.named_parameters())
    report = unspool.accelerate(fast)
    assert report.swapped == ["encoder", "renamed", "cell"]
    assert report.kept == {"bent": "Bent has a forward of its own"}
    if instruction_sets():
        assert [scan.path for scan in explain_model(fast)] == ["native"] * 5
    assert "renamed (Renamed): swapped" in str(report)
    assert isinstance(fast.encoder, unspool.nn.LSTM)
    assert isinstance(fast.renamed, Renamed)
    assert all(parameters[name] is value for name, value in fast.named_parameters())
    torch.testing.assert_close(train(fast), train(plain), rtol=1e-4, atol=1e-5)
    report.restore()
    assert type(fast.encoder) is nn.LSTM
    assert type(fast.renamed) is Renamed
    assert type(fast.cell) is nn.GRUCell
    torch.testing.assert_close(train(fast), train(plain), rtol=1e-3, atol=1e-4)


def test_the_model_itself_twice_and_nothing():
    model = nn.LSTM(4, 6)
    unspool.accelerate(model)
    again = unspool.accelerate(model)
    assert again.kept == {"": "it is unspool's already"}
    again.restore()
    assert type(model) is unspool.nn.LSTM
    assert str(unspool.accelerate(nn.Linear(2, 2))) == "no recurrent module of torch.nn was found"


def test_a_forward_that_somebody_put_in_its_place_stays():
    model = nn.GRU(4, 6)
    model.forward = lambda x: x
    assert unspool.accelerate(model).kept == {"": "its forward was replaced"}


def test_a_scripted_module_is_named():
    with pytest.warns(DeprecationWarning, match="script"):
        model = nn.Sequential(torch.jit.script(nn.LSTM(4, 6)))
    assert unspool.accelerate(model).kept == {"0": "it is scripted"}


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_swapped_subclasses_can_be_copied(copied):
    model = nn.Sequential(Renamed(4, 6, note="here"))
    unspool.accelerate(model)
    twin = copied(model)
    assert type(twin[0]) is type(model[0])
    assert twin[0].note == "here"
    x = torch.randn(5, 3, 4)
    assert torch.equal(twin[0](x)[0], model[0](x)[0])
    unspool.nn.restore(twin)
    assert type(twin[0]) is Renamed
    assert type(model[0]) is not Renamed


class Cell(nn.GRUCell):
    """A subclass of a cell."""


class Checked(nn.LSTM):
    """A subclass that changes what PyTorch's forward calls."""

    def check_input(self, input, batch_sizes):
        raise ValueError("no")


def test_subclasses_of_cells_and_of_what_forward_calls():
    model = nn.ModuleList([Cell(4, 6).eval(), Checked(4, 6)])
    report = unspool.accelerate(model)
    assert report.swapped == ["0"]
    assert report.kept == {"1": "Checked has a check_input of its own"}
    x = torch.randn(1, 4)
    torch.testing.assert_close(model[0].stream().step(x), model[0](x).detach())
    assert torch.equal(copy.deepcopy(model[0])(x), model[0](x))


def test_names_of_ours_that_a_subclass_or_a_module_has_taken():
    class Chunked(nn.LSTM):
        def stream(self, chunks):
            return [self(chunk)[0] for chunk in chunks]

    class Registered(nn.GRU):
        def __init_subclass__(cls, *, tag, **others):
            super().__init_subclass__(**others)

    marked = nn.RNN(4, 6)
    marked._weights = 5
    model = nn.ModuleList([Chunked(4, 6), Registered(4, 6), marked, nn.GRU(4, 6)])
    report = unspool.accelerate(model)
    assert report.swapped == ["3"]
    assert [reason.split(" has a ")[-1] for reason in report.kept.values()] == [
        "stream of its own",
        "__init_subclass__ of its own",
        "its _weights was replaced",
    ]


def test_a_parametrized_subclass():
    module = parametrizations.weight_norm(Renamed(4, 6), "weight_hh_l0")
    x = torch.randn(5, 3, 4)
    with torch.no_grad():  # PyTorch's module keeps what it computed, and a copy may not have a history
        wanted = module(x)[0]
        report = unspool.accelerate(module)
        assert report.swapped == [""]
        assert isinstance(module, Renamed)
        torch.testing.assert_close(module(x)[0], wanted)
        torch.testing.assert_close(copy.deepcopy(module)(x)[0], wanted)
        report.restore()
        torch.testing.assert_close(module(x)[0], wanted)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is Renamed


def test_an_unspool_layer_and_its_cell_are_no_business_of_accelerate():
    assert not unspool.accelerate(unspool.Recurrent(unspool.LSTM(4, 6))).findings


def test_hooks_and_buffers_stay():
    model, seen = nn.LSTM(4, 6), []
    model.register_forward_hook(lambda module, inputs, output: seen.append(type(module)))
    model.register_buffer("mark", torch.ones(1))
    unspool.accelerate(model)
    model(torch.randn(5, 3, 4))
    assert seen == [unspool.nn.LSTM]
    assert "mark" in model.state_dict()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["weight norm", "spectral norm", "weight drop", "old weight norm"])
def test_parametrized_weights_train(kind, when):
    def change(module):
        if kind == "weight norm":
            parametrizations.weight_norm(module, "weight_hh_l0")
        elif kind == "spectral norm":
            parametrizations.spectral_norm(module, "weight_hh_l0")
        elif kind == "weight drop":
            assert unspool.weight_drop(module, 0.5, "weight_hh_l0") == 1
        else:
            with pytest.warns(FutureWarning):
                nn.utils.weight_norm(module, "weight_hh_l0")

    module = nn.LSTM(4, 6)
    if when == "before":
        change(module)
        report = unspool.accelerate(module)
    else:
        report = unspool.accelerate(module)
        change(module)
    assert report.swapped == [""]
    x, h = torch.randn(5, 3, 4), torch.zeros(3, 6)
    torch.manual_seed(2)
    before = module(x)[0]
    torch.manual_seed(2)
    weights = [getattr(module, f"{name}_l0") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    torch.manual_seed(2)
    state, wanted = (h, h), []
    for step in x:  # the equations with the parametrized weight
        gates = nn.functional.linear(step, weights[0], weights[2]) + nn.functional.linear(
            state[0], weights[1], weights[3]
        )
        i, f, g, o = gates.chunk(4, -1)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        state = (o.sigmoid() * c.tanh(), c)
        wanted.append(state[0])
    if kind != "spectral norm":  # which iterates at every read
        torch.testing.assert_close(before, torch.stack(wanted))
    before.square().sum().backward()
    missing = [name for name, parameter in module.named_parameters() if parameter.grad is None]
    assert not missing, f"no gradient: {missing}"
    torch.optim.SGD(module.parameters(), 0.5).step()
    torch.manual_seed(2)
    assert not torch.allclose(module(x)[0], before)
    if kind not in ("old weight norm",):
        parametrize.remove_parametrizations(module, "weight_hh_l0")
        assert type(module) is unspool.nn.LSTM
    report.restore()
    assert type(module) is nn.LSTM


def test_restoring_a_module_that_is_parametrized():
    module = parametrizations.weight_norm(nn.LSTM(4, 6), "weight_hh_l0")
    original = type(module)
    report = unspool.accelerate(module)
    report.restore()
    assert type(module).__bases__ == original.__bases__
    assert not isinstance(module, unspool.nn.LSTM)
    parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(module) is nn.LSTM
