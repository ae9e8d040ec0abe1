"""From run folders to a server that listens."""

from __future__ import annotations

import asyncio
import errno
import gc
import secrets
import signal
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from seqkit.errors import Option, Stopped, UserError, require
from seqkit.serve.app import make_app
from seqkit.serve.guard import Application, Hosts
from seqkit.serve.limits import Limits
from seqkit.serve.models import Model, open_models

_CONNECTIONS = 1000


def serve(
    runs: Sequence[str | Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    device: str = "auto",
    trust: bool = False,
    options: Iterable[str] = (),
    limits: Limits | None = None,
    ready: Callable[[str, Mapping[str, Model]], object] = lambda address, models: None,
) -> None:
    """Serve runs until a signal ends the server; what was begun is finished.

    Args:
        runs: run folders.
        host: address to listen at; beyond loopback clients need the token in the address that `ready` gets.
        port: port to listen at; 0: a free one.
        device: see `seqkit.load`.
        trust: see `seqkit.load`.
        options: `KEY=VALUE` texts: settings of `predict`.
        limits: see `Limits`.
        ready: called with the address of the page and the runs by name, as soon as the server answers.

    Raises:
        UserError: see `open_models`; the port is in use; an extra is missing.
        Stopped: a signal has ended it.
    """
    require("uvicorn", "serve")
    require("starlette", "serve")
    require("jinja2", "serve")
    with listening(host, port) as listener:
        hosts = Hosts(host, listener.getsockname()[1])
        token = "" if hosts.loopback else secrets.token_urlsafe(18)
        limits = limits or Limits()
        models = open_models(runs, device, options, limits, trust=trust)
        app = make_app(models, hosts, limits, token)
        gc.collect()
        gc.freeze()  # what was loaded stays: to look through it again would stop the server for tenths of a second
        server = make_server(app)
        received: list[int] = []
        server.capture_signals = lambda: _signals(server, received)
        asyncio.run(_run(server, listener, lambda: ready(_address(hosts, host, token), models)))
    if received:
        raise Stopped("stopped", 128 + received[0])


def make_server(app: Application, connections: int = _CONNECTIONS) -> Any:
    """Return uvicorn's server of an application.

    Args:
        app: see `make_app`.
        connections: how many may be open, idle ones among them; whoever asks beyond that gets 503.

    Raises:
        UserError: uvicorn is not installed.
    """
    uvicorn = require("uvicorn", "serve")
    config = uvicorn.Config(
        app,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="on",
        limit_concurrency=connections,
    )
    return uvicorn.Server(config)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """Yield a socket that listens.

    Raises:
        UserError: the port is in use, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"{host!r} is no address ({error})", key=Option("host")) from None
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(2048)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise UserError(
                    f"{port} is in use on {host}: another server listens there; choose another port, or ",
                    Option("port", "0"),
                    " for a free one",
                    key=Option("port"),
                ) from None
            raise UserError(f"cannot listen at {host}, port {port} ({error.strerror})", key=Option("host")) from None
        yield listener


async def _run(server: Any, listener: socket.socket, ready: Callable[[], object]) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if not serving.done():
        ready()
    await serving


@contextmanager
def _signals(server: Any, received: list[int]) -> Iterator[None]:
    """Let signals end the server in good order; a second Ctrl-C ends it at once."""

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            server.force_exit = True
        received.append(number)
        server.should_exit = True

    watched = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, note) for number in watched}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _address(hosts: Hosts, host: str, token: str) -> str:
    name = socket.gethostname() if hosts.any_address else f"[{host}]" if ":" in host else host
    return f"http://{name}:{hosts.port}/{f'?token={token}' if token else ''}"
