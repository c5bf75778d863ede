import math

import pytest
import torch
from torch import nn

from unspool import GRU, LSTM, Elman, HiddenState, IndRNN, MinGRU, Recurrent
from unspool.cli.words import build_parser
from unspool.diagnostics import KnownTraining, Remedy, Verdict, diagnose
from unspool.initializers import forget_bias_


def found(cell, training=KnownTraining(), num_steps=60, x=None):
    layer = Recurrent(cell)
    x = torch.randn(num_steps, 8, cell.input_size) if x is None else x
    return diagnose(layer, lambda: layer(x).output[-1].sum(), training=training).verdicts


def relu():
    return Elman(3, 32, activation=torch.relu)


def exploding_relu():
    cell = relu()
    nn.init.normal_(cell.weight_hh, std=math.sqrt(3 / 32))
    return cell


def dead_relu():
    cell = relu()
    nn.init.constant_(cell.bias_ih, -100.0)
    return cell


def saturated_gru():
    cell = GRU(3, 32)
    nn.init.normal_(cell.weight_ih, std=100.0)
    return cell


BROKEN = {
    "exploding": (exploding_relu, KnownTraining(learning_rate=0.002), "--recurrent-variance 2"),
    "dead": (dead_relu, KnownTraining(), "--recurrent-variance 2"),
    "saturated": (saturated_gru, KnownTraining(), "--layer-norm"),
    "truncated": (lambda: LSTM(3, 32), KnownTraining(truncation=1), "--bptt-steps"),
    "vanishing": (lambda: Elman(3, 32), KnownTraining(), "--cell lstm"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_verdict_is_named_and_its_flags_are_those_of_the_command_line(kind):
    build, training, first = BROKEN[kind]
    verdict = found(build(), training)[0]
    assert verdict.kind == kind
    assert str(verdict).startswith(f"{kind}: layer: ")
    assert verdict.remedies[0].flags.startswith(first)
    for remedy in verdict.remedies:
        options = build_parser().parse_args(["train", "language-modeling", "--out", "x", *remedy.flags.split()])
        for name, value in remedy.settings.items():
            assert getattr(options, name) == value
        assert remedy.figure
        assert remedy.reference


def test_a_state_that_is_not_finite_is_a_divergence():
    x = torch.randn(60, 2, 3)
    x[41] = torch.inf
    verdict = found(relu(), KnownTraining(clip=0.0, gradient_norm=3.21, learning_rate=0.002), x=x)[0]
    assert str(verdict) == "diverged: layer: the state is not finite from step 41 on."
    assert [r.flags for r in verdict.remedies] == ["--gradient-clip 3", "--learning-rate 0.0005"]


def test_cells_get_no_advice_that_they_cannot_follow():
    cell = IndRNN(3, 32)
    nn.init.constant_(cell.bias_ih, -100.0)
    assert all("variance" not in r.flags for r in found(cell)[0].remedies)
    linear = MinGRU(3, 32)
    nn.init.constant_(linear.bias_ih[:32], -20.0)  # keeps all: its gate lies at its bound
    assert found(linear)[0].kind == "healthy"


def test_healthy_names_what_was_measured():
    cell = LSTM(3, 32)
    forget_bias_(cell, 1.5)
    (verdict,) = found(cell, KnownTraining(truncation=30))
    assert verdict.kind == "healthy"
    assert str(verdict).startswith("healthy: nothing is the matter. Memory horizon and growth of the gradient: layer ")


def test_a_remedy_reads_as_one_line():
    remedy = Remedy(
        "do it", "because of 3", "Somebody 1990", {"layer_norm": True, "tied": False, "learning_rate": 0.0005}
    )
    assert str(remedy) == "do it (--layer-norm --no-tied --learning-rate 0.0005); because of 3 [Somebody 1990]"
    assert str(Verdict("dead", "a", "words.")) == "dead: a: words."


def test_too_short_sequences_are_not_judged():
    (verdict,) = found(saturated_gru(), num_steps=3)
    assert str(verdict) == "healthy: sequences of fewer than 4 steps are too short to judge."


def test_a_state_that_falls_to_minus_infinity_has_diverged():
    class Falling(Elman):
        def pointwise(self, x, h, state):
            return HiddenState(-torch.exp(torch.abs(state.h) + 1.0) + 0 * x[0])

    (verdict,) = found(Falling(3, 2))
    assert verdict.kind == "diverged"
