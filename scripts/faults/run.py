"""Break runs on purpose: what the user sees, what survives, and whether the resumed run ends as if nothing had been.

    python scripts/faults/run.py --out faults.md                     # every fault, 20 SIGKILLs over a run of each task
    python scripts/faults/run.py --faults kill --tasks slots --kills 5

Each fault is put into a real process of the command line from outside: file operations, updates and clocks are wrapped
before `seqkit` starts, the library is not touched. Processes are forked from one that has imported torch, since most
of a start is that import. A full disk and a read-only one are small tmpfs mounts (root on Linux; skipped elsewhere).
Exits with 1 if anything was lost or differs by a bit from the run that was never disturbed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SCRIPTS))

from faults.injection import run_child  # noqa: E402

HERE = SCRIPTS.parent
COMMON = ["device=cpu", "training.log_every=3", "training.keep_best=2", "data.test.limit=40", "data.dev.limit=60"]
# One run of each task; between them they use everything that a checkpoint has to bring back.
TASKS = {
    "sentiment": [
        "data.train.limit=500", "data.batch_size=8", "model.encoder.hidden_size=12", "training.epochs=2",
        "training.schedule.name=plateau", "training.schedule.patience=0", "training.ema=0.9", "training.accumulate=2",
        "training.average_best=true", "training.evaluate_every=11", "training.checkpoint_every=4",
    ],
    "translation": [
        "data.train.limit=400", "data.batch_size=16", "model.encoder.hidden_size=16", "model.decoder.hidden_size=16",
        "training.epochs=2", "training.scheduled_sampling=0.3", "training.samples=2", "training.precision=bf16",
        "training.evaluate_every=9",
    ],
    "slots": [
        "data.train.limit=400", "data.batch_size=16", "model.encoder.hidden_size=16", "training.epochs=3",
        "training.optimizer={name: sgd, lr: 0.1, momentum: 0.9}", "training.schedule=constant",
        "training.early_stopping.patience=2", "training.evaluate_every=8", "training.checkpoint_every=5",
    ],
    "language_model": [
        "data.train.limit=800", "data.batch_size=8", "data.bptt=12", "model.encoder.hidden_size=16",
        "training.epochs=null", "training.steps=60", "training.evaluate_every=15", "training.checkpoint_every=7",
        "training.ema=0.99",
    ],
}  # fmt: skip
CONFIGS = {name: f"configs/{name}/quickstart.yaml" for name in TASKS} | {"slots": "configs/slots/travel.yaml"}


@dataclass
class Outcome:
    """How a process ended: exit status (-9: SIGKILL), what it printed, what it wrote into the journal."""

    code: int | None
    text: str
    journal: list[str]
    pid: int = 0

    @property
    def complete(self) -> int:
        """The newest checkpoint that was complete, 0 without one."""
        return max((int(line.split()[1]) for line in self.journal if line.startswith("complete")), default=0)

    @property
    def resumed(self) -> int | None:
        """The step that the process says it goes on from, None where it has not come so far."""
        found = re.search(r"continuing after step (\d+)", self.text)
        return int(found[1]) if found else None

    @property
    def said(self) -> str:
        """The last thing that the user sees, on one line."""
        lines = [line for line in self.text.splitlines() if "seqkit:" in line or "runs/r:" in line]
        return (lines or self.text.splitlines() or [""])[-1].strip()


@dataclass
class Harness:
    """Starts processes, keeps score, and makes the table.

    Args:
        home: a folder for runs and notes.
        seed: of where the kills fall.
    """

    home: Path
    seed: int = 0
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _number: int = 0

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        tasks = [f"seqkit.tasks.{name}" for name in TASKS]
        self._context.set_forkserver_preload(["seqkit.cli", "seqkit.run", "datasets", "torch._dynamo", *tasks])

    def start(self, folder: Path, *arguments: str, **plan: Any) -> Callable[[], Outcome]:
        """Start a process; the result waits for its end."""
        self._number += 1
        files = (str(self.home / f"output-{self._number}"), str(self.home / f"journal-{self._number}"))
        process = self._context.Process(target=run_child, args=(str(folder), list(arguments), plan, files))
        process.start()

        def wait() -> Outcome:
            process.join(900)
            text, journal = (Path(name).read_text("utf-8") if Path(name).exists() else "" for name in files)
            return Outcome(process.exitcode, text, journal.splitlines(), process.pid or 0)

        return wait

    def run(self, folder: Path, *arguments: str, **plan: Any) -> Outcome:
        """Start a process and wait for its end."""
        return self.start(folder, *arguments, **plan)()

    def check(self, good: bool, what: str) -> str:
        """Keep score; returns the words for the table."""
        if not good:
            self.failures.append(what)
            print("FAILED:", what, file=sys.stderr)
        return what if good else f"**NOT** {what}"

    def row(self, what: str, seen: str, code: int | None, survives: str) -> None:
        """Add to the table."""
        seen = seen.replace("|", "/")
        self.rows.append((what, seen if len(seen) < 260 else seen[:257] + "...", str(code), survives))
        print("|", " | ".join(self.rows[-1]), "|", flush=True)

    def table(self) -> str:
        """Markdown."""
        head = ["| what was done | what the user sees | exit | what survives |", "|---|---|---|---|"]
        return "\n".join([*head, *("| " + " | ".join(row) + " |" for row in self.rows)]) + "\n"


def results(folder: Path) -> dict[str, Any]:
    """All that must not depend on what happened to a run: every file but timings and the lock, byte for byte.

    trainer.json holds the length of timing.jsonl, and the manifest its checksum: of these the rest is compared.
    """
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in (".lock", "timing.jsonl"):
            continue
        if path.name in ("trainer.json", "manifest.json"):
            text = re.sub(r'\["timing", \d+\]|"trainer.json": "\w+"', "", path.read_text("utf-8"))
            found[name] = hashlib.sha256(text.encode()).hexdigest()
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Names of the files that differ."""
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))


