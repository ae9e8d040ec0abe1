"""Which Triton kernel computes what a fused kernel does."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from seqkit.nn.kernels.gru import GRUKernel
from seqkit.nn.kernels.kernel import Kernel
from seqkit.nn.kernels.lstm import LSTMKernel
from seqkit.nn.kernels.rnn import RNNKernel
from seqkit.nn.kernels.triton import support
from seqkit.nn.kernels.triton.gru import TritonGRU
from seqkit.nn.kernels.triton.lstm import TritonLSTM
from seqkit.nn.kernels.triton.rnn import TritonRNN

COUNTERPARTS: dict[type[Kernel], Callable[[Any], Kernel]] = {
    LSTMKernel: TritonLSTM,
    GRUKernel: TritonGRU,
    RNNKernel: TritonRNN,
}


@lru_cache(maxsize=64)
def triton_kernel(kernel: Kernel) -> Kernel | None:
    """Return the Triton counterpart of a fused kernel with the same options, or None where there is none.

    It serves LSTM without a projection, GRU and vanilla RNN, in the dtypes of `support.DTYPES`.
    """
    if not support.available() or (isinstance(kernel, LSTMKernel) and kernel.proj_size):
        return None
    make = COUNTERPARTS.get(type(kernel))
    return None if make is None else make(kernel)
