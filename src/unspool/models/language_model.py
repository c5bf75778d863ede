"""A recurrent language model: embedding, stack, softmax, with the regularization of AWD-LSTM (Merity et al. 2017)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from unspool.data.batching import IGNORED, StreamBatch
from unspool.kernels import linear_cross_entropy
from unspool.layers import LockedDropout, Stack, embed_with_dropout, weight_drop
from unspool.types import Float, Int, Tensor


@dataclass(frozen=True)
class LossOutput:
    """A loss to be summed over batches.

    sum: nats over all positions that count.  count: how many.  state: to be handed to the next batch.
    penalty: what regularization adds to the mean loss in training, zero in evaluation.
    """

    sum: Float[Tensor, ""]
    count: int
    state: Any
    penalty: Float[Tensor, ""]


class LanguageModel(nn.Module):
    """p(token_t | all tokens before), with the state of the past carried in a stack of recurrent layers.

    ::

        e_t = dropout(embedding[token_t]);  y_t = stack(e_t);  logits_t = W y_t + b

    Args:
        vocabulary_size: V.
        stack: reads `embedding_size` features.
        tied: W is the embedding's table; a linear map without bias comes between where sizes differ.
        input_dropout: of embedded features, locked over time.
        output_dropout: of the stack's outputs, locked over time.
        embedding_dropout: of whole symbols.
        recurrent_weight_drop: of the entries of every weight_hh.
        activation_penalty: alpha of AR, times the mean square of the dropped output (section 4.4).
        slowness_penalty: beta of TAR, times the mean square of the output's change per step (section 4.4).
    """

    def __init__(
        self,
        vocabulary_size: int,
        stack: Stack,
        tied: bool = True,
        input_dropout: float = 0.0,
        output_dropout: float = 0.0,
        embedding_dropout: float = 0.0,
        recurrent_weight_drop: float = 0.0,
        activation_penalty: float = 0.0,
        slowness_penalty: float = 0.0,
    ):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary_size, stack.input_size)
        self.stack = stack
        between = tied and stack.output_size != stack.input_size
        self.bridge = nn.Linear(stack.output_size, stack.input_size, bias=False) if between else nn.Identity()
        self.softmax = nn.Linear(stack.input_size if tied else stack.output_size, vocabulary_size)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.softmax.bias)
        if tied:
            self.softmax.weight = self.embedding.weight
        self.input_dropout, self.output_dropout = LockedDropout(input_dropout), LockedDropout(output_dropout)
        self.embedding_dropout = embedding_dropout
        self.activation_penalty, self.slowness_penalty = activation_penalty, slowness_penalty
        if recurrent_weight_drop:
            weight_drop(stack, recurrent_weight_drop)

    def initial_state(self, batch_size: int) -> Any:
        """The state before any token."""
        return self.stack.initial_state(batch_size)

    def forward(self, tokens: Int[Tensor, "T B"], state: Any = None) -> tuple[Float[Tensor, "T B V"], Any]:
        """Logits of the token after each step, and the state after the last."""
        outputs, state = self.stack(self.input_dropout(self.embed(tokens)), state)
        return self.logits(self.output_dropout(outputs)), state

    def step(self, tokens: Int[Tensor, " B"], state: Any) -> tuple[Float[Tensor, "B V"], Any]:
        """Logits of the next token after one more has been read."""
        output, state = self.stack.step(self.input_dropout(self.embed(tokens)), state)
        return self.logits(self.output_dropout(output)), state

    def loss(self, batch: StreamBatch, state: Any = None) -> LossOutput:
        """Cross-entropy of a batch, in nats."""
        embedded = self.input_dropout(self.embed(batch.inputs))
        outputs, state = self.stack(embedded, state, reset=batch.reset)
        dropped = self.output_dropout(outputs)
        nats = linear_cross_entropy(
            self.bridge(dropped).to(outputs.dtype).flatten(0, 1),
            self.softmax.weight,
            self.softmax.bias,
            batch.targets.flatten(),
            ignore_index=IGNORED,
            narrow=torch.is_autocast_enabled(outputs.device.type),
        )
        penalty = nats.new_zeros(())
        if self.training and self.activation_penalty:
            penalty = penalty + self.activation_penalty * dropped.square().mean()
        if self.training and self.slowness_penalty and len(outputs) > 1:
            penalty = penalty + self.slowness_penalty * (outputs[1:] - outputs[:-1]).square().mean()
        return LossOutput(nats, int((batch.targets != IGNORED).sum()), state, penalty)

    def embed(self, tokens: Int[Tensor, "*N"]) -> Float[Tensor, "*N E"]:
        """The embedding of each token, with dropout of symbols in training."""
        return embed_with_dropout(self.embedding, tokens, self.embedding_dropout, self.training)

    def logits(self, outputs: Float[Tensor, "*N O"]) -> Float[Tensor, "*N V"]:
        """Unnormalized log-probabilities of every symbol."""
        return self.softmax(self.bridge(outputs))
