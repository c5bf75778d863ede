"""Streams on the native engine: one step of a whole stack in one call (`native/stream.h`), and the memory for it."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unspool.kernels import isa
from unspool.kernels.native_scan import to_engine
from unspool.kernels.program import GROUPS, Program, ProgramBuilder, parse, replay


class StreamLayer(NamedTuple):
    """One layer, as a stream needs to know it.

    Attributes:
        program: the forward program, as text.
        input_size: I.
        hidden_size: H.
        residual: whether the layer's input is added to its output.
        epsilon: of the layer norm of its input; None where there is none.
    """

    program: str
    input_size: int
    hidden_size: int
    residual: bool = False
    epsilon: float | None = None


class StreamWeights(NamedTuple):
    """The tensors of one layer, float32 on the CPU."""

    weight_ih: Tensor
    bias_ih: Tensor | None
    weight_hh: Tensor | None
    bias_hh: Tensor | None
    vectors: Tensor | None
    norm_weight: Tensor | None = None
    norm_bias: Tensor | None = None


class NativeStream:
    """A stack with its state and its packed weights, in memory that is taken once.

    Args:
        layers: from bottom to top.
        maps: (inputs, outputs) of the linear maps that lead from the last layer to logits; for `write`.
        batch_size: B, streams side by side.
        narrow: weights, and what they are multiplied with, in bfloat16.
    """

    def __init__(
        self,
        layers: Sequence[StreamLayer],
        maps: Sequence[tuple[int, int]] = (),
        batch_size: int = 1,
        narrow: bool = False,
    ):
        with torch.inference_mode(False):  # what is made under inference cannot be written to outside
            self._open(layers, maps, batch_size, narrow)

    def _open(
        self, layers: Sequence[StreamLayer], maps: Sequence[tuple[int, int]], batch_size: int, narrow: bool
    ) -> None:
        self._engine = isa._native.Stream(batch_size, torch.get_num_threads(), narrow)
        self._states: list[Tensor] = []
        self.input = _zeros(batch_size, layers[0].input_size)
        self.output = _zeros(batch_size, layers[-1].hidden_size)
        self.step: Callable[..., Tensor] = self._engine.step
        """One step: reads x [B, I], or `input` without one, and returns `output`, which the next step overwrites."""
        for layer in layers:
            program = parse(layer.program)
            product, sums = program.size("h") > 0, summed(program)
            self._states.append(_zeros(2, program.size("s"), batch_size, layer.hidden_size))
            self._engine.add_layer(
                (layer.input_size, layer.hidden_size, program.size("x"), program.size("s"), program.size("v")),
                product,
                sums is not None,
                layer.residual,
                layer.epsilon is not None,
                layer.epsilon or 0.0,
                to_engine(sums or program),
                self._states[-1],
            )
        for depth, columns in maps:
            self._engine.add_map(depth, columns)
        self._engine.open()

    @property
    def threads(self) -> int:
        """How many threads a step takes."""
        return self._engine.threads

    def states(self, layer: int) -> Tensor:
        """The present states [S, B, H] of a layer: memory that a step after the next overwrites."""
        return self._states[layer][self._engine.half]

    def set_layer(self, layer: int, weights: StreamWeights) -> None:
        """Packs the weights of a layer."""
        self._engine.set_layer(layer, *(None if t is None else t.detach().contiguous() for t in weights))

    def set_map(self, place: int, weight: Tensor, bias: Tensor | None) -> None:
        """Packs the weight [outputs, inputs] of a linear map."""
        bias = None if bias is None else bias.detach().contiguous()
        self._engine.set_map(place, weight.detach().contiguous(), bias)

    def watch(
        self, parameters: Sequence[Tensor], changed: Callable[[], None], refused: Callable[[Any], Tensor]
    ) -> None:
        """Has `step` call ``changed`` first when a parameter has been written to, and ``refused`` on an unfit x."""
        self._engine.watch(self.input, self.output, list(parameters), changed, refused)

    def write(
        self,
        embedding: Tensor,
        tokens: Tensor,
        temperature: float,
        top_k: int,
        top_p: float,
        forbidden: Sequence[int],
        seed: int,
        place: int,
    ) -> bool:
        """Draws symbols, each of which is the next one's input.

        Args:
            embedding: [V, I], dense.
            tokens: [count + 1, B] int64, dense; the first row is read, the others are written.
            temperature, top_k, top_p: as in `unspool.search.Sampling`.
            forbidden: symbols that are never drawn.
            seed: of chance.
            place: the number of the first draw in chance's sequence; a row's n-th draw depends on the seed, the number
                and the row alone.

        Returns:
            False where logits were no numbers that a symbol can be drawn from.
        """
        return self._engine.write(embedding, tokens, temperature, top_k, top_p, list(forbidden), seed, place)


def summed(program: Program) -> Program | None:
    """The program on the sums of each gate's x-part and h-part, where it uses nothing else of them; else None."""
    gates = program.size("h")
    pairs = {(f"h{g}", f"x{g}"): f"x{g}" for g in range(gates)}
    sums = {i.target: pairs[tuple(sorted(map(str, i.operands)))] for i in program.instructions if _is_sum(i, pairs)}  # type: ignore[index]
    others = {o for i in program.instructions if i.target not in sums for o in i.operands} | set(program.outputs)
    if len(sums) < gates or not gates or any(str(o)[0] in "xh" for o in others if o != "H" and isinstance(o, str)):
        return None
    sizes = dict(program.sizes) | {"h": 0}
    builder = ProgramBuilder([(group, sizes.get(group, 0)) for group in GROUPS])
    names = replay(builder, program, dict(sums))
    return builder.build([names.get(str(o), o) for o in program.outputs])


def _is_sum(instruction: Any, pairs: dict[tuple[str, str], str]) -> bool:
    return instruction.operation == "add" and tuple(sorted(map(str, instruction.operands))) in pairs


def _zeros(*shape: int) -> Tensor:
    """What the engine writes to, whatever the caller's default type and device are."""
    return torch.zeros(shape, dtype=torch.float32, device="cpu")
