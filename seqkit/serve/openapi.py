"""The description of the endpoint: OpenAPI as JSON, and a page made from it."""

from __future__ import annotations

from typing import Any

from seqkit import drawing
from seqkit._version import __version__
from seqkit.config import Section
from seqkit.serve.limits import Limits
from seqkit.serve.requests import ExplainRequest, PredictRequest


def _object(description: str, **properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "description": description, "properties": properties, "required": list(properties)}


_TEXT = {"type": "string"}
_RUN = {"type": "string", "description": "The name of the run that answered."}
_ERROR = _object("Why a request is not answered.", error={**_TEXT, "description": "One sentence."})
_PREDICTIONS = _object(
    "Answers in the order of the texts.",
    run=_RUN,
    predictions={
        "type": "array",
        "items": {"type": "object"},
        "description": "One object a text, as seqkit predict --format jsonl prints it.",
    },
)
_EXPLANATION: dict[str, Any] = {
    "type": "object",
    "description": "An explanation, as numbers or as a piece of a page.",
    "properties": {
        "run": _RUN,
        "what": {**_TEXT, "description": "What was asked: words or gates."},
        "explanation": {"type": "object", "description": "Numbers, for the form json."},
        "html": {**_TEXT, "description": "A piece of a page, for the form html."},
    },
    "required": ["run", "what"],
}
_RUNS = _object(
    "What is served.",
    runs={"type": "array", "items": {"type": "object"}, "description": "Name, task, parameters, device and options."},
)
_HEALTH = _object(
    "The server answers.",
    status={**_TEXT, "description": "ok"},
    waiting={"type": "object", "description": "How many texts wait for each run."},
)


def openapi(limits: Limits) -> dict[str, Any]:
    """Return the description of the endpoint, OpenAPI 3.1."""
    refusals = {
        "404": "no run of this name is served",
        "408": f"the request took longer than {limits.read_seconds:g} seconds to arrive",
        "413": f"the body has more than {limits.body:,} bytes",
        "415": "the header content-type is not application/json",
    }
    predict = {
        "422": f"not such a request; more than {limits.texts:,} texts, {limits.tokens:,} tokens in a text, or a beam "
        f"of more than {limits.beam}",
        "429": f"busy: {limits.queue:,} texts wait",
    }
    explain = {
        "422": f"not such a request; more than {limits.explain_tokens:,} tokens",
        "429": f"busy: {limits.explain_queue:,} explanations wait",
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "seqkit serve", "version": __version__},
        "paths": {
            "/predict": {
                "post": _operation("Answer one text or many.", _PREDICTIONS, PredictRequest, {**refusals, **predict})
            },
            "/explain": {
                "post": _operation(
                    "Explain the answer to a text.", _EXPLANATION, ExplainRequest, {**refusals, **explain}
                )
            },
            "/runs": {"get": _operation("List the runs that are served.", _RUNS)},
            "/health": {"get": _operation("Say that the server answers, and how much waits.", _HEALTH)},
        },
    }


def _operation(
    summary: str, answer: dict[str, Any], body: type[Section] | None = None, refusals: dict[str, str] | None = None
) -> dict[str, Any]:
    found: dict[str, Any] = {"summary": summary, "responses": {"200": _content(answer)}}
    if body is not None:
        found["requestBody"] = {**_content(body.model_json_schema()), "required": True}
    for status, why in (refusals or {}).items():
        found["responses"][status] = {**_content(_ERROR), "description": why}
    return found


def _content(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": schema.get("description", ""), "content": {"application/json": {"schema": schema}}}


def docs_page(limits: Limits) -> str:
    """Return the description as a page.

    Raises:
        UserError: jinja2 is not installed.
    """
    parts: list[str] = []
    for path, methods in openapi(limits)["paths"].items():
        for method, operation in methods.items():
            parts += [drawing.section(f"{method.upper()} {path}"), drawing.paragraph(operation["summary"])]
            if "requestBody" in operation:
                parts.append(_fields(operation["requestBody"], "The request's body, a JSON object."))
            parts.append(_fields(operation["responses"]["200"], "The answer, a JSON object."))
            refusals = [(code, one["description"]) for code, one in operation["responses"].items() if code != "200"]
            if refusals:
                caption = "Why a request is refused; the body's key error says it in a sentence."
                parts.append(drawing.table(["status", "reason"], refusals, caption))
    return drawing.page("seqkit serve", "The endpoint's addresses. The same for programs: /openapi.json", parts)


def _fields(content: dict[str, Any], caption: str) -> str:
    schema = content["content"]["application/json"]["schema"]
    rows = []
    for name, field in schema["properties"].items():
        need = "always" if name in schema.get("required", ()) else "optional"
        rows.append((name, need, " ".join(field.get("description", "").replace("`", "").split())))
    return drawing.table(["key", "present", "what"], rows, caption)
