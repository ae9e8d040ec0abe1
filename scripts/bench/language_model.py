"""Times language models with seqkit against `scripts/peers/language_model.py` in one run; prints a table.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench/language_model.py         # everything (about 4 minutes)
    python scripts/bench/language_model.py --sizes 0 --rounds 10
    python scripts/bench/language_model.py --device cuda

Both sides have the same sizes and dropout rates, start from the same weights and take the same windows in turn, the
state carried on: Adam 1e-3, clipping at 1, Multi30k English in words (generated text where `$SEQKIT_DATA/multi30k` is
absent). The peer gets its windows ready made, time first. Medians of tokens a second:

update    forward, backward, clipping and step; ours on windows that are ready, too
trainer   the same through `seqkit.training`, windows read from the stream and losses logged
awd       the same update with weight drop, locked and embedding dropout, AR and TAR, which the peer has not
evaluate  the loss of windows alone
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import goal, in_turn, parser_for, setting, write
from peers import language_model as peer

SIZES = [  # (embedding, hidden, layers, streams, bptt, dropout)
    (256, 256, 1, 32, 35, 0.2),
    (200, 200, 2, 20, 35, 0.2),
    (400, 400, 2, 20, 70, 0.3),
    (650, 650, 2, 20, 35, 0.5),
]
Size = tuple[int, int, int, int, int, float]


def make_task(size: Size, awd: bool, device: str) -> Any:
    """Our task of that size."""
    from seqkit.run import read_config

    embedding, hidden, layers, streams, bptt, dropout = size
    folder = Path(os.environ.get("SEQKIT_DATA", "")) / "multi30k"
    found = (folder / "train.en").exists()
    data: dict[str, Any] = {"path": str(folder / "train.en"), "format": "text"}
    encoder: dict[str, Any] = {"cell": "lstm", "hidden_size": hidden, "num_layers": layers}
    table: dict[str, Any] = {"size": embedding, "init_std": 0.1, "dropout": dropout}
    if awd:
        table = {"size": embedding, "init_std": 0.1, "embedding_dropout": 0.1, "locked_dropout": dropout}
        encoder["weight_drop"] = 0.3
    if layers > 1:
        encoder["locked_dropout" if awd else "dropout"] = dropout
    tree = {
        "task": "language_model",
        "device": device,
        "data": {
            "train": data if found else {"path": "builtin:phrases", "columns": {"text": "source"}, "limit": 20000},
            "batch_size": streams,
            "bptt": bptt,
            "variable_bptt": False,
        },
        "text": {"lowercase": True, "min_frequency": 2},
        "model": {"embedding": table, "encoder": encoder, "output_dropout": dropout},
        "training": {
            "optimizer": {"name": "adam", "lr": 1e-3},
            "steps": 10**6,
            **({"ar": 2.0, "tar": 1.0} if awd else {}),
        },
    }
    config, kind = read_config(tree)
    return kind.create(config)


@torch.no_grad()
def copy_weights(theirs: nn.Module, mine: nn.Module) -> None:
    """Give our model the peer's weights."""
    names = {"embedding.weight": "encoder.embedding.table.weight", "output": "token_scores"}
    target = mine.state_dict()
    for name, value in theirs.state_dict().items():
        place = names.get(name) or name.replace("lstm.", "encoder.recurrent.").replace("output.", "token_scores.")
        target[place].copy_(value)


class OurUpdates:
    """Updates as `seqkit.training` makes them, from ready windows."""

    def __init__(self, task: Any) -> None:
        from seqkit.training.optim import make_optimizer

        self.task, self.carry = task, None
        self.optimizer = make_optimizer(task.model, task.config.training.optimizer)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    def __call__(self, batch: Any) -> float:
        from seqkit.training.optim import clip

        losses, self.carry = self.task.loss(batch, self.carry)
        total = torch.stack([one.sum * (one.coefficient / one.weight) for one in losses.values()]).sum()
        total.backward()
        clip(self.parameters, 1.0, None)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(total.detach())


def windows(task: Any) -> Iterator[Any]:
    """The windows of one epoch after the other."""
    return itertools.chain.from_iterable(task.batches(epoch) for epoch in itertools.count())


