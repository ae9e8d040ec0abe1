"""Fuzz whatever reads what others wrote: configurations, data files, vectors, run folders, texts, names.

    python scripts/fuzz/run.py readers --seconds 600
    python scripts/fuzz/run.py checkpoint --executions 2000 --random

With atheris installed (pip install atheris) the inputs are led by coverage; without it, or with --random, they are
drawn at random, which is said. A finding is any exception but UserError and Stopped (for which the command line has its
one line), more than 5 s of CPU time, more than 500 MB of memory, a broken promise (a line out for each line in, a
configuration that reads back as itself, ...), a file touched outside the working folder, a program started, an object
unpickled. Findings are printed once each with their input, which --replay takes; the exit status is 1 if there was one.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(SCRIPTS), str(SCRIPTS.parent)]

from fuzz.choices import Broken, Choices  # noqa: E402

SECONDS = 5.0
MEGABYTES = 500
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATHS = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "shutil.rmtree")
_NEVER = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.kill", "pickle.find_class")
TARGETS = ("config", "readers", "vectors", "checkpoint", "predict", "names")


class TooLong(BaseException):
    """An execution was cut after three times the CPU time that is allowed."""


class Guard:
    """Limits around an execution: CPU time, memory, what may be written, what may never happen."""

    def __init__(self, home: Path) -> None:
        self.home = os.path.realpath(home)
        self.inside = False
        self.broken: list[str] = []
        sys.addaudithook(self._audit)
        signal.signal(signal.SIGVTALRM, self._stop)

    def limit_memory(self) -> None:
        """Private memory may grow so much from here on, and no more."""
        status = Path("/proc/self/status").read_text().splitlines()
        used = int(next(line for line in status if line.startswith("VmData")).split()[1]) * 1024
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + MEGABYTES * 2**20, hard))

    def _stop(self, number: int, frame: Any) -> None:
        raise TooLong

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.inside:
            return
        if event in _NEVER:
            self.broken.append(f"{event}{arguments!r:.200}")
        elif event == "open":
            if isinstance(arguments[0], (str, bytes, os.PathLike)) and arguments[2] & _WRITES:
                self._written(arguments[0])
        elif event in _PATHS and arguments[-1] in (-1, None):
            for path in arguments[:2]:  # those relative to an open folder were looked at when it was opened
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._written(path)

    def _written(self, path: Any) -> None:
        name = os.fsdecode(path)
        if "\0" not in name and not f"{os.path.realpath(name)}/".startswith(f"{self.home}/") and name != os.devnull:
            self.broken.append(f"written: {name!r:.200}")

    def __call__(self, call: Callable[[], object]) -> None:
        self.broken.clear()
        self.inside = True
        signal.setitimer(signal.ITIMER_VIRTUAL, 3 * SECONDS)
        faulthandler.dump_traceback_later(120, exit=True)  # for what hangs outside Python
        begun = time.process_time()
        try:
            call()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            self.inside = False
        if time.process_time() - begun > SECONDS:
            raise Broken(f"{time.process_time() - begun:.1f} s of CPU time")
        if self.broken:
            raise Broken(self.broken[0])


class Runner:
    """Executes inputs and keeps count."""

    def __init__(self, target: Callable[[Choices], None], guard: Guard) -> None:
        from seqkit.errors import Stopped, UserError

        self.target, self.guard, self.refusals = target, guard, (UserError, Stopped)
        self.begun = self.shown = time.monotonic()
        self.executions = self.refused = 0
        self.findings: dict[str, bytes] = {}
        self.counts: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()

    def __call__(self, raw: bytes) -> None:
        """Run the target on one input."""
        self._run(lambda: self.target(Choices(raw)), raw)

    def case(self, case: Callable[[], object]) -> None:
        """Run one of a target's hard cases."""
        self._run(case, b"")

    def _run(self, call: Callable[[], object], raw: bytes) -> None:
        self.executions += 1
        try:
            self.guard(call)
        except self.refusals as error:
            self.refused += 1
            self.kinds[re.sub(r"'[^']*'|\S*/\S*|\d[\d,]*|\([^)]*\)", "_", str(error).split("\n")[0])[:90]] += 1
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self._note(error, raw)
        if time.monotonic() - self.shown > 30:
            self.shown = time.monotonic()
            print(self.summary(), flush=True)

    def _note(self, error: BaseException, raw: bytes) -> None:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/seqkit/" in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else str(error)[:25]
        key = f"{type(error).__name__} at {place}"
        self.counts[key] += 1
        if key not in self.findings:
            self.findings[key] = raw
            told = "".join(traceback.format_list(frames[-4:])) + f"{error!r:.600}"
            print(f"FINDING {key}\n{told}\n  --replay {raw.hex() or '(a hard case)'}", flush=True)

    def summary(self) -> str:
        """How it stands, in one line."""
        took = max(time.monotonic() - self.begun, 1e-9)
        return (
            f"{self.executions:,} executions in {took:.0f} s, "
            f"{self.refused:,} refused ({len(self.kinds)} kinds of message), "
            f"{self.executions - self.refused - sum(self.counts.values()):,} accepted, findings: "
            + (", ".join(f"{key} ({count} times)" for key, count in self.counts.items()) or "none")
        )


