"""Sequences of unequal lengths: work must be proportional to the real steps."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import unspool
from unspool_benchmarks.case import OURS, Case, Contender, Context, Plan, Size, plan
from unspool_benchmarks.contenders import training_calls
from unspool_benchmarks.floors import LayerShape, layer_floor
from unspool_benchmarks.layer_sections import SIZES
from unspool_benchmarks.streaming import layer_weights

_FEWEST_ROWS = 4
_OUR_DENSE = "unspool_dense"


def ragged(context: Context) -> Iterator[Plan]:
    """LSTM training with lengths uniform in T/4..T, per real step against our dense batch, and torch packed."""
    for size in context.sizes or [size for size in SIZES if size.batch_size >= _FEWEST_ROWS]:
        yield plan(f"LSTM {size}", partial(ragged_case, size, context))


def ragged_case(size: Size, context: Context) -> Case:
    """One size."""
    torch.manual_seed(0)
    T, B, H = size
    lstm, layer = nn.LSTM(H, H), unspool.Recurrent(unspool.LSTM(H, H))
    layer.cell.load_state_dict(layer_weights(lstm, 0))
    lengths = torch.randint(max(1, T // 4), T + 1, (B,))
    real = torch.arange(T)[:, None] < lengths  # [T, B]
    x = torch.randn(T, B, H, requires_grad=True)
    cotangent = torch.randn(T, B, H) * real[..., None]
    share = float(real.float().mean())
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    theirs = {name: getattr(lstm, f"{name}_l0") for name in names}
    ours = dict(layer.cell.named_parameters())

    def packed(x: Tensor) -> Tensor:
        rows = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(lstm(rows)[0], total_length=T)[0]

    def contender(name: str, forward: Callable[[Tensor], Tensor], parameters: Mapping[str, Tensor]) -> Contender:
        run, numbers = training_calls(forward, parameters, x, cotangent, bf16=False)
        return Contender(name, run, lambda: _real_outputs(numbers(), real))

    torch_packed = contender("torch_packed", packed, theirs)
    dense = contender(_OUR_DENSE, lambda x: layer(x).output, ours)

    def per_step(seconds: Mapping[str, float]) -> dict[str, float]:
        return {"per_real_step_over_dense": seconds[OURS] / share / seconds[_OUR_DENSE]}

    return Case(
        settings={"cell": "LSTM", "T": T, "B": B, "I": H, "H": H, "dtype": "fp32", "real_share": share},
        contenders=[
            contender(OURS, lambda x: layer(x, lengths=lengths).output, ours),
            Contender(_OUR_DENSE, dense.run, torch_packed.numbers),  # dense numbers are another section's matter
            torch_packed,
        ],
        reference=torch_packed.numbers,
        floor_seconds=share * layer_floor(LayerShape(T, B, H, H, 4), context.limits, training=True),
        derive=per_step,
    )


def _real_outputs(numbers: Mapping[str, Any], real: Tensor) -> dict[str, Any]:
    """Outputs beyond a length differ by convention: torch gives zeros, we the state that stands still."""
    return {**numbers, "output": numbers["output"] * real[..., None].numpy()}
