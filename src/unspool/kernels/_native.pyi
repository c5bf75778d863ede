from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

def targets() -> list[str]: ...
def target() -> str: ...
def choose(name: str) -> None: ...
def vector_width() -> int: ...
def measure_multiplications(seconds: float, threads: int) -> float: ...
def measure_reads(bytes: int, seconds: float, threads: int) -> float: ...
def operations() -> list[str]: ...

class Program:
    def __init__(
        self,
        code: NDArray[np.int32],
        constants: NDArray[np.float64],
        width_constant: int,
        inputs: int,
        outputs: int,
        scratch: int,
        has_reduction: bool,
    ) -> None: ...

def scan_forward(program: Program, sizes: Sequence[int], addresses: Sequence[int]) -> None: ...
def scan_backward(
    program: Program,
    sizes: Sequence[int],
    addresses: Sequence[int],
    h_slots: Sequence[int],
    gradients: Sequence[int],
) -> None: ...
def linear_cross_entropy(*tensors_and_settings: Any) -> float: ...
def likeliest(*tensors_and_settings: Any) -> None: ...
def linear_scan_forward(*sizes_and_addresses: int) -> None: ...
def linear_scan_backward(*sizes_and_addresses: int) -> None: ...
def scan_split(T: int, B: int, I: int, H: int, G: int, product: bool, real_rows: int, threads: int) -> str: ...
def linear_scan_split(T: int, B: int, H: int, threads: int) -> str: ...
def philox(counter: list[int], key: list[int]) -> list[int]: ...

class Stream:
    def __init__(self, batch_size: int, threads: int, narrow: bool) -> None: ...
    def add_layer(
        self,
        sizes: Sequence[int],
        product: bool,
        summed: bool,
        residual: bool,
        normalizes: bool,
        epsilon: float,
        program: Any,
        states: Tensor,
    ) -> None: ...
    def add_map(self, depth: int, columns: int) -> None: ...
    def open(self) -> None: ...
    def set_layer(
        self,
        layer: int,
        weight_ih: Tensor | None,
        bias_ih: Tensor | None,
        weight_hh: Tensor | None,
        bias_hh: Tensor | None,
        vectors: Tensor | None,
        norm_weight: Tensor | None,
        norm_bias: Tensor | None,
    ) -> None: ...
    def set_map(self, map: int, weight: Tensor, bias: Tensor | None) -> None: ...
    def watch(
        self,
        input: Tensor,
        output: Tensor,
        parameters: list[Tensor],
        changed: Callable[[], None],
        refused: Callable[[Any], Tensor],
    ) -> None: ...
    def step(self, x: Tensor | None = None) -> Tensor: ...
    def write(
        self,
        embedding: Tensor,
        tokens: Tensor,
        temperature: float,
        top_k: int,
        top_p: float,
        forbidden: list[int],
        seed: int,
        place: int,
    ) -> bool: ...
    @property
    def half(self) -> int: ...
    @property
    def threads(self) -> int: ...
