"""Sequence to sequence: one recurrence reads, another writes, and attention lets the second look at what the first saw.

Sutskever, Vinyals & Le 2014 (arXiv 1409.3215); Bahdanau, Cho & Bengio 2015 (arXiv 1409.0473); Luong, Pham & Manning 2015
(arXiv 1508.04025), whose form (attention after the decoder) lets the decoder read the whole target in one scan.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from unspool.cells import Cell
from unspool.config import require
from unspool.data.batching import IGNORED
from unspool.kernels import linear_cross_entropy
from unspool.layers import Attention, Bidirectional, LockedDropout, Memory, Recurrent, Stack
from unspool.models.language_model import LossOutput
from unspool.search import LinearSoftmax
from unspool.state import map_state
from unspool.types import Float, Int, Tensor

PADDING, UNKNOWN, BEGIN, END = range(4)
"""Numbers that every vocabulary of a translator begins with."""


class PairBatch(NamedTuple):
    """Pairs of sentences side by side.

    Attributes:
        source: [S, B] symbols, an end after each.
        source_lengths: [B] with the end.
        inputs: [T, B] the target after a begin.
        targets: [T, B] the target with its end, or `IGNORED`.
        target_lengths: [B] with the end.
    """

    source: Int[Tensor, "S B"]
    source_lengths: Int[Tensor, " B"]
    inputs: Int[Tensor, "T B"]
    targets: Int[Tensor, "T B"]
    target_lengths: Int[Tensor, " B"]

    def to(self, device: torch.device) -> "PairBatch":
        """The batch on a device."""
        return PairBatch(*(tensor.to(device) for tensor in self))

    def last_step(self) -> "PairBatch":
        """The same batch, of which only each target's end counts."""
        targets = torch.full_like(self.targets, IGNORED)
        rows = torch.arange(targets.shape[1], device=targets.device)
        targets[self.target_lengths - 1, rows] = self.targets[self.target_lengths - 1, rows]
        return self._replace(targets=targets)


class Decoding(NamedTuple):
    """Where a decoder stands.

    stack: the states of its layers.  fed: [B, O] what it handed out last, where it reads that again.
    looked: [B, S] where it looked last.
    """

    stack: Any
    fed: Float[Tensor, "B O"]
    looked: Float[Tensor, "B S"]


