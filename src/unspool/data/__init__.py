"""Reading the user's files: text sources, tokenizers with their vocabularies, token files, batches."""

from unspool.data.batching import StreamBatch, StreamBatches
from unspool.data.text import Lines, TextSource, open_text
from unspool.data.token_file import TokenFile, write_tokens
from unspool.data.tokenizers import (
    UNITS,
    BPETokenizer,
    ByteTokenizer,
    CharacterTokenizer,
    Tokenizer,
    WordTokenizer,
    build_tokenizer,
    read_tokenizer,
)
from unspool.data.vocabulary import Vocabulary
