"""The LSTM with a recurrent projection (Sak, Senior & Beaufays 2014, arXiv 1402.1128, section 2)."""

from typing import Any, NamedTuple

import torch
from torch import nn

from unspool.cells.base import CellWeights, GatedCell, Gates
from unspool.errors import ShapeError
from unspool.kernels import ScanInputs, active_steps, clear_padding, gated_scan
from unspool.types import Bool, Float, Int, Noise, Tensor


class ProjectedState(NamedTuple):
    """Hidden state h, which is the projection, and cell c."""

    h: Float[Tensor, "B P"]
    c: Float[Tensor, "B H"]


class ProjectedLSTM(GatedCell):
    """The LSTM whose output is a projection, as ``torch.nn.LSTM(proj_size=P)`` computes it.

    ::

        i = sigmoid(x_i + h_i)        f = sigmoid(x_f + h_f)
        g = tanh(x_g + h_g)           o = sigmoid(x_o + h_o)
        c_t = f * c_{t-1} + i * g
        m_t = o * tanh(c_t)
        h_t = W_hr m_t

    A sequence is a scan over (m, c) with the recurrent matrix W_hh W_hr [4H, H], multiplied once a pass; all h_t are one
    product after it. A step alone multiplies by W_hh and W_hr. The optional second, non-recurrent projection of the paper
    (equation 7) and its peepholes are left out, as in PyTorch.

    Args:
        input_size: I.
        hidden_size: H.
        projection_size: P, half of H unless given.
        bias: whether there are biases.

    Parameters: weight_ih [4H, I], weight_hh [4H, P], weight_hr [P, H], bias_ih, bias_hh [4H], gates in the order i f g o,
    all uniform in +-1/sqrt(H).
    State: h [B, P], c [B, H].
    """

    gates = ("i", "f", "g", "o")
    keeping_gate = "f"
    state_type = ProjectedState
    modifiable = False  # noise on h would have to act between the two matrices that the scan has multiplied

    def __init__(self, input_size: int, hidden_size: int, projection_size: int | None = None, bias: bool = True):
        super().__init__(input_size, hidden_size, bias)
        self.projection_size = max(1, hidden_size // 2) if projection_size is None else projection_size
        if self.projection_size < 1:
            raise ShapeError(f"ProjectedLSTM: projection_size must be at least 1, got {projection_size}.")
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden_size, self.projection_size))
        self.weight_hr = nn.Parameter(torch.empty(self.projection_size, hidden_size))
        self.reset_parameters()

    @property
    def output_size(self) -> int:
        return self.projection_size

    @property
    def state_sizes(self) -> tuple[int, ...]:
        return self.projection_size, self.hidden_size

    def weights(self) -> CellWeights:
        assert self.weight_hh is not None
        return self.combine(self.weight_ih, self.bias_ih, self.weight_hh, self.bias_hh, self.weight_hr)

    @staticmethod
    def combine(
        weight_ih: Tensor, bias_ih: Tensor | None, weight_hh: Tensor, bias_hh: Tensor | None, weight_hr: Tensor
    ) -> CellWeights:
        """What one pass works with, from the cell's parameters."""
        with torch.autocast(weight_hh.device.type, enabled=False):  # the scan rounds the product, not its factors
            product = weight_hh @ weight_hr
        return CellWeights(weight_ih, bias_ih, product, bias_hh, None, (weight_hh, weight_hr))

    def pointwise(self, x: Gates, h: Gates, state: ProjectedState) -> ProjectedState:
        """The equations of (m, c): m stands in the place of h."""
        (x_i, x_f, x_g, x_o), (h_i, h_f, h_g, h_o) = x, h
        i, f = torch.sigmoid(x_i + h_i), torch.sigmoid(x_f + h_f)
        g, o = torch.tanh(x_g + h_g), torch.sigmoid(x_o + h_o)
        c = f * state.c + i * g
        return ProjectedState(h=o * torch.tanh(c), c=c)

    def unroll(
        self,
        x: Float[Tensor, "T B I"],
        state: ProjectedState,
        weights: CellWeights,
        noise: Noise,
        lengths: Int[Tensor, " B"] | None = None,
        reset: Bool[Tensor, "T B"] | None = None,
        reverse: bool = False,
    ) -> ProjectedState:
        weight_hh, weight_hr = weights.matrices
        probes = None if noise.probes is None else (clear_padding(noise.probes[0], lengths), noise.probes[1])
        initial = torch.stack((torch.zeros_like(state.c), state.c))
        inputs = ScanInputs(
            x.to(initial.dtype),
            weights.weight_ih,
            weights.bias_ih,
            weights.weight_hh,
            weights.bias_hh,
            initial,
            lengths=lengths,
            reset=reset,
        )
        from_zero = _is_zero(state.h)
        if len(x) and not (from_zero and probes is None):
            gates = self.project(clear_padding(x, lengths), weights).to(initial.dtype)
            gates = _enter(gates, nn.functional.linear(state.h, weight_hh).to(gates), lengths, reset, reverse)
            if probes is not None:
                gates = gates + nn.functional.linear(_handed_on(probes[0], reset, reverse), weight_hh)
            inputs = inputs._replace(x=gates, weight_ih=None, bias_ih=None)
        if probes is not None:  # that of h acts beside the scan, in which m stands in its place
            beside = (torch.zeros_like(probes[1]), probes[1])
            noise, inputs = noise._replace(probes=beside), inputs._replace(steps=torch.stack(beside))
        narrow = torch.is_autocast_enabled(x.device.type)
        m, c = gated_scan(self.programs(noise), inputs, reverse=reverse, narrow=narrow)
        h = nn.functional.linear(m, weight_hr).to(m.dtype)
        h = h if probes is None else h + probes[0]
        if not from_zero and lengths is not None:
            h = torch.where(_has_begun(lengths, len(x), reverse), h, state.h)
        return ProjectedState(h, c)

    def initial_state(self, batch_size: int) -> ProjectedState:
        return ProjectedState(self.zeros(batch_size, self.projection_size), self.zeros(batch_size, self.hidden_size))

    def step(self, x: Float[Tensor, "B I"], state: Any, noise: Noise | None = None) -> tuple[Tensor, ProjectedState]:
        assert self.weight_hh is not None
        x_gates = nn.functional.linear(x, self.weight_ih, self.bias_ih).split(self.hidden_size, -1)
        h_gates = nn.functional.linear(state[0], self.weight_hh, self.bias_hh).split(self.hidden_size, -1)
        m, c = self.pointwise(x_gates, h_gates, ProjectedState(*state))
        h = nn.functional.linear(m, self.weight_hr)
        return h, ProjectedState(h, c)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.projection_size}"


