import io
import sys

import numpy as np
import pytest

from unspool.data import (
    BPETokenizer,
    CharacterTokenizer,
    StreamBatches,
    TokenFile,
    Vocabulary,
    build_tokenizer,
    open_text,
    read_tokenizer,
    write_tokens,
)
from unspool.data import text as text_module
from unspool.errors import CheckpointError, ConfigError, DataError

TEXT = "The well ran dry.\nWell, well — 井 ran  deep.\n" * 3


def _file(tmp_path, content=TEXT, name="a.txt"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_a_file_is_read_whole_however_it_is_cut(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_module, "_BLOCK", block)
    assert "".join(open_text(str(_file(tmp_path))).pieces()) == TEXT


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path):
    _file(tmp_path, "b", "2.txt")
    _file(tmp_path, "a", "1.md")
    _file(tmp_path, "secret", ".hidden")
    (tmp_path / "sub").mkdir()
    _file(tmp_path / "sub", "c", "x")
    assert "".join(open_text(str(tmp_path)).pieces()) == "abc"


def test_standard_input_can_be_read_twice(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    source = open_text("-")
    assert "".join(source.pieces()) == TEXT
    assert "".join(source.between(4, 8).pieces()) == "well"


def test_the_builtin_text_is_there():
    assert open_text("builtin:pydoc").count_characters() > 400_000


@pytest.mark.parametrize("block", [4, 1 << 20])
def test_a_byte_that_is_not_utf8_is_named_with_its_place(tmp_path, monkeypatch, block):
    monkeypatch.setattr(text_module, "_BLOCK", block)
    path = _file(tmp_path, "für ".encode() + b"abc \xff def")
    with pytest.raises(DataError, match=f"{path}: not UTF-8 at byte 9 \\(0xff\\)"):
        list(open_text(str(path)).pieces())


def test_a_character_cut_off_at_the_end_of_a_file_is_named(tmp_path):
    with pytest.raises(DataError, match="not UTF-8 at byte 3"):
        list(open_text(str(_file(tmp_path, b"abc\xc3"))).pieces())


def test_missing_and_empty_sources_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="no such file or folder"):
        open_text(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="the file is empty"):
        open_text(str(_file(tmp_path, "")))
    with pytest.raises(DataError, match="the folder holds no text"):
        open_text(str(tmp_path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(DataError, match="standard input: empty"):
        list(open_text("-").pieces())


@pytest.mark.parametrize("unit", ["character", "byte", "bpe"])
def test_text_survives_encoding(tmp_path, unit):
    tokenizer = build_tokenizer(unit, open_text(str(_file(tmp_path))), vocabulary_size=300 if unit == "bpe" else 0)
    again = read_tokenizer(tokenizer.to_json(), "here")
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert again.encode(TEXT) == tokenizer.encode(TEXT)
    assert again.vocabulary_size == tokenizer.vocabulary_size


def test_words_keep_the_ends_of_lines(tmp_path):
    tokenizer = build_tokenizer("word", open_text(str(_file(tmp_path))))
    assert tokenizer.decode(tokenizer.encode("Well,  ran\ndry.\n")) == "Well, ran\ndry.\n"
    assert read_tokenizer(tokenizer.to_json(), "here").encode("well\n") == tokenizer.encode("well\n")


def test_what_is_unknown_has_one_number_and_is_listed(tmp_path):
    source = open_text(str(_file(tmp_path)))
    characters, words = build_tokenizer("character", source), build_tokenizer("word", source, min_count=6)
    assert characters.encode("xTz") == [0, characters.encode("T")[0], 0]
    assert characters.unknown_in("xTzx") == ["x", "z"]
    assert words.unknown_in("ran dry.") == ["dry."]


def test_a_vocabulary_keeps_the_commonest_symbols_in_an_order_of_its_own():
    from collections import Counter

    vocabulary = Vocabulary.from_counts(Counter("bbbaaaccd"), min_count=2, max_size=3)
    assert vocabulary.symbols == ("<unk>", "a", "b")
    with pytest.raises(ConfigError, match="distinct"):
        Vocabulary(["a", "a"])


def test_bpe_learns_the_same_merges_each_time(tmp_path):
    source = open_text(str(_file(tmp_path)))
    assert BPETokenizer.train(source.pieces(), 300).to_json() == BPETokenizer.train(source.pieces(), 300).to_json()


def test_a_damaged_tokenizer_is_an_error_that_names_it():
    for text in ("", "{}", '{"unit": "rune"}', '{"unit": "bpe", "model": 3}'):
        with pytest.raises(CheckpointError, match="my/tokenizer.json: not a tokenizer"):
            read_tokenizer(text, "my/tokenizer.json")


def test_token_files_are_mapped_and_checked(tmp_path):
    source = open_text(str(_file(tmp_path)))
    tokenizer = CharacterTokenizer(Vocabulary(sorted(set(TEXT) - {"井"})))
    file = write_tokens(tmp_path / "t.bin", tokenizer, source, "a.txt")
    assert (file.num_tokens, file.num_characters, file.num_unknown) == (len(TEXT), len(TEXT), 3)
    assert TokenFile.open(tmp_path / "t.bin") == file
    assert file.tokens().tolist() == tokenizer.encode(TEXT)
    (tmp_path / "t.bin").write_bytes(b"abc")
    with pytest.raises(CheckpointError, match="3 tokens, expected"):
        file.tokens()
    with pytest.raises(DataError, match=r"a\.txt: 1 character units"):
        write_tokens(tmp_path / "u.bin", tokenizer, open_text(str(_file(tmp_path, "a", "b.txt"))), "a.txt")


@pytest.mark.parametrize("seed", [None, 0])
@pytest.mark.parametrize(("length", "lanes", "steps"), [(2, 1, 1), (2, 9, 5), (11, 3, 2), (50, 4, 7), (101, 1, 1000)])
def test_every_token_but_the_first_is_predicted_once_from_the_one_before(length, lanes, steps, seed):
    tokens = np.arange(length, dtype=np.uint16)
    batches, predicted = StreamBatches(tokens, lanes, steps, seed), []
    for index in range(len(batches)):
        batch = batches.batch(3, index)
        real = batch.targets >= 0
        assert ((batch.inputs + 1) == batch.targets)[real].all()
        predicted += batch.targets[real].tolist()
    assert sorted(predicted) == list(range(1, length))


def test_lanes_go_on_where_the_batch_before_ended_and_say_where_the_stream_begins_anew():
    batches = StreamBatches(np.arange(103, dtype=np.uint16), 3, 5, seed=1)
    resets = 0
    for index in range(len(batches) - 1):
        one, two = batches.batch(0, index), batches.batch(0, index + 1)
        begins = two.inputs[0] == 0
        assert ((one.targets[-1] == two.inputs[0]) | begins | (one.targets[-1] < 0)).all()
        if one.reset is not None:
            resets += int(one.reset.sum())
            assert (one.inputs[one.reset] == 0).all()
    assert resets == 1
    assert not np.array_equal(batches.batch(0, 0).inputs, batches.batch(1, 0).inputs)
    assert np.array_equal(batches.batch(1, 2).inputs, batches.batch(1, 2).inputs)


def test_lanes_begin_anew_as_often_as_asked_and_always_at_the_same_places():
    tokens = np.arange(2000, dtype=np.uint16)
    batches = StreamBatches(tokens, 10, 2, seed=1, reset_share=0.3)
    resets = [batches.batch(0, index).reset for index in range(1, len(batches))]
    counted = sum(int(reset[0].sum()) for reset in resets if reset is not None)
    assert 0.25 < counted / (10 * len(resets)) < 0.35
    again = batches.batch(0, 7).reset
    assert again is None or again.equal(resets[6])
    assert batches.batch(0, 0).reset is None
