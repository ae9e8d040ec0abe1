"""Files that are copied into exported folders: exported.py, and that of the run's task as predict.py.

They import numpy, onnxruntime, tokenizers and each other alone, and nothing here imports them.
"""
