"""What PyTorch's tools ask of a module: compile, export, transforms, autocast, processes."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import unspool
import unspool.nn as ours

KINDS = ("RNN", "LSTM", "GRU")


def build(kind, seed=0, **options):
    torch.manual_seed(seed)
    return getattr(ours, kind)(4, 6, 2, bidirectional=True, **options)


@pytest.mark.parametrize("kind", [*KINDS, "projected"])
def test_compile_without_graph_breaks(kind):
    module = build("LSTM", proj_size=3) if kind == "projected" else build(kind)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 3, 4)
    torch.testing.assert_close(compiled(x)[0], module(x)[0])
    grads = [torch.autograd.grad(m(x)[0].square().sum(), list(module.parameters())) for m in (compiled, module)]
    torch.testing.assert_close(*grads)
    accelerated = nn.Sequential(getattr(nn, "LSTM" if kind == "projected" else kind)(4, 6))
    unspool.accelerate(accelerated)
    whole = torch.compile(accelerated, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(whole(x)[0], accelerated(x)[0])
    lengths = torch.tensor([5, 2, 4])
    torch.testing.assert_close(compiled(x, lengths=lengths)[0], module(x, lengths=lengths)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_export_with_free_sizes(kind):
    module = build(kind).eval()
    steps, rows = torch.export.Dim("steps", min=2, max=64), torch.export.Dim("rows", min=2, max=64)
    shapes = {"input": {0: steps, 1: rows}}
    exported = torch.export.export(module, (torch.randn(5, 3, 4),), dynamic_shapes=shapes).module()
    x = torch.randn(9, 7, 4)
    torch.testing.assert_close(exported(x)[0], module(x)[0])


@pytest.mark.parametrize("kind", KINDS)
def test_transforms_of_functions(kind):
    module = build(kind)
    parameters = {name: p.detach() for name, p in module.named_parameters()}
    xs = torch.randn(3, 5, 2, 4)

    def loss(parameters, x):
        return torch.func.functional_call(module, parameters, (x,))[0].square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, xs)
    for place, x in enumerate(xs):
        wanted = torch.autograd.grad(module(x)[0].square().sum(), list(module.parameters()))
        torch.testing.assert_close([g[place] for g in each.values()], list(wanted), rtol=1e-4, atol=1e-5)
    models = [build(kind, seed) for seed in (1, 2)]
    stacked, _ = torch.func.stack_module_state(models)
    outputs = torch.func.vmap(lambda p, x: torch.func.functional_call(module, p, (x,))[0])(stacked, xs[:2])
    wanted = [model(x)[0] for model, x in zip(models, xs, strict=False)]
    torch.testing.assert_close(outputs, torch.stack(wanted))


@pytest.mark.parametrize("kind", KINDS)
def test_functional_call_uses_what_it_is_given(kind):
    module = build(kind)
    x = torch.randn(5, 3, 4)
    zeros = {name: torch.zeros_like(p) for name, p in module.named_parameters()}
    assert not torch.func.functional_call(module, zeros, (x,))[0].any()
    assert module(x)[0].any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_penalty(kind):
    """WGAN-GP (arXiv 1704.00028): the gradient of a gradient's norm, against PyTorch's module in float64."""
    mine = build(kind)
    theirs = getattr(nn, kind)(4, 6, 2, bidirectional=True, dtype=torch.float64)
    theirs.load_state_dict(mine.state_dict())
    x, results = torch.randn(5, 3, 4), []
    for module in (mine, theirs):
        free = x.to(next(module.parameters()).dtype).requires_grad_()
        (slope,) = torch.autograd.grad(module(free)[0].square().sum(), free, create_graph=True)
        penalty = (slope.norm(dim=(0, 2)) - 1).square().mean()
        results.append(
            [
                g.double()
                for g in torch.autograd.grad(penalty, list(module.parameters()), allow_unused=True)
                if g is not None
            ]
        )
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed(reentrant):
    module = build("LSTM")
    x = torch.randn(5, 3, 4, requires_grad=True)
    (wanted,) = torch.autograd.grad(module(x)[0].square().sum(), x)
    checkpoint(lambda x: module(x)[0], x, use_reentrant=reentrant).square().sum().backward()
    torch.testing.assert_close(x.grad, wanted)


@pytest.mark.parametrize("parametrized", [False, True])
def test_a_traced_module_computes_and_holds_no_constants(parametrized):
    module, x = build("LSTM"), torch.randn(9, 2, 4)
    if parametrized:
        nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit is deprecated
        traced = torch.jit.trace(module.eval(), torch.randn(5, 3, 4))
        torch.testing.assert_close(traced(x)[0], module(x)[0])
        with pytest.raises(unspool.UnspoolError, match=r"use torch\.export"):
            torch.jit.trace(lambda x: module(x, return_all_states=True), x)


def test_autocast():
    module = build("LSTM")
    x = torch.randn(5, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        output = module(x)[0]
        half = module(x.bfloat16())[0]
        hx = tuple(torch.zeros(4, 3, 6, dtype=torch.bfloat16) for _ in range(2))
        *_, states = module(x, hx, lengths=torch.tensor([5, 1, 2]), return_all_states=True)
    # factors of eight bits: each product is off by up to 2^-8, and ten of them meet in a gate of two layers
    torch.testing.assert_close(output, module(x)[0], rtol=0.05, atol=0.02)
    torch.testing.assert_close(half.float(), module(x)[0], rtol=0.05, atol=0.03)
    assert states[0].dtype == output.dtype == torch.float32
    output.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in module.parameters())


def test_state_dict_round_trip(tmp_path):
    module, other = build("GRU"), ours.GRU(4, 6, 2, bidirectional=True)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.randn(5, 3, 4)
    assert torch.equal(other(x)[0], module(x)[0])


class Outputs(torch.utils.data.Dataset):
    """Runs a module for each item, in whichever process asks."""

    def __init__(self, module):
        self.module = module

    def __len__(self):
        return 4

    def __getitem__(self, place):
        with torch.no_grad():
            return self.module(torch.full((5, 3, 4), float(place)))[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_workers_of_a_data_loader_and_shared_memory():
    module = build("LSTM").share_memory()
    wanted = [Outputs(module)[place] for place in range(4)]
    loader = torch.utils.data.DataLoader(
        Outputs(module), batch_size=None, num_workers=2, multiprocessing_context="fork"
    )
    torch.testing.assert_close(list(loader), wanted)


FORKED = """
import os, signal, torch, unspool.nn  # no gradient before the fork: PyTorch's engine refuses one in the child then
torch.set_num_threads(2)
module, x = unspool.nn.LSTM(128, 128), torch.randn(8, 16, 128)
stream = module.eval().stream(16)
step, wanted = stream.step(x[0]).clone(), module(x)[0][:, 0].detach()
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs ends by itself
    output = module(x)[0][:, 0]  # PyTorch's own operators cannot use its pool here either: small ones only
    torch.testing.assert_close(output, wanted)
    torch.autograd.grad(output.sum(), list(module.parameters()))
    stream.reset()
    torch.testing.assert_close(stream.step(x[0]), step)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
torch.testing.assert_close(module(x)[0][:, 0], wanted)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_fork_after_use():
    subprocess.run([sys.executable, "-c", FORKED], check=True, timeout=60)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch was built without torch.distributed")
def test_two_processes_have_the_gradients_of_the_joined_batch(tmp_path):
    script, out = Path(__file__).with_name("ddp_worker.py"), tmp_path / "gradients.pt"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script, out]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    subprocess.run(list(map(str, command)), check=True, timeout=180, env=environment, capture_output=True)
    from ddp_worker import build_model, loss, whole_batch

    model = build_model()
    loss(model, *whole_batch()).backward()
    wanted = {name: p.grad for name, p in model.named_parameters()}
    torch.testing.assert_close(torch.load(out, weights_only=True), wanted, rtol=1e-4, atol=1e-6)


def test_accelerate_is_at_the_top():
    assert unspool.accelerate is ours.accelerate