def _is_zero(h: Tensor) -> bool:
    """Whether h is known to be zero and to have no gradient, as in a state that a layer made itself."""
    if h.requires_grad or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return not h.any()


def _handed_on(probe: Tensor, reset: Tensor | None, reverse: bool) -> Tensor:
    """What a probe of h [T, B, P] adds to the state that each step begins from."""
    first = torch.zeros_like(probe[:1])
    before = torch.cat([probe[1:], first]) if reverse else torch.cat([first, probe[:-1]])
    return before if reset is None else torch.where(reset.unsqueeze(-1), 0.0, before)


def _enter(gates: Tensor, entering: Tensor, lengths: Tensor | None, reset: Tensor | None, reverse: bool) -> Tensor:
    """The x-parts of the gates [T, B, 4H] with W_hh h_0 [B, 4H] added where each sequence begins from its initial state.

    Within the scan m_0 is 0. Of an empty sequence a step beyond its length is changed, which nothing reads.
    """
    num_steps, batch_size = gates.shape[:2]
    sequences = torch.arange(batch_size, device=gates.device)
    begins = torch.zeros_like(sequences)
    if reverse:
        begins = begins + num_steps - 1 if lengths is None else (lengths - 1).clamp(min=0)
    if reset is not None:
        entering = torch.where(reset[begins, sequences].unsqueeze(-1), 0.0, entering)
    return gates.index_put((begins, sequences), entering, accumulate=True)


def _has_begun(lengths: Tensor, num_steps: int, reverse: bool) -> Tensor:
    """[T, B, 1] or [B, 1] booleans: where a sequence has left its initial state."""
    return (active_steps(lengths, num_steps) if reverse else lengths > 0).unsqueeze(-1)
