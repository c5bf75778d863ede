"""How far back a cell can learn: the adding problem and copy memory (Arjovsky, Shah & Bengio 2016, arXiv 1511.06464, section 4).

The tasks go back to Hochreiter & Schmidhuber 1997. Copy memory is easier here: two symbols of eight, not ten.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor, nn

from unspool import GRU, LSTM, Elman, MinGRU, Recurrent
from unspool.cells import Cell
from unspool.diagnostics import COLOURS, gradient_flow
from unspool.initializers import forget_bias_, identity_
from unspool_lab.experiment import Experiment, Figure, Result, Row, Say

LAGS = (10, 30, 100)
UNITS, _SEQUENCES, _UPDATES = 64, 32, 1200
_SYMBOLS, _REMEMBERED = 8, 2
_WINDOW = 300  # steps over which the memory horizon is measured


def _elman(input_size: int) -> Cell:
    return Elman(input_size, UNITS)


def irnn(input_size: int) -> Cell:
    """A ReLU RNN that begins from the identity (Le et al. 2015, arXiv 1504.00941)."""
    cell = Elman(input_size, UNITS, activation=torch.relu)
    identity_(cell)
    nn.init.normal_(cell.weight_ih, std=0.1)
    return cell


def _gated(kind: type[LSTM] | type[GRU]) -> Callable[[int], Cell]:
    def build(input_size: int) -> Cell:
        cell = kind(input_size, UNITS)
        forget_bias_(cell, 1.0)
        return cell

    return build


CELLS: dict[str, tuple[Callable[[int], Cell], float]] = {
    "RNN tanh": (_elman, 5e-3),
    "IRNN": (irnn, 1e-3),
    "LSTM": (_gated(LSTM), 5e-3),
    "GRU": (_gated(GRU), 5e-3),
    "linear (minGRU)": (lambda size: MinGRU(size, UNITS), 5e-3),
}
"""How a cell is built for an input size, and Adam's learning rate for it."""


