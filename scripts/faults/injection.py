"""What `run.py` does to a process of the command line: kills, signals, errors, clocks that jump."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_TO = ("os.replace", "os.rename", "save_file", "exchange")  # their second argument is what they write


class Injection:
    """What happens to a process, by a plan: a dict that says what, at which update, and at which event after it.

    Events are `save` (each file operation, before and after it), `log` (each line of metrics.jsonl), `validate` (each
    module's forward pass in evaluation mode), `train` (each update) and `start` (file operations before the first).

    Args:
        plan: `kill` (an event, or `any`; with `step` and `nth`: the nth such event once `step` updates are made; with
            `until`: before that update, if there was no such event), or at the start of update `step` (from 0):
            `signals` (numbers), `delay` (a kill after so many seconds), `error` (an exception), `nan` (in a gradient),
            `ballast` (a file that fills the disk), `wait` (as long as a file is there); `clock` (a seed): every clock
            jumps. {} only counts.
        journal: file to which every checkpoint that is complete is written, and at the end the number of events.
        die: what a kill is.
    """

    def __init__(self, plan: dict[str, Any], journal: Path, die: Callable[[], object]) -> None:
        self.plan, self.journal, self.die = plan, journal, die
        self.step = -1
        self.counts: dict[str, int] = {}
        self.largest: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self.hits = 0
        self.disturbed = False

    def event(self, kind: str, what: str, last: Callable[[], object] = bool) -> None:
        """Count an event since the last update began; do the last thing and be killed where the plan says so."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.totals[kind] = self.totals.get(kind, 0) + 1
        self.largest[kind] = max(self.largest.get(kind, 0), self.counts[kind])
        plan = self.plan
        if plan.get("kill") in (kind, "any") and self.step >= plan.get("step", -1):
            self.hits += 1
            if self.hits == plan["nth"]:
                last()
                self.note(f"killed {kind} {what}")
                self.die()

    def note(self, line: str) -> None:
        with self.journal.open("a") as file:
            file.write(line + "\n")

    def operation(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same file operation, with an event before and after it."""

        def wrapped(*arguments: Any, **named: Any) -> Any:
            kind = "save" if self.step >= 0 else "start"
            place = arguments[1] if len(arguments) > 1 and name in _TO else arguments[0]
            target = "" if isinstance(place, int) else Path(place).name
            self.event(kind, f"before {name} {target}")
            result = call(*arguments, **named)
            if name in _TO and re.fullmatch(r"step-\d+", target):
                self.note(f"complete {int(target[5:])}")
            self.event(kind, f"after {name} {target}")
            return result

        return wrapped

    def install(self, patch: Callable[[Any, str, Any], object]) -> None:
        """Wrap what is to be disturbed; `patch` sets an attribute of an object."""
        import torch

        from seqkit.training import checkpoint, reservation, update
        from seqkit.training.run_folder import JsonLines

        for module, name in ((os, "replace"), (os, "rename"), (os, "fsync"), (shutil, "rmtree")):
            patch(module, name, self.operation(f"{module.__name__}.{name}", getattr(module, name)))
        patch(checkpoint, "save_file", self.operation("save_file", checkpoint.save_file))
        patch(reservation, "exchange", self.operation("exchange", reservation.exchange))
        for name in ("mkdir", "unlink", "write_text"):
            patch(Path, name, self.operation(name, getattr(Path, name)))
        append, call = JsonLines.append, update.Updater.__call__

        def torn(log: Any, record: dict[str, Any]) -> None:
            def half() -> None:
                log._file.write(json.dumps(record).encode()[:20])
                log._file.flush()

            if "split" in record:
                self.event("log", "in the middle of a line", half)
            append(log, record)

        def updated(updater: Any, window: Any, step: int, *rest: Any) -> Any:
            self.step = step
            self.counts.clear()
            self.event("train", f"before update {step + 1}")
            if step >= self.plan.get("until", step + 1):
                self.note(f"killed train before update {step + 1}")
                self.die()
            self.disturb(updater, step)
            return call(updater, window, step, *rest)

        patch(JsonLines, "append", torn)
        patch(update.Updater, "__call__", updated)
        if self.plan.get("kill") == "validate" or not self.plan:
            hook = torch.nn.modules.module.register_module_forward_hook
            hook(lambda module, given, output: None if module.training else self.event("validate", "forward pass"))
        if "clock" in self.plan:
            jumps = random.Random(self.plan["clock"])
            for name in ("time", "perf_counter", "monotonic"):
                real = getattr(time, name)
                patch(time, name, lambda real=real: real() + jumps.uniform(-1e6, 1e6))

    def disturb(self, updater: Any, step: int) -> None:
        """What a plan does at the start of its update, or of the first one after it."""
        plan = self.plan
        if self.disturbed or step < plan.get("step", step + 1):
            return
        self.disturbed = True
        for number in plan.get("signals", []):
            os.kill(os.getpid(), number)
        if "delay" in plan:  # a kill at any moment, also inside torch

            def later() -> None:
                time.sleep(plan["delay"])
                self.note("killed train at a random moment")
                self.die()

            threading.Thread(target=later, daemon=True).start()
        if "error" in plan:
            raise RuntimeError(plan["error"])
        if "nan" in plan:
            updater.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
        if "ballast" in plan:
            with suppress_full(), open(plan["ballast"], "wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 12))
        if "wait" in plan:
            while Path(plan["wait"]).exists():
                time.sleep(0.05)


@contextmanager
def suppress_full() -> Iterator[None]:
    """Until the disk is full."""
    try:
        yield
    except OSError:
        return


def run_child(folder: str, arguments: list[str], plan: dict[str, Any], files: tuple[str, str]) -> None:
    """The command line with an injection, in `folder`; output and journal go to the two files."""
    os.chdir(folder)
    descriptor = os.open(files[0], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    injection = Injection(plan, Path(files[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    injection.install(setattr)
    from tqdm import tqdm

    from seqkit.cli import main

    tqdm.set_lock(threading.RLock())  # its own is a semaphore between processes, which a kill would leave behind

    try:
        main(arguments)
    finally:
        injection.note("events " + json.dumps(injection.largest))
        sys.stdout.flush()
