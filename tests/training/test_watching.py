import json
import re

import torch

from small_model import SMALL, make
from unspool.diagnostics import KnownTraining
from unspool.training.trainer import Trainer
from unspool.training.watching import GradientWatch


def events(folder, name):
    lines = (folder / "model" / "metrics.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def test_a_watched_run_ends_with_the_bits_of_one_that_was_not(tmp_path):
    weights = []
    for watch in (False, True):
        torch.manual_seed(0)
        flags = {"watch_gradients": watch, "max_steps": 30, "dropout": 0.2, "output_dropout": 0.2, "num_layers": 2}
        _, trainer = make(tmp_path / str(watch), **flags)
        trainer.run()
        weights.append([p.detach().clone() for p in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    assert not events(tmp_path / "False", "gradients")
    (first, *_) = events(tmp_path / "True", "gradients")
    assert first["step"] == 10
    assert first["verdict"] in ("healthy", "vanishing")
    assert 0 <= first["clip_rate"] <= 1
    assert first["memory_horizon/stack.layers.0"] >= 0


def test_progress_shows_reach_growth_and_clipping_and_a_changed_verdict_is_said_once(tmp_path, capsys, monkeypatch):
    flags = {"cell": "elman", "recurrent_variance": 9.0, "bptt_steps": 48, "gradient_clip": 0.0}
    flags |= {"batch_size": 16, "hidden_size": 48}
    task, trainer = make(tmp_path, **flags, watch_gradients=True, max_steps=50)
    loud = Trainer(task, trainer.settings, tmp_path / "model")
    monkeypatch.setattr("unspool.training.watching._SECOND", 10)
    loud.run()
    said = capsys.readouterr().err
    assert said.count("gradients explode") == 1
    assert "Remedy: initialize each gate's recurrent matrix orthogonal" in said
    assert "(--recurrent-variance 0 --recurrent-initialization orthogonal)" in said
    assert re.search(r"horizon \d+\+?  growth \d\.\d+  clipped 0%", said)


def test_a_model_that_cannot_be_watched_is_trained_all_the_same(tmp_path, capsys, monkeypatch):
    from unspool.cells import GRU

    def unroll(self, x, state, weights, noise, *others):
        return super(GRU, self).unroll(x, state, weights, noise._replace(probes=None), *others)

    monkeypatch.setattr(GRU, "unroll", unroll, raising=False)
    _, trainer = make(tmp_path, cell="gru", watch_gradients=True, max_steps=25)
    outcome = Trainer(trainer.task, trainer.settings, tmp_path / "model").run()
    assert (outcome.step, outcome.finished) == (25, True)
    assert capsys.readouterr().err.count("gradients cannot be watched: gradient_flow: no gradient reaches") == 1


def test_a_look_is_due_after_some_updates():
    watch = GradientWatch(None, KnownTraining())
    assert [watch.count_update(0.1, False) for _ in range(10)] == [False] * 9 + [True]
    assert SMALL["max_steps"] < 10  # so that other tests of training never look