def adding(lag: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """A sequence of `lag` numbers in 0..1, two of them marked, one in each half; the target is the sum of the two."""
    x, rows = torch.rand(lag, _SEQUENCES, 2, generator=generator), torch.arange(_SEQUENCES)
    x[..., 1] = 0
    first = torch.randint(0, lag // 2, (_SEQUENCES,), generator=generator)
    second = torch.randint(lag // 2, lag, (_SEQUENCES,), generator=generator)
    x[first, rows, 1] = x[second, rows, 1] = 1
    return x, x[first, rows, 0] + x[second, rows, 0]


def copy(lag: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Two symbols of eight, `lag` - 1 blanks, then marks; each symbol is asked for `lag` + 2 steps after it."""
    symbols = torch.randint(0, _SYMBOLS, (_REMEMBERED, _SEQUENCES), generator=generator)
    x = torch.zeros(2 * _REMEMBERED + lag, _SEQUENCES, _SYMBOLS + 2)
    x[torch.arange(_REMEMBERED).unsqueeze(1), torch.arange(_SEQUENCES), symbols] = 1
    x[_REMEMBERED : _REMEMBERED + lag - 1, :, _SYMBOLS] = 1
    x[_REMEMBERED + lag - 1 :, :, _SYMBOLS + 1] = 1
    return x, symbols


def _adding_loss(head: nn.Linear, outputs: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    loss = (head(outputs[-1]).squeeze(-1) - wanted).square().mean()
    return loss, float(loss.detach())


def _copy_loss(head: nn.Linear, outputs: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    logits = head(outputs[-_REMEMBERED:])
    wrong = 1 - (logits.argmax(-1) == wanted).double().mean()
    return nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()), float(wrong)


TASKS: dict[str, tuple[Any, Any, int, int, float]] = {
    "adding": (adding, _adding_loss, 2, 1, 0.02),
    "copy": (copy, _copy_loss, _SYMBOLS + 2, _SYMBOLS, 0.05),
}
"""Batches, loss and error, input and output features, and the error below which the task is learned."""


def _train(task: str, cell: str, lag: int, seed: int) -> tuple[bool, float, int, Recurrent]:
    """Whether the task is learned at a lag within the budget, the last mean error, updates, and the layer."""
    batches, measure, input_size, output_size, enough = TASKS[task]
    build, rate = CELLS[cell]
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    layer, head, error = Recurrent(build(input_size)), nn.Linear(UNITS, output_size), 1.0
    parameters = [*layer.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=rate)
    for update in range(_UPDATES):
        x, wanted = batches(lag, generator)
        loss, one = measure(head, layer(x).output, wanted)
        error = 0.95 * error + 0.05 * one
        if error < enough:
            return True, error, update, layer
        optimizer.zero_grad()
        loss.backward()
        if not bool(nn.utils.clip_grad_norm_(parameters, 1.0).isfinite()):
            return False, error, update, layer
        optimizer.step()
    return False, error, _UPDATES, layer


def _horizon(layer: Recurrent, task: str, seed: int) -> int:
    """The memory horizon on sequences of the task that are longer than any lag."""
    batches = TASKS[task][0]
    x, _ = batches(_WINDOW, torch.Generator().manual_seed(seed + 2))
    (flow,), _ = gradient_flow(layer, lambda: layer(x).output[-1].square().sum())
    return flow.memory_horizon if flow.finite else _WINDOW


def _lag_learned(task: str, cell: str, seed: int, say: Say) -> Row:
    torch.manual_seed(seed)
    horizon = _horizon(Recurrent(CELLS[cell][0](TASKS[task][2])), task, seed)
    row: Row = {"task": task, "cell": cell, "lag_learned": 0, "horizon_at_first": horizon, "horizon_after": horizon}
    for lag in LAGS:
        learned, error, updates, layer = _train(task, cell, lag, seed)
        say(
            f"{task}, {cell}, lag {lag}: "
            + (f"learned after {updates} updates" if learned else f"not learned, error {error:.3f}")
        )
        row |= {"last_error": error, "updates": updates}
        if not learned:
            break
        row |= {"lag_learned": lag, "horizon_after": _horizon(layer, task, seed)}
    return row


def run(seed: int, say: Say) -> Result:
    """Each cell at lags 10, 30 and 100, until one is not learned within 1,200 updates."""
    rows = [_lag_learned(task, cell, seed, say) for task in TASKS for cell in CELLS]
    reached = {(r["task"], r["cell"]): int(r["lag_learned"]) for r in rows}  # type: ignore[arg-type]
    gated = max(reached["adding", "LSTM"], reached["adding", "GRU"])
    holds = gated > reached["adding", "RNN tanh"] and reached["copy", "GRU"] >= reached["copy", "RNN tanh"]
    covered = all(int(r["lag_learned"]) <= int(r["horizon_after"]) for r in rows)  # type: ignore[arg-type]
    listed = "; ".join(f"{t}: " + ", ".join(f"{c} {reached[t, c]}" for c in CELLS) for t in TASKS)
    words = (
        f"Largest lag (copy memory: of the symbols; adding: length of the sequence) of {', '.join(map(str, LAGS))} that {_UPDATES} updates of {_SEQUENCES} sequences taught {UNITS} units. "
        f"{listed}. Of the horizons: "
        + (
            "every lag that was learned lies within the horizon after learning: gradients arrive from where the answer was."
            if covered
            else "not every lag that was learned lies within the horizon after learning."
        )
    )

    def paint(figure: Any) -> None:
        for axes, task in zip(figure.subplots(1, 2, sharey=True), TASKS, strict=True):
            own = [r for r in rows if r["task"] == task]
            for shift, (name, key) in enumerate(
                (
                    ("lag learned", "lag_learned"),
                    ("horizon at first", "horizon_at_first"),
                    ("horizon after", "horizon_after"),
                )
            ):
                places = [place + 0.27 * (shift - 1) for place in range(len(own))]
                axes.bar(places, [max(0.5, float(r[key] or 0)) for r in own], 0.25, color=COLOURS[shift], label=name)
            axes.set_xticks(range(len(own)), [str(r["cell"]).replace(" (", "\n(") for r in own], fontsize=8)
            axes.set(yscale="log", title=task, ylim=(0.5, 1.5 * _WINDOW))
        figure.axes[0].set_ylabel("steps")
        figure.axes[1].legend(loc="upper left", bbox_to_anchor=(1, 1))

    what = f"Lag learned, and the memory horizon (steps back from which 1 % of the gradient arrives; at most {_WINDOW - 1})."
    return Result(rows, words, holds, [Figure("Long-range dependencies", what, paint)])


EXPERIMENT = Experiment(
    "long-range",
    "A plain RNN cannot learn dependencies over many steps, since its gradients vanish; gates, the identity or a linear state carry them.",
    run,
)  # fmt: skip
