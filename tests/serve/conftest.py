"""A server in a thread of this process, and a client that says exactly what a test wants."""

from __future__ import annotations

import http.client
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")

import uvicorn

from seqkit.serve import Limits, Model, make_app, open_models
from seqkit.serve.guard import Hosts
from seqkit.serve.server import listening, make_server

FIXTURES = Path(__file__).parent.parent / "fixtures"
RUNS = {
    "sentiment": FIXTURES / "2026-11/sentiment-finished",
    "slots": FIXTURES / "2026-11/slots-finished",
    "translation": FIXTURES / "2026-11/translation-finished",
    "language_model": FIXTURES / "2026-11/language_model-finished",
}


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> str:
        """The sentence of a refusal."""
        assert set(self.json) == {"error"}, self.text
        assert "\n" not in self.json["error"]
        return str(self.json["error"])


@dataclass
class Running:
    """A server that runs."""

    port: int
    models: dict[str, Model]
    server: uvicorn.Server

    def send(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body.encode() if isinstance(body, str) else body
        connection.request(method, path, raw, headers or {})
        found = connection.getresponse()
        answer = Answer(
            found.status, {name.lower(): value for name, value in found.getheaders()}, found.read().decode()
        )
        connection.close()
        return answer

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        return self.send("POST", path, raw, {"content-type": "application/json", **headers})

    def predict(self, **body: Any) -> Answer:
        return self.post("/predict", body)


@contextmanager
def running(
    *runs: Path,
    limits: Limits | None = None,
    token: str = "",
    host: str = "127.0.0.1",
    options: tuple[str, ...] = (),
    connections: int = 100,
) -> Iterator[Running]:
    """Serve runs on a free port of loopback, as if bound to `host`."""
    models = open_models(runs, "cpu", options, limits)
    with listening("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        app = make_app(models, Hosts(host, port), limits, token)
        server = make_server(app, connections)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            thread.join(0.005)
            assert thread.is_alive()
        try:
            yield Running(port, models, server)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="session")
def runs() -> dict[str, Path]:
    """A finished run of each task."""
    return RUNS


@pytest.fixture(scope="session")
def start() -> Callable[..., Any]:
    """`with start(*runs, limits=...) as server`: see `running`."""
    return running


@pytest.fixture(scope="module")
def served() -> Iterator[Running]:
    """The four tasks, with narrow limits."""
    limits = Limits(body=100_000, texts=20, tokens=60, beam=6, explain_tokens=30)
    with running(*RUNS.values(), limits=limits) as server:
        yield server


@pytest.fixture
def copied(tmp_path: Path) -> Callable[..., Path]:
    """`copied("slots", "NAME")`: a copy of a run in a folder of its own."""

    def copy(task: str, name: str) -> Path:
        return Path(shutil.copytree(RUNS[task], tmp_path / name))

    return copy
