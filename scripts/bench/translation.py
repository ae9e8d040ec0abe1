"""Times translation with seqkit against `scripts/peers/translation.py` in one run; prints a table.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench/translation.py          # everything (about 8 minutes)
    python scripts/bench/translation.py --only train --rounds 5
    python scripts/bench/translation.py --only start --run runs/NAME              # for that run's `seqkit translate`
    python scripts/bench/translation.py --only train --precision bf16             # ours and the peer in autocast
    python scripts/bench/translation.py --device cuda

The model, both sides: embedding 256, BiLSTM 2 x 256, LSTM decoder 256, additive attention, batch 64, Adam 1e-3, dropout
0.3, Multi30k de -> en in lower-cased words (generated sentences where `$SEQKIT_DATA/multi30k` is absent).

train     target tokens/s of whole updates, with input feeding and without; both sides take the same batches in turn
decode    sentences/s on the test part in batches of 64, greedy and beam 5, and the latency of single sentences; both
          sides have the same weights, those of the peer after --updates updates, and so the same outputs
memory    peak resident memory of a process that does 40 updates
start     from the shell's return key to the first sentence out of `seqkit translate`, beam 5; and of `import torch`
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import (
    CONFIGS,
    command,
    fresh,
    goal,
    medians,
    parser_for,
    ratio,
    resident,
    seconds,
    setting,
    take_turns,
    write,
)
from bench.translation_sides import Pairs, copy_weights, our_optimizer, our_step, ours, read_data
from peers import translation as peer


def moved(batch: Sequence[Tensor], device: str) -> tuple[Tensor, ...]:
    """A batch on the device; the source's lengths stay, since packing wants them on the CPU."""
    return tuple(part if index == 1 else part.to(device) for index, part in enumerate(batch))


def replay(step: Callable[..., Any], batches: Sequence[Any]) -> None:
    for batch in batches:
        step(batch)


