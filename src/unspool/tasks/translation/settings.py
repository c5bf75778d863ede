"""What a user says of a translator: its files and its network."""

from dataclasses import dataclass

from unspool.config import check_settings, require, setting
from unspool.layers import SCORES
from unspool.tasks.cells import CellSettings

UNITS = ("bpe", "word", "character")


@dataclass(frozen=True)
class TranslationData:
    """Which files, and how they are cut."""

    source_train: str = setting(
        "", "training sentences to read, one a line; or .tsv with both languages in two columns"
    )
    target_train: str = setting("", "training sentences to write, line by line; empty with .tsv")
    source_dev: str = setting("", "validation sentences to read; .tsv likewise")
    target_dev: str = setting("", "validation sentences to write")
    unit: str = setting("bpe", "what one step reads and writes", UNITS)
    vocabulary_size: int = setting(6000, "symbols, at most, of each vocabulary")
    min_count: int = setting(2, "words that occur less often are unknown")
    shared_vocabulary: bool = setting(True, "one vocabulary and one table of embeddings for both languages")
    longest: int = setting(150, "pairs with more symbols than this on a side are left out, and counted")
    widest_ratio: float = setting(
        4.0, "pairs of which one side has so many times the symbols of the other are left out"
    )
    batch_symbols: int = setting(2000, "symbols of a batch, padding included, on the longer side")

    def __post_init__(self) -> None:
        check_settings(self, {"at least 1": "vocabulary_size min_count longest batch_symbols widest_ratio"})
        require(bool(self.source_train), "source_train", self.source_train, "a file with a sentence a line")
        for kind in ("train", "dev"):
            source, target = getattr(self, f"source_{kind}"), getattr(self, f"target_{kind}")
            needed = bool(source) and not is_table(source)
            expected = "a file, since the source is no .tsv" if needed else "empty, since the source is none or a .tsv"
            require(bool(target) == needed, f"target_{kind}", target, expected)


@dataclass(frozen=True)
class TranslatorSettings(CellSettings):
    """Which network."""

    cell: str = setting("gru", "a cell of the catalogue, or your_module:YourCell")
    hidden_size: int = setting(512, "units of a decoder's layer; half of them for each direction of the encoder")
    num_layers: int = setting(1, "layers of encoder and decoder")
    embedding_size: int = setting(256, "features of a symbol")
    attention: str = setting("general", "how the decoder looks at the source", (*SCORES, "none"))
    input_feeding: bool = setting(False, "the decoder reads what it handed out last, one step at a time")
    teacher_forcing: float = setting(1.0, "share of steps in training that read the right symbol, not the model's own")
    dropout: float = setting(0.4, "of embeddings, between layers and of outputs, locked over a sentence")
    label_smoothing: float = setting(0.1, "share of the probability that is spread over all symbols")

    def __post_init__(self) -> None:
        bounds = {
            "between 1 and 65,536": "hidden_size num_layers embedding_size",
            "at least 0 and below 1": "dropout label_smoothing",
            "between 0 and 1": "teacher_forcing",
        }
        check_settings(self, bounds)
        require(self.hidden_size % 2 == 0, "hidden_size", self.hidden_size, "even")

    @property
    def cell_sizes(self) -> tuple[int, ...]:
        return self.hidden_size, self.hidden_size // 2


def is_table(source: str) -> bool:
    """Whether a file holds both languages in two columns."""
    return source.removesuffix(".gz").endswith(".tsv")
