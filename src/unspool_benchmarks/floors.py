"""Physical floors: the time below which no program can go, from what it must multiply and read.

A layer's floor is its large products at the FMA peak, and for each step the slower of the recurrent product at that
peak and the recurrent weights at the bandwidth of the cache that holds one core's share, plus one exchange a step where
cores share it; or, if lower, the batch split over the cores without exchange. Activations are not in it.
"""

from dataclasses import dataclass

from unspool_benchmarks.machine import Limits

_EXCHANGE_SECONDS = 6e-8  # assumed: one spin barrier of two cores
_WEIGHT_BYTES = {False: 4, True: 2}  # by whether weights are bf16


@dataclass(frozen=True)
class LayerShape:
    """The sizes of one layer; `projection` is 0, or the width P of an output projection that the recurrence reads."""

    num_steps: int
    batch_size: int
    input_size: int
    hidden_size: int
    num_gates: int
    projection: int = 0

    @property
    def recurrent_size(self) -> int:
        """Features that the recurrent product reads."""
        return self.projection or self.hidden_size

    @property
    def recurrent_weights(self) -> int:
        """Weights that every step reads."""
        return self.recurrent_size * self.num_gates * self.hidden_size + self.projection * self.hidden_size


def hoisted_flops(shape: LayerShape, training: bool) -> float:
    """Of the products over all steps at once: the input's, and in training dX, dW and dR."""
    rows = 2.0 * shape.num_steps * shape.batch_size
    from_input = rows * shape.input_size * shape.num_gates * shape.hidden_size
    return 3 * from_input + rows * shape.recurrent_weights if training else from_input


def loop_flops(shape: LayerShape, training: bool) -> float:
    """Of the recurrent products, forward and, in training, backward."""
    return (2 if training else 1) * 2.0 * shape.num_steps * shape.batch_size * shape.recurrent_weights


def layer_flops(shape: LayerShape, training: bool) -> float:
    """All products of a layer."""
    return hoisted_flops(shape, training) + loop_flops(shape, training)


def layer_floor(shape: LayerShape, limits: Limits, training: bool, bf16: bool = False) -> float:
    """Seconds of one pass over a layer, forward or forward and backward."""
    peak, weight_bytes = limits.peak(bf16), shape.recurrent_weights * _WEIGHT_BYTES[bf16]
    product = 2.0 * shape.batch_size * shape.recurrent_weights / peak
    share = weight_bytes / limits.threads
    step = max(product, share / limits.read_rate(share)) + (_EXCHANGE_SECONDS if limits.threads > 1 else 0.0)
    if shape.batch_size >= limits.threads:
        step = min(step, max(product, weight_bytes / limits.read_rate(weight_bytes)))
    return hoisted_flops(shape, training) / peak + (2 if training else 1) * shape.num_steps * step


def step_floor(num_weights: int, limits: Limits, bf16: bool = False) -> float:
    """Seconds in which all cores together read so many weights once, each its own share."""
    share = num_weights * _WEIGHT_BYTES[bf16] / limits.threads
    return share / limits.read_rate(share)
