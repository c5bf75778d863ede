"""Every cell of the catalogue with its options and modifiers, and a cell as a user would define it."""

import torch

from unspool import (
    CELLS,
    GRU,
    LSTM,
    SLSTM,
    Elman,
    GatedCell,
    HiddenState,
    IndRNN,
    MinGRU,
    ProjectedLSTM,
    recurrent_dropout,
    zoneout,
)


class UserCell(GatedCell):
    """A minimal gated unit, written in ten lines outside the package."""

    gates = ("f", "n")
    vectors = ("slope",)

    def pointwise(self, x, h, state, vectors):
        (x_f, x_n), (h_f, h_n) = x, h
        f = torch.sigmoid(x_f + h_f)
        n = torch.nn.functional.softplus(x_n + f * h_n) * vectors[0]
        return HiddenState(h=(1 - f) * state.h + f * torch.where(n > 0.5, n, torch.nn.functional.gelu(n)))


class Multiplicative(GatedCell):
    """Gates that are multiplied, and so saved for the backward pass as they are, and a mean over the units."""

    gates = ("a", "n")

    def pointwise(self, x, h, state):
        n = torch.tanh(x[1] + h[1] - h[1].mean(-1, keepdim=True))
        return HiddenState(h=0.5 * state.h + n * torch.tanh(x[0] * h[0]))


class OwnProjection(Multiplicative):
    """The same with gates that the cell itself computes from x."""

    def project(self, x, weights):
        return torch.tanh(super().project(x, weights))


def squash(a):
    return a / (1 + a.abs())


BUILDERS = {
    **CELLS,
    "user": UserCell,
    "multiplicative": Multiplicative,
    "own_projection": OwnProjection,
    "elman_relu": lambda i, h: Elman(i, h, activation=torch.relu),
    "elman_sigmoid_output": lambda i, h: Elman(
        i, h, activation=torch.sigmoid, output_size=5, output_activation=torch.tanh
    ),
    "elman_user_activation": lambda i, h: Elman(i, h, activation=squash),
    "lstm_no_bias": lambda i, h: LSTM(i, h, bias=False),
    "projected_lstm_no_bias": lambda i, h: ProjectedLSTM(i, h, 3, bias=False),
    "slstm_heads": lambda i, h: SLSTM(i, h, num_heads=2),
    "zoneout_lstm": lambda i, h: zoneout(LSTM(i, h)),
    "zoneout_mingru": lambda i, h: zoneout(MinGRU(i, h)),
    "zoneout_slstm": lambda i, h: zoneout(SLSTM(i, h)),
    "dropout_gru": lambda i, h: recurrent_dropout(GRU(i, h), 0.4),
    "dropout_indrnn": lambda i, h: recurrent_dropout(IndRNN(i, h), 0.4),
    "dropout_mingru": lambda i, h: recurrent_dropout(MinGRU(i, h), 0.4),
    "zoneout_dropout_user": lambda i, h: zoneout(recurrent_dropout(UserCell(i, h), 0.4)),
    "dropout_zoneout_indrnn": lambda i, h: recurrent_dropout(zoneout(IndRNN(i, h)), 0.4),
}
