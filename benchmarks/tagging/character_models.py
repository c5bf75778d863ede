"""Trains the two character language models of a tagger on one GPU: `unspool train language-modeling`, captured once.

The folders, the models and the batches are those of the task. What differs from `--device cuda` is that one update (the
forward pass, backpropagation through time, clipping and AdamW) is captured as a CUDA graph and replayed, both models
side by side, so that no step of the recurrence waits for Python; and that training ends after so many seconds.

    python benchmarks/tagging/character_models.py --data text.txt --validation dev.txt --out DIR --seconds 500
"""

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unspool.cells import LSTMState
from unspool.checkpoint import WEIGHTS
from unspool.config import settings_from_dict
from unspool.tasks.language_modeling import LanguageModeling
from unspool.tensor_file import parameters_of, save_tensors

DIRECTIONS = ("forward", "backward")


class CapturedTraining:
    """One model whose update is a CUDA graph.

    Args:
        folder: of a model that `unspool train language-modeling` has begun.
        rate: learning rate at its highest.
        dropout: of the layer's outputs, locked over time.
        weight_decay: of matrices.
        ema: share of the averaged weights that each update keeps.
    """

    def __init__(self, folder: Path, rate: float, dropout: float, weight_decay: float = 0.01, ema: float = 0.999):
        self.folder, self.highest, self.dropout, self.ema = folder, rate, dropout, ema
        stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))["settings"]
        sections = {name: stored.get(name, {}) for name in LanguageModeling.sections}
        self.task = LanguageModeling.restore(settings_from_dict(LanguageModeling.sections, sections, "model"), folder)
        self.model = self.task.build_model().cuda().train()
        self.batches = self.task.training_batches(0)
        self.parameters = list(self.model.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.rate = torch.zeros((), device="cuda")
        groups = [
            {"params": [p for p in self.parameters if p.dim() > 1], "weight_decay": weight_decay},
            {"params": [p for p in self.parameters if p.dim() < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=self.rate, betas=(0.9, 0.99), capturable=True)
        first = self.batches.batch(0, 0)
        batch_size, units = first.inputs.shape[1], self.model.stack.output_size
        self.inputs, self.targets = first.inputs.cuda(), first.targets.cuda()
        self.fresh = torch.zeros(batch_size, 1, device="cuda", dtype=torch.bool)
        self.h, self.c = (torch.zeros(batch_size, units, device="cuda") for _ in range(2))
        self.mask = torch.ones(1, batch_size, units, device="cuda")
        self.nats = torch.zeros((), device="cuda")
        self.stream, self.graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
        self.symbols = torch.arange(len(self.model.embedding.weight), device="cuda")
        self.step = 0

    def capture(self) -> None:
        """Records one update. The updates that warm it up have a learning rate of zero."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(2):
                self._update()
        torch.cuda.synchronize()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self._update()
        torch.cuda.synchronize()
        for own in (self.h, self.c):
            own.zero_()

    def replay(self, share: float) -> None:
        """One update, when this share of the time is over."""
        place = divmod(self.step, len(self.batches) - 1)  # the last one is shorter
        batch = self.batches.batch(*place)
        warm = min(1.0, (self.step + 1) / 300)
        with torch.cuda.stream(self.stream):
            self.rate.fill_(self.highest * warm * (0.02 + 0.49 * (1 + math.cos(math.pi * share))))
            self.inputs.copy_(batch.inputs.pin_memory(), non_blocking=True)
            self.targets.copy_(batch.targets.pin_memory(), non_blocking=True)
            if batch.reset is None:
                self.fresh.fill_(place[1] == 0)
            else:
                self.fresh.copy_(batch.reset[0].unsqueeze(1).pin_memory(), non_blocking=True)
            self.mask.bernoulli_(1 - self.dropout).div_(1 - self.dropout)
            self.graph.replay()
        self.step += 1

    def validate(self) -> dict[str, float]:
        """Metrics of the averaged weights, which are written."""
        torch.cuda.synchronize()
        own = [p.detach().clone() for p in self.parameters]
        self._set(self.average)
        values = self.task.validate(self.model)
        save_tensors(self.folder / WEIGHTS, parameters_of(self.model), {"step": self.step})
        self._set(own)
        torch.cuda.synchronize()  # the next update runs on a stream of its own
        self.model.train()
        return values or {}

    @torch.no_grad()
    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def _update(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        table = self.model.embedding.weight
        one_hot = self.inputs.unsqueeze(-1) == self.symbols  # a table's own gradient may wait for the host
        state: Any = (LSTMState(*(s.masked_fill(self.fresh, 0.0) for s in (self.h, self.c))),)
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            outputs, after = self.model.stack((one_hot.to(table.dtype) @ table).float(), state)
            logits = self.model.logits(outputs * self.mask)
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), self.targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - self.ema)
            for own, new in zip((self.h, self.c), after[0], strict=True):
                own.copy_(new)
            self.nats.copy_(loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--validation", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=500.0)
    parser.add_argument("--hidden-size", type=int, default=1536)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=0.0015)
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--validations", type=int, default=4)
    arguments = parser.parse_args()
    begin(arguments)
    models = [CapturedTraining(arguments.out / d, arguments.learning_rate, arguments.dropout) for d in DIRECTIONS]
    for model in models:
        model.capture()
    print(f"{torch.cuda.get_device_name()}: captured, {torch.cuda.max_memory_allocated() >> 20} MiB", flush=True)
    began, validated = time.monotonic(), 1
    ends: list[list[torch.cuda.Event]] = [[], []]
    while (share := (time.monotonic() - began) / arguments.seconds) < 1:
        for model, own in zip(models, ends, strict=True):
            if len(own) > 1:
                own.pop(0).synchronize()
            model.replay(share)
            own.append(torch.cuda.Event())
            own[-1].record(model.stream)
        if models[0].step % 200 == 0:
            nats = ", ".join(f"{float(model.nats):.4f}" for model in models)
            print(f"{time.monotonic() - began:.0f} s, step {models[0].step}: {nats} nats", flush=True)
        if share * arguments.validations > validated:
            validated += 1
            report(models)
    report(models)


def begin(arguments: argparse.Namespace) -> None:
    """Both folders, by one update of the command."""
    command = [sys.executable, "-c", "import sys; from unspool.cli import main; sys.exit(main())"]
    command += ["train", "language-modeling", "--data", arguments.data, "--validation", arguments.validation]
    command += ["--num-layers", "1", "--embedding-size", "128", "--min-count", "50", "--reset-share", "0.3"]
    command += ["--batch-size", str(arguments.batch_size), "--hidden-size", str(arguments.hidden_size)]
    command += ["--output-dropout", str(arguments.dropout), "--max-steps", "1", "--device", "cuda"]
    running = [
        subprocess.Popen([*command, "--out", str(arguments.out / d), *(["--backward"] if d == "backward" else [])])
        for d in DIRECTIONS
    ]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit("unspool train language-modeling failed")


def report(models: list[CapturedTraining]) -> None:
    """Validates all, and prints a line of each."""
    for model in models:
        values = model.validate()
        print(f"{model.folder.name}, step {model.step}: {json.dumps(values)}", flush=True)


if __name__ == "__main__":
    main()
