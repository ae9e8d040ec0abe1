"""Scripts that are copied into exported folders as predict.py: they import numpy, onnxruntime and tokenizers alone."""
