"""`torch.nn.RNN`, `LSTM` and `GRU` with another `forward`: the same modules, whose sequences run on unspool's scans.

They inherit from `torch.nn.RNNBase` what PyTorch's modules are: attributes, names and initial values of parameters, checks
of arguments. What is new is `forward`, which reads the parameters by their names each time, so that parametrizations train.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from unspool import cells
from unspool.cells import CellWeights
from unspool.errors import ConfigError, ShapeError
from unspool.kernels import backward_resets, check_lengths, check_reset, clear_padding
from unspool.kernels.dispatch import is_traced
from unspool.layers import BPTT, FullBPTT, Stack, Stream
from unspool.nn.handover import reason_for_torch, say_handover
from unspool.nn.packed import Packing
from unspool.nn.sharing import EQUATIONS, share_cell
from unspool.types import Bool, Int, Noise, Tensor


class _Call(NamedTuple):
    """The arguments of one call in the layout of a scan: padded, time first, batched."""

    x: Tensor  # [T, B, I]
    state: tuple[Tensor, ...]  # [L*D, B, *] each
    lengths: Tensor | None
    reset: Tensor | None


class ScannedModule(nn.RNNBase):
    """What the three modules share: a `forward` that stands in the place of PyTorch's.

    The three derive from `torch.nn.RNNBase` and not from `torch.nn.LSTM` and its sisters, since torch.compile refuses to look
    into every instance of those.

    Attributes:
        theirs: PyTorch's class, whose `forward` runs where it is to.
        bptt: how gradients run through time; set it on an instance for another way than full backpropagation.
    """

    theirs: ClassVar[type[nn.RNNBase]]
    bptt: BPTT = FullBPTT()

    def forward(  # type: ignore[override]
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        return_all_states: bool = False,
    ) -> Any:
        """Runs a sequence, as PyTorch's module of this name does, with three arguments more.

        Args:
            input: [T, B, I]; [B, T, I] with `batch_first`; [T, I] for one sequence; or a `PackedSequence`.
            hx: the initial state as PyTorch takes it; zeros unless given.
            lengths: [B] integers in 0..T: steps beyond a length are padding, their outputs are zero, and the final state is
                that of the last real step. Not with a `PackedSequence`, which has its own.
            reset: booleans, laid out as the input without its features; where true, a step begins from a zero state. The
                backward direction begins anew at the step before.
            return_all_states: also return the states of all steps; beyond a length they stand still.

        Returns:
            ``output, hx`` as PyTorch's module, and with `return_all_states` a third: [L*D, T, B, H] ([L*D, B, T, H] with
            `batch_first`, [L*D, T, H] for one sequence), for an LSTM a pair (h, c) of such tensors.

        Raises:
            ValueError, RuntimeError: PyTorch's own, for what PyTorch's module refuses.
            ShapeError: `lengths` or `reset` does not fit the input.
        """
        extended = lengths is not None or reset is not None or return_all_states
        if not self._would_pytorch_accept(input, hx):
            result = self.theirs.forward(self, input, hx)  # which says in PyTorch's words what is wrong
            if extended:
                raise ShapeError(
                    f"{type(self).__name__}: lengths, reset and return_all_states need hx {self._wanted_hx()}."
                )
            return result
        data = input.data if isinstance(input, PackedSequence) else input
        if extended and is_traced():
            raise ConfigError(
                f"{type(self).__name__}: torch.jit.trace cannot hold lengths, reset or return_all_states, "
                "whose loop would have the traced number of steps for ever; use torch.export."
            )
        reason = reason_for_torch(data)
        own_way = extended or "bptt" in vars(self)  # through time, which PyTorch's kernel does not go
        if reason and not own_way and (is_traced() or not self._reads_other_weights()):
            say_handover(self, _sizes(input, self.batch_first), data, reason)
            return self.theirs.forward(self, input, hx)
        if not isinstance(input, PackedSequence):
            return self._run_padded(input, hx, lengths, reset, return_all_states)
        if extended:
            raise ShapeError(
                f"{type(self).__name__}: lengths, reset and return_all_states go with a padded tensor, got a "
                "PackedSequence; unpack it with torch.nn.utils.rnn.pad_packed_sequence."
            )
        return self._run_packed(input, hx)

    def stream(self, batch_size: int = 1) -> Stream:
        """Opens a `Stream` on this module's parameters: inference, one step after the other, in one native call each.

        Raises:
            ConfigError: the module reads in both directions, has a projection, or is in training mode.
        """
        if self.bidirectional or self.proj_size:
            what = "reads from the end too" if self.bidirectional else "has a projection"
            raise ConfigError(f"{type(self).__name__}.stream: a layer that {what} cannot take a single native step.")
        sizes = [self.input_size, *[self.hidden_size] * self.num_layers]
        layers = [
            share_cell(self.mode, sizes[n], self.hidden_size, self._weights(f"l{n}")) for n in range(self.num_layers)
        ]
        return Stream(Stack(layers).train(self.training), batch_size)

    def _run_padded(
        self, input: Tensor, hx: Any, lengths: Tensor | None, reset: Tensor | None, return_all_states: bool
    ) -> Any:
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        x = x.transpose(0, 1) if batched and self.batch_first else x
        check_lengths(lengths, x.shape[0], x.shape[1], type(self).__name__)
        if hx is not None and not batched:
            hx = self._group([h.unsqueeze(1) for h in self._parts(hx)])
        lengths = None if lengths is None else lengths.to(x.device, torch.long)
        call = _Call(x, self._initial(x, hx), lengths, self._marks(reset, input))
        output, final, states = self._run(call, return_all_states)
        output = clear_padding(output, lengths)

        def to_caller_layout(tensor: Tensor, steps: int) -> Tensor:
            if not batched:
                return tensor.squeeze(steps + 1)
            return tensor.transpose(steps, steps + 1) if self.batch_first else tensor

        hidden = self._group([tensor if batched else tensor.squeeze(1) for tensor in final])
        if not return_all_states:
            return to_caller_layout(output, 0), hidden
        return to_caller_layout(output, 0), hidden, self._group([to_caller_layout(tensor, 1) for tensor in states])

    def _marks(self, reset: Tensor | None, input: Tensor) -> Tensor | None:
        """`reset`, laid out as the input, as [T, B]."""
        if reset is None:
            return None
        check_reset(reset, input.shape[:-1], type(self).__name__)
        return (reset.unsqueeze(1) if input.dim() == 2 else reset.t() if self.batch_first else reset).to(input.device)

    def _run_packed(self, input: PackedSequence, hx: Any) -> Any:
        packing = Packing.of(input.batch_sizes, input.data.device)
        x = packing.pad(input.data)
        state = self._initial(x, None if hx is None else self.permute_hidden(hx, input.sorted_indices))
        output, final, _ = self._run(_Call(x, state, packing.lengths, None), False)
        packed = PackedSequence(packing.pack(output), input.batch_sizes, input.sorted_indices, input.unsorted_indices)
        return packed, self.permute_hidden(self._group(final), input.unsorted_indices)

    def _run(self, call: _Call, keep: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Output, final states and, where kept, all states of all layers."""
        x, lengths, num_directions = call.x, call.lengths, self._num_directions
        equations = EQUATIONS["PROJECTED" if self.proj_size else self.mode]
        resets = (call.reset, backward_resets(call.reset, lengths) if self.bidirectional else None)
        final: list[list[Tensor]] = []
        kept: list[list[Tensor]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(num_directions):
                place, backward = layer * num_directions + direction, direction == 1
                before = equations.state_type(*(tensor[place] for tensor in call.state))
                weights = self._weights(f"l{layer}_reverse" if backward else f"l{layer}")
                states = self.bptt.unroll(equations, x, before, weights, Noise(), lengths, resets[direction], backward)
                outputs.append(states[0])
                final.append([tensor[0 if backward else -1] for tensor in states] if x.shape[0] else list(before))
                if keep:
                    kept.append(list(states))
            x = torch.cat(outputs, -1) if len(outputs) > 1 else outputs[0]
            if self.dropout and layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout, self.training)
        return x, _stack(final), _stack(kept)

    def _weights(self, suffix: str) -> CellWeights:
        weight_ih, weight_hh = getattr(self, f"weight_ih_{suffix}"), getattr(self, f"weight_hh_{suffix}")
        bias_ih, bias_hh = (getattr(self, f"bias_{kind}_{suffix}") if self.bias else None for kind in ("ih", "hh"))
        if not self.proj_size:
            return CellWeights(weight_ih, bias_ih, weight_hh, bias_hh, None)
        return cells.ProjectedLSTM.combine(weight_ih, bias_ih, weight_hh, bias_hh, getattr(self, f"weight_hr_{suffix}"))

    def _initial(self, x: Tensor, hx: Any) -> tuple[Tensor, ...]:
        """The state before the first step, in the type of the weights, also where autocast lets x have another."""
        dtype = self._weight_type()
        if hx is not None:
            return tuple(part.to(dtype) for part in self._parts(hx))
        rows = self.num_layers * self._num_directions
        zeros = x.new_zeros(rows, x.shape[1], self.proj_size or self.hidden_size, dtype=dtype)
        if self.mode != "LSTM":
            return (zeros,)
        return zeros, x.new_zeros(rows, x.shape[1], self.hidden_size, dtype=dtype) if self.proj_size else zeros

    @property
    def _num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    def _weight_type(self) -> torch.dtype:
        weight = self._parameters.get(self._flat_weights_names[0])
        return (next(self.parameters()) if weight is None else weight).dtype  # None where it is parametrized

    def _would_pytorch_accept(self, input: Any, hx: Any) -> bool:
        packed = isinstance(input, PackedSequence)
        data = input.data if packed else input
        if not isinstance(data, Tensor) or data.dim() not in ((2,) if packed else (2, 3)):
            return False
        dtype, free = self._weight_type(), _casts(data)
        if data.shape[-1] != self.input_size or (data.dtype != dtype and not free):
            return False
        if hx is None:
            return True
        batch = [_sizes(input, self.batch_first)[1]] if packed or data.dim() == 3 else []
        rows = self.num_layers * self._num_directions
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: 2 if self.mode == "LSTM" else 1]
        if self.mode == "LSTM" and not (isinstance(hx, tuple | list) and len(hx) == 2):
            return False
        return all(
            isinstance(part, Tensor)
            and list(part.shape) == [rows, *batch, size]
            and (part.dtype == dtype or (free and part.is_floating_point()))
            for part, size in zip(self._parts(hx), sizes, strict=True)
        )

    def _wanted_hx(self) -> str:
        return f"of {self._weight_type()}" + (" as a pair (h, c)" if self.mode == "LSTM" else " as one tensor")

    def _reads_other_weights(self) -> bool:
        """Whether a weight is another tensor than the one that PyTorch's own module would read."""
        return any(
            self._parameters.get(name) is not flat
            for name, flat in zip(self._flat_weights_names, self._flat_weights, strict=True)
        )

    def _parts(self, hx: Any) -> Sequence[Tensor]:
        return tuple(hx) if self.mode == "LSTM" else (hx,)

    def _group(self, parts: Sequence[Tensor]) -> Any:
        return tuple(parts) if self.mode == "LSTM" else parts[0]


