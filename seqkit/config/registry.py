"""Fields that name a row of a table, or `package.module:Name`, and options of what they name.

A table is a plain dict, name -> class or function, wherever it lies. Choices, JSON Schema and messages are made from
its keys:

    attention: Annotated[str, OneOf("attention", ATTENTIONS, Attention, supplied=("query_size", "memory_size"))]

takes `bahdanau`, `mypackage.module:MyAttention`, and `{name: mypackage.module:MyAttention, width: 3}` where the
constructor has an argument `width`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import cache, partial
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from seqkit.config.names import built_in, lookup
from seqkit.config.schema import Section, from_signature
from seqkit.errors import UserError

_PATTERN = r"^\w+(\.\w+)*:\w+$"  # package.module:Name


class Named(str):
    """A validated name that stands for something of the user's, or that has options.

    Attributes:
        entry: the class or function.
        options: a section of its arguments that the configuration gives, all defaults filled in.
    """

    entry: Any
    options: Section

    @property
    def maker(self) -> Callable[..., Any]:
        """The entry, its options bound."""
        options = dict(self.options)
        return partial(self.entry, **options) if options else self.entry


class OneOf:
    """What a text field of a schema may be: a name in a table, or `package.module:Name`.

    The value is the name: plain text for one in the table, else `Named`, which knows what it stands for.

    Args:
        word: what messages call the kind, such as `attention`.
        table: name -> class or function, or where in seqkit that is, as `package.module:Name`.
        kind: what a class must derive from; `collections.abc.Callable`: any function or class.
        supplied: arguments that the program gives, so that the configuration may not; the others are options, which
            stand in a mapping beside `name`. None: no options stand here.
        also: names that stand for no entry, such as `none`.
    """

    def __init__(
        self,
        word: str,
        table: Mapping[str, Any],
        kind: Any,
        *,
        supplied: Collection[str] | None = None,
        also: Collection[str] = (),
    ) -> None:
        self.word, self.table, self.kind, self.supplied = word, table, kind, supplied
        self.also: dict[str, Any] = dict.fromkeys(also, _nothing)

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the field may have beside those of the user's."""
        return (*self.also, *self.table)

    def entry(self, name: Any) -> Any:
        """Return the class or function of a name.

        Raises:
            PydanticCustomError: there is none; with the `UserError` that says why.
        """
        if not isinstance(name, str):
            raise PydanticKnownError("string_type")
        try:
            entry = lookup(self.word, name, self.kind, {**self.also, **self.table})
            # How torch builds its base says nothing of how what is derived from it is built.
            if isinstance(self.kind, type) and self.kind.__module__[:6] != "torch." and name not in self.names:
                _check_constructor(name, entry, self.kind)
            return entry
        except UserError as error:
            raise PydanticCustomError("name", "{message}", {"message": str(error), "error": error}) from None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(_written, when_used="json")
        return core_schema.no_info_plain_validator_function(self._check, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        forms: list[dict[str, Any]] = [{"enum": list(self.names), "type": "string"}]
        forms.append({"type": "string", "pattern": _PATTERN})
        if self.supplied is not None:
            name = {"anyOf": list(forms)}
            forms.append({"type": "object", "properties": {"name": name}, "required": ["name"]})
        return {"anyOf": forms}

    def _check(self, value: Any) -> str:
        if isinstance(value, Named):
            return value
        options: dict[str, Any] = {}
        if self.supplied is not None and isinstance(value, Mapping) and "name" in value:
            options = {**value}
            value = options.pop("name")
        entry = self.entry(value)
        checked = Section() if self.supplied is None else options_of(entry, self.supplied).model_validate(options)
        if value in self.names and not options:
            return str(value)
        named = Named(value)
        named.entry, named.options = entry, checked
        return named


class WithOptions:
    """What makes the options of an entry keys of the section whose key `name` is `OneOf` a table.

    A bare name is short for `{name: ...}`: `Annotated[OptimizerConfig, WithOptions(("params", "lr"))]`. The value is a
    section of the class, or of a class derived from it where the entry has options. An option of another entry of the
    table is refused, unless it is at its default there: earlier versions wrote the options of all entries.

    Args:
        supplied: arguments of the entry that the program gives; those that are keys of the section anyway are no
            options either.
    """

    def __init__(self, supplied: Collection[str] = ()) -> None:
        self.supplied = supplied

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        self._source: type[Section] = source
        field = source.model_fields["name"]
        one: OneOf = next(item for item in field.metadata if isinstance(item, OneOf))

        def check(value: Any, inner: Callable[[Any], Any]) -> Any:
            value = {"name": value} if isinstance(value, str) else dict(value) if type(value) is source else value
            if not isinstance(value, Mapping):
                return inner(value)
            name = value.get("name", field.default)
            try:
                made = options_of(one.entry(name), self.supplied, source)
            except PydanticCustomError:  # the key itself says where; which options there are nobody knows
                return inner({key: item for key, item in value.items() if key in source.model_fields})
            if name in one.table:
                value = _without_others(value, name, made, self.sections)
            own = made.model_fields.keys() - source.model_fields.keys()
            return made.model_validate(value) if own else inner(value)

        def dump(value: Any, info: core_schema.SerializationInfo) -> Any:
            return value.model_dump(mode=info.mode)

        serialization = core_schema.plain_serializer_function_ser_schema(dump, info_arg=True)
        return core_schema.no_info_wrap_validator_function(check, handler(source), serialization=serialization)

    @property
    def sections(self) -> dict[str, type[Section]]:
        """The schema of each entry of the table, once the schema with this field is complete."""
        one: OneOf = next(item for item in self._source.model_fields["name"].metadata if isinstance(item, OneOf))
        return {name: options_of(built_in(entry), self.supplied, self._source) for name, entry in one.table.items()}

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        inner = handler(schema["schema"])
        section = handler.resolve_ref_schema(inner)
        takers: dict[str, list[str]] = {}
        for name, made in self.sections.items():
            for key, entry in made.model_json_schema()["properties"].items():
                if key not in self._source.model_fields:
                    takers.setdefault(key, []).append(name)
                    section["properties"][key] = {**entry, "$comment": f"option of {', '.join(takers[key])}"}
        section["additionalProperties"] = True  # options of the user's own
        return {"anyOf": [section["properties"]["name"], inner]}


def options_of(entry: Any, supplied: Collection[str], base: type[Section] = Section) -> type[Section]:
    """Return the schema of the arguments of an entry but for those that the program gives, with the keys of `base`."""
    return _options_of(entry, tuple(supplied), base)


@cache
def _options_of(entry: Any, supplied: tuple[str, ...], base: type[Section]) -> type[Section]:
    # One class for an entry: sections of two classes are never equal.
    name = getattr(entry, "__name__", type(entry).__name__)
    return from_signature(f"{name}Options", entry, skip=supplied, base=base, lenient=True)


def _without_others(value: Mapping[str, Any], name: str, made: type[Section], sections: Any) -> dict[str, Any]:
    """Return the keys of an entry, without options that only other entries have and that are at their defaults
    there."""
    kept = {}
    for key, item in value.items():
        others = [other for other, section in sections.items() if key in section.model_fields]
        if key in made.model_fields or not others:
            kept[key] = item
            continue
        defaults = [sections[other].model_fields[key].default for other in others]
        if item not in [list(default) if isinstance(default, tuple) else default for default in defaults]:
            owners = " and ".join(filter(None, (", ".join(others[:-1]), others[-1])))
            message = f"{key} is for {owners}, not for {name}"
            raise PydanticCustomError("at_key", "{message}", {"key": key, "message": message})
    return kept


def maker(value: str | Section, table: Mapping[str, Any], shared: type[Section] = Section) -> Callable[..., Any]:
    """Return the class or function that a validated field names, its options bound.

    Args:
        value: of a field that is `OneOf` the table, or a section with such a key `name`.
        table: the table.
        shared: of a section, its class as the schema has it: its keys are no options.
    """
    if isinstance(value, Section):
        name: str = value.name  # type: ignore[attr-defined]
        options = {key: item for key, item in value if key not in shared.model_fields}
        return partial(maker(name, table), **options) if options else maker(name, table)
    return value.maker if isinstance(value, Named) else built_in(table[value])


def arguments(section: Section, **dump: Any) -> dict[str, Any]:
    """Return the constructor's arguments that a section describes: a name of the user's is what it stands for.

    Args:
        section: such as an encoder's.
        dump: for `model_dump`, such as `exclude`.
    """
    return {name: _bound(value) for name, value in section.model_dump(**dump).items()}


def _bound(value: Any) -> Any:
    if isinstance(value, list):
        return [_bound(item) for item in value]
    return value.maker if isinstance(value, Named) else value


def _check_constructor(name: str, entry: type, kind: type) -> None:
    """Refuse a class of the user's that cannot be built as its base is."""
    arguments = inspect.signature(kind).parameters.values()
    wanted = [one.name for one in arguments if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    try:
        inspect.signature(entry).bind_partial(*wanted)
    except TypeError as error:
        raise UserError(f"{name!r}: its constructor must take {', '.join(wanted)} first ({error})") from None


def _written(value: Any) -> Any:
    """Return a name as a file has it."""
    options = value.options.model_dump(mode="json") if isinstance(value, Named) else {}
    return {"name": str(value), **options} if options else str(value)


def _nothing() -> None:
    """What a name of `also` stands for."""
