"""unspool: sequence models from recurrent networks; a cell's equations once, exact BPTT from them."""

from pathlib import Path
from typing import Any

from unspool.cells import (
    CELLS,
    GRU,
    LSTM,
    SLSTM,
    Cell,
    CoupledLSTM,
    Elman,
    GatedCell,
    HiddenState,
    IndRNN,
    LayerNormLSTM,
    LinearCell,
    LSTMState,
    MinGRU,
    MinLSTM,
    PeepholeLSTM,
    ProjectedLSTM,
    recurrent_dropout,
    zoneout,
)
from unspool.errors import UnspoolError
from unspool.layers import (
    Bidirectional,
    CheckpointedBPTT,
    FullBPTT,
    LockedDropout,
    Recurrent,
    Stack,
    Stream,
    TruncatedBPTT,
    WeightDrop,
    explain,
    stack_cells,
    weight_drop,
)
from unspool.nn import accelerate

__version__ = "0.1.0"


def load(folder: str | Path) -> Any:
    """A trained model from its folder, ready to use: a `TrainedLanguageModel`, `TrainedTagger` or `TrainedTranslator`.

    Args:
        folder: what ``unspool train ... --out`` made.

    Raises:
        CheckpointError: the folder is missing, damaged, or of a later format.
    """
    from unspool import checkpoint  # with it come readers and tokenizers, which the engine does not need

    return checkpoint.load(Path(folder))


__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "SLSTM",
    "Bidirectional",
    "Cell",
    "CheckpointedBPTT",
    "CoupledLSTM",
    "Elman",
    "FullBPTT",
    "GatedCell",
    "HiddenState",
    "IndRNN",
    "LSTMState",
    "LayerNormLSTM",
    "LinearCell",
    "LockedDropout",
    "MinGRU",
    "MinLSTM",
    "PeepholeLSTM",
    "ProjectedLSTM",
    "Recurrent",
    "Stack",
    "Stream",
    "TruncatedBPTT",
    "UnspoolError",
    "WeightDrop",
    "accelerate",
    "explain",
    "load",
    "recurrent_dropout",
    "stack_cells",
    "weight_drop",
    "zoneout",
]
