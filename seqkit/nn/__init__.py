"""Recurrent modules written from torch primitives, importable with torch alone."""

from seqkit.nn.attention import ATTENTIONS, Attention, make_attention, padding_mask
from seqkit.nn.attentional import AttentionalRecurrent
from seqkit.nn.backends.backend import Choice
from seqkit.nn.cells import CELLS, Cell, GRUCell, JordanCell, LSTMCell, Prepared, RNNCell, State, resolve_cell
from seqkit.nn.checks import check_choice, check_flag, check_probability, from_table
from seqkit.nn.convert import from_torch, to_torch
from seqkit.nn.crf import CRF, iob2_allowed
from seqkit.nn.dropout import EmbeddingDropout, LockedDropout, WordDropout, embedding_dropout
from seqkit.nn.interop import LeafTracer, safe_globals
from seqkit.nn.kernels.tuning import LOGIT_ROWS
from seqkit.nn.linear import Linear
from seqkit.nn.lora import add_lora, merge_lora
from seqkit.nn.loss import linear_cross_entropy
from seqkit.nn.recurrent import Recurrent
from seqkit.nn.rnn import GRU, LSTM, RNN
from seqkit.nn.sending import send, send_together
from seqkit.nn.state import detach_state
from seqkit.nn.trace import Trace

__all__ = [
    "ATTENTIONS",
    "CELLS",
    "CRF",
    "GRU",
    "LOGIT_ROWS",
    "LSTM",
    "RNN",
    "Attention",
    "AttentionalRecurrent",
    "Cell",
    "Choice",
    "EmbeddingDropout",
    "GRUCell",
    "JordanCell",
    "LSTMCell",
    "LeafTracer",
    "Linear",
    "LockedDropout",
    "Prepared",
    "RNNCell",
    "Recurrent",
    "State",
    "Trace",
    "WordDropout",
    "add_lora",
    "check_choice",
    "check_flag",
    "check_probability",
    "detach_state",
    "embedding_dropout",
    "from_table",
    "from_torch",
    "iob2_allowed",
    "linear_cross_entropy",
    "make_attention",
    "merge_lora",
    "padding_mask",
    "resolve_cell",
    "safe_globals",
    "send",
    "send_together",
    "to_torch",
]
