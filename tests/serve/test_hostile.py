"""Whatever a client sends gets one clear sentence, and the next client is answered."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqkit.config import OneOf, Section
from seqkit.errors import UserError
from seqkit.serve import Limits, open_models
from seqkit.serve.guard import Hosts
from seqkit.serve.models import _is_open

JSON = {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("[" * 50_000, "not JSON"),
        ('{"text": ' + "9" * 5000 + "}", "not JSON"),
        ("[]", "expected a JSON object"),
        ('"text"', "expected a JSON object"),
        ("{}", "expected either text, one text, or texts"),
        ({"text": "a", "texts": ["b"]}, "expected either text"),
        ({"txt": "a"}, "did you mean 'text'?"),
        ({"text": 3}, "body: text: input should be a valid string, got 3"),
        ({"texts": "a"}, "body: texts: input should be a valid list"),
        ({"texts": ["a", None]}, "body: texts.1: input should be a valid string"),
        ('{"text": "\\ud800"}', "texts[0]: not valid Unicode"),
        ('{"text": "\\ud800' + " film" * 20 + '"}', "texts[0]: not valid Unicode"),
        ({"texts": ["a"] * 21}, "texts: 21 are too many; this server takes 20 a request"),
        ({"text": "film " * 70}, "texts[0]: 70 tokens are too many; this server takes 60"),
        ({"text": "a " * 61}, "texts[0]: 61 tokens are too many"),
        ({"text": "x" * 5000}, "texts[0]: 5,000 characters are too long"),
        ({"text": "a", "options": {"beam_size": 2}}, "options.beam_size: no such option of sentiment-finished"),
        ({"run": "translation-finished", "text": "a", "options": {"beam_size": 7}}, "beam_size: 7 is too many; this"),
        ({"run": "translation-finished", "text": "a", "options": {"beam_size": 0}}, "beam_size: must be at least 1"),
        ({"run": "translation-finished", "text": "a", "options": {"beam_size": [1]}}, "options: beam_size"),
        ({"run": "translation-finished", "text": "a", "options": {"max_length": 61}}, "max_length: 61 is too many"),
        ({"run": "translation-finished", "text": "a", "options": {"min_length": 61}}, "min_length: 61 is too many"),
        ({"run": "translation-finished", "text": "a", "options": {"n_best": 7}}, "n_best: 7 is too many; this"),
        ({"run": "translation-finished", "text": "a", "options": {"constraints": ["os:system"]}}, "no such option"),
        ({"run": "translation-finished", "text": "a", "options": {"top_k": 3}}, "sampling"),
        ({"run": "translation-finished", "text": "a", "options": {"prefix": "\U0001f600"}}, "target vocabulary lacks"),
        ({"run": "translation-finished", "text": "a", "options": {"prefix": "sie " * 61}}, "prefix: 61 tokens are too"),
        ({"run": "translation-finished", "text": "a", "options": {"prefix": "sie " * 999}}, "3,996 characters are too"),
        ('{"run": "translation-finished", "text": "a", "options": {"prefix": "\\ud800"}}', "prefix: not valid Unicode"),
    ],
)
def test_what_cannot_be_answered(body: Any, says: str, served: Any) -> None:
    answer = served.post("/predict", body)
    assert answer.status == 422
    assert says in answer.error
    assert served.predict(text="a film").status == 200


def test_the_limits_themselves_are_allowed(served: Any) -> None:
    assert served.predict(texts=["a"] * 20).status == 200
    assert served.predict(text="film " * 60).status == 200
    assert served.predict(run="translation-finished", text="a", options={"beam_size": 6}).status == 200


def test_other_refusals(served: Any) -> None:
    for path in ("/predict", "/explain"):
        assert served.send("POST", path, '{"text": "a"}').status == 415
        assert served.send("POST", path, "text=a", {"content-type": "text/plain"}).status == 415
        assert "GET /docs" in served.get(path).error
        assert served.get(path).status == served.send("OPTIONS", path).status == 405
        assert served.post(path, {"run": "slots-finishd", "text": "a"}).status == 404
    assert "did you mean 'slots-finished'?" in served.predict(run="slots-finishd", text="a").error
    assert served.post("/explain", {"text": "film " * 31}).status == 422
    assert served.post("/explain", {"text": "a", "what": "all"}).status == 422
    assert "text: not valid Unicode" in served.post("/explain", '{"text": "\\ud800' + " film" * 20 + '"}').error


def test_a_defect_is_one_sentence_too(
    start: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before the queue, in the thread that answers, and in what is not a model's answer; a ValueError, too, for what
    clients do wrong raises UserError or is refused."""

    def broken(*asked: Any) -> Any:
        raise ValueError("a secret path")

    with start(runs["slots"]) as server:
        model = server.models["slots-finished"]
        asks = [
            (model, "take", lambda: server.predict(text="a")),
            (model, "check_length", lambda: server.post("/explain", {"text": "a"})),
            (model.batcher, "_answer", lambda: server.predict(text="a")),
            (type(model.batcher), "waiting", lambda: server.get("/health")),
        ]
        for place, name, ask in asks:
            with monkeypatch.context() as patch:
                patch.setattr(place, name, property(broken) if name == "waiting" else broken)
                answer = ask()
            assert answer.status == 500
            assert answer.error == "the server failed on this request; its standard error says why"
            assert "content-security-policy" in answer.headers
            if name != "waiting":  # what Starlette answers, uvicorn logs
                assert "ValueError: a secret path" in capfd.readouterr().err
            assert server.get("/health").status == 200


