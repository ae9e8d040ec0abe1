"""Runs outside Python: graphs of ONNX, a plain tokenizer, and a script that needs neither torch nor seqkit."""

from seqkit.export.base import Exporter, Graph
from seqkit.export.check import doctor
from seqkit.export.evaluate import evaluate, open_exported
from seqkit.export.files import is_exported
from seqkit.export.int8 import Quantised, quantise
from seqkit.export.make import export
from seqkit.export.table import EXPORTERS

__all__ = [
    "EXPORTERS",
    "Exporter",
    "Graph",
    "Quantised",
    "doctor",
    "evaluate",
    "export",
    "is_exported",
    "open_exported",
    "quantise",
]
