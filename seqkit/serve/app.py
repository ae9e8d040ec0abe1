"""The application: which address gives which answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from seqkit.config import Section
from seqkit.drawing.html import script, style
from seqkit.errors import nearest, require
from seqkit.serve.batcher import Batcher
from seqkit.serve.explaining import explain_item
from seqkit.serve.guard import Application, Guard, Hosts
from seqkit.serve.limits import Limits, Refused
from seqkit.serve.models import Model, check_unicode
from seqkit.serve.openapi import docs_page, openapi
from seqkit.serve.requests import ExplainRequest, PredictRequest, asked_texts, read_request

_FOLDER = Path(__file__).parent / "static"
_STATIC = {
    "style.css": ("text/css", style),
    "gates.js": ("text/javascript", script),
    "page.css": ("text/css", (_FOLDER / "page.css").read_text),
    "page.js": ("text/javascript", (_FOLDER / "page.js").read_text),
}
_GONE = Refused(499, "the client has gone")
_WATCH = 0.2  # seconds until a client that waits is looked after
_Request = TypeVar("_Request", bound=Section)


class Server:
    """Answers of the endpoint, for Starlette.

    Args:
        models: name -> run.
        limits: see `Limits`.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.explainer = Batcher(explain_item, 1, limits.explain_queue, "explanations")
        self.response = require("starlette.responses", "serve").Response
        self.move_on_after = require("anyio", "serve", "starlette").move_on_after

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Run the threads while the server runs."""
        batchers = [self.explainer, *(model.batcher for model in self.models.values())]
        for batcher in batchers:
            batcher.start()
        yield
        for batcher in batchers:
            await asyncio.to_thread(batcher.stop)

    async def predict(self, request: Any) -> Any:
        """POST /predict."""
        asked = await self._read(request, PredictRequest)
        model = self._model(asked.run)
        items, task = model.take(asked_texts(asked), asked.options)
        answers = await self._wait(request, model.batcher.ask(items, task, alone=not task.independent)) if items else []
        return self._json(f'{{"run": {json.dumps(model.name)}, "predictions": [{", ".join(answers)}]}}')

    async def explain(self, request: Any) -> Any:
        """POST /explain."""
        asked = await self._read(request, ExplainRequest)
        model = self._model(asked.run)
        check_unicode("text", asked.text)
        model.check_length("text", asked.text, self.limits.explain_tokens)
        future = self.explainer.ask([(asked.text, asked.what, asked.form)], model, alone=True)
        return self._json((await self._wait(request, future))[0])

    async def runs(self, request: Any) -> Any:
        """GET /runs."""
        return self._json(json.dumps({"runs": [model.about for model in self.models.values()]}))

    async def health(self, request: Any) -> Any:
        """GET /health."""
        waiting = {name: model.batcher.waiting for name, model in self.models.items()}
        return self._json(json.dumps({"status": "ok", "waiting": waiting}))

    async def openapi(self, request: Any) -> Any:
        """GET /openapi.json."""
        return self._json(json.dumps(openapi(self.limits)))

    async def docs(self, request: Any) -> Any:
        """GET /docs."""
        return self.response(docs_page(self.limits), media_type="text/html")

    async def page(self, request: Any) -> Any:
        """GET /."""
        return self.response((_FOLDER / "page.html").read_bytes(), media_type="text/html")

    async def static(self, request: Any) -> Any:
        """GET /static/NAME: one of the package's files, which are listed."""
        if (name := request.path_params["name"]) not in _STATIC:
            raise Refused(404, "no such file")
        kind, read = _STATIC[name]
        return self.response(read(), media_type=kind)

    async def refused(self, request: Any, error: Exception) -> Any:
        """Tell a client why its request is not answered."""
        status = getattr(error, "status", 0) or getattr(error, "status_code", 500)
        known = {404: "no such address; GET /docs lists them", 405: "this address takes another method; see GET /docs"}
        message = str(error) if isinstance(error, Refused) else known.get(status, "the request was not understood")
        headers = {"retry-after": "1"} if status == 429 else None
        return self.response(json.dumps({"error": message}), status, headers, media_type="application/json")

    def _json(self, text: str) -> Any:
        return self.response(text, media_type="application/json")

    def _model(self, name: str | None) -> Model:
        model = next(iter(self.models.values())) if name is None else self.models.get(name)
        if model is None:
            known = nearest(str(name), self.models) or "; GET /runs lists those that are served"
            raise Refused(404, f"run: no run of this name is served{known}")
        return model

    async def _read(self, request: Any, schema: type[_Request]) -> _Request:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise Refused(415, "expected the header content-type: application/json")
        with self.move_on_after(self.limits.read_seconds):
            return read_request(await self._body(request), schema)
        raise Refused(408, f"the request took longer than {self.limits.read_seconds:g} seconds to arrive")

    async def _body(self, request: Any) -> bytes:
        too_large = Refused(413, f"the body is too large; this server takes {self.limits.body:,} bytes")
        length = request.headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.body:
            raise too_large
        body, more = b"", True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _GONE
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.limits.body:
                raise too_large
        return body

    async def _wait(self, request: Any, future: asyncio.Future[list[str]]) -> list[str]:
        """Wait for answers, as long as the client does."""
        patience = _WATCH
        while not future.done():
            await asyncio.wait([future], timeout=patience)
            if not future.done() and await request.is_disconnected():
                future.cancel()
                raise _GONE
        return future.result()


def make_app(models: Mapping[str, Model], hosts: Hosts, limits: Limits | None = None, token: str = "") -> Application:
    """Return the ASGI application that serves runs.

    Args:
        models: see `open_models`.
        hosts: whose Host headers are answered.
        limits: see `Limits`.
        token: see `Guard`.

    Raises:
        UserError: starlette is not installed.
    """
    applications = require("starlette.applications", "serve")
    exceptions = require("starlette.exceptions", "serve")
    route = require("starlette.routing", "serve").Route
    server = Server(models, limits or Limits())
    routes = [
        route("/predict", server.predict, methods=["POST"]),
        route("/explain", server.explain, methods=["POST"]),
        route("/runs", server.runs),
        route("/health", server.health),
        route("/openapi.json", server.openapi),
        route("/docs", server.docs),
        route("/static/{name}", server.static),
        route("/", server.page),
    ]
    handlers = dict.fromkeys((Refused, exceptions.HTTPException), server.refused)
    app = applications.Starlette(routes=routes, exception_handlers=handlers, lifespan=server.lifespan)
    return Guard(app, hosts, token)
