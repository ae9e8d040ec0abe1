"""Times small programs written for torch.nn, before and after the import is changed to seqkit.nn; prints a table.

    python scripts/bench/clients.py                   # about 3 minutes
    python scripts/bench/clients.py --clock cpu       # on a machine that others use

Each program is a few lines, as people write them, and knows nothing of seqkit: it takes the modules from the namespace
that it is given, torch.nn or seqkit.nn. Both sides start from the same weights and must come to the same loss before
anything is timed; they run in turn. Printed: milliseconds of an update, and torch / ours, above 1 where ours is faster.

language model      embedding, two layers with dropout, softmax; T 35, B 20, the state carried over
cells in a loop     two cells in double precision, a step at a time, as the sine-wave examples have it
step by step        a decoder with attention that calls its module once for each token, teacher forced
packed tagger       a packed bidirectional network under the scores of 20 tags
policy              a recurrent policy: 8 environments, 64 steps, each a call without gradient; then one update
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import seqkit.nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import geometric, goal, parser_for, ratio, seconds, setting, take_turns, write

KINDS = ("LSTM", "GRU", "RNN")
LEAST, MEAN = 0.97, 1.15
"""Goals: of every program, and of the geometric mean."""


def detached(state: Any) -> Any:
    """Return the state, a tensor or a tuple of two, without its history."""
    return state.detach() if isinstance(state, Tensor) else tuple(part.detach() for part in state)


class LanguageModel(nn.Module):
    """A word language model."""

    def __init__(self, space: Any, kind: str) -> None:
        super().__init__()
        self.embedding, self.scores = nn.Embedding(2000, 200), nn.Linear(200, 2000)
        self.rnn = getattr(space, kind)(200, 200, 2)
        self.ids, self.state = torch.randint(0, 2000, (36, 20)), None

    def forward(self) -> Tensor:
        state = None if self.state is None else detached(self.state)
        output, self.state = self.rnn(self.embedding(self.ids[:-1]), state)
        return F.cross_entropy(self.scores(output).flatten(0, 1), self.ids[1:].flatten())


class SineWave(nn.Module):
    """Two cells, called in a loop over time."""

    def __init__(self, space: Any, kind: str) -> None:
        super().__init__()
        cell = getattr(space, f"{kind}Cell")
        self.first, self.second, self.linear = cell(1, 51), cell(51, 51), nn.Linear(51, 1)
        self.double()
        self.wave = torch.sin(torch.arange(100, dtype=torch.float64) / 20 + torch.rand(16, 1, dtype=torch.float64) * 6)

    def forward(self) -> Tensor:
        first = second = None
        outputs = []
        for value in self.wave[:, :-1].split(1, dim=1):
            first = self.first(value, first)
            second = self.second(first[0] if isinstance(first, tuple) else first, second)
            outputs.append(self.linear(second[0] if isinstance(second, tuple) else second))
        return F.mse_loss(torch.cat(outputs, 1), self.wave[:, 1:])


class StepByStep(nn.Module):
    """A translator whose decoder calls its module with one token."""

    def __init__(self, space: Any, kind: str) -> None:
        super().__init__()
        self.source, self.target = torch.randint(0, 1000, (12, 32)), torch.randint(0, 1000, (13, 32))
        self.read, self.write = nn.Embedding(1000, 128), nn.Embedding(1000, 128)
        self.encoder = getattr(space, kind)(128, 128)
        self.decoder = getattr(space, kind)(256, 128)
        self.scores = nn.Linear(256, 1000)

    def forward(self) -> Tensor:
        memory, state = self.encoder(self.read(self.source))
        losses: Any = 0.0
        for step in range(12):
            query = (state if isinstance(state, Tensor) else state[0])[-1]
            weights = torch.softmax(torch.einsum("bh,sbh->bs", query, memory), 1)
            context = torch.einsum("bs,sbh->bh", weights, memory)
            output, state = self.decoder(torch.cat([self.write(self.target[step]), context], 1).unsqueeze(0), state)
            losses = losses + F.cross_entropy(self.scores(torch.cat([output[0], context], 1)), self.target[step + 1])
        return losses / 12


class PackedTagger(nn.Module):
    """A bidirectional tagger on packed sentences."""

    def __init__(self, space: Any, kind: str) -> None:
        super().__init__()
        self.lengths = torch.randint(5, 31, (32,)).sort(descending=True).values
        self.ids, self.tags = torch.randint(0, 3000, (32, 30)), torch.randint(0, 20, (32, 30))
        self.embedding, self.scores = nn.Embedding(3000, 100), nn.Linear(256, 20)
        self.rnn = getattr(space, kind)(100, 128, bidirectional=True, batch_first=True)

    def forward(self) -> Tensor:
        packed = pack_padded_sequence(self.embedding(self.ids), self.lengths, batch_first=True)
        output, _ = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)
        valid = torch.arange(output.size(1)) < self.lengths.unsqueeze(1)
        return F.cross_entropy(self.scores(output)[valid], self.tags[:, : output.size(1)][valid])


class Policy(nn.Module):
    """A policy that acts step by step without gradient and then learns from the whole."""

    def __init__(self, space: Any, kind: str) -> None:
        super().__init__()
        self.seen, self.rewards = torch.randn(64, 8, 16), torch.randn(64, 8)
        self.rnn, self.actor = getattr(space, kind)(16, 64), nn.Linear(64, 4)

    def forward(self) -> Tensor:
        state, actions = None, []
        with torch.no_grad():
            for step in range(64):
                output, state = self.rnn(self.seen[step : step + 1], state)
                actions.append(self.actor(output).argmax(-1))
        output, _ = self.rnn(self.seen)
        chosen = torch.log_softmax(self.actor(output), -1).gather(-1, torch.cat(actions).unsqueeze(-1)).squeeze(-1)
        return -(chosen * self.rewards).mean()


PROGRAMS: dict[str, Callable[[Any, str], nn.Module]] = {
    "language model": LanguageModel,
    "cells in a loop": SineWave,
    "step by step": StepByStep,
    "packed tagger": PackedTagger,
    "policy": Policy,
}


def update(program: nn.Module, optimiser: torch.optim.Optimizer) -> float:
    """Make one update and return the loss."""
    optimiser.zero_grad()
    loss = program()
    loss.backward()
    optimiser.step()
    return loss.item()


def sides(make: Callable[[Any, str], nn.Module], kind: str) -> dict[str, Callable[[], float]]:
    """Return an update of each side, from the same weights and data, after checking that their losses agree."""
    updates, losses = {}, {}
    for name, space in (("torch", nn), ("ours", seqkit.nn)):
        torch.manual_seed(0)
        program = make(space, kind)
        for number, (_, value) in enumerate(sorted(program.named_parameters())):
            value.data.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(number))
        optimiser = torch.optim.SGD(program.parameters(), lr=0.1)
        losses[name] = [update(program, optimiser) for _ in range(3)]
        updates[name] = lambda program=program, optimiser=optimiser: update(program, optimiser)
    apart = max(abs(one - other) / abs(one) for one, other in zip(losses["torch"], losses["ours"], strict=True))
    if apart > 1e-4:
        raise SystemExit(f"the losses of the two sides differ: {losses}")
    return updates


def main() -> None:
    parser = parser_for(__doc__, rounds=41, clock=True)
    args = parser.parse_args()
    about = setting(args)
    rows, ratios = [], []
    print(f"{'program':18}{'kind':6}{'torch':>9}{'ours':>9}{'torch/ours':>12}")
    for name, make in PROGRAMS.items():
        for kind in KINDS:
            runs = {side: (lambda run=run: seconds(run, clock=args.clock)) for side, run in sides(make, kind).items()}
            times = take_turns(runs, args.rounds, warmup=3, budget=12, least=9)
            theirs, ours = (1e3 * sorted(times[side])[len(times[side]) // 2] for side in ("torch", "ours"))
            ratios.append(ratio(times["torch"], times["ours"]))
            rows.append({"program": name, "kind": kind, "torch": theirs, "ours": ours, "ratio": ratios[-1]})
            print(f"{name:18}{kind:6}{theirs:9.2f}{ours:9.2f}{ratios[-1]:12.2f}", flush=True)
    goals = [goal("the slowest program", min(ratios), LEAST), goal("geometric mean", geometric(ratios), MEAN)]
    write(args, about, rows, goals)


if __name__ == "__main__":
    main()
