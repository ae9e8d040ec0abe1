"""The application: which address gives which answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from seqkit.drawing.html import script, style
from seqkit.errors import nearest, require
from seqkit.serve.batcher import FAILED, Batcher, failed
from seqkit.serve.clients import Clients
from seqkit.serve.explaining import explain_item
from seqkit.serve.guard import Application, Guard, Hosts, Receive, Scope, Send, send_json
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


class Server:
    """Answers of the endpoint: those to programs itself, pages through Starlette.

    Args:
        models: name -> run.
        limits: see `Limits`.
    """

    def __init__(self, models: Mapping[str, Model], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.explainer = Batcher(explain_item, 1, limits.explain_queue, "explanations")
        self.clients = Clients(limits.body, limits.read_seconds)
        self.posts = {"/predict": self._post(self.predict), "/explain": self._post(self.explain)}
        self.response = require("starlette.responses", "serve").Response
        self.pages = self._pages()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request. What a model answers goes past Starlette, whose way takes as long as all the rest."""
        post = self.posts.get(scope["path"]) if scope["type"] == "http" and scope["method"] == "POST" else None
        await (post or self.pages)(scope, receive, send)

    def _pages(self) -> Application:
        route = require("starlette.routing", "serve").Route
        exceptions = require("starlette.exceptions", "serve")
        routes = [
            *(route(path, post, methods=["POST"]) for path, post in self.posts.items()),  # for other methods
            route("/runs", self.runs),
            route("/health", self.health),
            route("/openapi.json", self.openapi),
            route("/docs", self.docs),
            route("/static/{name}", self.static),
            route("/", self.page),
        ]
        handlers = dict.fromkeys((Refused, exceptions.HTTPException, Exception), self.refused)
        starlette = require("starlette.applications", "serve").Starlette
        app: Application = starlette(routes=routes, exception_handlers=handlers, lifespan=self.lifespan)
        return app

    @asynccontextmanager
    async def lifespan(self, app: Any) -> AsyncIterator[None]:
        """Run the threads while the server runs."""
        batchers = [self.explainer, *(model.batcher for model in self.models.values())]
        for batcher in batchers:
            batcher.start()
        async with self.clients.watched():
            yield
        for batcher in batchers:
            await asyncio.to_thread(batcher.stop)

    def _post(self, answer: Callable[[bytes, Receive], Awaitable[str]]) -> Application:
        """Return what reads a request's body, and sends the answer as JSON."""

        async def post(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                body = await self.clients.read(scope, receive)
                text, status = await answer(body, receive), 200
            except Exception as error:
                refused = error if isinstance(error, Refused) else failed(error)
                text, status = json.dumps({"error": str(refused)}), refused.status
            await send_json(send, status, text)

        return post

    async def predict(self, body: bytes, receive: Receive) -> str:
        """POST /predict."""
        asked = read_request(body, PredictRequest)
        model = self._model(asked.run)
        items, task = model.take(asked_texts(asked), asked.options)
        answers: list[str] = []
        if items:
            answers = await self.clients.wait(model.batcher.ask(items, task, alone=not task.independent), receive)
        return f'{{"run": {json.dumps(model.name)}, "predictions": [{", ".join(answers)}]}}'

    async def explain(self, body: bytes, receive: Receive) -> str:
        """POST /explain."""
        asked = read_request(body, ExplainRequest)
        model = self._model(asked.run)
        check_unicode("text", asked.text)
        model.check_length("text", asked.text, self.limits.explain_tokens)
        future = self.explainer.ask([(asked.text, asked.what, asked.form)], model, alone=True)
        return (await self.clients.wait(future, receive))[0]

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
        known = {
            404: "no such address; GET /docs lists them",
            405: "this address takes another method; see GET /docs",
            500: FAILED,  # Starlette raises the error again, and uvicorn prints it
        }
        message = str(error) if isinstance(error, Refused) else known.get(status, "the request was not understood")
        return self.response(json.dumps({"error": message}), status, media_type="application/json")

    def _json(self, text: str) -> Any:
        return self.response(text, media_type="application/json")

    def _model(self, name: str | None) -> Model:
        model = next(iter(self.models.values())) if name is None else self.models.get(name)
        if model is None:
            known = nearest(str(name), self.models) or "; GET /runs lists those that are served"
            raise Refused(404, f"run: no run of this name is served{known}")
        return model


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
    return Guard(Server(models, limits or Limits()), hosts, token)
