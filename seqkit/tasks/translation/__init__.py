"""Encoder-decoder translation: a text for a text."""
