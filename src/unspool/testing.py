"""The laws of a recurrence, for every cell of the catalogue and for one's own.

::

    from unspool.testing import check_cell
    check_cell(MyCell(3, 4))        # raises AssertionError naming the law, the value or gradient, and the difference

1 Fold: `forward` equals folding `step`.  2 Split: a sequence equals its two parts.  3 Padding: what stands beyond a
length changes nothing, not even NaN.  4 Backend: gradients equal finite differences, first and second; narrower types
stay near float64.  5 Batch: a batch equals its sequences one by one.  6 Reset: a reset equals a new beginning.  7 Round
trip: saved and loaded, the same bits.  9 Resume: a run that was interrupted ends with the same bits.
(8, Stream, comes with streaming.) Each compares outputs, states, final state and every gradient, by name.
"""

import copy
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unspool.cells import Cell
from unspool.checkpoint import LAST
from unspool.layers import Recurrent
from unspool.state import map_state, select_rows, state_tensors
from unspool.tensor_file import load_tensors, parameters_of, restore_parameters, save_tensors
from unspool.training import Trainer

TOLERANCES = {torch.float64: (1e-10, 1e-9), torch.float32: (1e-5, 1e-4), torch.bfloat16: (4e-2, 8e-2)}
"""Absolute and relative tolerance of each type against float64, for values of order one: the only such table."""

Observed = dict[str, Tensor]


def check_cell(cell: Cell, num_steps: int = 7, batch_size: int = 3) -> None:
    """Checks laws 1 to 7 on a copy of a cell on the CPU, in training and evaluation where they differ.

    Raises:
        AssertionError: a law does not hold; the message says which, and where.
    """
    cell = copy.deepcopy(cell).cpu().double()
    for training in (True, False):
        check_fold(cell.train(training), num_steps, batch_size)
    for reverse in (False, True):
        layer = Recurrent(cell, reverse=reverse)
        check_split(layer, num_steps, batch_size)
        check_padding(layer, num_steps, batch_size)
        check_batch(layer, num_steps)
        check_reset(layer, num_steps, batch_size)
    check_gradients(Recurrent(cell))
    check_precision(Recurrent(cell), num_steps, batch_size)
    check_round_trip(Recurrent(cell))


