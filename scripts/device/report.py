"""Cases with a clock: what passed, what failed and why, what was measured, what was not reached."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class OutOfTime(Exception):
    """The clock has run down."""


class Report:
    """Collects results.

    Args:
        device: what is checked.
        seconds: for everything together.
        quick: few and small cases.
        only: cases whose name lacks this text are passed over.
        share: of the cases, those with number k of n in turn, as "k/n": several processes share them.
        warming: what is measured runs once, so that its kernels are compiled and kept.
    """

    def __init__(
        self,
        device: str,
        seconds: float,
        *,
        quick: bool = False,
        only: str = "",
        share: str = "0/1",
        warming: bool = False,
    ) -> None:
        self.device, self.quick, self.only, self.warming = device, quick, only, warming
        self._share, self._shares = map(int, share.split("/"))
        self._asked = 0
        self.end = time.perf_counter() + seconds
        self.rows: list[dict[str, Any]] = []
        self.parts: dict[str, float] = {}
        self.unreached: list[str] = []
        self._part = ""

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Everything inside belongs to the part; the clock may end it."""
        self._part, start = name, time.perf_counter()
        print(f"\n== {name}", flush=True)
        try:
            yield
        except OutOfTime:
            self.unreached.append(name)
            print(f"{name}: the time is up; the rest was not tried", flush=True)
        except Exception:
            self._add("part", False, error=traceback.format_exc(limit=-4))
        finally:
            self.parts[name] = time.perf_counter() - start

    def left(self) -> float:
        """Seconds that are left."""
        return self.end - time.perf_counter()

    @contextmanager
    def case(self, name: str) -> Iterator[dict[str, Any]]:
        """One check: an exception is a failure with its last lines; numbers go into the dict that is given."""
        if self.left() <= 0:
            raise OutOfTime
        start, values = time.perf_counter(), dict[str, Any]()
        try:
            yield values
        except OutOfTime:
            raise
        except Exception:
            self._add(name, False, time.perf_counter() - start, traceback.format_exc(limit=-3), values)
        else:
            self._add(name, True, time.perf_counter() - start, "", values)

    def wants(self, name: str) -> bool:
        """Whether a case of this name is to run, here."""
        if self.only not in name:
            return False
        self._asked += 1
        return self._asked % self._shares == self._share

    def take(self, found: dict[str, Any]) -> None:
        """Add what another process has found of the present part."""
        self.rows += found["rows"]
        self.unreached += [name for name in found["unreached"] if name not in self.unreached]

    def _add(self, name: str, good: bool, seconds: float = 0.0, error: str = "", values: Any = None) -> None:
        row = {"part": self._part, "case": name, "good": good, "seconds": round(seconds, 4)}
        self.rows.append({**row, **({"error": error} if error else {}), **({"values": values} if values else {})})
        if not good:
            print(f"FAILED {self._part}: {name}\n    {error.strip()[-700:]}", flush=True)

    @property
    def failed(self) -> int:
        """How many checks failed."""
        return sum(not row["good"] for row in self.rows)

    def found(self) -> dict[str, Any]:
        """Everything, for JSON."""
        return {"failed": self.failed, "parts": self.parts, "unreached": self.unreached, "rows": self.rows}

    def summary(self) -> None:
        """One line a part."""
        print()
        for part, seconds in self.parts.items():
            own = [row for row in self.rows if row["part"] == part]
            bad = [row["case"] for row in own if not row["good"]]
            rest = f"; FAILED: {len(bad)} ({'; '.join(bad[:40])})" if bad else ""
            stopped = "; stopped by the clock" if part in self.unreached else ""
            print(f"{part:10} {len(own) - len(bad)} of {len(own)} good, {seconds:.1f} s{stopped}{rest}")
