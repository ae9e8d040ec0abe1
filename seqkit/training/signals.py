"""Ctrl-C, SIGTERM and SIGHUP, turned into a question the loop asks between two steps; and a loss that is not finite."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType

from seqkit.errors import Stopped


def not_finite(update: int, what: str, examples: Sequence[str], kept: str) -> Stopped:
    """Report that the loss or the gradient of an update is not finite.

    Args:
        update: its number, from 1.
        what: is not finite.
        examples: of the batch, as text.
        kept: what there is to go on from.
    """
    shown = "".join(f"\n  {text[:200]}" for text in examples[:8])
    more = f"\n  ... and {len(examples) - 8} more" if len(examples) > 8 else ""
    again = ", and will reach the same update" if "seqkit resume" in kept else ""
    return Stopped(
        f"step {update}: {what}; {kept}{again}. In a new run, a lower training.optimizer.lr or "
        f"a smaller training.clip_norm may help. The batch:{shown}{more}"
    )


_WATCHED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class SignalWatch:
    """Context in which SIGINT, SIGTERM and SIGHUP (the terminal is gone) are noted.

    SIGHUP stays ignored where it is, as under `nohup`.

    Args:
        insist: a second SIGINT acts at once.

    Attributes:
        received: the signal's number, 0 before one comes.
    """

    def __init__(self, insist: bool = True) -> None:
        self.received, self._insist = 0, insist
        self._before: dict[signal.Signals, object] = {}

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.received

    def __enter__(self) -> SignalWatch:
        if threading.current_thread() is threading.main_thread():  # Python allows handlers nowhere else
            for number in _WATCHED:
                if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT and self._insist:
            raise KeyboardInterrupt
        self.received = number

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
