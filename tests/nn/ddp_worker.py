"""One of two processes: its half of a batch through an accelerated model under DistributedDataParallel."""

import sys

import torch
from torch import distributed, nn

import unspool


def build_model():
    torch.manual_seed(0)
    model = nn.ModuleDict({"lstm": nn.LSTM(4, 6, 2, bidirectional=True), "out": nn.Linear(12, 3)})
    model.forward = lambda x: model["out"](model["lstm"](x)[0])
    unspool.accelerate(model)
    return model


def whole_batch():
    torch.manual_seed(1)
    return torch.randn(5, 8, 4), torch.randint(3, (5, 8))


def loss(model, x, targets):
    return nn.functional.cross_entropy(model(x).flatten(0, 1), targets.flatten())


if __name__ == "__main__":
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    model = nn.parallel.DistributedDataParallel(build_model())
    x, targets = whole_batch()
    mine = slice(4 * rank, 4 * rank + 4)
    loss(model, x[:, mine], targets[:, mine]).backward()
    if rank == 0:
        torch.save({name: p.grad for name, p in model.module.named_parameters()}, sys.argv[1])
    distributed.destroy_process_group()
