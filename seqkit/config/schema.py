"""`Section`, the base of every part of a configuration, and sections made from a constructor's arguments."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, create_model, model_validator
from pydantic.errors import PydanticSchemaGenerationError
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
                    known = nearest(key, cls.model_fields) or f"; known here: {', '.join(cls.model_fields) or 'none'}"
                    raise PydanticCustomError("at_key", "{message}", {"key": key, "message": "unknown key" + known})
        return value


def from_signature(
    name: str,
    *callables: Callable[..., Any],
    skip: Collection[str] = (),
    base: type[Section] = Section,
    lenient: bool = False,
    **extra: Any,
) -> type[Section]:
    """A `Section` whose fields are the arguments of the callables: names, types and defaults live there only.

    Args:
        name: name of the new class.
        callables: constructors or functions; `self`, `*args` and `**kwargs` are passed over, the first
            callable that has an argument gives it its type and default.
        skip: arguments that the program supplies and the file may not.
        base: of the new class; arguments that it has as fields stay as they are there.
        lenient: the callables are a stranger's: of what their types do not tell, anything is taken; an argument that no
            file can give (a tensor) keeps its default.
        extra: more fields, as `name=(type, Field(...))`; they come first. For an argument of a callable a type alone
            will do, `name=type`: the default is that of the argument.
    """
    fields: dict[str, Any] = {key: value for key, value in extra.items() if isinstance(value, tuple)}
    known = {*skip, *fields, *base.model_fields}
    for call in callables:
        hints = _hints(call, lenient)
        for argument in inspect.signature(call).parameters.values():
            if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL) or argument.name in known:
                continue
            default = ... if argument.default is argument.empty else argument.default
            hint = extra.get(argument.name, hints.get(argument.name, Any))
            if lenient and not _writable(hint):
                if default is not ...:
                    continue
                hint = Any
            if lenient and typing.get_origin(hint) is tuple:
                hint = typing.Annotated[hint, Strict(False)]  # a file has lists
            elif isinstance(default, tuple):
                default = list(default)
            known.add(argument.name)
            fields[argument.name] = (hint, Field(default=default))
    return create_model(name, __base__=base, **fields)


def _hints(call: Callable[..., Any], lenient: bool) -> dict[str, Any]:
    function = call.__init__ if inspect.isclass(call) else call if inspect.isroutine(call) else type(call).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # imported for type checkers only
        if not lenient:
            raise
        return {}


def _writable(hint: Any) -> bool:
    """Whether a file can hold a value of this type."""
    try:
        TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return False
    return True


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
