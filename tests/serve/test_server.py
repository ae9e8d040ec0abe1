"""`seqkit serve` as a process: its one line, signals, a port in use, and other mistakes."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from seqkit.cli.app import app
from seqkit.serve import Limits

# Prints a line when it is asked, and answers when it may read a line, so that a signal comes in between.
SLOW = """
import sys
from seqkit.serve import batcher
ask, outcomes = batcher.Batcher.ask, batcher.Batcher._outcomes
batcher.Batcher.ask = lambda *asked, **how: (ask(*asked, **how), print("asked", flush=True))[0]
batcher.Batcher._outcomes = lambda self, jobs: (sys.stdin.readline(), outcomes(self, jobs))[1]
from seqkit.cli import main
main(sys.argv[1:])
"""


@contextmanager
def process(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the command line, and yield it with the address that it prints."""
    command = [sys.executable, "-c", SLOW, "serve", *map(str, arguments), "--port", "0", "--device", "cpu"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as running:
        assert running.stdout is not None
        try:
            yield running, running.stdout.readline()
        finally:
            running.kill()


def accepts(port: int) -> bool:
    """Return whether a server takes a new client."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_sigterm_finishes_what_was_begun_and_beyond_loopback_the_address_holds_a_token(runs: dict[str, Path]) -> None:
    with process(runs["slots"], "--host", "0.0.0.0") as (server, line):
        found = re.search(r":(\d+)/\?token=([\w-]{20,}) ", line)
        assert found is not None, line
        port = int(found[1])
        for path, status in (("/runs", 401), (f"/runs?token={found[2]}", 200)):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            client.request("GET", path)
            answer = client.getresponse()
            assert answer.status == status
            assert answer.getheader("server") is None
            client.close()
        clients = [http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(3)]
        for client in clients:
            body = json.dumps({"text": "Find the superb film."})
            headers = {"content-type": "application/json", "authorization": f"Bearer {found[2]}"}
            client.request("POST", "/predict", body, headers)
        assert server.stdin is not None
        assert server.stdout is not None
        assert [server.stdout.readline() for _ in clients] == ["asked\n"] * 3
        server.send_signal(signal.SIGTERM)
        while accepts(port):
            time.sleep(0.01)
        server.stdin.close()  # now it may answer
        answers = [client.getresponse() for client in clients]
        assert [answer.status for answer in answers] == [200] * 3
        assert all(json.loads(answer.read())["predictions"][0]["tokens"] for answer in answers)
        assert server.wait(60) == 143
        assert server.stderr is not None
        assert server.stderr.read() == "seqkit: stopped\n"


def test_on_loopback_the_address_holds_no_token(
    cli: Callable[..., Any], tmp_path: Path, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(server: Any, listener: socket.socket, ready: Callable[[], object]) -> None:
        assert server.config.limit_concurrency == 1000
        ready()

    monkeypatch.setattr("seqkit.serve.server._run", start)
    done = cli(tmp_path, "serve", str(runs["slots"]), "--port", "0", "--device", "cpu")
    assert (done.returncode, done.stderr) == (0, b"")
    name = runs["slots"].name
    assert re.fullmatch(rf"serving {name} \(slots\) at http://127\.0\.0\.1:\d+/ .*\n", done.stdout.decode())


def test_what_the_command_line_passes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("seqkit.serve.serve", lambda *values, **named: calls.append((values, named)))
    flags = ["--max-body=1", "--max-texts=2", "--max-tokens=3", "--max-beam=4", "--max-queue=5", "--max-batch=6"]
    more = ["--host=::1", "--port=81", "--device=cpu", "--trust"]
    for words in (["runs/first", "beam_size=2", *flags, *more], ["runs/first"]):
        assert CliRunner().invoke(app, ["serve", *words]).exit_code == 0
    (values, named), (plain, default) = calls
    assert values == ([Path("runs/first")], "::1", 81)
    assert named.pop("limits") == Limits(body=1, texts=2, tokens=3, beam=4, queue=5, batch=6)
    assert named.pop("ready")
    assert named == {"device": "cpu", "trust": True, "options": ["beam_size=2"]}
    assert plain == ([Path("runs/first")], "127.0.0.1", 8000)
    assert (default["limits"], default["trust"]) == (Limits(), False)


def test_a_run_that_names_code_needs_trust(
    cli: Callable[..., Any], copied: Callable[..., Path], tmp_path: Path
) -> None:
    config = copied("sentiment", "run") / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("task: sentiment", "task: my_evil_module:Task"), "utf-8")
    (tmp_path / "my_evil_module.py").write_text("print('imported')\n", "utf-8")
    for flags, imported in (([], b""), (["--trust"], b"imported\n")):
        done = cli(tmp_path, "serve", "run", "--port", "0", *flags)
        assert (done.returncode, done.stdout) == (2, imported)
        assert (b"--trust" in done.stderr) == (not flags)


def test_mistakes_are_one_line(cli: Callable[..., Any], tmp_path: Path, runs: dict[str, Path]) -> None:
    def error(*arguments: str) -> str:
        done = cli(tmp_path, "serve", *arguments)
        assert (done.returncode, done.stdout) == (2, b"")
        return str(done.stderr.decode())

    slots = str(runs["slots"])
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert error(slots, "--port", port) == (
            f"seqkit: --port: {port} is in use on 127.0.0.1: another server listens there; choose another port, or "
            "--port 0 for a free one\n"
        )
    assert "no such run folder" in error("nothing", "--port", "0")
    assert "has no such option" in error(slots, "beam_size=3", "--port", "0")
    assert "--host" in error(slots, "--host", "no.such.host.invalid", "--port", "0")
    assert "cannot listen at 192.0.2.1" in error(slots, "--host", "192.0.2.1", "--port", "0")
    assert "--nothing: no such flag" in error(slots, "--nothing", "--port", "0")
