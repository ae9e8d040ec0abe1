"""What clients may send, and what is wrong with what they sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import Field, ValidationError

from seqkit.config import Section, from_mapping
from seqkit.errors import UserError
from seqkit.serve.limits import Refused


class PredictRequest(Section):
    """What `POST /predict` takes."""

    run: str | None = None
    """Name of a run, as GET /runs lists them; without it the first."""
    text: str | None = None
    """One text, as a line of a file that `seqkit predict` reads."""
    texts: list[str] | None = None
    """Several texts, instead of `text`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings for this request, such as {"beam_size": 5}; GET /runs lists those of each run."""


class ExplainRequest(Section):
    """What `POST /explain` takes."""

    run: str | None = None
    """Name of a run, as GET /runs lists them; without it the first."""
    text: str
    """The text to be explained."""
    what: Literal["words", "gates"] = "words"
    """`words`: which words decided, and attention; `gates`: what the gates of each layer did at each word."""
    form: Literal["json", "html"] = "json"
    """`json`: numbers; `html`: a piece of a page that shows them."""


_Request = TypeVar("_Request", bound=Section)


def read_request(body: bytes, schema: type[_Request]) -> _Request:
    """Return a request's body as an object.

    Raises:
        Refused: it is not JSON, or not what the schema says.
    """
    try:
        tree = json.loads(body)
    except (ValueError, RecursionError):  # ValueError: not UTF-8, not JSON, a number of too many digits
        raise Refused(422, 'the body is not JSON; expected an object such as {"text": "..."}') from None
    if not isinstance(tree, Mapping):
        raise Refused(422, 'expected a JSON object such as {"text": "..."}')
    try:
        return schema.model_validate(tree)
    except ValidationError:
        return _explained(tree, schema)


def _explained(tree: Mapping[str, Any], schema: type[_Request]) -> _Request:
    """Validate once more, for a message that a person understands."""
    try:
        return from_mapping(tree, "body").check(schema)
    except UserError as error:
        first, *more = str(error).splitlines()
        raise Refused(422, first + (f" (and {len(more)} more mistakes)" if more else "")) from None


def asked_texts(request: PredictRequest) -> list[str]:
    """Return the texts of a request.

    Raises:
        Refused: it has none, or both `text` and `texts`.
    """
    if (request.text is None) == (request.texts is None):
        raise Refused(422, "expected either text, one text, or texts, a list of them")
    return request.texts if request.texts is not None else [request.text or ""]
