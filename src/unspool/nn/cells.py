"""`torch.nn.RNNCell`, `LSTMCell` and `GRUCell`, which can open a stream.

A call computes with PyTorch's own kernel: a single step whose weights may have changed in any way since the last one leaves
nothing to pack or to keep. What is faster for many steps is a `Stream` on the same parameters.
"""

from torch import nn

from unspool.cells import CellWeights
from unspool.layers import Stream
from unspool.nn.sharing import share_cell


class StreamingCell(nn.RNNCellBase):
    """What the three cells have besides PyTorch's."""

    def stream(self, batch_size: int = 1) -> Stream:
        """Opens a `Stream` on this cell's parameters: inference, one step after the other, in one native call each.

        Raises:
            ConfigError: the cell is in training mode.
        """
        weights = CellWeights(self.weight_ih, self.bias_ih, self.weight_hh, self.bias_hh, None)
        layer = share_cell(self._mode(), self.input_size, self.hidden_size, weights)
        return Stream(layer.train(self.training), batch_size)

    def _mode(self) -> str:
        if isinstance(self, nn.RNNCell):
            return f"RNN_{self.nonlinearity.upper()}"
        return "LSTM" if isinstance(self, nn.LSTMCell) else "GRU"


class RNNCell(StreamingCell, nn.RNNCell):
    """`torch.nn.RNNCell` with `stream`."""


class LSTMCell(StreamingCell, nn.LSTMCell):
    """`torch.nn.LSTMCell` with `stream`."""


class GRUCell(StreamingCell, nn.GRUCell):
    """`torch.nn.GRUCell` with `stream`."""
