"""ONNX's own backend node tests for RNN, LSTM and GRU, run through unspool's cells: all that ONNX has."""

import warnings

import numpy as np
import pytest
import torch

from unspool import GRU, LSTM, Bidirectional, Elman, HiddenState, PeepholeLSTM, Recurrent

node_cases = pytest.importorskip("onnx.backend.test.case.node", reason="onnx is not installed")
import onnx  # noqa: E402

# For each gate of ours its place among ONNX's: i f g o among i o f c, r z n among z r h.
ORDER = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}


class ResetBeforeGRU(GRU):
    """The GRU whose reset gate acts before the recurrent product: two products a step, so it runs in Python."""

    reference_only = True

    def pointwise(self, x, h, state):
        r, z = torch.sigmoid(x[0] + h[0]), torch.sigmoid(x[1] + h[1])
        last = slice(2 * self.hidden_size, None)
        product = torch.nn.functional.linear(r * state.h, self.weight_hh[last], self.bias_hh[last])
        n = torch.tanh(x[2] + product)
        return HiddenState(h=(1 - z) * n + z * state.h)


def collect():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other operators' cases, which are made too
        found = node_cases.collect_testcases()
    return [case for case in found if case.model.graph.node[0].op_type in ORDER and len(case.model.graph.node) == 1]


CASES = collect()


def attributes(node):
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def rows(array, operator, hidden_size):
    """Gates in our order, along the first axis."""
    parts = np.split(array, len(ORDER[operator]))
    return torch.tensor(np.concatenate([parts[place] for place in ORDER[operator]]))


def build(operator, inputs, direction, hidden_size, settings):
    weight_ih, weight_hh = (inputs[name][direction] for name in "WR")
    size = weight_ih.shape[1], hidden_size
    if operator == "RNN":
        cell = Elman(*size)
    elif operator == "GRU":
        cell = GRU(*size) if settings.get("linear_before_reset") else ResetBeforeGRU(*size)
    else:
        cell = PeepholeLSTM(*size) if "P" in inputs else LSTM(*size)
    given = {"weight_ih": rows(weight_ih, operator, hidden_size), "weight_hh": rows(weight_hh, operator, hidden_size)}
    bias = inputs["B"][direction] if "B" in inputs else np.zeros(2 * len(weight_ih), np.float32)
    given["bias_ih"], given["bias_hh"] = (rows(half, operator, hidden_size) for half in np.split(bias, 2))
    if "P" in inputs:
        for name, part in zip("iof", np.split(inputs["P"][direction], 3), strict=True):
            given[f"weight_c{name}"] = torch.tensor(part)
    cell.load_state_dict(given)
    return cell


def run(node, arrays):
    operator, settings = node.op_type, attributes(node)
    names = {
        "RNN": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
        "GRU": ("X", "W", "R", "B", "sequence_lens", "initial_h"),
        "LSTM": ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P"),
    }[operator]
    given = iter(arrays)
    inputs = {role: next(given) for role, name in zip(names, node.input, strict=False) if name}
    hidden_size, batchwise = settings["hidden_size"], settings.get("layout", 0) == 1
    kind = settings.get("direction", b"forward")
    x = torch.tensor(inputs["X"])
    x = x.transpose(0, 1) if batchwise else x
    lengths = torch.tensor(inputs["sequence_lens"]) if "sequence_lens" in inputs else None
    count = 2 if kind == b"bidirectional" else 1
    cells = [build(operator, inputs, d, hidden_size, settings) for d in range(count)]
    layer = Bidirectional(*cells) if count == 2 else Recurrent(cells[0], reverse=kind == b"reverse")
    states = None
    if "initial_h" in inputs:
        given = [torch.tensor(inputs[name]) for name in ("initial_h", "initial_c") if name in inputs]
        given = [t.transpose(0, 1) if batchwise else t for t in given]  # [D, B, H]
        states = tuple(cells[d].state_type(*(t[d] for t in given)) for d in range(count))
        states = states if count == 2 else states[0]
    output, state = layer(x, states, lengths)
    y = torch.stack(output.split(hidden_size, -1), 1)  # [T, D, B, H]
    last = torch.stack([one[0] for one in (state if count == 2 else (state,))])  # [D, B, H]
    results = {"Y": y.permute(2, 0, 1, 3) if batchwise else y, "Y_h": last.transpose(0, 1) if batchwise else last}
    if operator == "LSTM":
        cell_state = torch.stack([one[1] for one in (state if count == 2 else (state,))])
        results["Y_c"] = cell_state.transpose(0, 1) if batchwise else cell_state
    return [results[role] for role, name in zip(results, node.output, strict=False) if name]


def test_there_are_cases_of_all_three():
    assert {case.model.graph.node[0].op_type for case in CASES} == set(ORDER)
    assert len(CASES) >= 18


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_node(case):
    node = case.model.graph.node[0]
    assert len(case.data_sets) == 1
    arrays, wanted = case.data_sets[0]
    found = [tensor.detach().numpy() for tensor in run(node, arrays)]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=case.rtol, atol=max(case.atol, 1e-6))
