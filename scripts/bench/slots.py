"""Times the CRF of seqkit.nn against two others, loss with its gradient and Viterbi; prints a table.

    python scripts/bench/slots.py                 # about 2 minutes
    python scripts/bench/slots.py --device cuda

The size is that of SNIPS: 32 sentences of 10 to T tokens, 72 tags. All three have the same scores, and agree in loss,
gradient and tags before anything is timed; they run in turn, and medians are printed.

loop      a loop over tokens and tags in Python, as in the tutorials, but for the whole batch at once
matrix    a loop over tokens, K x K logarithms at once, under autograd, as the usual libraries do it
ours      seqkit.nn.CRF
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from seqkit.nn import CRF

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import in_turn, parser_for, setting, write

BATCH, TAGS, SHORTEST = 32, 72, 10
LONGEST = (10, 20, 30)


class Case:
    """A batch with its scores.

    Args:
        steps: T, tokens of the longest sentence.
        device: cpu or cuda.
    """

    def __init__(self, steps: int, device: str) -> None:
        torch.manual_seed(0)
        self.lengths = torch.randint(SHORTEST, steps + 1, (BATCH,), device=device)
        self.lengths[0] = steps
        self.emissions = torch.randn(BATCH, steps, TAGS, device=device, requires_grad=True)
        self.tags = torch.randint(0, TAGS, (BATCH, steps), device=device)
        self.crf = CRF(TAGS, device=device)
        with torch.no_grad():
            for value in self.crf.parameters():
                value.normal_()

    def valid(self, step: int) -> Tensor:
        """(B, 1) which sentences have a token there."""
        return (step < self.lengths).unsqueeze(1)

    def loop_total(self) -> Tensor:
        """The log partition (B,), a tag at a time."""
        crf, alpha = self.crf, self.crf.start + self.emissions[:, 0]
        for step in range(1, self.emissions.size(1)):
            columns = []
            for tag in range(TAGS):
                score = alpha + crf.transitions[:, tag] + self.emissions[:, step, tag : tag + 1]
                columns.append(torch.logsumexp(score, 1))
            alpha = torch.where(self.valid(step), torch.stack(columns, 1), alpha)
        return torch.logsumexp(alpha + crf.end, 1)

    def matrix_total(self) -> Tensor:
        """The same, all tags at a time."""
        crf, alpha = self.crf, self.crf.start + self.emissions[:, 0]
        for step in range(1, self.emissions.size(1)):
            score = alpha.unsqueeze(2) + crf.transitions + self.emissions[:, step].unsqueeze(1)
            alpha = torch.where(self.valid(step), torch.logsumexp(score, 1), alpha)
        return torch.logsumexp(alpha + crf.end, 1)

    def learn(self, total: Callable[[], Tensor]) -> tuple[Tensor, ...]:
        """Loss and its gradients, by a way to compute the log partition."""
        leaves = [self.emissions, *self.crf.parameters()]
        loss = (total() - self.crf.score(self.emissions, self.tags, self.lengths)).sum()
        return (loss.detach(), *torch.autograd.grad(loss, leaves))

    def follow_back(self, score: Tensor, pointers: list[Tensor]) -> list[list[int]]:
        """The best tags of each sentence, sentence by sentence."""
        last = (score + self.crf.end).argmax(1).tolist()
        found = []
        for row, length in enumerate(self.lengths.tolist()):
            path = [last[row]]
            for step in range(length - 2, -1, -1):
                path.append(int(pointers[step][row, path[-1]]))
            found.append(path[::-1])
        return found

    @torch.no_grad()
    def loop_viterbi(self) -> list[list[int]]:
        """The best tags, a tag at a time."""
        crf, score, pointers = self.crf, self.crf.start + self.emissions[:, 0], []
        for step in range(1, self.emissions.size(1)):
            best = [(score + crf.transitions[:, tag]).max(1) for tag in range(TAGS)]
            moved = torch.stack([one.values for one in best], 1) + self.emissions[:, step]
            pointers.append(torch.stack([one.indices for one in best], 1))
            score = torch.where(self.valid(step), moved, score)
        return self.follow_back(score, pointers)

    @torch.no_grad()
    def matrix_viterbi(self) -> list[list[int]]:
        """The same, all tags at a time."""
        crf, score, pointers = self.crf, self.crf.start + self.emissions[:, 0], []
        for step in range(1, self.emissions.size(1)):
            best = (score.unsqueeze(2) + crf.transitions).max(1)
            pointers.append(best.indices)
            score = torch.where(self.valid(step), best.values + self.emissions[:, step], score)
        return self.follow_back(score, pointers)

    def viterbi(self) -> list[list[int]]:
        """The same by seqkit."""
        tags, _ = self.crf.decode(self.emissions, self.lengths)
        return [row[:length] for row, length in zip(tags.tolist(), self.lengths.tolist(), strict=True)]

    def candidates(self) -> dict[str, dict[str, Callable[[], Any]]]:
        """What is timed, by kind and name."""
        return {
            "loss": {
                "loop": lambda: self.learn(self.loop_total),
                "matrix": lambda: self.learn(self.matrix_total),
                "ours": lambda: self.learn(lambda: self.crf.log_partition(self.emissions, self.lengths)),
            },
            "viterbi": {"loop": self.loop_viterbi, "matrix": self.matrix_viterbi, "ours": self.viterbi},
        }

    def check(self) -> None:
        """That all agree."""
        found = {kind: {name: run() for name, run in runs.items()} for kind, runs in self.candidates().items()}
        for name in ("loop", "matrix"):
            for one, other in zip(found["loss"]["ours"], found["loss"][name], strict=True):
                torch.testing.assert_close(one.float(), other.float(), rtol=1e-4, atol=1e-4)
            assert found["viterbi"]["ours"] == found["viterbi"][name]


def main() -> None:
    """Print the table and write the file."""
    args = parser_for(__doc__, rounds=9, device=True).parse_args()
    about = setting(args, batch=BATCH, tags=TAGS)
    rows = []
    print(f"milliseconds\n{'T':>3} {'':8}{'loop':>9}{'matrix':>9}{'ours':>9}")
    for steps in LONGEST:
        case = Case(steps, args.device)
        case.check()
        both = dict.fromkeys(("loop", "matrix", "ours"), 0.0)
        for kind, runs in case.candidates().items():
            found = {name: 1e3 * seconds for name, seconds in in_turn(runs, args.rounds, args.device).items()}
            both = {name: both[name] + value for name, value in found.items()}
            rows.append({"steps": steps, "what": kind, "ms": found})
        rows.append({"steps": steps, "what": "both", "ms": both})
        for row in rows[-3:]:
            ms: Any = row["ms"]
            ratios = f"x{ms['loop'] / ms['ours']:.1f} of loop, x{ms['matrix'] / ms['ours']:.1f} of matrix"
            shown = "".join(f"{ms[name]:9.2f}" for name in ("loop", "matrix", "ours"))
            print(f"{steps:>3} {row['what']:8}{shown}   {ratios}", flush=True)
    write(args, about, rows)


if __name__ == "__main__":
    main()
