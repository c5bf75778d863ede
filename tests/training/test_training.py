import json
import math

import pytest
import torch

from small_model import make, reopen
from unspool import checkpoint, testing
from unspool.errors import CheckpointError, DivergenceError
from unspool.training import TrainingSettings
from unspool.training.optimizers import LearningRate, WeightAverage

LIVELY = {"dropout": 0.2, "output_dropout": 0.2, "weight_drop": 0.2, "num_layers": 2, "max_steps": 24, "epochs": 9}


@pytest.mark.parametrize(
    "flags",
    [
        {"average": "ema"},
        {"optimizer": "sgd", "momentum": 0.9, "average": "asgd", "asgd_patience": 1, "validations_per_epoch": 4},
        {"average": "checkpoints", "average_checkpoints": 2, "validations_per_epoch": 4},
        {"schedule": "plateau", "plateau_patience": 0, "average": "none", "validations_per_epoch": 4},
        {"cell": "mingru", "weight_drop": 0.0, "zoneout": 0.1},
    ],
    ids=["adamw_ema", "sgd_asgd", "checkpoints", "plateau", "mingru_zoneout"],
)
@pytest.mark.parametrize("interrupt_at", [1, 11, 23])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, flags, interrupt_at):
    def build(folder):
        return reopen(folder) if (folder / "model").exists() else make(folder, **LIVELY | flags)[1]

    testing.check_resume(build, interrupt_at)


def test_metrics_stand_once_in_the_log_after_a_resume(tmp_path):
    _, trainer = make(tmp_path, max_steps=12, report_steps=1)
    for _ in range(5):
        trainer.advance()
    trainer.save()
    for _ in range(3):
        trainer.advance()
    assert trainer.resume()
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "model" / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["event"] == "train"]
    assert steps == list(range(1, 13))
    assert lines[-1]["event"] == "validation"


def test_updates_that_are_not_finite_are_not_applied_and_end_the_run(tmp_path):
    _, trainer = make(tmp_path, max_steps=50, nonfinite_limit=3)
    trainer.advance()
    trainer.save()
    before = {n: p.clone() for n, p in trainer.model.named_parameters()}
    plain = trainer.model.loss

    def poisoned(batch, state):
        loss = plain(batch, state)
        return type(loss)(loss.sum * math.nan, loss.count, loss.state, loss.penalty)

    trainer.model.loss = poisoned
    with pytest.raises(
        DivergenceError, match=r"3 updates in a row were not finite \(step 4: loss nan\).*--learning-rate"
    ):
        trainer.run()
    assert trainer.counters.skipped == 3
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name])
    assert checkpoint.load_tensors(tmp_path / "model" / "last.safetensors").values["counters"]["skipped"] == 0


def test_one_update_that_is_not_finite_is_skipped_and_counted(tmp_path):
    _, trainer = make(tmp_path, max_steps=6)
    plain, calls = trainer.model.loss, []

    def hiccup(batch, state):
        calls.append(None)
        loss = plain(batch, state)
        return type(loss)(loss.sum * (math.inf if len(calls) == 3 else 1), loss.count, loss.state, loss.penalty)

    trainer.model.loss = hiccup
    outcome = trainer.run()
    assert outcome.finished
    assert trainer.counters.skipped == 1


def test_training_stops_early_when_validation_stands_still(tmp_path):
    _, trainer = make(tmp_path, learning_rate=1e-30, epochs=50, max_steps=0, patience=2, average="none")
    outcome = trainer.run()
    assert outcome.finished
    assert trainer.counters.epoch == 3


def test_the_result_is_the_best_average_that_validation_saw(tmp_path):
    task, trainer = make(tmp_path, max_steps=30, average="ema", ema_decay=0.9)
    trainer.run()
    predictor = checkpoint.load(tmp_path / "model")
    assert predictor.evaluate("validation")["nats_per_unit"] == trainer.counters.best
    ema = trainer.average.tensors["softmax.weight"]
    assert not torch.equal(ema, trainer.model.softmax.weight)