class Seq2Seq(nn.Module):
    """p(y | x) = prod_t p(y_t | y_1..y_{t-1}, x).

    ::

        m_1..m_S = bidirectional stack over embedded x;   decoder begins at tanh / linear maps of the encoder's last states
        h_t = stack over embedded y_{t-1}                 with `input_feeding`: over [y_{t-1}; o_{t-1}], one step at a time
        o_t = tanh(W [h_t; attention(h_t, m)])            without attention: tanh(W h_t)
        p(y_t) = softmax(E o_t + b)                       E is the table of target embeddings

    Args:
        source_size, target_size: of the vocabularies.
        build_cell: makes a cell from an input size and a hidden size.
        embedding_size: features of a symbol, and of o.
        hidden_size, num_layers: of the decoder; the encoder's directions have half of it each.
        attention: one of `layers.attention.SCORES`, or ``none``.
        dropout: locked over a sentence, of embeddings, between layers and of o.
        label_smoothing: share of the target's probability that is spread over all symbols (Szegedy et al. 2016).
        input_feeding: o of the step before is read too (Luong et al. 2015, section 3.3).
        teacher_forcing: share of steps in training that read the right symbol, not the model's own guess.
        shared: one table of embeddings for both languages, whose vocabulary is the same.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        build_cell: Callable[[int, int], Cell],
        embedding_size: int = 256,
        hidden_size: int = 512,
        num_layers: int = 1,
        attention: str = "general",
        dropout: float = 0.3,
        label_smoothing: float = 0.1,
        input_feeding: bool = False,
        teacher_forcing: float = 1.0,
        shared: bool = False,
    ):
        super().__init__()
        require(hidden_size % 2 == 0, "hidden_size", hidden_size, "even (each direction reads with half of it)")
        self.target_embedding = _embedding(target_size, embedding_size)
        self.source_embedding = self.target_embedding if shared else _embedding(source_size, embedding_size)
        half, sizes = hidden_size // 2, [embedding_size, *[hidden_size] * (num_layers - 1)]
        self.encoder = Stack([Bidirectional(build_cell(size, half), build_cell(size, half)) for size in sizes], dropout)
        self.input_feeding = input_feeding
        first = embedding_size * (2 if input_feeding else 1)
        self.decoder = Stack([Recurrent(build_cell(size, hidden_size)) for size in [first, *sizes[1:]]], dropout)
        pairs: Any = zip(self.encoder.layers, self.decoder.layers, strict=True)
        self.bridges = nn.ModuleList(_Bridge(below.forward_layer.cell, above.cell) for below, above in pairs)
        self.attention = (
            None if attention == "none" else Attention(attention, self.decoder.output_size, self.encoder.output_size)
        )
        found = self.decoder.output_size + (self.encoder.output_size if self.attention else 0)
        self.combine = nn.Linear(found, embedding_size)
        self.bias = nn.Parameter(torch.zeros(target_size))
        self.dropout = LockedDropout(dropout)
        self.label_smoothing = label_smoothing
        self.teacher_forcing = teacher_forcing

    def initial_state(self, batch_size: int) -> Any:
        """Nothing: pairs stand alone."""
        return ()

    def encode(self, source: Int[Tensor, "S B"], lengths: Int[Tensor, " B"]) -> tuple[Memory | None, Decoding]:
        """What the decoder looks at, if it does, and where it begins."""
        x = self.dropout(self.source_embedding(source))
        outputs, states = self.encoder(x, lengths=lengths)
        stack = tuple(
            bridge(state, layer.initial_state(source.shape[1]))  # type: ignore[operator]
            for bridge, state, layer in zip(self.bridges, states, self.decoder.layers, strict=True)
        )
        memory = self.attention.read(outputs, lengths) if self.attention is not None else None
        fed = outputs.new_zeros(source.shape[1], self.combine.out_features if self.input_feeding else 0)
        looked = outputs.new_zeros(source.shape[1], len(outputs) if memory else 0)
        return memory, Decoding(stack, fed, looked)

    def forward(self, batch: PairBatch) -> Float[Tensor, "T B O"]:
        """o of every step, the target given."""
        memory, start = self.encode(batch.source, batch.source_lengths)
        if self.input_feeding or (self.training and self.teacher_forcing < 1.0):
            return self._one_by_one(batch.inputs, memory, start)
        embedded = self.dropout(self.target_embedding(batch.inputs))
        h = self.decoder(embedded, start.stack, lengths=batch.target_lengths).output
        return self.dropout(self._look(h, memory)[0])

    def _one_by_one(self, inputs: Int[Tensor, "T B"], memory: Memory | None, state: Decoding) -> Float[Tensor, "T B O"]:
        mask = self.dropout(torch.ones_like(self.target_embedding(inputs[0])))
        outputs: list[Tensor] = []
        for t, tokens in enumerate(inputs):
            if t and self.training and self.teacher_forcing < 1.0:
                own = self.logits(outputs[-1].detach()).argmax(-1)
                tokens = torch.where(torch.rand(tokens.shape, device=tokens.device) < self.teacher_forcing, tokens, own)
            output, state = self.advance(self.target_embedding(tokens) * mask, memory, state)
            outputs.append(output)
        return self.dropout(torch.stack(outputs))

    def advance(
        self, embedded: Float[Tensor, "B E"], memory: Memory | None, state: Decoding
    ) -> tuple[Float[Tensor, "B O"], Decoding]:
        """One step of the decoder; rows may be several hypotheses of each sentence of the memory, side by side."""
        x = torch.cat([embedded, state.fed], -1) if self.input_feeding else embedded
        (h,), stack = self.decoder(x.unsqueeze(0), state.stack)
        sentences = len(memory.values) if memory else len(h)
        queries = h.view(sentences, -1, h.shape[-1]).transpose(0, 1)  # hypotheses in the place of time
        found, looked = self._look(queries, memory)
        output = found.transpose(0, 1).reshape(len(h), -1)
        looked = looked.transpose(0, 1).reshape(len(h), -1)
        return output, Decoding(stack, output if self.input_feeding else state.fed, looked)

    def _look(
        self, h: Float[Tensor, "T B H"], memory: Memory | None
    ) -> tuple[Float[Tensor, "T B O"], Float[Tensor, "T B S"]]:
        if self.attention is None or memory is None:
            return torch.tanh(self.combine(h)).to(h.dtype), h.new_zeros(*h.shape[:2], 0)
        queries = h.to(memory.keys.dtype)
        found = self.attention(queries, memory)
        # sentence by sentence, as the memory lies
        both = torch.cat([queries.transpose(0, 1), found.context.transpose(0, 1)], -1)
        return torch.tanh(self.combine(both)).to(h.dtype).transpose(0, 1), found.weights

    def logits(self, outputs: Float[Tensor, "*N O"]) -> Float[Tensor, "*N V"]:
        """Unnormalized log-probabilities of every target symbol."""
        return nn.functional.linear(outputs, self.target_embedding.weight, self.bias)

    def loss(self, batch: PairBatch, state: Any = None) -> LossOutput:
        """Cross-entropy of the targets in nats; what label smoothing adds is a penalty of training."""
        outputs, targets = self(batch).flatten(0, 1), batch.targets.flatten()
        weight = self.target_embedding.weight
        narrow = torch.is_autocast_enabled(outputs.device.type)
        nats = linear_cross_entropy(outputs, weight, self.bias, targets, IGNORED, narrow)
        known = targets != IGNORED
        count = int(known.sum())
        penalty = nats.new_zeros(())
        if self.training and self.label_smoothing:
            # -log p(y) + log p(y) of the smoothed target is the gap between y's logit and the mean one
            rows, wanted = outputs[known], targets[known]
            own = (rows * weight[wanted]).sum(-1) + self.bias[wanted]
            mean = rows @ weight.mean(0) + self.bias.mean()
            penalty = self.label_smoothing * (own - mean).sum() / max(1, count)
        return LossOutput(nats, count, (), penalty)


class Translating:
    """A translator at work on some sentences: what `unspool.search.beam_search` takes steps with."""

    def __init__(self, model: Seq2Seq, source: Int[Tensor, "S B"], lengths: Int[Tensor, " B"]):
        self.model = model
        self.memory, self.start = model.encode(source, lengths)
        self.sentences = torch.arange(len(lengths), device=lengths.device)  # of each row

    def step(self, tokens: Int[Tensor, " N"], state: Decoding) -> tuple[LinearSoftmax, Decoding]:
        """What may come next in every row."""
        output, state = self.model.advance(self.model.target_embedding(tokens), self.memory, state)
        return LinearSoftmax(output, self.model.target_embedding.weight, self.model.bias), state

    def select(self, state: Decoding, rows: Int[Tensor, " M"]) -> Decoding:
        """The state of some rows; sentences of which no row is left are let go of."""
        sentences = self.sentences[rows]
        kept = sentences.unique_consecutive()
        if self.memory and len(kept) < len(self.memory.values):
            self.memory = Memory(*(tensor[kept] for tensor in self.memory))
        self.sentences = torch.searchsorted(kept, sentences)
        return map_state(lambda tensor: tensor.index_select(0, rows), state)

    def attention(self, state: Decoding) -> Float[Tensor, "N S"] | None:
        """Where each row looked in its last step."""
        return state.looked if self.model.attention is not None else None


class _Bridge(nn.Module):
    """The first state of a decoder's layer from the last ones of the encoder's layer: h and c mapped, all else as ever."""

    def __init__(self, reading: Cell, writing: Cell):
        super().__init__()
        fields = writing.state_type._fields
        self.mapped = ("h", "c") if fields == ("h", "c") else ("h",)
        sizes = zip(fields, reading.state_sizes, writing.state_sizes, strict=True)
        self.maps = nn.ModuleDict({name: nn.Linear(2 * a, b) for name, a, b in sizes if name in self.mapped})

    def forward(self, state: tuple[Any, Any], initial: Any) -> Any:
        found = {}
        for name in self.mapped:
            last = torch.cat([getattr(side, name) for side in state], -1)
            found[name] = self.maps[name](last).to(last.dtype)
        return initial._replace(**{name: torch.tanh(value) if name == "h" else value for name, value in found.items()})


def _embedding(count: int, size: int) -> nn.Embedding:
    table = nn.Embedding(count, size, padding_idx=PADDING)
    nn.init.normal_(table.weight, std=size**-0.5)
    return table
