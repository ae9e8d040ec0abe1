"""How fast `seqkit serve` answers: alone and with many clients, with batching and without, beside an empty endpoint.

    python scripts/bench/serve.py runs/first --texts reviews.txt
    python scripts/bench/serve.py runs/translation --texts test.de --requests 640 beam_size=5

Clients keep their connection, send each request in one packet, and ask again as soon as they are answered. All of them
are one process, and the server is another. The empty endpoint is a Starlette application that reads the same requests
and answers {}. `predict` is called in this process, with one text at a time. All of them are measured in turn.
"""

from __future__ import annotations

import json
import selectors
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from seqkit.run import load_predictor
from seqkit.serve.server import listening
from seqkit.tasks import RunTask

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import command, goal, parser_for, ratio, setting, take_turns, write


@dataclass
class Measured:
    """What clients saw: seconds from the first request to the last answer, and of each answer; requests without one."""

    wall: float
    latencies: list[float] = field(repr=False)
    lost: int = 0

    @property
    def rate(self) -> float:
        """Requests a second."""
        return len(self.latencies) / self.wall

    def percentile(self, share: float) -> float:
        """Milliseconds within which this share of the requests was answered."""
        return 1e3 * sorted(self.latencies)[min(int(share * len(self.latencies)), len(self.latencies) - 1)]


class Client:
    """One connection: sends a request in one packet, and reads its answer."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began, self.answer, self.size = 0.0, b"", 0

    def send(self, request: bytes) -> None:
        """Send a request."""
        self.answer, self.size, self.began = b"", 0, time.perf_counter()
        self.socket.sendall(request)

    def read(self) -> bool:
        """Read what has come; return whether the answer is whole.

        Raises:
            ConnectionError: the server has closed the connection.
        """
        part = self.socket.recv(1 << 16)
        if not part:
            raise ConnectionError
        self.answer += part
        if not self.size and b"\r\n\r\n" in self.answer:
            head, _, _ = self.answer.partition(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self.size = len(head) + 4 + int(length.partition(b":")[2])
        return bool(self.size) and len(self.answer) >= self.size

    @property
    def good(self) -> bool:
        """Whether the answer is no refusal."""
        return self.answer.startswith(b"HTTP/1.1 200")


def ask(port: int, bodies: Sequence[bytes], clients: int, requests: int) -> Measured:
    """Send requests from several clients at once, each with the next body."""
    waiting = (_request(port, body) for body in islice(cycle(bodies), requests))
    found = Measured(0.0, [])
    with selectors.DefaultSelector() as selector:
        begin = time.perf_counter()
        for request in islice(waiting, clients):
            client = Client(port)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.send(request)
        while selector.get_map():
            ready = selector.select(timeout=60)
            if not ready:
                break
            for key, _ in ready:
                client = key.data
                try:
                    if not client.read():
                        continue
                    found.latencies.append(time.perf_counter() - client.began)
                    found.lost += not client.good
                    client.send(next(waiting))
                except (ConnectionError, StopIteration):
                    selector.unregister(client.socket)
                    client.socket.close()
        found.wall = time.perf_counter() - begin
    found.lost += requests - len(found.latencies)
    return found


def _request(port: int, body: bytes) -> bytes:
    head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def empty() -> None:
    """Serve an endpoint that answers {}; print its port."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        await request.json()
        return Response("{}", media_type="application/json")

    app = Starlette(routes=[Route("/predict", answer, methods=["POST"])])
    with listening("127.0.0.1", 0) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}/", flush=True)
        uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[int]:
    """Run a server that prints its address, and yield its port."""
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield int(line.partition("127.0.0.1:")[2].partition("/")[0])
    finally:
        process.terminate()
        process.wait()


def alone(task: RunTask, texts: Sequence[str]) -> Measured:
    """Measure `predict` with one text at a time, written as JSON."""
    latencies = []
    for text in texts:
        begin = time.perf_counter()
        task.format(task.predict([text])[0], "jsonl")
        latencies.append(time.perf_counter() - begin)
    return Measured(sum(latencies), latencies)


def main() -> None:
    """Measure, and print a row for each."""
    parser = parser_for(__doc__, rounds=3)
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("options", nargs="*", help="options of predict, KEY=VALUE")
    parser.add_argument("--texts", type=Path, required=True, help="a file with one text a line")
    parser.add_argument("--requests", type=int, default=3200, help="in a round (%(default)s)")
    parser.add_argument("--clients", type=int, default=32, help="at once (%(default)s)")
    parser.add_argument("--load", type=int, default=0, metavar="N", help="also send N requests, and look for lost ones")
    args = parser.parse_args()
    texts = args.texts.read_text("utf-8").splitlines()[:500]
    bodies = [json.dumps({"text": text}).encode() for text in texts]
    task = load_predictor(args.run, "cpu", args.options)
    about = setting(args, clients=args.clients, requests=args.requests, task=task.kind)
    start = [sys.executable, "-m", "seqkit", "serve", str(args.run), *args.options, "--port", "0", "--device", "cpu"]
    few = max(args.requests // args.clients, 20)
    with ExitStack() as stack:
        on = stack.enter_context(running(start))
        off = stack.enter_context(running([*start, "--max-batch", "1"]))
        nothing = stack.enter_context(running(command("bench.serve", "empty()")))
        many = {"batching": on, "no batching": off, "empty endpoint": nothing}
        measures = {name: partial(ask, port, bodies, args.clients, args.requests) for name, port in many.items()}
        measures["one client"] = partial(ask, on, bodies, 1, few)
        measures["predict"] = lambda: alone(task, list(islice(cycle(texts), few)))
        found = take_turns(measures, args.rounds)
        if args.load:
            found["load"] = [ask(on, bodies, args.clients, args.load)]
    rows = []
    for name, rounds in found.items():
        median = sorted(rounds, key=lambda one: one.rate)[len(rounds) // 2]
        p50, p99, lost = median.percentile(0.5), median.percentile(0.99), sum(one.lost for one in rounds)
        rows.append({"name": name, "rate": median.rate, "p50": p50, "p99": p99, "lost": lost})
        print(f"{name:15} {median.rate:8,.1f}/s  p50 {p50:7.2f} ms  p99 {p99:7.2f} ms  lost {lost}", flush=True)
    rates = {name: [one.rate for one in rounds] for name, rounds in found.items()}
    gain = ratio(rates["batching"], rates["no batching"])
    share = ratio(rates["batching"], rates["empty endpoint"])
    lone = [
        one.percentile(0.5) - other.percentile(0.5)
        for one, other in zip(found["one client"], found["predict"], strict=True)
    ]
    beside = goal("rate over the rate of an empty endpoint", share, 0.7)
    goals = [
        goal("rate over the rate without batching", gain, 4 if task.kind == "translation" else 3),
        *([] if task.kind == "translation" else [f"or {beside}"]),
        goal("one client's p50 beyond predict's, ms", statistics.median(lone), 2, most=True),
    ]
    write(args, about, rows, goals)


if __name__ == "__main__":
    main()
