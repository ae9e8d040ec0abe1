"""Times translation with seqkit against `scripts/peers/translation.py` in one run; prints a table, writes JSON.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench_translation.py          # everything (about 8 minutes)
    python scripts/bench_translation.py --only train --rounds 5
    python scripts/bench_translation.py --only start --run runs/NAME              # for that run's `seqkit translate`
    python scripts/bench_translation.py --device cuda

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
import json
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

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE / "peers")]
import translation as peer  # noqa: E402
from bench_translation_sides import Pairs, copy_weights, our_optimizer, our_step, ours, read_data  # noqa: E402


def moved(batch: Sequence[Tensor], device: str) -> tuple[Tensor, ...]:
    """A batch on the device; the source's lengths stay, since packing wants them on the CPU."""
    return tuple(part if index == 1 else part.to(device) for index, part in enumerate(batch))


def replay(step: Callable[..., Any], batches: Sequence[Any]) -> None:
    for batch in batches:
        step(batch)


def timed(run: Callable[[], Any], args: argparse.Namespace) -> float:
    """Seconds by the clock that was asked for."""
    clock = time.process_time if args.clock == "cpu" else time.perf_counter
    if args.device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    run()
    if args.device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


class Side:
    """A process that trains one side, so that neither feels what the other does to the process (e.g. to its heap)."""

    def __init__(self, name: str, feeding: bool, device: str, clock: str) -> None:
        call = f"import bench_translation as b; b.serve({name!r}, {feeding!r}, {device!r}, {clock!r})"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {call}"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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

    def end(self) -> None:
        self.process.stdin.close()  # type: ignore[union-attr]
        self.process.wait()


def serve(name: str, feeding: bool, device: str, clock: str) -> None:
    """The process of a `Side`: "FIRST COUNT" does updates and answers tokens/s, "save PATH" keeps the weights."""
    args = argparse.Namespace(device=device, clock=clock)
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
        print(tokens / timed(partial(replay, step, part), args), flush=True)


def bench_train(args: argparse.Namespace, feeding: bool, keep: Path | None = None) -> dict[str, Any]:
    """Rounds of the same batches in turn, each side in its process; medians. `keep` gets the peer's weights."""
    sides = {name: Side(name, feeding, args.device, args.clock) for name in ("peer", "ours")}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds + 1):  # the first warms up
        for name in list(sides)[:: 1 if turn % 2 else -1]:
            rate = float(sides[name].ask(f"{turn * args.batches} {args.batches}"))
            if turn:
                rates[name].append(rate)
    if keep:
        sides["peer"].ask(f"save {keep}")
    for side in sides.values():
        side.end()
    found = {name: statistics.median(values) for name, values in rates.items()}
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
    kind = "input feeding" if feeding else "no input feeding"
    print(f"train, {kind}: {found['peer']:.0f} | {found['ours']:.0f} target tokens/s   x{ratio:.2f}", flush=True)
    row = {"what": "train", "feeding": feeding, "tokens_per_second": found, "ratio": ratio, "rounds": rates}
    return {**row, "parameters": {name: side.parameters for name, side in sides.items()}}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


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
        rates: dict[str, list[float]] = {name: [] for name in sides}
        outputs: dict[str, list[list[int]]] = {}
        latency: dict[str, list[float]] = {name: [] for name in sides}
        for turn in range(args.decode_rounds + 1):
            for name in list(sides)[:: 1 if turn % 2 else -1]:
                said = outputs[name] = []
                seconds = timed(partial(decode_all, sides[name], batches, said), args)
                if turn:
                    rates[name].append(len(ordered) / seconds)
        for pair in singles:
            for name, decode in sides.items():
                latency[name].append(1e3 * timed(partial(decode, *pair), args))
        rows.append(decode_row(width, theirs.feeding, rates, latency, outputs))
    return rows


def decode_all(decode: Callable[..., list[list[int]]], batches: Sequence[Any], said: list[list[int]]) -> None:
    for batch in batches:
        said += decode(*batch)


def decode_row(width: int, feeding: bool, rates: dict, latency: dict, outputs: dict) -> dict[str, Any]:
    """Medians, printed and returned."""
    found = {name: statistics.median(values) for name, values in rates.items()}
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["peer"], strict=True))
    p50 = {name: statistics.median(values[5:] or values) for name, values in latency.items()}
    same = statistics.fmean(a == b for a, b in zip(outputs["peer"], outputs["ours"], strict=True))
    length = {name: statistics.fmean(map(len, said)) for name, said in outputs.items()}
    print(
        f"decode, beam {width}: {found['peer']:.0f} | {found['ours']:.0f} sentences/s   x{ratio:.2f}   "
        f"one sentence, p50: {p50['peer']:.1f} | {p50['ours']:.1f} ms   "
        f"same output {same:.1%}, mean length {length['ours']:.1f}",
        flush=True,
    )
    row = {"what": "decode", "beam": width, "feeding": feeding, "sentences_per_second": found, "ratio": ratio}
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
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def bench_memory(feeding: bool) -> dict[str, Any]:
    """`peak` of both sides, each in a process of its own."""
    found = {}
    for name in ("peer", "ours"):
        call = f"import bench_translation as b; print(b.peak({name!r}, {feeding!r}))"
        command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {call}"]
        found[name] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    ratio = found["ours"] / found["peer"]
    kind = "input feeding" if feeding else "no input feeding"
    print(f"peak memory, {kind}: {found['peer']:.0f} | {found['ours']:.0f} MiB   x{ratio:.2f}", flush=True)
    return {"what": "memory", "feeding": feeding, "mib": found, "ratio": ratio}


