"""Clients that send their requests, and wait for answers: too much, too slow, gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seqkit.serve.guard import Receive, Scope
from seqkit.serve.limits import Refused

_TICK = 0.2  # seconds between two looks at clients


class Clients:
    """Reads requests, and waits for answers as long as their clients do.

    One task looks after all clients from time to time: a timer for each would cost more than the rest of a request.

    Args:
        most: bytes in a request.
        seconds: how long a client may take to send one.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self._most, self._seconds = most, seconds
        self._reading: dict[asyncio.Task[object], float] = {}  # until when
        self._waiting: dict[asyncio.Future[list[str]], Receive] = {}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look after clients in the meantime."""
        watch = asyncio.create_task(self._watch())
        yield
        watch.cancel()

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return a request's body.

        Raises:
            Refused: it is not said to be JSON, too large, too slow, or its client has gone.
        """
        headers = dict(scope["headers"])
        kind: bytes = headers.get(b"content-type", b"")
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            raise Refused(415, "expected the header content-type: application/json")
        length: bytes = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most:
            raise self._too_large()
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None
        self._reading[task] = loop.time() + self._seconds
        try:
            return await self._body(receive)
        except asyncio.CancelledError:
            if task in self._reading:  # somebody else has ended it
                raise
            raise Refused(408, f"the request took longer than {self._seconds:g} seconds to arrive") from None
        finally:
            self._reading.pop(task, None)

    async def _body(self, receive: Receive) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _gone()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._most:
                raise self._too_large()
        return body

    async def wait(self, answers: asyncio.Future[list[str]], receive: Receive) -> list[str]:
        """Wait for answers.

        Raises:
            Refused: the client has gone.
        """
        self._waiting[answers] = receive
        try:
            return await answers
        finally:
            self._waiting.pop(answers, None)

    async def _watch(self) -> None:
        loop, listeners = asyncio.get_running_loop(), set[asyncio.Task[None]]()
        while True:
            await asyncio.sleep(_TICK)
            for task, end in list(self._reading.items()):
                if loop.time() > end:
                    del self._reading[task]
                    task.cancel()
            for answers, receive in self._waiting.items():
                listener = loop.create_task(_leave(answers, receive))
                listeners.add(listener)
                listener.add_done_callback(listeners.discard)
            self._waiting.clear()

    def _too_large(self) -> Refused:
        return Refused(413, f"the body is too large; this server takes {self._most:,} bytes")


async def _leave(answers: asyncio.Future[list[str]], receive: Receive) -> None:
    """Give answers up when the client goes; it ends, too, when they have been sent."""
    while (await receive())["type"] != "http.disconnect":
        pass
    if not answers.done():
        answers.set_exception(_gone())


def _gone() -> Refused:
    return Refused(499, "the client has gone")
