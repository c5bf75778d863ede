"""What a user says of a tagger: its files and its network."""

from dataclasses import dataclass

from unspool.config import check_settings, require, setting
from unspool.data.columns import parse_format
from unspool.data.spans import SCHEMES
from unspool.tasks.cells import CellSettings

CHAINS = ("spans", "all", "none")


@dataclass(frozen=True)
class TaggingData:
    """Which files, and what of them is to be predicted."""

    train: str = setting("", "training sentences, in columns; .gz is unpacked")
    dev: str = setting("", "validation sentences, in the same columns")
    format: str = setting("conllu", "conllu, or columns such as form=0,pos=1,ner=3 (and tab, where tabs separate)")
    targets: str = setting("", "columns to predict, by name; empty: upos,xpos,feats, or all that format names but form")
    min_count: int = setting(1, "words that occur less often are known by their spelling alone")
    batch_words: int = setting(500, "words of a batch, padding included")
    skip_bad: bool = setting(False, "leave out sentences with a malformed line, and count them")
    scheme: str = setting("bioes", "in which spans are learned; files keep their own", SCHEMES)
    vectors: str = setting("", "word vectors to read beside the words: .vec of fastText, .txt of GloVe, .gz of either")
    vectors_limit: int = setting(200_000, "read at most so many vectors, the first of the file")
    language_models: str = setting("", "folders of character language models, between commas: forward, backward")

    def __post_init__(self) -> None:
        check_settings(self, {"at least 1": "min_count batch_words vectors_limit"})
        require(bool(self.train), "train", self.train, "a file with sentences")
        columns = parse_format(self.format)
        for target in self.target_names:
            columns.place(target)
        require(not {"id", "form"} & {*self.target_names}, "targets", self.targets, "columns other than id and form")
        require(len(set(self.target_names)) == len(self.target_names) > 0, "targets", self.targets, "different columns")

    @property
    def target_names(self) -> tuple[str, ...]:
        """The columns to predict."""
        if self.targets:
            return tuple(name.strip() for name in self.targets.split(","))
        if self.format == "conllu":
            return ("upos", "xpos", "feats")
        return tuple(name for name in parse_format(self.format).columns if name != "form")


@dataclass(frozen=True)
class TaggerSettings(CellSettings):
    """Which network."""

    hidden_size: int = setting(256, "units of each layer and direction")
    num_layers: int = setting(2, "bidirectional layers")
    embedding_size: int = setting(100, "features of a word")
    character_size: int = setting(64, "features of a character")
    spelling_size: int = setting(128, "features of a word's spelling")
    dropout: float = setting(0.33, "of features, locked over a sentence")
    word_dropout: float = setting(
        1.0, "a: a word that training shows n times is read by its spelling alone with probability a / (a + n)"
    )
    crf: str = setting("spans", "targets whose tags are scored together by a linear-chain CRF", CHAINS)

    def __post_init__(self) -> None:
        bounds = {
            "between 1 and 65,536": "hidden_size num_layers embedding_size character_size spelling_size",
            "at least 0 and below 1": "dropout",
            "at least 0": "word_dropout",
        }
        check_settings(self, bounds)

    @property
    def cell_sizes(self) -> tuple[int, ...]:
        return self.hidden_size, self.spelling_size
