"""Models: seqkit.nn put together. Needs torch alone; knows no configuration."""

from seqkit.models.adversarial import worst_shift
from seqkit.models.classifier import Pooling, SequenceClassifier
from seqkit.models.encoder import Embedding, Encoder, padding_mask

__all__ = ["Embedding", "Encoder", "Pooling", "SequenceClassifier", "padding_mask", "worst_shift"]
