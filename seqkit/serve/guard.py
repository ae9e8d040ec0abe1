"""What stands before every request: whose host it names, whether it has the token, and headers of safety."""

from __future__ import annotations

import hmac
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# No script but the package's files, nothing from elsewhere; colours of heat maps are style attributes.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_OPEN = "/static/"  # files of the package, the same for everyone


class Hosts:
    """The Host headers that are this server's: a name that leads here from elsewhere is a trick (DNS rebinding).

    Args:
        host: the server is bound to it.
        port: the server is bound to it.
    """

    def __init__(self, host: str, port: int) -> None:
        self.port = port
        self.any_address = host in ("0.0.0.0", "::")
        self.loopback = _is_loopback(host)
        names = {host.lower()}
        if self.loopback:
            names |= {"localhost", "127.0.0.1", "::1"}
        if self.any_address:
            names |= {"localhost", socket.gethostname().lower(), socket.getfqdn().lower()}
        self.names = names

    def __contains__(self, header: str) -> bool:
        name, _, port = (
            header.lower().rpartition(":") if header.rpartition(":")[2].isdigit() else (header.lower(), "", "80")
        )
        name = name.removeprefix("[").removesuffix("]")
        return port == str(self.port) and (name in self.names or (self.any_address and _is_address(name)))


class Guard:
    """Lets requests through to an application.

    Args:
        app: an ASGI application.
        hosts: see `Hosts`.
        token: what the URL, or the header Authorization, must hold; "": nothing.
    """

    def __init__(self, app: Application, hosts: Hosts, token: str = "") -> None:
        self.app, self.hosts, self.token = app, hosts, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])

        async def send_safely(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if [name for name, _ in scope["headers"]].count(b"host") != 1 or _text(headers[b"host"]) not in self.hosts:
            problem, status = "the Host header does not name this server; use the address it printed", 421
        elif self.token and not scope["path"].startswith(_OPEN) and not self._knows_token(scope, headers):
            problem, status = "the token is missing or wrong; use the whole address that the server printed", 401
        else:
            await self.app(scope, receive, send_safely)
            return
        await send_json(send_safely, status, json.dumps({"error": problem}))

    def _knows_token(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        asked = parse_qs(_text(scope["query_string"])).get("token", [])
        asked.append(_text(headers.get(b"authorization", b"")).removeprefix("Bearer "))
        return any(hmac.compare_digest(one.encode(), self.token.encode()) for one in asked)


async def send_json(send: Send, status: int, text: str) -> None:
    """Answer with JSON."""
    body = text.encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)
