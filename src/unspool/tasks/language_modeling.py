"""Language modelling: raw text in, a model of the next symbol, text out."""

import math
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from unspool import initializers
from unspool.cells import Cell, recurrent_dropout, zoneout
from unspool.config import check_settings, require, setting
from unspool.data import (
    UNITS,
    StreamBatch,
    StreamBatches,
    TextSource,
    TokenFile,
    Tokenizer,
    build_tokenizer,
    open_text,
    read_tokenizer,
    write_tokens,
)
from unspool.data.text import BUILTIN
from unspool.errors import CheckpointError, DataError
from unspool.layers import stack_cells, weight_drop
from unspool.models import LanguageModel
from unspool.state import map_state, state_tensors
from unspool.tasks.base import BatchSource, Reading, Task
from unspool.tasks.cells import cell_named, check_cell
from unspool.tasks.trained_language_model import TrainedLanguageModel

SPLITS = ("train", "validation", "test")
INITIALIZATIONS = ("default", "orthogonal", "identity")


@dataclass(frozen=True)
class DataSettings:
    """Which text, and how it is cut."""

    data: str = setting(BUILTIN, "text file, folder of text files, - for standard input, or the text Python comes with")
    validation: str = setting("", "validation text; empty: the last part of the data")
    test: str = setting("", "test text; empty: the last part of the data, if test_share says so")
    validation_share: float = setting(0.1, "share of the data held out for validation, taken from its end")
    test_share: float = setting(0.0, "share of the data held out for testing, taken from its very end")
    unit: str = setting("character", "what one step reads", UNITS)
    vocabulary_size: int = setting(0, "at most so many symbols; 0: all (bpe: 4096)")
    min_count: int = setting(1, "characters and words that occur less often are unknown")
    backward: bool = setting(False, "read the text from its end to its beginning, for a tagger's second model")
    batch_size: int = setting(32, "streams read side by side")
    bptt_steps: int = setting(128, "steps between updates, through which gradients run")
    reset_share: float = setting(
        0.02, "probability that a lane begins a batch from a fresh state, as texts to come will"
    )

    def __post_init__(self) -> None:
        bounds = {
            "at least 0 and below 1": "validation_share test_share reset_share",
            "at least 1": "batch_size bptt_steps min_count",
            "at least 0": "vocabulary_size",
        }
        check_settings(self, bounds)
        shares = self.validation_share + self.test_share
        require(shares < 1.0, "validation_share + test_share", shares, "below 1")


@dataclass(frozen=True)
class ModelSettings:
    """Which network."""

    cell: str = setting("lstm", "a cell of the catalogue, or your_module:YourCell")
    hidden_size: int = setting(512, "units of each layer")
    num_layers: int = setting(2, "layers")
    embedding_size: int = setting(128, "features of an embedded symbol")
    tied: bool = setting(False, "share the table of embeddings with the softmax")
    residual: bool = setting(False, "add each layer's input to its output where sizes allow")
    layer_norm: bool = setting(False, "normalize the input of each layer")
    dropout: float = setting(0.25, "of what is handed from layer to layer")
    input_dropout: float = setting(0.0, "of embedded features")
    output_dropout: float = setting(0.25, "of the last layer's output")
    embedding_dropout: float = setting(0.0, "of whole symbols")
    weight_drop: float = setting(0.0, "of the entries of every weight_hh, anew for each batch")
    recurrent_dropout: float = setting(0.0, "of h before the recurrent product, one mask a sequence")
    zoneout: float = setting(0.0, "probability that a unit keeps its old state")
    locked: bool = setting(True, "drop the same features between layers at every step of a batch")
    activation_penalty: float = setting(0.0, "AR: times the mean square of outputs")
    slowness_penalty: float = setting(0.0, "TAR: times the mean square of the outputs' change per step")
    recurrent_initialization: str = setting("default", "of the recurrent weights", INITIALIZATIONS)
    recurrent_variance: float = setting(0.0, "k > 0: recurrent weights normal with variance k / hidden_size")
    forget_bias: float = setting(
        1.0, "bias of the gate that keeps the state (LSTM: f, GRU: z), where there is one; 0: PyTorch's default"
    )
    chrono_max_lag: int = setting(0, "chrono initialization of the gates for lags up to this; 0: off")

    def __post_init__(self) -> None:
        bounds = {
            "at least 1": "hidden_size num_layers embedding_size",
            "at least 0 and below 1": "dropout input_dropout output_dropout embedding_dropout weight_drop "
            "recurrent_dropout zoneout",
            "at least 0": "activation_penalty slowness_penalty recurrent_variance",
        }
        check_settings(self, bounds)
        lag = self.chrono_max_lag
        require(lag == 0 or lag >= 3, "chrono_max_lag", lag, "0 (off) or at least 3")
        both = self.recurrent_variance and self.recurrent_initialization != "default"
        require(
            not both, "recurrent_initialization", self.recurrent_initialization, "default beside recurrent_variance"
        )

    def check(self) -> None:
        """Builds a small network, so that settings that do not go together are refused before any data is read.

        Raises:
            ConfigError: of the cell, its initialization or its modifiers.
        """

        def build(input_size: int, hidden_size: int) -> Cell:
            cell = self.build_cell(input_size, hidden_size)
            if self.weight_drop:
                weight_drop(cell, self.weight_drop)
            return cell

        check_cell(self.cell, self.hidden_size, build)

    def build_cell(self, input_size: int, hidden_size: int) -> Cell:
        """A cell with its initialization and modifiers."""
        cell: Cell = cell_named(self.cell, input_size, hidden_size)
        self._initialize(cell)
        if self.recurrent_dropout:
            cell = recurrent_dropout(cell, self.recurrent_dropout)
        return zoneout(cell, self.zoneout, self.zoneout) if self.zoneout else cell

    def _initialize(self, cell: Any) -> None:
        if self.recurrent_variance:
            initializers.variance_(cell, self.recurrent_variance)
        elif self.recurrent_initialization == "orthogonal":
            initializers.orthogonal_(cell)
        elif self.recurrent_initialization == "identity":
            initializers.identity_(cell)
        if self.chrono_max_lag:
            initializers.chrono_(cell, self.chrono_max_lag)
        elif self.forget_bias and cell.keeping_gate and cell.bias_ih is not None:
            initializers.forget_bias_(cell, self.forget_bias)