def test_a_large_body_is_not_read(served: Any) -> None:
    assert served.post("/predict", " " * 100_001).status == 413
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as client:  # it says how large it will be
        head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}content-length: 100001\r\n\r\n".encode())
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    # Without a length: in pieces.
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{served.port}\r\ncontent-type: application/json\r\n"
        client.sendall(f"{head}transfer-encoding: chunked\r\n\r\n".encode())
        piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        try:
            for _ in range(200):
                client.sendall(piece)
        except OSError:  # the server has closed
            pass
        assert client.recv(100).startswith(b"HTTP/1.1 413")


def test_a_slow_body_is_given_up(start: Any, runs: dict[str, Path]) -> None:
    with start(runs["slots"], limits=Limits(read_seconds=0.2)) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-type: application/json\r\n"
            client.sendall(f"{head}content-length: 50\r\n\r\n{{".encode())
            client.settimeout(20)
            assert client.recv(100).startswith(b"HTTP/1.1 408")
        assert server.predict(text="a").status == 200


def test_too_many_connections(start: Any, runs: dict[str, Path]) -> None:
    with start(runs["slots"], connections=3) as server:
        assert server.predict(text="a").status == 200
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        while len(server.server.server_state.connections) < 3:
            time.sleep(0.01)
        refused = server.predict(text="a")
        assert (refused.status, refused.text) == (503, "Service Unavailable")
        for client in idle:
            client.close()
        while server.server.server_state.connections:
            time.sleep(0.01)
        assert server.predict(text="a").status == 200


def test_a_full_queue(start: Any, runs: dict[str, Path]) -> None:
    with start(runs["slots"], limits=Limits(queue=3, batch=1)) as server:
        batcher = server.models["slots-finished"].batcher
        batcher._waiting = 3  # as if others waited
        answer = server.predict(text="a")
        assert answer.status == 429
        assert answer.error == "busy: 3 texts wait already; try again in a moment"
        batcher._waiting = 0
        assert server.predict(texts=["a"] * 5).status == 200  # more than the queue, but nobody waits