def test_learning_rates_follow_their_schedules():
    cosine = LearningRate(TrainingSettings(learning_rate=1.0, warmup_steps=10, final_rate=0.1), 110)
    assert cosine.at(0) == pytest.approx(1 / 11)
    assert cosine.at(10) == pytest.approx(1.0)
    assert cosine.at(60) == pytest.approx(0.55)
    assert cosine.at(110) == pytest.approx(0.1)
    plateau = LearningRate(TrainingSettings(learning_rate=1.0, schedule="plateau", plateau_patience=1), 100)
    for improved in (True, False, False):
        plateau.after_validation(improved)
    assert plateau.at(50) == 0.5


def test_gradients_are_clipped_to_the_norm(tmp_path):
    _, trainer = make(
        tmp_path, gradient_clip=1e-3, optimizer="sgd", learning_rate=1.0, warmup_steps=0, weight_decay=0.0
    )
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.advance()
    moved = torch.cat([(p.detach() - b).flatten() for p, b in zip(trainer.model.parameters(), before, strict=True)])
    assert trainer.counters.clipped == 1
    assert float(moved.norm()) == pytest.approx(1e-3, rel=0.05)


def test_products_in_bfloat16_learn_as_well(tmp_path):
    losses = {}
    for precision in ("float32", "bfloat16"):
        _, trainer = make(tmp_path / precision, precision=precision, max_steps=80, learning_rate=0.02, epochs=50)
        losses[precision] = trainer.run().best
        assert trainer.model.softmax.weight.dtype == torch.float32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.1)


@pytest.mark.parametrize("place", ["weights.safetensors", "last.safetensors"])
@pytest.mark.parametrize("how", ["cut", "flipped", "text", "empty"])
def test_damaged_files_are_named_and_never_loaded(tmp_path, place, how):
    _, trainer = make(tmp_path)
    trainer.run()
    path = tmp_path / "model" / place
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    path.write_bytes({"cut": whole[:-9], "flipped": bytes(flipped), "text": b"hello", "empty": b""}[how])
    with pytest.raises(CheckpointError, match=f"{place}: the file is damaged"):
        checkpoint.load(tmp_path / "model") if "weights" in place else trainer.resume()


def test_a_checkpoint_that_is_gone_is_not_replaced_by_a_new_run(tmp_path):
    _, trainer = make(tmp_path)
    trainer.run()
    (tmp_path / "model" / "last.safetensors").unlink()
    with pytest.raises(CheckpointError, match="though the folder holds weights; they are kept"):
        trainer.resume()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_damaged_or_missing_training_data_is_named(tmp_path, split):
    make(tmp_path)
    path = tmp_path / "model" / "tokens" / f"{split}.bin"
    content = bytearray(path.read_bytes())
    content[5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{split}.bin: its checksum does not fit"):
        reopen(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{split}.bin: no such file"):
        reopen(tmp_path)


def test_weights_that_overflow_are_not_saved(tmp_path):
    _, trainer = make(tmp_path, optimizer="sgd", learning_rate=1e38, gradient_clip=0.0, warmup_steps=0, max_steps=1)
    plain = trainer.model.loss

    def steep(batch, state):
        loss = plain(batch, state)
        return type(loss)(loss.sum * 1e6, loss.count, loss.state, loss.penalty)

    trainer.model.loss = steep
    with pytest.raises(DivergenceError, match="the last update was not finite"):
        trainer.run()
    assert not (tmp_path / "model" / "last.safetensors").exists()


def test_weights_of_another_architecture_are_refused(tmp_path):
    _, small = make(tmp_path / "small")
    _, large = make(tmp_path / "large", hidden_size=32)
    small.run()
    with pytest.raises(CheckpointError, match=r"must be \[128, 8\], got \[64, 8\]"):
        checkpoint.load_weights(large.model, tmp_path / "small" / "model")


def test_checkpoint_averaging_is_the_mean_of_the_weights_at_the_last_validations():
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, TrainingSettings(average="checkpoints", average_checkpoints=2))
    for value in (1.0, 4.0, 8.0):
        torch.nn.init.constant_(model.weight, value)
        average.update()
        average.before_validation()
    average.swap()
    assert model.weight.item() == 6.0
    average.swap()
    assert model.weight.item() == 8.0
