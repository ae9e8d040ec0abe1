"""Sentiment classification: a label for a text."""
