"""The one place that resolves `package.module:Name`: who may name a module, and where it is looked for.

A module is looked for among those installed (importable without the working folder), then beside the user's own YAML
file and its bases, for a trusted run in the folder that its run.json recorded, then in the working folder; never in a
run folder. Wherever it is looked for, nothing is run until it is known which file it is.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from seqkit.config import beside
from seqkit.errors import Option, UserError, nearest

T = TypeVar("T")
_DETAILS: Any = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceFileLoader, SOURCE_SUFFIXES))


class Untrusted(UserError):
    """A run folder names code, and nobody has said that it may."""


@dataclass
class Names:
    """How the names in one configuration are resolved.

    Attributes:
        folders: of the user's own YAML files.
        runs: run folders that the configuration comes from; nothing is ever imported from them.
        trust: the user has allowed the names of these run folders.
        recorded: module -> the folder where a run found it when it was trained.
        known: names that are resolved already.
        found: module -> the folder that it was found in, None for an installed one.
    """

    folders: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    trust: bool = False
    recorded: Mapping[str, Any] = field(default_factory=dict)
    known: dict[str, Any] = field(default_factory=dict)
    found: dict[str, str | None] = field(default_factory=dict)

    @contextmanager
    def rule(self) -> Iterator[None]:
        """`resolve` goes by these settings inside the block."""
        token = _RULING.set(self)
        try:
            yield
        finally:
            _RULING.reset(token)

    def places(self, module: str) -> dict[Path, str]:
        """Return the folders where a module may be that is not installed, each with its name for a message."""
        found = {folder.resolve(): "beside the YAML file" for folder in self.folders}
        recorded = self.recorded.get(module)
        if isinstance(recorded, str) and os.path.isabs(recorded) and "\0" not in recorded:
            found.setdefault(Path(recorded).resolve(), "where the run had it")
        found.setdefault(Path.cwd(), "in the working folder")
        return {folder: what for folder, what in found.items() if not self.forbids(folder)}

    def forbids(self, path: Path | str) -> bool:
        """Return whether it lies in a run folder that the configuration comes from."""
        real = Path(os.path.realpath(path))
        return any(real.is_relative_to(os.path.realpath(run)) for run in self.runs)


# Outside any block a name is that of a caller in Python.
_RULING: ContextVar[Names | None] = ContextVar("names", default=None)


def resolve(key: str, name: str, kind: type[T], table: Mapping[str, type[T] | str]) -> type[T]:
    """Return the class that a key of a configuration names.

    Args:
        key: its dotted path, for messages.
        name: a name in the table, or `package.module:Class`.
        kind: what the class must derive from; a stranger's configuration may name anything.
        table: the names there are, each with its class or with a `package.module:Class` of seqkit's own.

    Raises:
        UserError: it cannot be found, is something else, or fails when it is imported.
        Untrusted: a run folder names it, and the user has not allowed it.
    """
    try:
        return lookup(key.rpartition(".")[2], name, kind, table)  # type: ignore[no-any-return]
    except UserError as error:
        raise error.about(key) from error.__cause__


def lookup(word: str, name: str, kind: Any, table: Mapping[str, Any]) -> Any:
    """Return what `resolve` does, or a function where `kind` is `collections.abc.Callable`; errors name no key.

    Args:
        word: what an unknown name is one of, such as `cell`.
        name, kind, table, Raises: see `resolve`.
    """
    if name in table:
        return built_in(table[name])
    what = "Name" if kind is Callable else "Class"
    module, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), attribute)):
        hint = nearest(name, table) or f"; known: {', '.join(table)}"
        raise UserError(f"unknown {word} {name!r}{hint} (or package.module:{what})")
    names = _RULING.get() or Names()
    if name not in names.known:
        if names.runs and not names.trust:
            raise Untrusted(
                f"a run folder names {name!r} here",
                ", and to import that is to run it; if you trust this run, say so with ",
                Option("trust", "True"),
            )
        names.known[name] = _attribute(name, _load(name, module, names), attribute)
    found = names.known[name]
    if kind is Callable:
        if not callable(found):
            raise UserError(f"{name!r} is no function or class")
    elif not (isinstance(found, type) and issubclass(found, kind)):
        public = ".".join(kind.__module__.split(".")[:2])
        raise UserError(f"{name!r} is not a class derived from {public}.{kind.__name__}")
    return found


def built_in(entry: Any) -> Any:
    """Return the class or function in a table; one that stands there as `package.module:Name` is imported now."""
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _attribute(name: str, module: ModuleType, attribute: str) -> Any:
    if not hasattr(module, attribute):
        where = getattr(module, "__file__", None) or "a part of Python"
        others = [each for each, value in vars(module).items() if callable(value)]
        raise UserError(f"{name!r}: the module ({where}) has no {attribute!r}{nearest(attribute, others)}")
    return getattr(module, attribute)


def _load(name: str, module: str, names: Names) -> ModuleType:
    """Find the module, and import it."""
    importlib.invalidate_caches()
    places = names.places(module)
    if f"{module}.".startswith(beside.PREFIX):
        raise UserError(f"{name!r}: a configuration does not name modules of {beside.PREFIX[:-1]}")
    installed = _installed(module, names)
    if installed is not None:
        names.found[module] = None
        return _imported(name, module, installed)
    for folder in places:
        file = _file(module, folder, names)
        if file is not None:
            names.found[module] = str(folder)
            plain = _plain_name(module, file)
            return _imported(name, module if plain else f"{beside.package(folder)}.{module}")
    looked = ", ".join(f"{what} ({folder})" for folder, what in places.items()) or "elsewhere"
    others = [path.stem for folder in places for path in folder.glob("*.py")]
    hint = nearest(module, others)
    nothing = "; nothing is ever imported from a run folder" if names.runs else ""
    raise UserError(
        f"cannot import {name!r}: no module {module!r} is installed, and there is no "
        f"{module.replace('.', '/')}.py {looked}{hint}{nothing}"
    )


def _installed(module: str, names: Names) -> ModuleSpec | ModuleType | None:
    """Return the top package of a module that is importable without the working folder, or a module without a file."""
    top, _, rest = module.partition(".")
    loaded = sys.modules.get(top)
    if loaded is not None and getattr(loaded, "__spec__", None) is None and not rest:
        return None if names.forbids(getattr(loaded, "__file__", None) or "/") else loaded  # a script's own `__main__`
    here = os.path.realpath(os.getcwd())
    path = [entry for entry in sys.path if entry and os.path.realpath(entry) != here and not names.forbids(entry)]
    spec = _top(top, path)
    if spec is None:
        return None
    inside = list(spec.submodule_search_locations or ())
    places = [[spec.origin] if spec.has_location and spec.origin else inside]
    places += [[place] for place in _steps(rest, inside)] if rest else []
    whole = len(places) == module.count(".") + 1 and (rest or spec.loader is not None)
    if (not whole and module not in sys.modules) or any(names.forbids(place) for step in places for place in step):
        return None
    if loaded is not None and any(names.forbids(place) for place in getattr(loaded, "__path__", ())):
        return None
    if spec.loader is None:
        spec.submodule_search_locations = inside  # as they were found: what Python keeps follows sys.path
    return spec


def _top(name: str, path: list[str]) -> ModuleSpec | None:
    """Return what Python's finders have for a name without a dot; nothing is run."""
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec = None if find is None else find(name, path if finder is PathFinder else None)
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _steps(module: str, places: list[str]) -> list[str]:
    """Return the file of each part of a module's name below some folders, as far as there is one; nothing is run."""
    found = []
    for part in module.split("."):
        specs = (FileFinder(place, *_DETAILS).find_spec(part) for place in places)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is None:
            break
        places = list(spec.submodule_search_locations or ())
        found.append(spec.origin if spec.has_location and spec.origin else places[0])
    return found