class RNN(ScannedModule):
    """`torch.nn.RNN` on unspool's scans; see `ScannedModule.forward` for what it takes besides."""

    theirs = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        _refuse_projection(proj_size)
        if nonlinearity not in ("tanh", "relu"):
            nn.RNN(1, 1, nonlinearity=nonlinearity)  # raises, in PyTorch's words
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self.nonlinearity = nonlinearity


class _GatedModule(ScannedModule):
    """The constructor that PyTorch's LSTM and GRU share. Not in `ScannedModule`, which also stands before classes that have one."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ):
        if self.theirs is not nn.LSTM:
            _refuse_projection(proj_size)
        options = num_layers, bias, batch_first, dropout, bidirectional, proj_size, device, dtype
        super().__init__(self.theirs.__name__, input_size, hidden_size, *options)


class LSTM(_GatedModule):
    """`torch.nn.LSTM` on unspool's scans; see `ScannedModule.forward` for what it takes besides."""

    theirs = nn.LSTM
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]


class GRU(_GatedModule):
    """`torch.nn.GRU` on unspool's scans; see `ScannedModule.forward` for what it takes besides."""

    theirs = nn.GRU


def _refuse_projection(proj_size: int) -> None:
    if proj_size:
        nn.GRU(1, 1, proj_size=proj_size)  # raises, in PyTorch's words


def _casts(data: Tensor) -> bool:
    kind = data.device.type
    return torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)


def _sizes(input: Tensor | PackedSequence, batch_first: bool) -> tuple[int, int]:
    """T and B."""
    if isinstance(input, PackedSequence):
        return len(input.batch_sizes), int(input.batch_sizes[0])
    if input.dim() == 2:
        return input.shape[0], 1
    return (input.shape[1], input.shape[0]) if batch_first else (input.shape[0], input.shape[1])


def _stack(states: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(tensors) for tensors in zip(*states, strict=True)]