class Side:
    """A process that trains one side, so that neither feels what the other does to the process (e.g. to its heap)."""

    def __init__(self, name: str, feeding: bool, device: str, clock: str, precision: str = "fp32") -> None:
        call = command("bench.translation", f"serve({name!r}, {feeding!r}, {device!r}, {clock!r}, {precision!r})")
        self.process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.parameters = int(self.ask())

    def ask(self, order: str = "") -> str:
        """Send an order, and wait for the line that answers."""
        assert self.process.stdin
        assert self.process.stdout
        if order:
            self.process.stdin.write(order + "\n")
            self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("a side of the benchmark has died; its message is above")
        return answer

    def rate(self, updates: int) -> Callable[[], float]:
        """A function that makes the next updates and returns their tokens/s."""
        starts = itertools.count(step=updates)
        return lambda: float(self.ask(f"{next(starts)} {updates}"))

    def end(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def serve(name: str, feeding: bool, device: str, clock: str, precision: str) -> None:
    """The process of a `Side`: "FIRST COUNT" does updates and answers tokens/s, "save PATH" keeps the weights."""
    train, _, words, _ = read_data()
    torch.manual_seed(1)
    batches = peer.buckets(*train)
    if name == "peer":
        model, _ = peer.build(*words, feeding)
        model = model.to(device).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        step = partial(peer.train_step, model, optimizer)
    else:
        model = ours(words, feeding).to(device).train()
        step = partial(our_step, model, our_optimizer(model))
    print(count(model), flush=True)
    for line in sys.stdin:
        first, last = line.split()
        if first == "save":
            torch.save(model.state_dict(), last)
            print("saved", flush=True)
            continue
        numbers = range(int(first), int(first) + int(last))
        part = [moved(batches[number % len(batches)], device) for number in numbers]
        tokens = sum(int((batch[3] != peer.PAD).sum()) for batch in part)
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            print(tokens / seconds(partial(replay, step, part), device, clock), flush=True)


def bench_train(args: argparse.Namespace, feeding: bool, keep: Path | None = None) -> dict[str, Any]:
    """Rounds of the same batches in turn, each side in its process; medians. `keep` gets the peer's weights."""
    about = (feeding, args.device, args.clock)
    sides = {"peer": Side("peer", *about), "ours": Side("ours", *about, args.precision)}
    if args.precision == "bf16":
        sides["peer in bf16"] = Side("peer", *about, "bf16")
    rates = take_turns({name: side.rate(args.batches) for name, side in sides.items()}, args.rounds)
    if keep:
        sides["peer"].ask(f"save {keep}")
    for side in sides.values():
        side.end()
    found, times = medians(rates), ratio(rates["ours"], rates["peer"])
    kind = "input feeding" if feeding else "no input feeding"
    print(f"train, {kind}: {found['peer']:.0f} | {found['ours']:.0f} target tokens/s   x{times:.2f}", flush=True)
    if low := rates.get("peer in bf16"):
        print(f"  the peer in autocast: {found['peer in bf16']:.0f}   x{ratio(rates['ours'], low):.2f}", flush=True)
    row = {"what": "train", "feeding": feeding, "tokens_per_second": found, "ratio": times, "rounds": rates}
    return {**row, "parameters": {name: side.parameters for name, side in sides.items()}}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()  # as `seqkit translate` does it; the peer has inference_mode
def our_decode(model: Any, search: Any, source: Tensor, lengths: Tensor) -> list[list[int]]:
    state, memory = model.encode(source, lengths)
    found = search(model.step, state, memory, source_lengths=lengths)
    return [hypotheses[0].tokens for hypotheses in found]


def trained(args: argparse.Namespace, train: Pairs, words: tuple[int, int], kept: Path) -> Any:
    """The peer's model with input feeding after `--updates` updates, from the weights in `kept` if there are any."""
    torch.manual_seed(1)
    theirs, _ = peer.build(*words, feeding=True)
    theirs, done = theirs.to(args.device).train(), 0
    if kept.exists():
        theirs.load_state_dict(torch.load(kept, weights_only=True))
        done = (args.rounds + 1) * args.batches
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    batches = peer.buckets(*train)
    for number in range(done, args.updates):
        peer.train_step(theirs, optimizer, moved(batches[number % len(batches)], args.device))
    return theirs


def bench_decode(args: argparse.Namespace, theirs: Any, test: Pairs, words: tuple[int, int]) -> list[dict]:
    """The test part in batches, and single sentences, by both sides with the same weights."""
    from seqkit.decoding import Search

    theirs.eval()
    mine = ours(words, theirs.feeding).to(args.device).eval()
    copy_weights(theirs, mine)
    ordered = sorted(test[0], key=len)
    batches = [peer.collate(part, part)[:2] for part in (ordered[i : i + 64] for i in range(0, len(ordered), 64))]
    batches = [(source.to(args.device), lengths) for source, lengths in batches]
    picked = random.Random(0).sample(ordered, min(args.singles, len(ordered)))
    singles = [(one.unsqueeze(0).to(args.device), torch.tensor([len(one)])) for one in picked]
    rows = []
    for width in (1, 5):
        search = Search(beam_size=width, max_length=60)
        sides: dict[str, Callable[[Tensor, Tensor], list[list[int]]]] = {
            "peer": (lambda s, n: peer.greedy(theirs, s, n))
            if width == 1
            else (lambda s, n: peer.beam(theirs, s, n, 5)),
            "ours": lambda s, n, search=search: our_decode(mine, search, s, n),  # type: ignore[misc]
        }
        outputs: dict[str, list[list[int]]] = {name: [] for name in sides}
        latency: dict[str, list[float]] = {name: [] for name in sides}
        measures = {
            name: partial(seconds, partial(decode_all, side, batches, outputs[name]), args.device, args.clock)
            for name, side in sides.items()
        }
        taken = take_turns(measures, args.decode_rounds)
        rates = {name: [len(ordered) / one for one in values] for name, values in taken.items()}
        for pair in singles:
            for name, decode in sides.items():
                latency[name].append(1e3 * seconds(partial(decode, *pair), args.device, args.clock))
        rows.append(decode_row(width, theirs.feeding, rates, latency, outputs))
    return rows


def decode_all(decode: Callable[..., list[list[int]]], batches: Sequence[Any], said: list[list[int]]) -> None:
    said.clear()
    for batch in batches:
        said += decode(*batch)


def decode_row(width: int, feeding: bool, rates: dict, latency: dict, outputs: dict) -> dict[str, Any]:
    """Medians, printed and returned."""
    found, times = medians(rates), ratio(rates["ours"], rates["peer"])
    p50 = {name: statistics.median(values[5:] or values) for name, values in latency.items()}
    same = statistics.fmean(a == b for a, b in zip(outputs["peer"], outputs["ours"], strict=True))
    length = {name: statistics.fmean(map(len, said)) for name, said in outputs.items()}
    print(
        f"decode, beam {width}: {found['peer']:.0f} | {found['ours']:.0f} sentences/s   x{times:.2f}   "
        f"one sentence, p50: {p50['peer']:.1f} | {p50['ours']:.1f} ms   "
        f"same output {same:.1%}, mean length {length['ours']:.1f}",
        flush=True,
    )
    row = {"what": "decode", "beam": width, "feeding": feeding, "sentences_per_second": found, "ratio": times}
    return {**row, "p50_ms": p50, "same": same, "length": length}


def peak(name: str, feeding: bool, updates: int = 40) -> float:
    """MiB: the most that a process which does nothing but `updates` updates has resident (for a fresh process)."""
    train, _, words, _ = read_data()
    torch.manual_seed(1)
    batches = peer.buckets(*train)[:updates]
    if name == "peer":
        model, optimizer = peer.build(*words, feeding)
        for batch in batches:
            peer.train_step(model, optimizer, batch)
    else:
        mine = ours(words, feeding)
        our_adam = our_optimizer(mine)
        for batch in batches:
            our_step(mine, our_adam, batch)
    return resident()


def print_peak(name: str, feeding: bool) -> None:
    """`peak`, for the process that has asked for it."""
    print(peak(name, feeding))


def bench_memory(feeding: bool) -> dict[str, Any]:
    """`peak` of both sides, each in a process of its own."""
    found = {name: fresh("bench.translation", f"print_peak({name!r}, {feeding!r})") for name in ("peer", "ours")}
    share = found["ours"] / found["peer"]
    kind = "input feeding" if feeding else "no input feeding"
    print(f"peak memory, {kind}: {found['peer']:.0f} | {found['ours']:.0f} MiB   x{share:.2f}", flush=True)
    return {"what": "memory", "feeding": feeding, "mib": found, "ratio": share}


def bench_start(args: argparse.Namespace) -> dict[str, Any] | None:
    """Seconds to the first sentence out of `seqkit translate`, and of `import torch`."""
    with tempfile.TemporaryDirectory() as folder:
        run = args.run.resolve() if args.run else small_run(Path(folder))
        if run is None:
            print("start: skipped, there is no run to translate with (give --run)")
            return None
        translate = [sys.executable, "-m", "seqkit", "translate", str(run), "beam_size=5"]
        first, torch_only, peak_mib = [], [], 0.0
        for _ in range(6):
            start = time.perf_counter()
            with subprocess.Popen(translate, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdin and process.stdout  # noqa: PT018
                # The input stays open: the first sentence must come out before it ends.
                process.stdin.write("ein mann fährt ein rotes fahrrad .\n" * 64)
                process.stdin.flush()
                process.stdout.readline()
                first.append(time.perf_counter() - start)
                peak_mib = resident(process=process.pid)
                process.kill()
            torch_only.append(seconds(partial(subprocess.run, [sys.executable, "-c", "import torch"], check=True)))
    found = {"first_sentence_s": statistics.median(first[1:]), "import_torch_s": statistics.median(torch_only[1:])}
    print(
        f"start: first sentence {found['first_sentence_s']:.2f} s, import torch {found['import_torch_s']:.2f} s, "
        f"peak memory {peak_mib:.0f} MiB",
        flush=True,
    )
    return {"what": "start", **found, "mib": peak_mib}


def small_run(folder: Path) -> Path | None:
    """A run of the quickstart after one update, or None where this cannot be."""
    config = CONFIGS / "translation/quickstart.yaml"
    if not config.exists():
        return None
    train = [sys.executable, "-m", "seqkit", "train", str(config), "training.epochs=null", "training.steps=1"]
    done = subprocess.run([*train, "name=run"], cwd=folder, capture_output=True, text=True)
    return folder / "runs" / "run" if done.returncode == 0 else None


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The goals of the project beside what was measured."""
    lines = []

    for row in rows:
        if row["what"] == "train":
            kind = "with" if row["feeding"] else "without"
            low = row["rounds"].get("peer in bf16")
            target = 1.8 if row["feeding"] and not low else 2.5
            lines.append(goal(f"training {kind} input feeding, ours / peer", row["ratio"], target))
            if low:
                lines.append(goal("the same, the peer in autocast", ratio(row["rounds"]["ours"], low), 1.3))
            if row["feeding"]:
                lines.append(goal("the peer itself, target tokens/s", row["tokens_per_second"]["peer"], 2100))
        elif row["what"] == "decode":
            lines.append(goal(f"decoding, beam {row['beam']}, ours / peer", row["ratio"], 2 if row["beam"] == 1 else 3))
            itself = 240 if row["beam"] == 1 else 70
            lines.append(
                goal(f"the peer itself, beam {row['beam']}, sentences/s", row["sentences_per_second"]["peer"], itself)
            )
        elif row["what"] == "memory":
            kind = "with" if row["feeding"] else "without"
            lines.append(goal(f"peak memory {kind} input feeding, ours / peer", row["ratio"], 1, most=True))
        else:
            lines.append(goal("start, s", row["first_sentence_s"], row["import_torch_s"] + 1, most=True))
    return lines


def main() -> None:
    parser = parser_for(__doc__, rounds=25, device=True, clock=True)
    parser.add_argument("--only", nargs="*", choices=["train", "decode", "memory", "start"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"], help="of our training")
    parser.add_argument("--batches", type=int, default=10, help="updates of each side in a round of training")
    parser.add_argument("--updates", type=int, default=450, help="of the peer before decoding, --rounds included")
    parser.add_argument("--decode-rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=60, help="sentences decoded one by one")
    parser.add_argument("--run", type=Path, help="for `start`; else a quickstart of one update")
    args = parser.parse_args()
    wanted = args.only or ["train", "decode", "memory", "start"]
    train, test, words, origin = read_data()
    about = setting(args, data=origin, precision=args.precision)
    print("peer | ours")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "peer.pt"
        if "train" in wanted:
            rows += [bench_train(args, True, kept), bench_train(args, False)]
        if "decode" in wanted:
            rows += bench_decode(args, trained(args, train, words, kept), test, words)
    if "memory" in wanted and args.device == "cpu":
        rows += [bench_memory(feeding) for feeding in (True, False)]
    if "start" in wanted:
        started = bench_start(args)
        rows += [started] if started else []
    write(args, about, rows, summary(rows))


if __name__ == "__main__":
    main()