# --- the faults ----------------------------------------------------------------------------------------------------


@dataclass
class Subject:
    """A run that was never disturbed, and how to make it again.

    Attributes:
        folder: of the undisturbed run.
        command: arguments of `seqkit train` that make it.
        events: how many events of each kind an update, with what follows it, has at most.
        steps: updates in all.
    """

    task: str
    folder: Path
    command: list[str]
    events: dict[str, int]
    steps: int

    def fresh(self, harness: Harness, name: str) -> Path:
        """An empty folder to run in."""
        folder = harness.home / f"{self.task}-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def verdict(self, harness: Harness, folder: Path, what: str) -> str:
        """Whether a run that was resumed to its end is the undisturbed one."""
        bad = differing(results(self.folder), results(folder))
        return harness.check(not bad, "bit for bit the run never disturbed" + (f" ({what}: {bad})" if bad else ""))


def subject(harness: Harness, task: str) -> Subject:
    """Make the undisturbed run of a task."""
    command = ["train", str(HERE / CONFIGS[task]), "name=r", *COMMON, *TASKS[task]]
    home = harness.home / f"{task}-whole"
    home.mkdir()
    done = harness.run(home, *command)
    if done.code != 0:
        raise SystemExit(f"{task}: the undisturbed run fails:\n{done.text}")
    events = json.loads(next(line for line in done.journal if line.startswith("events"))[7:])
    steps = max(json.loads(line)["step"] for line in (home / "runs/r/metrics.jsonl").open())
    return Subject(task, home / "runs/r", command, events, steps)


