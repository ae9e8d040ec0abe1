"""Text to numbers and back: tokenizers with their vocabularies, and pretrained word vectors."""

from seqkit.text.config import TextConfig
from seqkit.text.pipeline import SPECIAL_TOKENS
from seqkit.text.texts import take_sentences, take_texts
from seqkit.text.tokenizer import Tokenizer
from seqkit.text.vectors import Vectors, load_vectors, vector_words

__all__ = [
    "SPECIAL_TOKENS",
    "TextConfig",
    "Tokenizer",
    "Vectors",
    "load_vectors",
    "take_sentences",
    "take_texts",
    "vector_words",
]
