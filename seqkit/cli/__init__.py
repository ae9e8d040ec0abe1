"""The command line."""

from seqkit.cli.entry import main

__all__ = ["main"]
