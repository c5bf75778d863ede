"""PyTorch's recurrent modules, drop-in: the same constructors, parameters and results, on unspool's scans."""

from unspool.nn.acceleration import Acceleration, Finding, accelerate, restore
from unspool.nn.cells import GRUCell, LSTMCell, RNNCell
from unspool.nn.recurrent import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "Acceleration", "Finding", "GRUCell", "LSTMCell", "RNNCell", "accelerate", "restore"]
