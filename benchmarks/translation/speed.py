"""Translation with beam search, beside an encoder-decoder and a beam search of plain PyTorch with the same weights.

    python benchmarks/translation/speed.py MODEL test.en [--threads 1 2] [--out result.json]

MODEL is a folder of a trained translator whose cell is lstm or gru, with general attention. The peer is `nn.LSTM` (or
`nn.GRU`) over packed sources, `nn.LSTM` for one step of the decoder, and a batched beam search of tensor operations:
log-softmax, topk over the hypotheses of a sentence, the state reordered by `index_select`; the encoder's output is repeated
for the hypotheses, and finished sentences leave the batch, as in OpenNMT-py and JoeyNMT. A sentence is finished by the same
rule as ours (as many ended hypotheses as the beam has places, or none that grows can win), so both take the same steps. Both
translate the same batches, sorted by length; the peer a second time one sentence after the other, as in PyTorch's
tutorials. That the translations are the same is counted. Tokenizing is outside. All contenders in turn in one process.
"""

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import unspool
from unspool.files import read_lines
from unspool.models.seq2seq import BEGIN, END, Seq2Seq
from unspool.search import Beam
from unspool_benchmarks.machine import describe_machine
from unspool_benchmarks.timing import ratio_spread


class Peer(nn.Module):
    """The network of `Seq2Seq` with one layer and general attention, in modules of `torch.nn`, with its weights."""

    def __init__(self, model: Seq2Seq, cell: str):
        super().__init__()
        encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
        size, hidden = decoder.cell.input_size, decoder.cell.hidden_size
        layer = getattr(nn, cell.upper())
        self.encoder, self.decoder = layer(size, hidden // 2, bidirectional=True), layer(size, hidden)
        for suffix, own in (("", encoder.forward_layer.cell), ("_reverse", encoder.backward_layer.cell)):
            for name, value in own.named_parameters():
                getattr(self.encoder, f"{name}_l0{suffix}").data.copy_(value)
        for name, value in decoder.cell.named_parameters():
            getattr(self.decoder, f"{name}_l0").data.copy_(value)
        self.source, self.target = model.source_embedding, model.target_embedding
        self.bridges = model.bridges[0].maps
        self.keys, self.combine, self.output = model.attention.key_map, model.combine, model.bias
        self.has_cell = cell == "lstm"

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Any]:
        packed = pack_padded_sequence(self.source(source), lengths, enforce_sorted=False)
        memory, last = self.encoder(packed)
        memory = pad_packed_sequence(memory)[0].transpose(0, 1)
        parts = last if self.has_cell else (last,)
        state = [self.bridges[name](torch.cat([part[0], part[1]], -1)) for name, part in zip("hc", parts, strict=False)]
        state[0] = torch.tanh(state[0])
        outside = torch.arange(memory.shape[1]) >= lengths.unsqueeze(1)
        return memory, self.keys(memory), outside, [part.unsqueeze(0) for part in state]

    def step(self, tokens: Tensor, memory: Tensor, keys: Tensor, outside: Tensor, state: Any) -> tuple[Tensor, Any]:
        given = tuple(state) if self.has_cell else state[0]
        h, new = self.decoder(self.target(tokens).unsqueeze(0), given)
        queries = h.transpose(0, 1)
        scores = torch.bmm(queries, keys.transpose(1, 2)).masked_fill(outside.unsqueeze(1), -torch.inf)
        context = torch.bmm(scores.softmax(-1), memory)
        found = torch.tanh(self.combine(torch.cat([queries, context], -1))).squeeze(1)
        return nn.functional.linear(found, self.target.weight, self.output), list(new) if self.has_cell else [new]