class LanguageModeling(Task):
    """Predicting the next character, byte, word or piece of a text."""

    name = "language-modeling"
    sections = {"data": DataSettings, "model": ModelSettings}
    criterion = "nats_per_unit"

    def __init__(self, settings: Mapping[str, Any], tokenizer: Tokenizer, files: Mapping[str, TokenFile]):
        self.data: DataSettings = settings["data"]
        self.model: ModelSettings = settings["model"]
        self.tokenizer, self.files, self.is_backward = tokenizer, files, self.data.backward
        self.unit = {"character": "characters", "byte": "bytes", "word": "words", "bpe": "pieces"}[tokenizer.unit]

    @classmethod
    def prepare(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        data: DataSettings = settings["data"]
        settings["model"].check()
        sources = _split(data)
        for split in SPLITS:  # of an earlier preparation that was not finished
            for suffix in (".bin", ".json"):
                (folder / "tokens" / split).with_suffix(suffix).unlink(missing_ok=True)
        tokenizer = build_tokenizer(data.unit, sources["train"], data.vocabulary_size, data.min_count)
        (folder / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
        for split, source in sources.items():
            named = {"train": data.data, "validation": data.validation, "test": data.test}[split] or data.data
            write_tokens(folder / "tokens" / f"{split}.bin", tokenizer, source, f"{named} ({split})")
        return cls.restore(settings, folder)

    @classmethod
    def restore(cls, settings: Mapping[str, Any], folder: Path) -> Self:
        path = folder / "tokenizer.json"
        try:
            tokenizer = read_tokenizer(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error}); the model folder is damaged.") from error
        paths = {split: folder / "tokens" / f"{split}.bin" for split in SPLITS}
        files = {split: TokenFile.open(path) for split, path in paths.items() if path.exists()}
        data: DataSettings = settings["data"]
        expected = {"train": True, "validation": data.validation or data.validation_share}
        expected["test"] = data.test or data.test_share
        for split in (split for split in SPLITS if files and expected[split] and split not in files):
            raise CheckpointError(f"{paths[split]}: no such file; the run's folder is damaged.")
        return cls(settings, tokenizer, files)

    def build_model(self) -> LanguageModel:
        model = self.model
        stack = stack_cells(
            model.build_cell,
            model.embedding_size,
            model.hidden_size,
            model.num_layers,
            dropout=model.dropout,
            locked=model.locked,
            residual=model.residual,
            layer_norm=model.layer_norm,
        )
        return LanguageModel(
            self.tokenizer.vocabulary_size,
            stack,
            tied=model.tied,
            input_dropout=model.input_dropout,
            output_dropout=model.output_dropout,
            embedding_dropout=model.embedding_dropout,
            recurrent_weight_drop=model.weight_drop,
            activation_penalty=model.activation_penalty,
            slowness_penalty=model.slowness_penalty,
        )

    def training_batches(self, seed: int) -> BatchSource:
        if "train" not in self.files:
            raise CheckpointError("the folder holds no training data; it was copied without its `tokens` folder.")
        for file in self.files.values():
            file.verify()
        tokens = self._in_order(self.files["train"])
        return StreamBatches(tokens, self.data.batch_size, self.data.bptt_steps, seed, self.data.reset_share)

    def validate(self, model: LanguageModel) -> dict[str, float] | None:
        return self.measure(model, self.files["validation"]) if "validation" in self.files else None

    def evaluate(self, model: LanguageModel, data: str) -> dict[str, float]:
        """Metrics on a text, or on the run's own split with one of the names in `SPLITS`.

        Raises:
            DataError: the text is missing, empty or not UTF-8.
        """
        with self._tokens_of(data) as file:
            return self.measure(model, file)

    @contextmanager
    def _tokens_of(self, data: str) -> Iterator[TokenFile]:
        """A text of the user's as tokens, or one of the run's own splits."""
        if data in SPLITS and not Path(data).exists():
            if data not in self.files:
                raise DataError(f"{data}: this model was trained without a {data} split; give a text file.")
            yield self.files[data]
            return
        with tempfile.TemporaryDirectory() as folder:
            yield write_tokens(Path(folder) / "text.bin", self.tokenizer, open_text(data), data)

    def measure(self, model: LanguageModel, file: TokenFile) -> dict[str, float]:
        """Loss on a text, its state carried from step to step.

        The text is read in up to eight lanes side by side, each begun 512 steps before the part that counts for it, so
        that the result is that of one long reading but for what a model remembers longer than that.

        Returns:
            nats_per_unit; bits_per_character, over the characters of the text, whatever the unit; perplexity of a unit;
            and how many units, characters and unknown units there were.
        """
        tokens, steps, warm_up = self._in_order(file), 256, 512
        lanes = max(1, min(8, len(tokens) // (4 * warm_up)))
        batches = StreamBatches(tokens, lanes, steps)
        model.eval()
        device = model.embedding.weight.device
        nats, count = 0.0, 0
        with torch.no_grad():
            state = self._warm_state(model, tokens, batches, warm_up)
            for index in range(len(batches)):
                loss = model.loss(batches.batch(0, index).to(device), state)
                nats, count, state = nats + float(loss.sum), count + loss.count, loss.state
        return {
            "nats_per_unit": nats / count,
            "bits_per_character": nats / math.log(2) / max(1, file.num_characters * count / file.num_tokens),
            "perplexity": math.exp(min(nats / count, 700.0)),
            "num_units": count,
            "num_characters": file.num_characters,
            "num_unknown": file.num_unknown,
        }

    def reading(self, data: str, num_steps: int, num_sequences: int) -> Reading:
        with self._tokens_of(data) as file:
            tokens = self._in_order(file)
            count = min(num_steps, len(tokens) - 1)
            if len(tokens) < 5:
                raise DataError(f"{data}: {len(tokens)} {self.unit}, a diagnosis needs at least 5; give a longer text.")
            rows = min(num_sequences, (len(tokens) - 1) // count)  # that do not overlap
            apart = (len(tokens) - count - 1) // max(1, rows - 1)
            parts = [torch.from_numpy(tokens[r * apart : r * apart + count + 1].astype("int64")) for r in range(rows)]
        taken = torch.stack(parts, 1)
        symbols = [self.tokenizer.decode([token]) for token in taken[:-1, 0].tolist()]
        words = f"{rows} sequence{'s' if rows > 1 else ''} of {count} {self.unit} from {data}"
        return Reading(StreamBatch(taken[:-1], taken[1:]), words, symbols, self.data.bptt_steps)

    def _in_order(self, file: TokenFile) -> np.ndarray:
        """The tokens in the order in which the model reads them."""
        return file.tokens()[::-1] if self.is_backward else file.tokens()

    def predictor(self, model: LanguageModel) -> TrainedLanguageModel:
        return TrainedLanguageModel(self, model)

    def _warm_state(self, model: LanguageModel, tokens: Any, batches: StreamBatches, warm_up: int) -> Any:
        state = model.initial_state(batches.batch_size)
        if batches.batch_size == 1:
            return state
        begins = range(batches.lane_size, batches.lane_size * batches.batch_size, batches.lane_size)
        before = torch.stack([torch.from_numpy(tokens[b - warm_up : b].astype("int64")) for b in begins], 1)
        _, warm = model(before.to(model.embedding.weight.device), model.initial_state(len(begins)))
        fresh = model.initial_state(1)
        merged = iter([torch.cat(pair) for pair in zip(state_tensors(fresh), state_tensors(warm), strict=True)])
        return map_state(lambda _: next(merged), state)


def _split(data: DataSettings) -> dict[str, TextSource]:
    """The parts of the corpus; what is not given is cut from the end of the data, by characters."""
    whole = open_text(data.data)
    given = {name: open_text(getattr(data, name)) for name in ("validation", "test") if getattr(data, name)}
    shares = {
        "validation": 0.0 if "validation" in given else data.validation_share,
        "test": 0.0 if "test" in given else data.test_share,
    }
    total = whole.count_characters()
    test = total - int(total * shares["test"])
    validation = int(total * (1 - shares["validation"] - shares["test"]))
    sources: dict[str, TextSource] = {"train": whole.between(0, validation)}
    if shares["validation"]:
        sources["validation"] = whole.between(validation, test)
    if shares["test"]:
        sources["test"] = whole.between(test, total)
    return sources | given
