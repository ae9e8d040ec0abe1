"""Explanations for clients: which words decided, and what the gates did."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seqkit.serve.models import Model


def explain_item(model: Model, items: list[tuple[str, str, str]]) -> list[str]:
    """Return explanations as JSON objects.

    Args:
        model: a run.
        items: each a text, what is asked of it, and in which form; see `ExplainRequest`.
    """
    return [_explained(model, *item) for item in items]


def _explained(model: Model, text: str, what: str, form: str) -> str:
    task: Any = model.explainer
    shown = task.trace(text) if what == "gates" else task.explain([text])[0]
    answer = {"html": shown.html()} if form == "html" else {"explanation": shown.to_json()}
    return json.dumps({"run": model.name, "what": what, **answer})