@torch.no_grad()
def peer_search(
    peer: Peer, source: Tensor, lengths: Tensor, size: int, alpha: float, forbidden: list[int]
) -> list[list[int]]:
    """The best hypothesis of each sentence; stops for a sentence when no growing one can be ranked before it."""
    memory, keys, outside, state = peer.encode(source, lengths)
    state = [part.repeat_interleave(size, 1) for part in state]
    memory, keys, outside = (part.repeat_interleave(size, 0) for part in (memory, keys, outside))
    active, limits = list(range(len(lengths))), 2 * lengths + 10
    best: list[tuple[float, list[int]]] = [(-float("inf"), [])] * len(lengths)
    totals = torch.full((len(lengths), size), -torch.inf)
    totals[:, 0] = 0.0
    num_ended = [0] * len(lengths)
    tokens = torch.zeros(len(lengths), size, 0, dtype=torch.long)
    last = torch.full((len(lengths) * size,), BEGIN)
    while active:
        logits, state = peer.step(last, memory, keys, outside, state)
        chances = logits.log_softmax(-1)
        chances[:, forbidden] = -torch.inf
        length = tokens.shape[-1] + 1
        symbols = chances.shape[-1]
        ways = (totals.unsqueeze(-1) + chances.view(len(active), size, -1)).flatten(1)
        values, places = ways.topk(2 * size)
        parents, symbol = places // symbols, places % symbols
        ended = symbol == END
        scale = ((5.0 + length) / 6.0) ** alpha
        for row, way in ended[:, :size].nonzero().tolist():
            if values[row, way] == -torch.inf:
                continue
            score = values[row, way].item() / scale
            num_ended[active[row]] += 1
            if score > best[active[row]][0]:
                best[active[row]] = score, tokens[row, parents[row, way]].tolist()
        totals, kept = values.masked_fill(ended, -torch.inf).topk(size)
        parents, symbol = parents.gather(1, kept), symbol.gather(1, kept)
        bound = totals[:, 0] / ((5.0 + limits + 1) / 6.0) ** alpha
        going = [
            row
            for row, most in enumerate(bound.tolist())
            if best[active[row]][0] < most and num_ended[active[row]] < size and length <= limits[row]
        ]
        alive = torch.tensor(going, dtype=torch.long)
        parents, symbol, totals, limits = parents[alive], symbol[alive], totals[alive], limits[alive]
        tokens = torch.cat([tokens[alive.unsqueeze(1), parents], symbol.unsqueeze(-1)], -1)
        if len(going) < len(active):
            kept = (alive.unsqueeze(1) * size + torch.arange(size)).flatten()
            memory, keys, outside = memory[kept], keys[kept], outside[kept]
        active = [active[row] for row in going]
        rows = (alive.unsqueeze(1) * size + parents).flatten()
        state = [part.index_select(1, rows) for part in state]
        last = symbol.flatten()
    return [tokens for _, tokens in best]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of a trained translator")
    parser.add_argument("data", help="sentences, one a line")
    parser.add_argument("--beam-size", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, help="where to write the JSON document")
    options = parser.parse_args()
    ours = unspool.load(options.model)
    task, beam = ours.task, Beam(options.beam_size)
    encoded = [task.source.encode(line) for line in read_lines(options.data)]
    peer = Peer(ours.model, task.model.cell).eval()
    batches = task.batches(encoded)
    found: dict[str, dict[int, list[int]]] = {"unspool": {}, "plain PyTorch": {}}

    def rounded() -> None:
        for _, source, lengths in batches:
            task.search(ours.model, source, lengths, replace(beam, precision="bfloat16"))

    def own() -> None:
        for rows, source, lengths in batches:
            hypotheses = task.search(ours.model, source, lengths, beam)
            found["unspool"].update((row, best[0].tokens) for row, best in zip(rows, hypotheses, strict=True))

    def other() -> None:
        for rows, source, lengths in batches:
            best = peer_search(peer, source, lengths, beam.size, beam.length_penalty, task.target.never)
            found["plain PyTorch"].update(zip(rows, best, strict=True))

    def one_by_one() -> None:
        for _, source, lengths in batches:
            for b, length in enumerate(lengths.tolist()):
                peer_search(
                    peer,
                    source[:length, b : b + 1],
                    lengths[b : b + 1],
                    beam.size,
                    beam.length_penalty,
                    task.target.never,
                )

    contenders = {
        "unspool": own,
        "unspool, bfloat16": rounded,
        "plain PyTorch": other,
        "plain PyTorch, one by one": one_by_one,
    }
    result: dict[str, Any] = {
        "versions": {name: version(name) for name in ("torch", "unspool")} | {"python": platform.python_version()},
        "machine": describe_machine(),
        "cell": task.model.cell,
        "parameters": sum(p.numel() for p in ours.model.parameters()),
        "beam_size": beam.size,
        "sentences": len(encoded),
        "threads": {},
    }
    for threads in options.threads:
        torch.set_num_threads(threads)
        seconds: dict[str, list[float]] = {name: [] for name in contenders}
        for turn in range(options.rounds + 1):  # the first warms up
            for name in list(contenders)[:: 1 if turn % 2 else -1]:
                begin = time.perf_counter()
                contenders[name]()
                if turn:
                    seconds[name].append(time.perf_counter() - begin)
        pairs = [(own, peer) for own in list(contenders)[:2] for peer in list(contenders)[2:]]
        ratios = {f"{own} to {peer}": ratio_spread(seconds[peer], seconds[own]) for own, peer in pairs}
        speeds = {name: len(encoded) / statistics.median(taken) for name, taken in seconds.items()}
        result["threads"][threads] = {
            "sentences_per_second": speeds,
            "speed_up": {name: ratio._asdict() for name, ratio in ratios.items()},
        }
        for name, speed in speeds.items():
            print(f"{threads} threads: {name:26s} {speed:8.1f} sentences/s")
        for name, ratio in ratios.items():
            print(
                f"{threads} threads: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}) times as fast as {name}"
            )
    alike = [row for row in found["unspool"] if found["unspool"][row] == found["plain PyTorch"][row]]
    result["same_translation"] = len(alike) / len(encoded)
    print(f"{result['same_translation']:.1%} of the translations are the same")
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