def kills(harness: Harness, subject: Subject, count: int) -> None:
    """SIGKILL again and again over one run, spread over its length and over training, evaluating and saving."""
    draw = random.Random(f"{harness.seed} {subject.task}")
    folder = subject.fresh(harness, "kills")
    where: dict[str, int] = {}
    lost = newest = 0
    arguments = subject.command
    for number in range(count):
        kind = ("train", "save", "validate", "log", "save", "start", "validate")[number % 7]
        # The number of an event among those of its kind: a save has about so many, an evaluation more than four.
        most = {"save": subject.events["save"] // 2, "validate": 4, "start": 3}.get(kind, 1)
        plan: dict[str, Any] = {"kill": kind, "step": number * (subject.steps - 3) // count}
        plan |= {"nth": draw.randint(1, most), "until": plan["step"] + subject.steps // 4}
        if kind == "train":
            plan |= {"kill": "", "delay": draw.uniform(0, 0.15), "until": plan["step"] + 4}
        if kind == "start":
            plan |= {"step": -1, "until": plan["step"]}
        done = harness.run(folder, *arguments, **plan)
        if done.code == -signal.SIGKILL:
            kind = next(line.split()[1] for line in done.journal if line.startswith("killed"))
        else:
            kind = "none: it had ended"
        where[kind] = where.get(kind, 0) + 1
        if done.resumed is not None:
            lost += done.resumed < newest
        newest = max(newest, done.complete)
        print(f"  {subject.task} {number + 1}: {[*done.journal, 'ended'][-1]}, exit {done.code}, newest {newest}")
        arguments = ["resume", "runs/r"] if (folder / "runs/r").exists() else subject.command
    done = harness.run(folder, *arguments)
    lost += (done.resumed or 0) < newest
    spread = ", ".join(f"{value} in {kind}" for kind, value in where.items())
    end = subject.verdict(harness, folder / "runs/r", f"{subject.task} kills")
    kept = harness.check(lost == 0, f"{lost} complete checkpoints lost")
    harness.row(
        f"{subject.task}: {count} SIGKILLs over one run ({spread})",
        f"Killed; then `seqkit resume`: continuing after step {done.resumed}",
        -signal.SIGKILL,
        f"{kept}; {end}",
    )


def resumed(harness: Harness, subject: Subject, folder: Path, what: str) -> str:
    """Resume to the end; the verdict."""
    done = harness.run(folder, "resume", "runs/r")
    at = f"resumed after step {done.resumed}; " if done.resumed else ""
    if done.code != 0:
        return harness.check(False, f"resumed after {what}: {done.said}")
    return at + subject.verdict(harness, folder / "runs/r", what)


def in_process(harness: Harness, subject: Subject) -> None:
    """Signals, errors and clocks in one process, which is then resumed."""
    half = subject.steps // 2
    cases: list[tuple[str, int, dict[str, Any]]] = [
        ("SIGINT (Ctrl-C)", 130, {"signals": [signal.SIGINT], "step": half}),
        ("SIGINT twice", 130, {"signals": [signal.SIGINT] * 2, "step": half}),
        ("SIGTERM (preemption)", 143, {"signals": [signal.SIGTERM], "step": half}),
        ("SIGHUP (the terminal is gone)", 129, {"signals": [signal.SIGHUP], "step": half}),
        ("an exception in the reader of batches", 1, {"error": "the reader broke", "step": half}),
        ("NaN in a gradient", 1, {"nan": True, "step": half}),
        ("a kill before the run folder is whole", -signal.SIGKILL, {"kill": "start", "nth": 3}),
    ]
    for what, code, plan in cases:
        folder = subject.fresh(harness, "process")
        done = harness.run(folder, *subject.command, **plan)
        harness.check(done.code == code, f"exit {code} after {what}, not {done.code}: {done.said}")
        if (folder / "runs/r").exists():
            survives = resumed(harness, subject, folder, what)
        else:
            left = [path.name for path in folder.glob("runs/[!.]*")]  # the hidden rest goes at the next start
            survives = harness.check(not left, "no half-made run")
            harness.run(folder, *subject.command)
            left = [path.name for path in folder.glob("runs/*") if path.name != "r"]
            harness.check(not left, f"nothing beside the run, not {left}")
            survives += "; trained anew: " + subject.verdict(harness, folder / "runs/r", what)
        harness.row(what, done.said if (done.code or 0) >= 0 else "Killed", done.code, survives)
    folder = subject.fresh(harness, "clock")
    done = harness.run(folder, *subject.command, clock=1)
    survives = subject.verdict(harness, folder / "runs/r", "clock")
    harness.row("clocks that jump by up to 11 days at every look", "odd speeds", done.code, survives)


def damaged(harness: Harness, subject: Subject) -> None:
    """The newest checkpoint of a run that was stopped is cut or has a bit turned."""
    for what in ("truncated", "with one bit turned"):
        folder = subject.fresh(harness, "damaged")
        harness.run(folder, *subject.command, signals=[signal.SIGTERM], step=subject.steps * 3 // 4)
        newest = sorted(folder.glob("runs/r/checkpoints/step-*"))[-1]
        path = newest / "trainer.safetensors"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: len(data) // 2] if what == "truncated" else data)
        done = harness.run(folder, "resume", "runs/r")
        named = harness.check("damaged checkpoint; passed over" in done.text, "named")
        harness.check(done.resumed is not None and done.resumed < int(newest.name[5:]), "passed over")
        said = next(line for line in done.text.splitlines() if "damaged" in line)
        survives = subject.verdict(harness, folder / "runs/r", what)
        harness.row(f"newest checkpoint {what}", said, done.code, f"the one before it, {named}; {survives}")


def two(harness: Harness, subject: Subject) -> None:
    """A second process on a run that trains."""
    folder = subject.fresh(harness, "two")
    gate = harness.home / "gate"
    gate.touch()
    first = harness.start(folder, *subject.command, wait=str(gate), step=subject.steps // 2)
    while not list(folder.glob("runs/r/checkpoints/step-*")):
        time.sleep(0.1)
    second = harness.run(folder, "resume", "runs/r")
    gate.unlink()
    done = first()
    harness.check(second.code == 2 and f"process {done.pid} is training" in second.said, "refused by the first's id")
    survives = subject.verdict(harness, folder / "runs/r", "two processes")
    harness.row("`seqkit resume` while the run trains", second.said, second.code, f"the first: {survives}")


@contextmanager
def small_disk(home: Path, size: int) -> Iterator[Path | None]:
    """A tmpfs of so many bytes, None where it cannot be mounted."""
    place = home / "disk"
    place.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    try:
        yield place if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


def disks(harness: Harness, subject: Subject) -> None:
    """A full disk while a log and while a checkpoint is written; a read-only run folder."""
    size = sum(path.stat().st_size for path in subject.folder.rglob("*") if path.is_file())

    def remount(place: Path, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)

    cases = {"a full disk": {"ballast": "ballast", "step": subject.steps // 2}, "a disk too small for the run": {}}
    for what, plan in cases.items():
        with small_disk(harness.home, 4 * size if plan else size // 2) as place:
            if place is None:
                harness.row(what, "skipped: tmpfs cannot be mounted here", None, "")
                return
            done = harness.run(place, *subject.command, **plan)
            harness.check(done.code == 1, f"exit 1 on {what}, not {done.code}: {done.said}")
            (place / "ballast").unlink(missing_ok=True)
            remount(place, f"size={8 * size}")
            survives = f"space made, {resumed(harness, subject, place, what)}"
            harness.row(what, done.said, done.code, survives)
            if plan:
                remount(place, "ro")
                done = harness.run(place, "resume", "runs/r")
                harness.check(done.code == 2 and "cannot be written" in done.said, f"read-only: {done.said}")
                harness.row("a read-only run folder", done.said, done.code, "everything: nothing is written")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="of which tasks runs are killed")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs over one run of each")
    parser.add_argument("--faults", default="kill,process,damaged,two,disk", help="which faults")
    parser.add_argument("--seed", type=int, default=0, help="of where the kills fall")
    parser.add_argument("--out", type=Path, help="file for the table")
    options = parser.parse_args()
    chosen = options.faults.split(",")
    with tempfile.TemporaryDirectory() as home:
        harness = Harness(Path(home), options.seed)
        for number, task in enumerate(options.tasks.split(",")):
            made = subject(harness, task)
            if "kill" in chosen:
                kills(harness, made, options.kills)
            if number == 0:
                for name, fault in (("process", in_process), ("damaged", damaged), ("two", two), ("disk", disks)):
                    if name in chosen:
                        fault(harness, made)
        if options.out:
            options.out.write_text(harness.table(), "utf-8")
    print(f"{len(harness.failures)} failures")
    sys.exit(bool(harness.failures))


if __name__ == "__main__":
    main()
