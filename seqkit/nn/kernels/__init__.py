"""Hand-derived backpropagation through time for the built-in cells."""

from seqkit.nn.kernels.autograd import kernel_scan
from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import Kernel
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.rnn import RNNKernel

__all__ = ["GRUKernel", "Kernel", "LSTMKernel", "RNNKernel", "kernel_scan"]
