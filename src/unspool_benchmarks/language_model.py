"""A word language model's whole training step: 200 embedded features, two LSTM layers of 200, 10,000 tied words."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

import unspool
from unspool.data import StreamBatch
from unspool.models import LanguageModel
from unspool_benchmarks.case import OURS, Case, Context, Plan, Size, plan
from unspool_benchmarks.floors import LayerShape, layer_floor
from unspool_benchmarks.streaming import layer_weights
from unspool_benchmarks.training_step import TrainingStep

SIZE = Size(35, 20, 200)
_VOCABULARY_SIZE = 10_000
_NUM_LAYERS = 2


class TorchLanguageModel(nn.Module):
    """The same model as one writes it with torch.nn."""

    def __init__(self, vocabulary_size: int, hidden_size: int):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, _NUM_LAYERS)
        self.softmax = nn.Linear(hidden_size, vocabulary_size)
        self.softmax.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy."""
        outputs, _ = self.lstm(self.embedding(inputs))
        return nn.functional.cross_entropy(self.softmax(outputs).flatten(0, 1), targets.flatten())


def language_model(context: Context) -> Iterator[Plan]:
    """Forward, loss, backward, clipping and SGD, in fp32 and under bf16 autocast."""
    for size in context.sizes or [SIZE]:
        vocabulary_size = _VOCABULARY_SIZE if not context.sizes else min(_VOCABULARY_SIZE, 50 * size.hidden_size)
        for bf16 in (False, True):
            name = f"LSTM {size} {'bf16' if bf16 else 'fp32'}"
            yield plan(name, partial(language_model_case, size, vocabulary_size, bf16, context))


def language_model_case(size: Size, vocabulary_size: int, bf16: bool, context: Context) -> Case:
    """One size in one type."""
    torch.manual_seed(0)
    T, B, H = size
    tokens = torch.randint(vocabulary_size, (T + 1, B))
    inputs, targets = tokens[:-1].contiguous(), tokens[1:].contiguous()
    plain = TorchLanguageModel(vocabulary_size, H)
    theirs = TrainingStep(lambda: plain(inputs, targets), _torch_parameters(plain), bf16)
    exact = TrainingStep(theirs.loss, theirs.parameters).numbers()  # at the weights of now: steps change them
    floor = _NUM_LAYERS * layer_floor(LayerShape(T, B, H, H, 4), context.limits, training=True, bf16=bf16)
    floor += 3 * 2.0 * T * B * H * vocabulary_size / context.limits.peak(bf16)
    return Case(
        settings={"T": T, "B": B, "H": H, "layers": _NUM_LAYERS, "V": vocabulary_size, "dtype": _dtype(bf16)},
        contenders=[_our_step(plain, inputs, targets, bf16).contender(OURS), theirs.contender("torch")],
        reference=lambda: exact,
        floor_seconds=floor,
    )


def _our_step(plain: TorchLanguageModel, inputs: Tensor, targets: Tensor, bf16: bool) -> TrainingStep:
    H = plain.lstm.hidden_size
    model = LanguageModel(plain.embedding.num_embeddings, unspool.stack_cells(unspool.LSTM, H, H, _NUM_LAYERS))
    model.embedding.load_state_dict(plain.embedding.state_dict())
    model.softmax.load_state_dict(plain.softmax.state_dict())
    parameters: dict[str, Tensor] = {"embedding": model.embedding.weight, "softmax_bias": model.softmax.bias}
    for number in range(_NUM_LAYERS):
        cell = model.stack.layers[number].cell
        cell.load_state_dict(layer_weights(plain.lstm, number))  # type: ignore[union-attr, operator]
        parameters |= {f"{name}_l{number}": value for name, value in cell.named_parameters()}  # type: ignore[union-attr, operator]
    batch = StreamBatch(inputs, targets)

    def loss() -> Tensor:
        output = model.loss(batch)
        return output.sum / output.count

    return TrainingStep(loss, parameters, bf16)


def _torch_parameters(model: TorchLanguageModel) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {"embedding": model.embedding.weight, "softmax_bias": model.softmax.bias}
    return {**named, **dict(model.lstm.named_parameters())}


def _dtype(bf16: bool) -> str:
    return "bf16" if bf16 else "fp32"