def _file(module: str, folder: Path, names: Names) -> str | None:
    """Return the file of a module in a folder, None where there is none."""
    steps = _steps(module, [str(folder)])
    whole = len(steps) == module.count(".") + 1 and os.path.isfile(steps[-1])
    return steps[-1] if whole and not any(map(names.forbids, steps)) else None


def _plain_name(module: str, file: str) -> bool:
    """Return whether `import module` means this file in this process, so that its classes are the caller's own."""
    loaded = sys.modules.get(module)
    if loaded is not None:
        return os.path.realpath(getattr(loaded, "__file__", None) or "/") == os.path.realpath(file)
    top = module.partition(".")[0]
    spec = _top(top, sys.path)
    if spec is None or top in sys.modules:
        return False
    steps = [spec.origin or "", *_steps(module.partition(".")[2], list(spec.submodule_search_locations or ()))]
    return len(steps) > module.count(".") and os.path.realpath(steps[module.count(".")]) == os.path.realpath(file)


def _imported(name: str, module: str, top: ModuleSpec | ModuleType | None = None) -> ModuleType:
    """Import a module; `top` is what its first part has to be, if that is not imported yet.

    Raises:
        UserError: it fails; with the line of the user's code at which it does.
    """
    try:
        if isinstance(top, ModuleType):
            return top
        if top is not None and top.name not in sys.modules:
            sys.modules[top.name] = module_from_spec(top)
            try:
                if top.loader is not None:
                    top.loader.exec_module(sys.modules[top.name])
            except BaseException:
                del sys.modules[top.name]
                raise
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"cannot import {name!r}: {_blamed(error)}") from error


def _blamed(error: BaseException) -> str:
    """Return the line of somebody's module that failed, and how."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    own = os.path.dirname(__file__), os.path.dirname(importlib.__file__), "<"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    near = [frame for frame in frames if os.path.dirname(frame.filename) == os.path.dirname(frames[0].filename)]
    where = f"{near[-1].filename}:{near[-1].lineno}: " if near else ""
    return f"{where}{type(error).__name__}: {error}"
