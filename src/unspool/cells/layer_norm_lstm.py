"""The LSTM with layer normalization (Ba, Kiros & Hinton 2016, arXiv 1607.06450, equations 20 to 22)."""

import torch
from torch import Tensor, nn

from unspool.cells.base import CellWeights, GatedCell, Gates
from unspool.cells.lstm import LSTMState
from unspool.types import Float

_EPSILON = 1e-5


class LayerNormLSTM(GatedCell):
    """An LSTM that normalizes the x-part and the h-part of each gate, and the cell before it is read.

    ::

        i = sigmoid(gain_xi * N(W_i x) + b_i + gain_hi * N(W_i h)), and so f, g (with tanh), o
        c_t = f * c_{t-1} + i * g
        h_t = o * tanh(gain_c * N(c_t) + bias_c)
        N(a) = (a - mean(a)) / sqrt(var(a) + 1e-5), over the H units of one gate

    Differs from the paper: statistics are taken for each gate, not for the four gates together.

    Parameters: weight_ih [4H, I], weight_hh [4H, H], bias_ih [4H], gates in the order i f g o; gain_ih [4H];
    gain_hi, gain_hf, gain_hg, gain_ho, gain_c, bias_c [H]. Gains begin at 1, biases at 0.
    State: h, c [B, H].
    """

    gates = ("i", "f", "g", "o")
    keeping_gate = "f"
    vectors = ("gain_hi", "gain_hf", "gain_hg", "gain_ho", "gain_c", "bias_c")
    state_type = LSTMState

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__(input_size, hidden_size, bias)
        self.gain_ih = nn.Parameter(torch.ones(len(self.gates) * hidden_size))
        self.bias_hh = None  # a bias before N() would have no effect beside bias_ih
        self.reset_parameters()

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for name, parameter in self.named_parameters(recurse=False):
            if name.startswith("gain"):
                nn.init.ones_(parameter)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)

    def project(self, x: Float[Tensor, "*N I"], weights: CellWeights) -> Float[Tensor, "*N GH"]:
        products = nn.functional.linear(x, weights.weight_ih).unflatten(-1, (len(self.gates), self.hidden_size))
        gates = _normalize(products).flatten(-2) * self.gain_ih
        return gates if weights.bias_ih is None else gates + weights.bias_ih

    def projection_vectors(self) -> Float[Tensor, "8 H"]:
        bias = torch.zeros_like(self.gain_ih) if self.bias_ih is None else self.bias_ih
        return torch.cat([self.gain_ih, bias]).view(-1, self.hidden_size)

    def finish_projection(self, products: Gates, vectors: Gates) -> Gates:
        gains, biases = vectors[: len(products)], vectors[len(products) :]
        return tuple(g * _normalize(a) + b for a, g, b in zip(products, gains, biases, strict=True))

    def pointwise(self, x: Gates, h: Gates, state: LSTMState, vectors: Gates) -> LSTMState:
        *gains, gain_c, bias_c = vectors
        i, f, g, o = (x_gate + gain * _normalize(h_gate) for x_gate, h_gate, gain in zip(x, h, gains, strict=True))
        c = torch.sigmoid(f) * state.c + torch.sigmoid(i) * torch.tanh(g)
        return LSTMState(h=torch.sigmoid(o) * torch.tanh(gain_c * _normalize(c) + bias_c), c=c)


def _normalize(a: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
    centred = a - a.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + _EPSILON)
