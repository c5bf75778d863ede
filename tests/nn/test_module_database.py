"""PyTorch's own cases for its recurrent modules (torch.testing._internal.common_modules), run on unspool.nn.

What each test asks is what PyTorch's test_modules.py asks of its modules.
"""

import copy
import pickle
import warnings
from functools import partial

import pytest
import torch

import unspool.nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it misses hypothesis, which these cases do not use
    from torch.testing._internal.common_modules import module_db

NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")
INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in NAMES}
TYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def scans_only(monkeypatch):
    """Nothing is handed over to PyTorch's kernel, in float64 either."""
    monkeypatch.setattr("unspool.nn.recurrent.reason_for_torch", lambda data: None)


def cases(name, dtype, training, requires_grad=False):
    """PyTorch's inputs with (our module, the same of PyTorch's, arguments of forward, PyTorch's reference)."""
    info = INFOS[name]
    found = info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=requires_grad, training=training)
    for one in found:
        args, kwargs = one.constructor_input.args, one.constructor_input.kwargs
        theirs = info.module_cls(*args, **kwargs).to(dtype).train(training)
        ours = getattr(unspool.nn, name)(*args, **kwargs).to(dtype).train(training)
        ours.load_state_dict(theirs.state_dict())
        yield ours, theirs, one.forward_input, one.reference_fn


def with_gradients(module, args, kwargs):
    outputs = flatten(module(*args, **kwargs))
    return [*outputs, *torch.autograd.grad(sum(t.square().sum() for t in outputs), list(module.parameters()))]


def flatten(result):
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for part in result for tensor in flatten(part)]


def test_the_database_has_all_six():
    assert sorted(INFOS) == sorted(NAMES)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_forward_and_gradients(name, dtype, training):
    count = 0
    for ours, theirs, given, reference in cases(name, dtype, training):
        found = flatten(ours(*given.args, **given.kwargs))
        torch.testing.assert_close(found, flatten(reference(ours, *given.args, **given.kwargs)))
        exact = copy.deepcopy(theirs).double()
        results = [with_gradients(m, given.args, given.kwargs) for m in (ours, theirs)]
        results.append(with_gradients(exact, _map(lambda t: t.double(), given.args), given.kwargs))
        slack = 2e-6 if dtype == torch.float32 else 1e-13
        for mine, other, truth in zip(*results, strict=True):  # as exact as PyTorch's own in this type
            error, its_error = (float((t - truth).detach().abs().max()) for t in (mine, other))
            assert error <= 2 * its_error + slack * float(truth.detach().abs().max())
        count += 1
    assert count


@pytest.mark.parametrize("name", NAMES)
def test_grad_and_gradgrad(name):
    for place, (ours, _, given, _) in enumerate(cases(name, torch.float64, True, requires_grad=True)):
        small = [p for p in ours.parameters() if p.numel() <= 16] or [next(ours.parameters())]
        free = [t for t in flatten(given.args) if t.requires_grad]
        places = {id(t): place for place, t in enumerate(free)}

        def run(*tensors, module=ours, given=given, free=free, places=places):
            args = _map(lambda one: tensors[places[id(one)]] if id(one) in places else one, given.args)
            return tuple(flatten(module(*args, **given.kwargs)))

        inputs = (*free, *small)
        assert torch.autograd.gradcheck(run, inputs, fast_mode=True)
        if place % 3 == 0:  # of every kind some: the cases differ in two layouts and four options
            assert torch.autograd.gradgradcheck(run, inputs, fast_mode=True)


@pytest.mark.parametrize("name", NAMES)
def test_non_contiguous_tensors(name):
    def spread(tensor):
        return torch.stack([tensor, torch.zeros_like(tensor)], -1)[..., 0]

    for ours, _, given, _ in cases(name, torch.float32, True):
        args = _map(spread, given.args)
        assert not any(t.is_contiguous() for t in flatten(args) if t.numel() > 1)
        found, wanted = flatten(ours(*args, **given.kwargs)), flatten(ours(*given.args, **given.kwargs))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def _map(function, value):
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return type(value)(_map(function, part) for part in value)
    return value


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
@pytest.mark.parametrize("name", NAMES)
def test_copies_compute_the_same(name, copied):
    for ours, _, given, _ in cases(name, torch.float32, False):
        twin = copied(ours)
        assert type(twin) is type(ours)
        found, wanted = flatten(twin(*given.args, **given.kwargs)), flatten(ours(*given.args, **given.kwargs))
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_constructors_agree(name):
    for info_case in INFOS[name].module_inputs_func(
        INFOS[name], device="cpu", dtype=torch.float64, requires_grad=False, training=True
    ):
        args, kwargs = info_case.constructor_input.args, dict(info_case.constructor_input.kwargs)
        kwargs.pop("device", None), kwargs.pop("dtype", None)
        made = []
        for build in (INFOS[name].module_cls, getattr(unspool.nn, name)):
            torch.manual_seed(3)
            made.append(partial(build, *args, **kwargs)(device="cpu", dtype=torch.float64))
        theirs, ours = made
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert mine.dtype == torch.float64
            assert torch.equal(mine, other)
        public = [key for key in vars(theirs) if not key.startswith("_")]
        assert {key: getattr(ours, key) for key in public} == {key: getattr(theirs, key) for key in public}
