"""`Section`, the base of every part of a configuration, and sections made from a constructor's arguments."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, create_model, model_validator
from pydantic.errors import PydanticSchemaGenerationError
from pydantic_core import PydanticCustomError

from seqkit.errors import nearest


class Section(BaseModel):
    """Base of every part of a configuration: frozen, strictly typed, no unknown key.

    A key without a description of its own keeps the one it has in a base class; a key that holds a section is described
    by the first paragraph of the section's docstring.
    """

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        protected_namespaces=(),
        use_attribute_docstrings=True,
    )
    _takers: ClassVar[Mapping[str, str]] = {}  # key -> the constructor that takes it as an argument

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        for name, field in cls.model_fields.items():
            inherited = (getattr(base, "model_fields", {}).get(name) for base in cls.__mro__[1:])
            known = (base.description for base in inherited if base is not None and base.description)
            field.description = field.description or next(known, None) or _section_summary(field.annotation)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        schema = handler(core)
        for name, entry in handler.resolve_ref_schema(schema).get("properties", {}).items():
            if name in cls.model_fields:
                taker = {"$comment": f"argument {name} of {cls._takers[name]}"} if name in cls._takers else {}
                entry.update({"description": " ".join((cls.model_fields[name].description or "").split()), **taker})
        return schema

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and cls.model_config.get("extra") == "forbid":
            for key in value:
                if key not in cls.model_fields:
                    known = nearest(key, cls.model_fields) or f"; known here: {', '.join(cls.model_fields) or 'none'}"
                    raise PydanticCustomError("at_key", "{message}", {"key": key, "message": "unknown key" + known})
        return value


def as_list(value: object) -> object:
    """Return the list that a value alone is short for, where the key takes several; for a `BeforeValidator`."""
    return [value] if isinstance(value, (str, Mapping)) else value


def _section_summary(annotation: Any) -> str | None:
    """Return the first paragraph of the docstring of the section in a type such as `Section | None`, or None."""
    for kind in (annotation, *typing.get_args(annotation)):
        doc = inspect.getdoc(kind) if inspect.isclass(kind) and issubclass(kind, Section) else None
        if doc and doc != inspect.getdoc(Section):
            return " ".join(re.sub(r"^`[\w.]+:?`:?", "", doc.partition("\n\n")[0]).split())
    return None


_ENTRY = re.compile(r"^ {4}(\S[^:\n]*):(.*\n(?: {5,}.*\n|\n)*)", re.MULTILINE)  # `a, b: text` and indented lines


def argument_docs(call: Callable[..., Any]) -> dict[str, str]:
    """Read the `Args:` sections (Google style) of a function, or of a class, its bases and their constructors.

    Returns:
        argument -> its description on one line. What a class says of an argument comes before what its bases say.
    """
    kinds = inspect.getmro(call) if inspect.isclass(call) else ()
    docs: list[Any] = [part for kind in kinds for part in (kind, vars(kind).get("__init__"))] or [call]
    found: dict[str, str] = {}
    for doc in (inspect.cleandoc(part.__doc__ or "") for part in docs):
        section = re.search(r"^Args:\n((?: .*\n|\n)*)", doc + "\n", re.MULTILINE)
        for names, text in _ENTRY.findall(section[1] if section else ""):
            for name in names.split(","):
                found.setdefault(name.strip(" *"), " ".join(text.split()))
    return found


def from_signature(
    name: str,
    *callables: Callable[..., Any],
    skip: Collection[str] = (),
    base: type[Section] = Section,
    lenient: bool = False,
    **extra: Any,
) -> type[Section]:
    """Make a `Section` whose fields are the arguments of the callables.

    Names, types and defaults live in the signature only, descriptions in the `Args:` of the docstring only.

    Args:
        name: name of the new class.
        callables: constructors or functions; `self`, `*args` and `**kwargs` are passed over, the first
            callable that has an argument gives it its type, default and description.
        skip: arguments that the program supplies and the file may not.
        base: the class to derive from; arguments that it has as fields stay as they are there.
        lenient: the callables are a stranger's: where their types tell nothing, any value is taken; an argument that no
            file can give (a tensor) keeps its default.
        extra: fields as `name=(type, Field(...))`, instead of the callables' own; they come first. For an argument of a
            callable a type alone will do, `name=type`: the default is the argument's.
    """
    fields: dict[str, Any] = {key: value for key, value in extra.items() if isinstance(value, tuple)}
    known = {*fields, *base.model_fields}
    takers: dict[str, str] = dict(base._takers)
    descriptions: dict[str, str] = {}
    for call in callables:
        hints = _hints(call, lenient)
        descriptions = argument_docs(call) | descriptions
        for argument in inspect.signature(call).parameters.values():
            if argument.kind in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL) or argument.name in skip:
                continue
            taker = getattr(call, "__qualname__", type(call).__qualname__)
            takers.setdefault(argument.name, ".".join([*call.__module__.split(".")[:2], taker]))
            if argument.name in known:
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
    section = create_model(name, __base__=base, __module__=callables[-1].__module__, **fields)
    section._takers = takers
    for key, field in section.model_fields.items():
        field.description = field.description or descriptions.get(key)
    return section


def _hints(call: Callable[..., Any], lenient: bool) -> dict[str, Any]:
    function = call.__init__ if inspect.isclass(call) else call if inspect.isroutine(call) else type(call).__call__
    try:
        return typing.get_type_hints(function, include_extras=True)
    except NameError:  # imported for type checkers only
        if not lenient:
            raise
        return {}


def _writable(hint: Any) -> bool:
    """Return whether a file can hold a value of this type."""
    try:
        TypeAdapter(hint)
    except PydanticSchemaGenerationError:
        return False
    return True


def with_defaults(schema: type[Section], base: type[Section] = Section, **defaults: Any) -> type[Section]:
    """Make a `Section` with some or all fields of another, and other defaults.

    Args:
        schema: has the fields.
        base: the class to derive from; its fields come first.
        defaults: field name -> default; only these fields are taken over.
    """
    fields: dict[str, Any] = {}
    for name, default in defaults.items():
        field = schema.model_fields[name]
        fields[name] = (field.annotation, field.merge_field_infos(field, default=default))
    return create_model(schema.__name__, __base__=base, **fields)
