"""A thread that answers what several clients ask together."""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from seqkit.console import say
from seqkit.errors import UserError
from seqkit.serve.limits import Refused

# How long the thread waits for clients that it has just answered to ask again: a share of the last batch's time, and
# seconds for each client; never longer than the last value.
_SHARE, _EACH, _LONGEST_WAIT = 0.05, 2e-4, 5e-3

FAILED = "the server failed on this request; its standard error says why"
"""What a client is told whose request hit a defect."""


@dataclass
class Job:
    """What a client has asked.

    Attributes:
        items: what it asks about.
        by: what answers them; jobs with one and the same may be answered together.
        alone: it must be answered alone.
        future: gets a list of answers, one for each item.
    """

    items: Sequence[Any]
    by: Any
    alone: bool
    future: asyncio.Future[list[str]] = field(repr=False)


Answer = Callable[[Any, list[Any]], list[str]]


class Batcher:
    """Answers jobs in one thread, several together where the same answers them.

    Args:
        answer: takes what answers and the items, returns an answer for each; called in the thread alone.
        batch: most items that are answered together, unless one job has more.
        queue: most items that wait.
        what: the items' name in messages.
    """

    def __init__(self, answer: Answer, batch: int, queue: int, what: str = "texts") -> None:
        self._answer, self._batch, self._most, self._what = answer, batch, queue, what
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._waiting = 0
        self._stopped = False
        self._expected, self._patience = 0, 0.0
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many items wait."""
        return self._waiting

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Answer what waits, and end the thread."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def ask(self, items: Sequence[Any], by: Any, *, alone: bool = False) -> asyncio.Future[list[str]]:
        """Queue items and return what will hold their answers; called in the event loop's thread.

        Raises:
            Refused: too many wait already.
        """
        future: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._waiting and self._waiting + len(items) > self._most:
                raise Refused(429, f"busy: {self._waiting:,} {self._what} wait already; try again in a moment")
            self._jobs.append(Job(items, by, alone, future))
            self._waiting += len(items)
            if len(self._jobs) == 1 or self._all_here():  # to wake the thread for nothing costs a switch of threads
                self._changed.notify()
        return future

    def _run(self) -> None:
        while jobs := self._next():
            began = time.perf_counter()
            outcomes = self._outcomes(jobs)
            took = time.perf_counter() - began
            with self._changed:  # before they are answered, for they may ask again at once
                self._expected = len(jobs) + len(self._jobs)
            self._patience = min(_LONGEST_WAIT, max(_SHARE * took, _EACH * self._expected))
            try:
                jobs[0].future.get_loop().call_soon_threadsafe(_deliver, jobs, outcomes)
            except RuntimeError:  # the loop has been closed
                return

    def _next(self) -> list[Job]:
        """Return the jobs of the next batch, none when the server ends."""
        with self._changed:
            while self._jobs or not self._stopped:
                self._changed.wait_for(lambda: self._jobs or self._stopped)
                if self._expected > 1 and self._batch > 1:  # clients that were answered together ask again together
                    self._changed.wait_for(self._all_here, self._patience)
                if taken := self._take():
                    return taken
        return []

    def _all_here(self) -> bool:
        return len(self._jobs) >= min(self._expected, self._batch) or self._stopped

    def _take(self) -> list[Job]:
        """Take the first job that its client still waits for, and those that can be answered with it."""
        taken: list[Job] = []
        left: deque[Job] = deque()
        size = 0
        for job in self._jobs:
            if job.future.done():  # its client has gone
                self._waiting -= len(job.items)
            elif not taken or (job.by is taken[0].by and not job.alone and size + len(job.items) <= self._batch):
                taken.append(job)
                size += len(job.items)
            else:
                left.append(job)
        self._jobs = left
        self._waiting -= size
        return taken

    def _outcomes(self, jobs: list[Job]) -> list[list[str] | Exception]:
        try:
            answers = self._answer(jobs[0].by, [item for job in jobs for item in job.items])
        except Exception as error:
            if len(jobs) > 1:  # a client's mistake is no other client's
                return [outcome for job in jobs for outcome in self._outcomes([job])]
            return [_as_refusal(error)]
        places = iter(answers)
        return [[next(places) for _ in job.items] for job in jobs]


def _as_refusal(error: Exception) -> Exception:
    if isinstance(error, Refused):
        return error
    if isinstance(error, UserError):
        return Refused(422, str(error))
    return failed(error)


def failed(error: Exception) -> Refused:
    """Print an error that no client is to blame for, and return what its client is told."""
    say(f"an answer failed:\n{''.join(traceback.format_exception(error))}".rstrip())
    return Refused(500, FAILED)


def _deliver(jobs: list[Job], outcomes: list[list[str] | Exception]) -> None:
    for job, outcome in zip(jobs, outcomes, strict=True):
        if job.future.done():
            continue
        if isinstance(outcome, Exception):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
