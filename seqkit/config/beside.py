"""Folders of a user's own code as packages: `seqkit.config.beside.FOLDER.cells` is the file cells.py in that folder.

The folder stands in the name of the module. So files of one name in two folders are two modules, the same file is the
same module for whoever asks, and another process (a worker, a process that unpickles) can import it by this name.
`sys.path` stays as it is, and nothing in such a folder shadows anything: only the files there see each other, by
`from .other import x` and, where nothing installed has the name, by `from other import x`.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

__path__: list[str] = []
PREFIX = __name__ + "."


def package(folder: Path) -> str:
    """Return the name of the package that a folder is."""
    name = re.sub(rb"[^A-Za-z0-9]", lambda found: b"_%02x" % found[0][0], str(folder.resolve()).encode())
    return PREFIX + name.decode()


def _folder(name: str) -> str:
    """Return the folder that a package's name stands for."""
    part = name.removeprefix(PREFIX).encode()
    return re.sub(rb"_([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), part).decode()


class _Source(SourceFileLoader):
    """Compiles a file whose imports of its neighbours are meant; keeps no bytecode, which elsewhere would mean more."""

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def source_to_code(self, data: Any, path: Any) -> Any:  # type: ignore[override]
        root = ".".join(self.name.split(".")[: PREFIX.count(".") + 1])
        try:
            parsed = ast.parse(data, path)
        except (SyntaxError, ValueError) as error:  # a NUL; which of both it is, and what it says, the version decides
            if getattr(error, "filename", None):
                raise
            raise SyntaxError(str(error), (str(path), 1, 1, "")) from None
        tree = _Neighbours(root).visit(parsed)
        return super().source_to_code(ast.fix_missing_locations(tree), path)


class _Neighbours(ast.NodeTransformer):
    """Lets absolute imports of what only the folder has mean what is there."""

    def __init__(self, root: str) -> None:
        self._root = root

    def _near(self, name: str) -> bool:
        top = name.partition(".")[0]
        if top in sys.builtin_module_names or PathFinder.find_spec(top) is not None:
            return False
        return PathFinder.find_spec(f"{self._root}.{top}", [_folder(self._root)]) is not None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level == 0 and node.module and self._near(node.module):
            node.module = f"{self._root}.{node.module}"
        return node

    def visit_Import(self, node: ast.Import) -> list[ast.AST]:
        found: list[ast.AST] = []
        for alias in node.names:
            if not self._near(alias.name):
                found.append(ast.copy_location(ast.Import([alias]), node))
                continue
            full = ast.alias(f"{self._root}.{alias.name}", alias.asname)
            found.append(ast.copy_location(ast.Import([full]), node))
            if alias.asname is None:  # `import a.b` gives the name a
                top = ast.alias(alias.name.partition(".")[0])
                found.append(ast.copy_location(ast.ImportFrom(self._root, [top], 0), node))
        return found


class _Finder:
    """Finds the packages that stand for folders, and what is in them."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(PREFIX):
            return None
        if "." not in name.removeprefix(PREFIX):
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [_folder(name)]
            return spec
        found = PathFinder.find_spec(name, path, target)
        if found is not None and isinstance(found.loader, SourceFileLoader):
            found.loader = _Source(found.loader.name, found.loader.path)
            found.cached = None
        return found


sys.meta_path.insert(0, _Finder)
