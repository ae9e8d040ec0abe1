"""Runs outside Python: graphs of ONNX, a plain tokenizer, and a script that needs neither torch nor seqkit."""

from seqkit.export.base import Exporter, Graph
from seqkit.export.make import export
from seqkit.export.table import EXPORTERS

__all__ = ["EXPORTERS", "Exporter", "Graph", "export"]
