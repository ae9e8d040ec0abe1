"""Triton counterparts of the fused kernels, for CUDA cards. `triton` itself is imported only when a kernel runs."""
