"""Recurrent modules written from torch primitives, importable with torch alone."""

from seqkit.nn.backends import Choice
from seqkit.nn.cells import CELLS, Cell, GRUCell, JordanCell, LSTMCell, Prepared, RNNCell, State, resolve_cell
from seqkit.nn.convert import from_torch, to_torch
from seqkit.nn.dropout import EmbeddingDropout, LockedDropout, WordDropout, embedding_dropout
from seqkit.nn.faces import GRU, LSTM, RNN
from seqkit.nn.recurrent import Recurrent
from seqkit.nn.state import detach_state
from seqkit.nn.tracing import Trace

__all__ = [
    "CELLS",
    "GRU",
    "LSTM",
    "RNN",
    "Cell",
    "Choice",
    "EmbeddingDropout",
    "GRUCell",
    "JordanCell",
    "LSTMCell",
    "LockedDropout",
    "Prepared",
    "RNNCell",
    "Recurrent",
    "State",
    "Trace",
    "WordDropout",
    "detach_state",
    "embedding_dropout",
    "from_torch",
    "resolve_cell",
    "to_torch",
]
