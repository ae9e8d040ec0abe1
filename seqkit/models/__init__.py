"""Models: seqkit.nn put together. Needs torch alone; knows no configuration."""

from seqkit.models.adversarial import worst_shift
from seqkit.models.bridge import BRIDGES, Bridge
from seqkit.models.classifier import SequenceClassifier
from seqkit.models.decoder import Decoder
from seqkit.models.encoder import Embedding, Encoder
from seqkit.models.language_model import LanguageModel
from seqkit.models.pooling import POOLINGS, Pooling, Poolings
from seqkit.models.seq2seq import Seq2Seq
from seqkit.models.tagger import CharacterEncoder, Spelling, Tagger
from seqkit.models.window import WindowEncoder

__all__ = [
    "BRIDGES",
    "POOLINGS",
    "Bridge",
    "CharacterEncoder",
    "Decoder",
    "Embedding",
    "Encoder",
    "LanguageModel",
    "Pooling",
    "Poolings",
    "Seq2Seq",
    "SequenceClassifier",
    "Spelling",
    "Tagger",
    "WindowEncoder",
    "worst_shift",
]
