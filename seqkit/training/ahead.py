"""The next batch, made and sent while the device computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from seqkit.data.batching import Spare


class Ahead:
    """An iterator over batches on their way to a device.

    `fetch` takes the next one from the iterable and sends it, if that has not happened yet; called after the kernels of
    a batch have been launched and before the host waits for them, it costs no time of the device.

    Args:
        batches: on the CPU.
        send: sends one, without waiting.
    """

    def __init__(self, batches: Iterable[Any], send: Callable[[Any], Any]) -> None:
        self._batches, self._send = iter(batches), send
        self._held: list[Any] = []
        self._error: BaseException | None = None

    def fetch(self) -> None:
        """Have the next batch. What goes wrong is raised when it is asked for, and not in the middle of an update."""
        if self._held or self._error is not None:
            return
        try:
            batch = next(self._batches)
            self._held.append(Spare(self._send(batch.batch)) if isinstance(batch, Spare) else self._send(batch))
        except Exception as error:
            self._error = error

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self.fetch()
        if self._held:
            return self._held.pop()
        assert self._error is not None
        raise self._error