def test_a_client_that_leaves_costs_nothing(start: Any, runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with start(runs["slots"], limits=Limits(batch=1)) as server:
        batcher = server.models["slots-finished"].batcher
        seen, end, plain = list[Any](), threading.Event(), batcher._answer

        def slow(by: Any, items: list[Any]) -> list[str]:
            seen.extend(items)
            end.wait(60)
            return plain(by, items)

        monkeypatch.setattr(batcher, "_answer", slow)
        body = [json.dumps({"text": text}) for text in ("first", "second")]
        head = f"POST /predict HTTP/1.1\r\nhost: 127.0.0.1:{server.port}\r\ncontent-type: application/json\r\n"
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in body]
        for client, raw, arrived in zip(clients, body, (lambda: seen, lambda: batcher._jobs), strict=True):
            client.sendall(f"{head}content-length: {len(raw)}\r\n\r\n{raw}".encode())
            while not arrived():
                time.sleep(0.01)
        for client in clients:
            client.close()
        while not batcher._jobs[0].future.done():
            time.sleep(0.01)
        end.set()
        assert server.predict(text="third").status == 200
        assert seen == ["first", "third"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["run", "text", "texts", "options", "what", "form", "x"])


@settings(max_examples=60)
@given(path=st.sampled_from(["/predict", "/explain"]), body=st.dictionaries(keys, values, max_size=4) | values)
def test_any_json(path: str, body: Any, served: Any) -> None:
    answer = served.post(path, body)
    assert answer.status in (200, 404, 422)
    assert answer.status == 200 or answer.error


@settings(max_examples=40)
@given(raw=st.binary(max_size=200))
def test_any_bytes(raw: bytes, served: Any) -> None:
    assert served.post("/predict", raw).status == 422


@pytest.mark.parametrize(
    ("bound", "header", "good"),
    [
        ("127.0.0.1", "127.0.0.1:80", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "localhost:80", True),
        ("127.0.0.1", "[::1]:80", True),
        ("127.0.0.1", "LOCALHOST:80", True),
        ("127.0.0.1", "127.0.0.1:81", False),
        ("127.0.0.1", "evil.example:80", False),
        ("127.0.0.1", "127.0.0.1.evil.example:80", False),
        ("127.0.0.1", "192.168.0.1:80", False),
        ("127.0.0.1", "", False),
        ("192.168.0.1", "192.168.0.1:80", True),
        ("192.168.0.1", "localhost:80", False),
        ("0.0.0.0", "192.168.0.1:80", True),
        ("0.0.0.0", "[fe80::1]:80", True),
        ("0.0.0.0", "evil.example:80", False),
    ],
)
def test_hosts(bound: str, header: str, good: bool) -> None:
    assert (header in Hosts(bound, 80)) == good


def test_another_host_or_none_is_refused(served: Any) -> None:
    for path in ("/", "/health", "/static/page.js"):
        assert served.get(path, host=f"evil.example:{served.port}").status == 421
    for lines in ("", f"host: 127.0.0.1:{served.port}\r\nhost: evil.example\r\n"):
        with socket.create_connection(("127.0.0.1", served.port)) as client:
            client.sendall(f"GET /health HTTP/1.1\r\n{lines}connection: close\r\n\r\n".encode())
            assert re.match(rb"HTTP/1.1 4\d\d", client.recv(1000))


def test_beyond_loopback_a_token_is_needed(start: Any, runs: dict[str, Path]) -> None:
    with start(runs["slots"], token="geheim") as server:
        for path in ("/", "/runs", "/health", "/docs", "/openapi.json"):
            assert server.get(path).status == 401
            assert server.get(f"{path}?token=falsch").status == 401
            assert server.get(f"{path}?token=geheim").status == 200
            assert server.get(path, authorization="Bearer geheim").status == 200
        assert server.predict(text="a").status == 401
        assert server.post("/predict?token=geheim", {"text": "a"}).status == 200
        assert server.get("/static/page.js").status == 200  # the package's own, the same for everyone


