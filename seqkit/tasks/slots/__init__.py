"""Slot filling: a tag for each token, and an intent for each sentence."""