def run_random(runner: Runner, seconds: float, executions: int, seed: int) -> None:
    """Inputs drawn at random: of all lengths, half of them changes of one before."""
    generator = random.Random(seed)
    earlier: list[bytes] = [b""]
    runner(b"")
    while runner.executions < executions and time.monotonic() - runner.begun < seconds:
        if generator.random() < 0.5:
            raw = generator.randbytes(int(2 ** generator.uniform(2, 11)))
        else:
            edited = bytearray(generator.choice(earlier))
            for _ in range(generator.randint(1, 4)):
                place = generator.randint(0, len(edited))
                edited[place : place + generator.randint(0, 2)] = generator.randbytes(generator.randint(0, 3))
            raw = bytes(edited)
        earlier = [*earlier[-200:], raw]
        runner(raw)


def run_guided(runner: Runner, atheris: Any, given: argparse.Namespace, corpus: Path) -> None:
    """Inputs led by coverage; the process ends here."""
    corpus.mkdir(parents=True, exist_ok=True)
    arguments = [sys.argv[0], str(corpus), "-max_len=4096", "-rss_limit_mb=0", "-timeout=120", "-print_final_stats=1"]
    arguments += [f"-artifact_prefix={corpus}/"]
    generator = random.Random(0)
    for number in range(64):
        (corpus / f"seed-{number}").write_bytes(generator.randbytes(8 * (number + 1)))

    def one(raw: bytes) -> None:
        runner(raw)
        if runner.executions >= given.executions or time.monotonic() - runner.begun > given.seconds:
            _end(runner, given.refusals)  # libFuzzer would not come back, nor run what is registered for the exit
            os._exit(1 if runner.findings else 0)

    atheris.Setup(arguments, one)
    atheris.Fuzz()


def _end(runner: Runner, refusals: bool) -> None:
    for kind, count in runner.kinds.most_common() if refusals else ():
        print(f"{count:6} {kind!a}")
    print("END", runner.summary(), flush=True)


def main(arguments: list[str] | None = None) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--executions", type=int, default=2**31 - 1)
    parser.add_argument("--corpus", type=Path, help="where the guided inputs are kept; a temporary folder without it")
    parser.add_argument("--home", type=Path, help="where to work and keep the tiny runs; a temporary folder without it")
    parser.add_argument("--seed", type=int, default=0, help="of inputs drawn at random")
    parser.add_argument("--random", action="store_true", help="without atheris")
    parser.add_argument("--refusals", action="store_true", help="print the kinds of messages at the end")
    parser.add_argument("--replay", type=bytes.fromhex, help="run one input, as a finding prints it")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="seqkit-fuzz-") as temporary:
        home = (given.home or Path(temporary)).resolve()
        home.mkdir(parents=True, exist_ok=True)
        os.environ["HF_HOME"], os.environ["HF_HUB_OFFLINE"] = str(home / "cache"), "1"
        os.environ.setdefault("SEQKIT_DATA", str(home))
        # oneDNN keeps up to 1,024 kernels, several for each shape of a batch and up to 2.7 GB in all: more than an
        # execution may take. It reads this when torch first computes.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
        atheris = None
        if not given.random and given.replay is None:
            try:
                atheris = importlib.import_module("atheris")
            except ImportError as error:
                print(f"without atheris ({error}): inputs are drawn at random, not led by coverage")
        if atheris is not None:
            with atheris.instrument_imports(include=["seqkit", "yaml"]):
                targets = importlib.import_module("fuzz.targets")
        else:
            targets = importlib.import_module("fuzz.targets")
        target = targets.make(given.target, home)
        guard = Guard(home)
        runner = Runner(target, guard)
        guard.limit_memory()
        if given.replay is not None:
            runner(given.replay)
        else:
            for case in target.cases():
                runner.case(case)
            runner.begun = time.monotonic()
            if atheris is not None:
                run_guided(runner, atheris, given, given.corpus or home / "corpus")
            run_random(runner, given.seconds, given.executions, given.seed)
        faulthandler.cancel_dump_traceback_later()
        _end(runner, given.refusals)
        return 1 if runner.findings else 0


if __name__ == "__main__":
    sys.exit(main())
