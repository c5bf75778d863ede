import math

import pytest
import torch
from torch import nn

from small_model import TEXT, make, trained
from unspool import checkpoint
from unspool.data import StreamBatches
from unspool.errors import CheckpointError, ConfigError, DataError
from unspool.models import LanguageModel


def test_the_loss_is_the_cross_entropy_of_a_plain_loop(tmp_path):
    task, trainer = make(tmp_path)
    model = trainer.model.double().eval()
    batch = task.training_batches(0).batch(0, 0)
    state, nats = model.initial_state(4), 0.0
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):
        logits, state = model.step(inputs, state)
        nats += float(nn.functional.cross_entropy(logits.detach(), targets, reduction="sum"))
    loss = model.loss(batch)
    assert loss.count == 64
    assert float(loss.sum.detach()) == pytest.approx(nats)


def test_state_is_carried_exactly_from_batch_to_batch(tmp_path):
    task, trainer = make(tmp_path)
    model, tokens = trainer.model.double().eval(), task.files["train"].tokens()
    totals = []
    for steps in (16, 10_000):
        batches, state, total = StreamBatches(tokens, 4, steps), None, 0.0
        for index in range(len(batches)):
            loss = model.loss(batches.batch(0, index), state)
            total, state = total + float(loss.sum.detach()), loss.state
        totals.append(total)
    assert totals[0] == pytest.approx(totals[1], rel=1e-12)


@pytest.mark.parametrize("unit", ["character", "word", "byte", "bpe"])
def test_evaluation_is_one_long_reading(tmp_path, unit):
    predictor = trained(tmp_path, unit=unit, vocabulary_size=300 if unit == "bpe" else 0)
    text = tmp_path / "other.txt"
    text.write_text("the lazy fox jumps over the quick brown dog.\n" * 200, encoding="utf-8")
    values = predictor.evaluate(str(text))
    tokens = torch.tensor(predictor.task.tokenizer.encode(text.read_text(encoding="utf-8")))
    with torch.no_grad():
        logits, _ = predictor.model(tokens[:-1].unsqueeze(1))
    nats = float(nn.functional.cross_entropy(logits.squeeze(1), tokens[1:], reduction="sum"))
    count = len(tokens) - 1
    assert values["num_units"] == count
    assert values["nats_per_unit"] == pytest.approx(nats / count, rel=1e-4)
    assert values["perplexity"] == pytest.approx(math.exp(nats / count), rel=1e-4)
    characters = 9000 * count / len(tokens)
    assert values["bits_per_character"] == pytest.approx(nats / math.log(2) / characters, rel=1e-4)


def test_data_is_split_by_characters_from_the_end(tmp_path):
    task, _ = make(tmp_path, validation_share=0.2, test_share=0.1)
    sizes = {name: file.num_characters for name, file in task.files.items()}
    assert sizes == {"train": 1890, "validation": 540, "test": 270}
    decoded = "".join(task.tokenizer.decode(task.files[s].tokens().tolist()) for s in ("train", "validation", "test"))
    assert decoded == TEXT


def test_splits_can_be_files_of_their_own(tmp_path):
    other = tmp_path / "v.txt"
    other.write_text("the dog ŧ", encoding="utf-8")
    task, _ = make(tmp_path, validation=str(other), validation_share=0.5)
    assert task.files["train"].num_characters == len(TEXT)
    assert (task.files["validation"].num_characters, task.files["validation"].num_unknown) == (9, 1)


def test_equal_seeds_write_equal_texts_and_pieces_add_up(tmp_path):
    predictor = trained(tmp_path)
    one = predictor.generate("the ", length=50, temperature=0.9, top_k=5, top_p=0.9, seed=3)
    assert len(one) == 50
    assert one == "".join(predictor.stream("the ", length=50, temperature=0.9, top_k=5, top_p=0.9, seed=3))
    assert one != predictor.generate("the ", length=50, temperature=0.9, seed=4)
    assert predictor.generate("the ", length=0) == ""


