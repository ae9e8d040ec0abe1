"""`Section`, the base of every part of a configuration, and sections made from a constructor's arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from seqkit.errors import nearest


class Section(BaseModel):
    """Base of every part of a configuration: frozen, strictly typed, no unknown key."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    known = nearest(key, cls.model_fields) or f"; known here: {', '.join(cls.model_fields)}"
                    raise PydanticCustomError("at_key", "{message}", {"key": key, "message": "unknown key" + known})
        return value


def from_signature(
    name: str,
    *callables: Callable[..., Any],
    skip: Collection[str] = (),
    base: type[Section] = Section,
    **extra: Any,
) -> type[Section]:
    """A `Section` whose fields are the arguments of the callables: names, types and defaults live there only.

    Args:
        name: name of the new class.
        callables: constructors or functions; `self`, `*args` and `**kwargs` are passed over, the first
            callable that has an argument gives it its type and default.
        skip: arguments that the program supplies and the file may not.
        extra: more fields, as `name=(type, Field(...))`; they come first.
    """
    fields: dict[str, Any] = dict(extra)
    for call in callables:
        function = call.__init__ if inspect.isclass(call) else call
        hints = typing.get_type_hints(function)
        for argument in inspect.signature(call).parameters.values():
            if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL):
                continue
            if argument.name in skip or argument.name in fields:
                continue
            default = ... if argument.default is argument.empty else argument.default
            fields[argument.name] = (hints.get(argument.name, Any), Field(default=default))
    return create_model(name, __base__=base, **fields)


def with_defaults(schema: type[Section], base: type[Section] = Section, **defaults: Any) -> type[Section]:
    """A `Section` with some or all fields of another, and other defaults.

    Args:
        schema: has the fields.
        base: of the new class; its fields come first.
        defaults: field name -> default; only these fields are taken over.
    """
    fields: dict[str, Any] = {}
    for name, default in defaults.items():
        field = schema.model_fields[name]
        fields[name] = (field.annotation, field.merge_field_infos(field, default=default))
    return create_model(schema.__name__, __base__=base, **fields)
