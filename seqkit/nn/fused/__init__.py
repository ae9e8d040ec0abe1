"""Hand-derived backpropagation through time for the built-in cells."""

from seqkit.nn.fused.function import kernel_scan
from seqkit.nn.fused.gru import GRUKernel
from seqkit.nn.fused.kernel import Kernel
from seqkit.nn.fused.lstm import LSTMKernel
from seqkit.nn.fused.rnn import RNNKernel

__all__ = ["GRUKernel", "Kernel", "LSTMKernel", "RNNKernel", "kernel_scan"]