def test_every_answer_forbids_foreign_scripts(served: Any) -> None:
    answers = [served.get(path) for path in ("/", "/docs", "/runs", "/nothing", "/static/page.js")]
    answers += [served.predict(text="a"), served.predict(txt=""), served.get("/", host="evil.example")]
    for answer in answers:
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy == {
            **dict.fromkeys(("default-src", "base-uri", "form-action", "frame-ancestors"), "'none'"),
            **dict.fromkeys(("script-src", "connect-src"), "'self'"),
            "style-src": "'self' 'unsafe-inline'",
            "img-src": "'self' data:",
        }
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"  # the address may hold the token
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
        assert not any(name.startswith("access-control") for name in answer.headers)


def test_pages_load_nothing_from_elsewhere_and_hold_no_script(served: Any) -> None:
    for path in ("/", "/docs"):
        page = served.get(path).text
        assert "http:" not in page
        assert "https:" not in page
        assert re.findall(r"<script(?! src=\"/static/[a-z.]+\" defer></script>)", page) == []
        for file in re.findall(r"(?:src|href)=\"(/static/[^\"]+)\"", page):
            assert served.get(file).status == 200


def test_nothing_but_the_packages_files_is_readable(served: Any) -> None:
    paths = ["/static/page.html", "/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/config.yaml"]
    paths += ["/sentiment-finished/config.yaml", "//etc/passwd", "/static//etc/passwd", "/static/"]
    for path in paths:
        assert served.get(path).status == 404, path


EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>"


def test_a_text_is_no_markup_in_an_explanation(served: Any) -> None:
    for what in ("words", "gates"):
        found = served.post("/explain", {"text": f"a {EVIL} film", "what": what, "form": "html"})
        assert found.status == 200
        assert "<script>" not in found.json["html"]
        assert "<img src=x" not in found.json["html"]


def test_a_run_whose_data_are_gone_is_served_and_its_paths_are_not_opened(
    start: Any, copied: Callable[..., Path], tmp_path: Path
) -> None:
    folder = copied("sentiment", "run")
    text = (folder / "config.yaml").read_text("utf-8")
    trap = tmp_path / "trap.tsv"
    trap.write_text("label\ttext\n", "utf-8")
    (folder / "config.yaml").write_text(re.sub(r"path: .*", f"path: {trap}", text), "utf-8")
    assert str(trap) in (folder / "config.yaml").read_text("utf-8")
    opened: list[str] = []
    watching = [True]

    def hook(event: str, arguments: Any) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    with start(folder) as server:
        assert server.predict(text="a film").status == 200
        assert server.post("/explain", {"text": "a film"}).status == 200
        assert server.get("/runs").status == 200
    watching.clear()
    assert str(trap) not in opened
    assert any("model.safetensors" in path or "tokenizer.json" in path for path in opened)


def test_a_run_that_names_code_needs_trust(copied: Callable[..., Path]) -> None:
    folder = copied("sentiment", "run")
    config = folder / "config.yaml"
    config.write_text(config.read_text("utf-8").replace("task: sentiment", "task: my_evil_module:Task"), "utf-8")
    with pytest.raises(UserError, match="trust"):
        open_models([folder])


def test_clients_set_plain_values_that_name_no_code() -> None:
    class Options(Section):
        plain: str = ""
        choice: Literal["a", "b"] | None = None
        code: Annotated[str, OneOf("part", {}, object)] = ""
        several: list[str] = []
        batch_size: int = 1

    assert [key for key, field in Options.model_fields.items() if _is_open(key, field)] == ["plain", "choice"]


def test_names_of_runs(copied: Callable[..., Path], tmp_path: Path) -> None:
    one, other = copied("slots", "x/r"), copied("slots", "y/r")
    assert list(open_models([one, other])) == [str(one), str(other)]
    with pytest.raises(UserError, match="named twice"):
        open_models([one, one])
    with pytest.raises(UserError, match="no such run folder"):
        open_models([tmp_path / "nothing"])
    with pytest.raises(UserError, match="run folder"):
        open_models([])