def trainer_updates(task: Any, device: str, folder: str) -> Callable[[], None]:
    """A function that makes one update through the trainer, reading its window from the stream."""
    from seqkit.training import Trainer

    trainer = Trainer(task, task.config.training, folder, device=device)
    stream = windows(task)
    task.model.train()
    steps = itertools.count()

    def update() -> None:
        trainer.updater([next(stream)], next(steps), 10**6, 1.0)

    return update


def candidates(size: Size, device: str, folder: str) -> tuple[dict[str, Callable[[], Any]], list[float], int]:
    """What is timed; the first losses of both sides, which must agree; and the tokens of a window."""
    task, awd, through = (make_task(size, flag, device) for flag in (False, True, False))
    embedding, hidden, layers, streams, bptt, dropout = size
    torch.manual_seed(1)
    model, optimizer = peer.build(len(task.tokenizer), embedding, hidden, layers, dropout)
    for one in (task, awd, through):
        copy_weights(model, one.model)
        one.model.to(device)
    model.to(device)
    ready = list(itertools.islice(task.batches(0), 40))[:-1]
    theirs = [(one.inputs.t().contiguous(), one.targets.t().contiguous()) for one in ready]
    model.eval(), task.model.eval()
    with torch.no_grad():
        agree = [peer.evaluate(model, *theirs[0], None)[0], task.loss(ready[0], None)[0]["nll"].sum.item()]
    agree[1] /= ready[0].targets.numel()
    model.train(), task.model.train(), awd.model.train()
    ours, ours_awd = OurUpdates(task), OurUpdates(awd)
    cycles = {name: itertools.cycle(range(len(ready))) for name in ("peer", "ours", "awd", "peer_eval", "our_eval")}
    carried: dict[str, Any] = {"peer": None, "peer_eval": None, "our_eval": None}

    def their_update() -> None:
        _, carried["peer"] = peer.train_step(model, optimizer, *theirs[next(cycles["peer"])], carried["peer"])

    def their_evaluation() -> None:
        model.eval()
        _, carried["peer_eval"] = peer.evaluate(model, *theirs[next(cycles["peer_eval"])], carried["peer_eval"])
        model.train()

    def our_evaluation() -> None:
        task.model.eval()
        with torch.no_grad():
            losses, carried["our_eval"] = task.loss(ready[next(cycles["our_eval"])], carried["our_eval"])
            losses["nll"].sum.item()
        task.model.train()

    runs = {
        "peer": their_update,
        "update": lambda: ours(ready[next(cycles["ours"])]),
        "trainer": trainer_updates(through, device, folder),
        "awd": lambda: ours_awd(ready[next(cycles["awd"])]),
        "peer_evaluate": their_evaluation,
        "evaluate": our_evaluation,
    }
    return runs, agree, streams * bptt


def main() -> None:
    parser = parser_for(__doc__, rounds=25, device=True, clock=True)
    parser.add_argument("--sizes", default=",".join(map(str, range(len(SIZES)))), help="indices into SIZES")
    args = parser.parse_args()
    about = setting(args)
    print("(embedding, hidden, layers, streams, bptt, dropout): tokens/s of the peer, and ours / peer")
    rows: list[dict[str, Any]] = []
    for index in map(int, args.sizes.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            runs, agree, tokens = candidates(SIZES[index], args.device, folder)
            seconds = in_turn(runs, args.rounds, args.device, args.clock, warmup=2)
        if abs(agree[0] - agree[1]) > 1e-3 * agree[0]:
            raise SystemExit(f"the two sides do not compute the same: losses {agree}")
        row: dict[str, Any] = {"size": SIZES[index], "tokens_per_second": {k: tokens / v for k, v in seconds.items()}}
        row |= {name: seconds["peer"] / seconds[name] for name in ("update", "trainer", "awd")}
        row["evaluate"] = seconds["peer_evaluate"] / seconds["evaluate"]
        rows.append(row)
        rates = row["tokens_per_second"]
        print(
            f"{SIZES[index]!s:34}{rates['peer']:9,.0f}   "
            + "  ".join(f"{name} x{row[name]:.2f}" for name in ("update", "trainer", "awd", "evaluate")),
            flush=True,
        )
    worst = min(min(row["update"], row["trainer"]) for row in rows)
    write(args, about, rows, [goal("tokens/s of whole updates, ours / peer, worst of all sizes", worst, 1)])


if __name__ == "__main__":
    main()
