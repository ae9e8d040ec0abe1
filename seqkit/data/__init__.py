"""Data: where rows come from, and how they become batches."""

from seqkit.data.readers import BadRow, Column, Reader, Rows
from seqkit.data.textform import Form

__all__ = ["BadRow", "Column", "Form", "Reader", "Rows"]