def test_temperature_zero_takes_the_likeliest_symbol_each_time(tmp_path):
    predictor = trained(tmp_path)
    tokens = predictor.task.tokenizer.encode("the ")
    for _ in range(20):
        with torch.no_grad():
            logits, _ = predictor.model(torch.tensor(tokens).unsqueeze(1))
        logits[-1, 0, 0] = -torch.inf  # the unknown symbol is never written
        tokens.append(int(logits[-1, 0].argmax()))
    assert predictor.generate("the ", 20, temperature=0.0) == predictor.task.tokenizer.decode(tokens[4:])


def test_unknown_symbols_of_a_prompt_are_an_error_or_a_token(tmp_path):
    predictor = trained(tmp_path)
    with pytest.raises(ConfigError, match=r"'é' \(U\+00E9\), 'ß' \(U\+00DF\) not in the model's vocabulary"):
        predictor.generate("thé ßé")
    assert len(predictor.generate("thé", length=5, unknown="token")) == 5
    with pytest.raises(ConfigError, match="length must be at least 0"):
        predictor.generate("the", length=-1)


def test_words_are_written_with_the_spaces_between_them(tmp_path):
    predictor = trained(tmp_path, unit="word", max_steps=1)
    pieces = list(predictor.stream("the quick", length=30, temperature=3.0))
    assert all(piece == "\n" or piece.strip() for piece in pieces)
    assert predictor.task.tokenizer.decode(predictor.task.tokenizer.encode("the quick")) == "the quick"
    text = "the quick" + "".join(pieces)
    assert len(predictor.task.tokenizer.encode(text)) == 32


def test_what_a_reader_does_between_pieces_is_not_under_inference(tmp_path):
    for _ in trained(tmp_path).stream("the", length=2):
        assert not torch.is_inference_mode_enabled()


def test_bytes_of_one_character_are_written_together(tmp_path):
    predictor = trained(tmp_path, unit="byte")
    pieces = list(predictor.stream("the", length=60, temperature=5.0))
    assert sum(len(p.encode()) for p in pieces if "\ufffd" not in p) <= 60


def test_every_setting_of_the_model_reaches_it(tmp_path):
    flags = {"cell": "gru", "num_layers": 2, "tied": True, "residual": True, "layer_norm": True, "dropout": 0.1}
    flags |= {"input_dropout": 0.1, "output_dropout": 0.1, "embedding_dropout": 0.1, "weight_drop": 0.2}
    flags |= {"recurrent_dropout": 0.1, "zoneout": 0.1, "activation_penalty": 2.0, "slowness_penalty": 1.0}
    flags |= {"recurrent_initialization": "orthogonal", "chrono_max_lag": 20}
    task, trainer = make(tmp_path, **flags)
    model: LanguageModel = trainer.model
    assert model.softmax.weight is model.embedding.weight
    assert model.bridge.weight.shape == (8, 16)
    assert "parametrizations" in str(list(dict(model.named_parameters())))
    loss = model.loss(task.training_batches(0).batch(0, 0))
    assert loss.penalty > 0
    trainer.run()
    assert checkpoint.load(tmp_path / "model").evaluate("validation")["num_units"] == 269


@pytest.mark.parametrize("cell", ["mingru", "slstm", "layer_norm_lstm", "indrnn", "catalogue:UserCell"])
def test_any_cell_trains(tmp_path, cell):
    assert trained(tmp_path, cell=cell).evaluate("validation")["nats_per_unit"] < 4


def test_a_language_model_learns_a_periodic_text(tmp_path):
    values = trained(tmp_path, max_steps=150, learning_rate=0.03, epochs=100, hidden_size=32).evaluate("validation")
    assert values["bits_per_character"] < 0.5


def test_splits_that_do_not_exist_and_folders_without_data_are_named(tmp_path):
    predictor = trained(tmp_path)
    with pytest.raises(DataError, match="test: this model was trained without a test split"):
        predictor.evaluate("test")
    predictor.task.files = {}
    with pytest.raises(CheckpointError, match="holds no training data"):
        predictor.task.training_batches(0)
    with pytest.raises(DataError, match=r"text\.txt \(validation\): 1 character units"):
        make(tmp_path / "again", validation_share=1e-5)