def check_fold(cell: Cell, num_steps: int = 7, batch_size: int = 3) -> None:
    """Law 1, under one draw of the cell's noise."""
    x, state = _example(Recurrent(cell), num_steps, batch_size)
    noise = cell.draw_noise(num_steps, batch_size)

    def whole(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        states = cell.unroll(x, state, cell.weights(), noise)
        return cell.readout(states[0], x), map_state(lambda s: s[-1], states)

    def folded(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs = []
        with torch.nn.utils.parametrize.cached():
            for t in range(num_steps):
                y, state = cell.step(x[t], state, noise.between(t, t + 1))
                outputs.append(y)
        return torch.stack(outputs), state

    _compare("Fold", observe(whole, cell, x, state), observe(folded, cell, x, state))


def check_split(layer: nn.Module, num_steps: int = 7, batch_size: int = 3) -> None:
    """Law 2, at every place."""
    layer = layer.eval()
    x, state = _example(layer, num_steps, batch_size)
    whole = observe(layer, layer, x, state)
    for k in range(num_steps + 1):

        def parts(x: Tensor, state: Any, k: int = k) -> tuple[Tensor, Any]:
            pieces = [x[:k], x[k:]]
            outputs = []
            for piece in pieces[::-1] if _reversed(layer) else pieces:
                y, state = layer(piece, state)
                outputs.append(y)
            return torch.cat(outputs[::-1] if _reversed(layer) else outputs), state

        _compare(f"Split at {k}", whole, observe(parts, layer, x, state))


def check_padding(layer: nn.Module, num_steps: int = 7, batch_size: int = 3) -> None:
    """Law 3: NaN beyond the lengths reaches no output, state or gradient, and the state stands still."""
    layer = layer.eval()
    x, state = _example(layer, num_steps, batch_size)
    lengths = torch.tensor([(num_steps * (b + 1)) // batch_size for b in range(batch_size)])
    lengths[0] = 0
    real = (torch.arange(num_steps)[:, None] < lengths).unsqueeze(-1)
    poisoned = torch.where(real, x.detach(), torch.nan).requires_grad_()

    def run(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, final = layer(x, state, lengths)
        return torch.where(real, y, 0.0), final

    def run_with_resets(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, final = layer(x, state, lengths, ~real.squeeze(-1))
        return torch.where(real, y, 0.0), final

    clean = observe(run, layer, x, state)
    _compare("Padding, resets beyond the lengths", clean, observe(run_with_resets, layer, x, state))
    _compare("Padding", clean, observe(run, layer, poisoned, state))
    beyond = clean["gradient of x"].masked_select(~real)
    assert not beyond.any(), "law Padding: the gradient of x is not zero beyond the lengths"
    _, final = layer(x, state, lengths)
    for before, after in zip(state_tensors(state), state_tensors(final), strict=True):
        assert torch.equal(before[0], after[0]), "law Padding: the state of an empty sequence does not stand still"


def check_batch(layer: nn.Module, num_steps: int = 7) -> None:
    """Law 5, with different lengths."""
    layer, lengths = layer.eval(), torch.tensor([num_steps, 1, (num_steps + 1) // 2, 0])
    x, state = _example(layer, num_steps, len(lengths))
    real = (torch.arange(num_steps)[:, None] < lengths).unsqueeze(-1)

    def together(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        y, final = layer(x, state, lengths)
        return torch.where(real, y, 0.0), final

    def one_by_one(x: Tensor, state: Any) -> tuple[Tensor, Any]:
        outputs, finals = [], []
        for b, length in enumerate(lengths.tolist()):
            y, last = layer(x[:length, b : b + 1], select_rows(state, torch.tensor([b])))
            outputs.append(torch.cat([y, y.new_zeros(num_steps - length, 1, y.shape[-1])]))
            finals.append(state_tensors(last))
        joined = iter([torch.cat(rows) for rows in zip(*finals, strict=True)])
        return torch.cat(outputs, 1), map_state(lambda _: next(joined), state)

    _compare("Batch", observe(one_by_one, layer, x, state), observe(together, layer, x, state))


def check_reset(layer: nn.Module, num_steps: int = 7, batch_size: int = 3) -> None:
    """Law 6, at every place, gradients included."""
    layer = layer.eval()
    x, state = _example(layer, num_steps, batch_size)
    for t in range(num_steps):
        marked = num_steps - 1 - t if _reversed(layer) else t
        reset = torch.zeros(num_steps, batch_size, dtype=torch.bool)
        reset[marked] = True

        def anew(x: Tensor, state: Any, t: int = t) -> tuple[Tensor, Any]:
            cut = num_steps - t if _reversed(layer) else t
            first, second = (x[cut:], x[:cut]) if _reversed(layer) else (x[:cut], x[cut:])
            before, _ = layer(first, state)
            after, final = layer(second)
            return torch.cat([after, before] if _reversed(layer) else [before, after]), final

        _compare(
            f"Reset at {marked}",
            observe(anew, layer, x, state),
            observe(partial(_with_reset, layer, reset), layer, x, state),
        )


def check_gradients(layer: nn.Module, num_steps: int = 3, batch_size: int = 2, second: bool = True) -> None:
    """Law 4: gradients and gradients of gradients against finite differences, with lengths and a reset, in float64."""
    layer = copy.deepcopy(layer).double().eval()
    x, state = _example(layer, num_steps, batch_size)
    lengths, reset = torch.tensor([num_steps, num_steps - 1]), torch.zeros(num_steps, batch_size, dtype=torch.bool)
    reset[1, 0] = True
    names = [name for name, _ in layer.named_parameters()]

    def function(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        count = len(state_tensors(state))
        inner = iter(values[:count])
        weights = dict(zip(names, values[count:], strict=True))
        y, final = torch.func.functional_call(
            layer, weights, (x, map_state(lambda _: next(inner), state), lengths, reset)
        )
        return (y, *state_tensors(final))

    inputs = (x, *state_tensors(state), *(p.detach().clone().requires_grad_() for p in layer.parameters()))
    assert torch.autograd.gradcheck(function, inputs), "law Backend: gradients differ from finite differences"
    if second:
        assert torch.autograd.gradgradcheck(function, inputs), "law Backend: second gradients differ"


def check_precision(layer: nn.Module, num_steps: int = 7, batch_size: int = 3) -> None:
    """Law 4: float32, and products in bfloat16 under autocast, stay near float64, by `TOLERANCES`."""
    layer = copy.deepcopy(layer).double().eval()
    x, state = _example(layer, num_steps, batch_size)
    exact = observe(layer, layer, x, state)
    narrow = copy.deepcopy(layer).float()
    narrow_x = x.detach().float().requires_grad_()
    narrow_state = map_state(lambda s: s.detach().float().requires_grad_(), state)
    for dtype in (torch.float32, torch.bfloat16):

        def run(x: Tensor, state: Any, dtype: torch.dtype = dtype) -> tuple[Tensor, Any]:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
                return narrow(x, state)

        seen = observe(run, narrow, narrow_x, narrow_state)
        _compare(f"Backend in {dtype}", exact, {name: t.double() for name, t in seen.items()}, dtype)


def check_round_trip(layer: nn.Module) -> None:
    """Law 7: weights that went through a file give the same bits."""
    layer = layer.eval()
    x, state = _example(layer, 5, 2)
    fresh = copy.deepcopy(layer)
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.fill_(torch.nan)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        save_tensors(path, parameters_of(layer))
        restore_parameters(fresh, load_tensors(path).tensors, str(path))
    expected, found = layer(x, state), fresh(x, state)
    for a, b in zip([expected[0], *state_tensors(expected[1])], [found[0], *state_tensors(found[1])], strict=True):
        assert torch.equal(a, b), "law Round trip: outputs differ after saving and loading"


def check_resume(build: Callable[[Path], Trainer], interrupt_at: int) -> None:
    """Law 9: stops a run after so many updates, resumes it in a new trainer, and compares it with an undisturbed one.

    Args:
        build: makes a trainer of a run within the given folder, prepared anew where the folder is empty; called three times.
        interrupt_at: updates before the interruption.
    """
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        undisturbed = build(Path(first))
        undisturbed.run()
        broken = build(Path(second))
        for _ in range(interrupt_at):
            broken.advance()
        broken.save()
        torch.manual_seed(12345)  # what the interrupted process knew is gone
        resumed = build(Path(second))
        assert resumed.resume(), "law Resume: no checkpoint was found"
        resumed.run()
        expected, found = (load_tensors(t.folder / LAST).tensors for t in (undisturbed, resumed))
    assert expected.keys() == found.keys(), "law Resume: the checkpoints hold different tensors"
    for name in expected:
        assert torch.equal(expected[name], found[name]), f"law Resume: {name} differs after a resume at {interrupt_at}"


def observe(
    function: Callable[[Tensor, Any], tuple[Tensor, Any]], module: nn.Module, x: Tensor, state: Any
) -> Observed:
    """Outputs, final state and all gradients of a fixed weighted sum of both, by name."""
    y, final = function(x, state)
    values = {"output": y} | {f"final state {i}": s for i, s in enumerate(state_tensors(final))}
    total = torch.zeros((), dtype=y.dtype)
    for place, value in enumerate(values.values()):
        # exactly representable in every type, and different for neighbours
        weights = ((torch.arange(value.numel()) * 7 + place * 3) % 11 - 5).view(value.shape).to(value.dtype) / 4
        total = total + (torch.where(value.isfinite(), value, 0.0) * weights).sum()
    inputs = {"x": x} | {f"initial state {i}": s for i, s in enumerate(state_tensors(state))}
    inputs |= dict(module.named_parameters())
    found = torch.autograd.grad(total, list(inputs.values()), allow_unused=True)
    gradients = {
        f"gradient of {name}": torch.zeros_like(t) if g is None else g
        for (name, t), g in zip(inputs.items(), found, strict=True)
    }
    return {name: t.detach() for name, t in (values | gradients).items()}


def _compare(
    law: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor], dtype: torch.dtype = torch.float64
) -> None:
    absolute, relative = TOLERANCES[dtype]
    assert expected.keys() == found.keys()
    for name, reference in expected.items():
        value = reference.detach()
        scale = max(1.0, float(value[value.isfinite()].abs().max())) if value.isfinite().any() else 1.0
        close = torch.isclose(found[name], value, atol=absolute * scale, rtol=relative)
        if not bool(close.all()):
            worst = (found[name] - value).abs().nan_to_num(torch.inf).max()
            raise AssertionError(f"law {law}: {name} differs by up to {float(worst):.3g}")


def _example(layer: nn.Module, num_steps: int, batch_size: int) -> tuple[Tensor, Any]:
    """A random input, and the state that a few random steps lead to: one that this recurrence can be in."""
    size, like = int(layer.input_size), next(layer.parameters())  # type: ignore[arg-type]
    draw = partial(torch.randn, generator=torch.Generator().manual_seed(0), dtype=like.dtype)
    x, before = (draw(steps, batch_size, size).to(like.device) for steps in (num_steps, 3))
    training = layer.training
    with torch.no_grad():
        _, state = layer.eval()(before)
    layer.train(training)
    return x.requires_grad_(), map_state(lambda s: s.detach().clone().requires_grad_(), state)


def _with_reset(layer: nn.Module, reset: Tensor, x: Tensor, state: Any) -> tuple[Tensor, Any]:
    return layer(x, state, None, reset)


def _reversed(layer: nn.Module) -> bool:
    return isinstance(layer, Recurrent) and layer.reverse