def bench_start(args: argparse.Namespace) -> dict[str, Any] | None:
    """Seconds to the first sentence out of `seqkit translate`, and of `import torch`."""
    with tempfile.TemporaryDirectory() as folder:
        run = args.run.resolve() if args.run else small_run(Path(folder))
        if run is None:
            print("start: skipped, there is no run to translate with (give --run)")
            return None
        command = [sys.executable, "-m", "seqkit", "translate", str(run), "beam_size=5"]
        first, torch_only, resident = [], [], 0.0
        for _ in range(6):
            start = time.perf_counter()
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdin and process.stdout  # noqa: PT018
                # The input stays open: the first sentence must come out before it ends.
                process.stdin.write("ein mann fährt ein rotes fahrrad .\n" * 64)
                process.stdin.flush()
                process.stdout.readline()
                first.append(time.perf_counter() - start)
                lines = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
                resident = float(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024
                process.kill()
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            torch_only.append(time.perf_counter() - start)
    found = {"first_sentence_s": statistics.median(first[1:]), "import_torch_s": statistics.median(torch_only[1:])}
    print(
        f"start: first sentence {found['first_sentence_s']:.2f} s, import torch {found['import_torch_s']:.2f} s, "
        f"peak memory {resident:.0f} MiB",
        flush=True,
    )
    return {"what": "start", **found, "mib": resident}


def small_run(folder: Path) -> Path | None:
    """A run of the quickstart after one update, or None where this cannot be."""
    config = HERE.parent / "configs/translation/quickstart.yaml"
    if not config.exists():
        return None
    command = [sys.executable, "-m", "seqkit", "train", str(config), "training.epochs=null", "training.steps=1"]
    done = subprocess.run([*command, "name=run"], cwd=folder, capture_output=True, text=True)
    return folder / "runs" / "run" if done.returncode == 0 else None


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The goals of the project beside what was measured."""
    lines = []

    def goal(text: str, value: float, target: float, most: bool = False) -> None:
        met = value <= target if most else value >= target
        lines.append(
            f"{'met   ' if met else 'MISSED'} {text}: {value:.2f} (goal {'<=' if most else '>='} {target:.2f})"
        )

    for row in rows:
        if row["what"] == "train":
            kind = "with" if row["feeding"] else "without"
            goal(f"training {kind} input feeding, ours / peer", row["ratio"], 1.8 if row["feeding"] else 2.5)
            if row["feeding"]:
                goal("the peer itself, target tokens/s", row["tokens_per_second"]["peer"], 2100)
        elif row["what"] == "decode":
            goal(f"decoding, beam {row['beam']}, ours / peer", row["ratio"], 2 if row["beam"] == 1 else 3)
            itself = 240 if row["beam"] == 1 else 70
            goal(f"the peer itself, beam {row['beam']}, sentences/s", row["sentences_per_second"]["peer"], itself)
        elif row["what"] == "memory":
            kind = "with" if row["feeding"] else "without"
            goal(f"peak memory {kind} input feeding, ours / peer", row["ratio"], 1, most=True)
        else:
            goal("start, s", row["first_sentence_s"], row["import_torch_s"] + 1, most=True)
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=["train", "decode", "memory", "start"])
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--clock", default="wall", choices=["wall", "cpu"], help="cpu: for one thread, on a busy machine"
    )
    parser.add_argument("--rounds", type=int, default=25, help="rounds of training, each side --batches updates")
    parser.add_argument("--batches", type=int, default=10)
    parser.add_argument("--updates", type=int, default=450, help="of the peer before decoding, --rounds included")
    parser.add_argument("--decode-rounds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=60, help="sentences decoded one by one")
    parser.add_argument("--run", type=Path, help="for `start`; else a quickstart of one update")
    parser.add_argument("--out", type=Path, default=Path("bench_translation.json"))
    args = parser.parse_args()
    wanted = args.only or ["train", "decode", "memory", "start"]
    train, test, words, origin = read_data()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.device}, {origin} data (peer | ours)")
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
    lines = summary(rows)
    print("\n" + "\n".join(lines))
    setting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": args.device, "data": origin}
    args.out.write_text(json.dumps({**setting, "rows": rows, "summary": lines}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
