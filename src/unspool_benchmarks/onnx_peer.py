"""ONNX Runtime and OpenVINO as peers: one model of ONNX's LSTM, GRU or RNN nodes, handed to both as bytes."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unspool_benchmarks.case import BF16_TOLERANCE, FP32_TOLERANCE, AbsentError, Contender, import_peer

# For each ONNX operator the place of its gates among PyTorch's: i o f c among i f g o, z r h among r z n.
_GATE_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
_OPSET, _IR_VERSION = 17, 9

LayerWeights = Mapping[str, np.ndarray]
"""weight_ih, weight_hh, bias_ih and bias_hh of one layer, gates in PyTorch's order."""


def onnxruntime_contender(cell: str, weights: LayerWeights, x: np.ndarray, threads: int) -> Contender:
    """One layer over a whole sequence in ONNX Runtime, input and output bound once."""
    model = sequence_model(cell, weights, x.shape)
    session = _session(model, threads)
    output = np.empty((x.shape[0], 1, x.shape[1], weights["weight_hh"].shape[1]), np.float32)
    run = _Bound(session, {"X": x}, {"Y": output})

    def numbers() -> dict[str, np.ndarray]:
        run()
        return {"output": output[:, 0].copy()}

    return Contender("onnxruntime", run, numbers)


def openvino_contender(cell: str, weights: LayerWeights, x: np.ndarray, threads: int, bf16: bool = False) -> Contender:
    """The same model in OpenVINO, one stream, tuned for latency."""
    model = sequence_model(cell, weights, x.shape)
    openvino = _openvino()
    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
    }
    request = core.compile_model(core.read_model(model, b""), "CPU", options).create_infer_request()
    request.set_tensor("X", openvino.Tensor(x))

    def numbers() -> dict[str, np.ndarray]:
        request.infer()
        return {"output": np.asarray(request.get_tensor("Y").data)[:, 0].astype(np.float32)}

    return Contender("openvino", request.infer, numbers, BF16_TOLERANCE if bf16 else FP32_TOLERANCE)


def onnxruntime_stream(layers: Sequence[LayerWeights], x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """An open stream of LSTM layers: each call reads x [1, B, I] once more and returns the output [B, H].

    Two bindings take turns, so that the states that one writes are those that the other reads, and nothing is copied.
    """
    batch_size, hidden_size = x.shape[1], layers[0]["weight_hh"].shape[1]
    session = _session(step_model(layers, batch_size), threads)
    names = [f"{name}{number}" for number in range(len(layers)) for name in ("h", "c")]
    states = [[np.zeros((1, batch_size, hidden_size), np.float32) for _ in names] for _ in range(2)]
    output = np.empty((1, 1, batch_size, hidden_size), np.float32)
    calls = [
        _Bound(
            session,
            {"X": x, **dict(zip(names, states[turn], strict=True))},
            {"Y": output, **dict(zip((f"{n}_new" for n in names), states[1 - turn], strict=True))},
        )
        for turn in range(2)
    ]

    def step() -> np.ndarray:
        calls[0]()
        calls.reverse()
        return output[0, 0]

    return step


def sequence_model(cell: str, weights: LayerWeights, shape: Sequence[int]) -> bytes:
    """A model X [T, B, I] -> Y [T, 1, B, H] of one layer."""
    if cell not in _GATE_ORDER:
        raise AbsentError(f"ONNX has no operator for {cell}")
    onnx = import_peer("onnx")
    hidden_size = weights["weight_hh"].shape[1]
    node, initializers = _layer(onnx, cell, weights, "X", ["", ""], ["Y"], "0")
    y = onnx.helper.make_tensor_value_info("Y", 1, [shape[0], 1, shape[1], hidden_size])
    return _model(onnx, [node], [onnx.helper.make_tensor_value_info("X", 1, list(shape))], [y], initializers)


def step_model(layers: Sequence[LayerWeights], batch_size: int) -> bytes:
    """A model of one step of LSTM layers: X, h0, c0, h1, ... -> Y, h0_new, c0_new, ..."""
    onnx = import_peer("onnx")
    info = onnx.helper.make_tensor_value_info
    nodes: list[Any] = []
    initializers: list[Any] = []
    outputs: list[Any] = []
    below = "X"
    inputs = [info("X", 1, [1, batch_size, layers[0]["weight_ih"].shape[1]])]
    for number, weights in enumerate(layers):
        state, hidden_size = [f"h{number}", f"c{number}"], weights["weight_hh"].shape[1]
        above = "Y" if number == len(layers) - 1 else f"y{number}"
        results = [above, *(f"{name}_new" for name in state)]
        node, own = _layer(onnx, "LSTM", weights, below, state, results, str(number))
        nodes.append(node)
        initializers.extend(own)
        inputs.extend(info(name, 1, [1, batch_size, hidden_size]) for name in state)
        outputs.extend(info(name, 1, [1, batch_size, hidden_size]) for name in results[1:])
        if above == "Y":
            outputs.append(info("Y", 1, [1, 1, batch_size, hidden_size]))
        else:  # [1, 1, B, H] without the axis of directions
            nodes.append(onnx.helper.make_node("Squeeze", [above, "axis"], [f"x{number + 1}"]))
            below = f"x{number + 1}"
    initializers.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"))
    return _model(onnx, nodes, inputs, outputs, initializers)


def _layer(
    onnx: Any, cell: str, weights: LayerWeights, x: str, state: list[str], results: list[str], suffix: str
) -> tuple[Any, list[Any]]:
    order = _GATE_ORDER[cell]

    def reorder(name: str) -> np.ndarray:
        rows = np.split(weights[name], len(order))
        return np.concatenate([rows[place] for place in order])[None]

    tensors = {
        f"W{suffix}": reorder("weight_ih"),
        f"R{suffix}": reorder("weight_hh"),
        f"B{suffix}": np.concatenate([reorder("bias_ih"), reorder("bias_hh")], 1),
    }
    options = {"linear_before_reset": 1} if cell == "GRU" else {}
    hidden_size = weights["weight_hh"].shape[1]
    names = [x, *tensors, "", *(state if cell == "LSTM" else state[:1])]
    while names[-1] == "":
        names.pop()
    node = onnx.helper.make_node(cell, names, results, hidden_size=hidden_size, **options)
    return node, [onnx.numpy_helper.from_array(np.ascontiguousarray(t), name) for name, t in tensors.items()]


def _model(onnx: Any, nodes: list[Any], inputs: list[Any], outputs: list[Any], initializers: list[Any]) -> bytes:
    graph = onnx.helper.make_graph(nodes, "peer", inputs, outputs, initializers)
    opset = onnx.helper.make_opsetid("", _OPSET)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=_IR_VERSION).SerializeToString()


def _openvino() -> Any:
    """OpenVINO without its telemetry, which would fork this process at import to call home."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_peer("openvino")


def _session(model: bytes, threads: int) -> Any:
    runtime = import_peer("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Bound:
    """A session with arrays tied to its inputs and outputs; it keeps them alive."""

    def __init__(self, session: Any, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray]):
        self._run, self._binding, self._arrays = session.run_with_iobinding, session.io_binding(), (inputs, outputs)
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        for name, array in outputs.items():
            self._binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def __call__(self) -> None:
        self._run(self._binding)
