"""Three models broken on purpose: the verdict names the cause, and its first remedy repairs training."""

import math
import random

import pytest
import torch
from torch import nn

from unspool import GRU, Recurrent, Stack, checkpoint
from unspool.config import build_settings
from unspool.diagnostics import KnownTraining, diagnose
from unspool.tasks import LanguageModeling
from unspool.training import SECTIONS, Trainer

SETTINGS = {
    "hidden_size": 48, "embedding_size": 16, "num_layers": 1, "batch_size": 16, "bptt_steps": 32, "max_steps": 400,
    "learning_rate": 0.005, "dropout": 0.0, "output_dropout": 0.0, "average": "none", "warmup_steps": 20, "epochs": 100,
}  # fmt: skip


def echo(count):
    """Lines whose second half repeats the first: four letters that can only be remembered, over a lag of five."""
    chance = random.Random(0)
    words = ("".join(chance.choice("abcdefgh") for _ in range(4)) for _ in range(count))
    return "".join(f"{word}-{word}\n" for word in words)


def train(folder, **flags):
    """Bits per character of the echoed text, and the diagnosis."""
    folder.mkdir()
    (folder / "text.txt").write_text(echo(3000))
    sections = {**LanguageModeling.sections, **SECTIONS}
    settings = build_settings(sections, flags={**SETTINGS, "data": str(folder / "text.txt"), **flags})
    task = checkpoint.create_folder(folder / "model", LanguageModeling, settings, "test")
    trainer = Trainer(task, settings["training"], folder / "model", quiet=True)
    trainer.run()
    bits = task.validate(trainer.model)["bits_per_character"]
    reading, model = task.reading("validation", 200, 8), trainer.model.eval()
    known = KnownTraining(reading.truncation, None, settings["training"].gradient_clip)
    return bits, diagnose(model, lambda: model.loss(reading.batch.last_step()).sum, training=known)


def say(found, before, after):
    verdict = found.verdicts[0]
    print(
        f"\n{verdict.words}\n  {verdict.remedies[0].action}: {verdict.remedies[0].figure}\n  {before:.3f} to {after:.3f}"
    )


def test_an_exploding_initialization_is_named_and_repaired(tmp_path):
    broken = {"cell": "elman", "recurrent_variance": 9.0}
    before, found = train(tmp_path / "broken", **broken)
    assert found.verdicts[0].kind == "exploding"
    after, repaired = train(tmp_path / "repaired", **{**broken, **found.verdicts[0].remedies[0].settings})
    assert [v.kind for v in repaired.verdicts] == ["healthy"]
    say(found, before, after)
    assert after < before - 0.8  # what is to be remembered is 12 of 10 * log2(8) bits a line


def test_a_truncation_shorter_than_the_dependency_is_named_and_repaired(tmp_path):
    broken = {"cell": "gru", "bptt_steps": 3, "max_steps": 600}
    before, found = train(tmp_path / "broken", **broken)
    assert found.verdicts[0].kind == "truncated"
    after, repaired = train(tmp_path / "repaired", **{**broken, **found.verdicts[0].remedies[0].settings})
    assert [v.kind for v in repaired.verdicts] == ["healthy"]
    say(found, before, after)
    assert after < before - 0.4


def test_gates_saturated_by_their_inputs_are_named_and_repaired():
    """A symbol of eight is to be named after eight steps of noise; the features come unscaled, in the hundreds."""

    def learn(layer_norm):
        torch.manual_seed(0)
        layer, head = Stack([Recurrent(GRU(10, 48))], layer_norm=layer_norm), nn.Linear(48, 8)
        parameters = [*layer.parameters(), *head.parameters()]
        optimizer = torch.optim.Adam(parameters, lr=5e-3)
        chance = torch.Generator().manual_seed(1)

        def batch():
            symbols = torch.randint(0, 8, (32,), generator=chance)
            x = torch.randn(9, 32, 10, generator=chance)
            x[0] = 0
            x[0, torch.arange(32), symbols] = x[0, :, 9] = 3
            return 300 * x, symbols

        def loss(x, wanted):
            return nn.functional.cross_entropy(head(layer(x).output[-1]), wanted, reduction="sum")

        losses = []
        for _ in range(400):
            value = loss(*batch()) / 32
            optimizer.zero_grad()
            value.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(float(value.detach()))
        return sum(losses[-50:]) / 50, diagnose(layer, lambda: loss(*batch()))

    before, found = learn(layer_norm=False)
    verdict = found.verdicts[0]
    assert verdict.kind == "saturated"
    assert verdict.remedies[0].settings == {"layer_norm": True}
    after, repaired = learn(**verdict.remedies[0].settings)
    assert [v.kind for v in repaired.verdicts] == ["healthy"]
    say(found, before, after)
    assert before > math.log(8) - 0.1  # no better than chance
    assert after < 0.1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_a_healthy_model_is_left_in_peace(tmp_path, cell):
    _, found = train(tmp_path / "run", cell=cell, max_steps=200)
    (verdict,) = found.verdicts
    assert (verdict.kind, verdict.remedies) == ("healthy", ())
