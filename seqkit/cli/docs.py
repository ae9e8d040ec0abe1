"""`seqkit docs`: the pages of the manual, as they come with the package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from seqkit.cli.app import app
from seqkit.console import put
from seqkit.errors import UserError, nearest

PAGES = Path(__file__).parent.parent / "docs"
_CODE = re.compile(r"(^```.*?^```$)", re.M | re.S)


@app.command(epilog="Example: seqkit docs translation")
def docs(
    page: Annotated[str | None, typer.Argument(metavar="PAGE", help="Its name; without one, list all pages.")] = None,
) -> None:
    """Print a page of the manual, or list the pages."""
    pages = {path.stem: path for path in sorted(PAGES.glob("*.md"))}
    if page is None:
        for name, path in pages.items():
            put(f"{name:20}{summary(path.read_text('utf-8'))}")
    elif page in pages:
        put(plain(pages[page].read_text("utf-8")).rstrip("\n"))
    else:
        raise UserError(f"docs: no page {page!r} (`seqkit docs` lists all pages){nearest(page, pages)}")


def summary(text: str) -> str:
    """Return what a page says about itself in one line: the line after its title."""
    return text.split("\n", 3)[2]


def plain(text: str) -> str:
    """Return Markdown as a terminal shows it best: a link to a page is the command that prints it, code is as it is."""
    parts = _CODE.split(re.sub(r"^<!--.*?-->\n", "", text, flags=re.M | re.S))
    parts[::2] = [re.sub(r"\[[^]]+\]\(([\w-]+)\.md[^)]*\)", r"`seqkit docs \1`", part) for part in parts[::2]]
    parts[::2] = [re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", part) for part in parts[::2]]
    return "".join(parts)
