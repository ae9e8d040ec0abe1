"""What the scripts beside an exported run do with text is what seqkit.text does: they cannot import it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import seqkit.export.scripts
from seqkit.text import TextConfig, joining, tokenizer

pytest.importorskip("onnxruntime", reason="onnxruntime is an extra of the tests")
sys.path.append(str(Path(seqkit.export.scripts.__file__).parent))
import exported

import seqkit.export.scripts.tags as tags

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Letters, marks that join the letter before them, marks that stay apart, and Hangul whose parts join.
CHARACTERS = st.sampled_from("ae\u0301\u0308\u0323\u05b0\u0e31가\u1100\u1161\u11a8 .")
WORDS = st.sampled_from(["(", ")", '"', ".", "n't", "'s", "-", "/", "¿", "€", "well", "中", "文", "…"]) | st.text(
    min_size=1
)


@MANY
@given(st.text(CHARACTERS, max_size=12), st.data())
def test_the_end_of_a_token(text, data):
    start, end, limit = sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 3)))
    assert tags.whole_end(text, start, end, limit) == tokenizer._whole_end(text, start, end, limit)


@MANY
@given(st.lists(WORDS, max_size=10), st.booleans(), st.booleans())
def test_joined_words(words, rules, chinese):
    patterns = joining.word_patterns(TextConfig(split="words" if rules else "spaces", split_chinese=chinese))
    assert exported.join_words(words, patterns) == joining._join_words(words, patterns)
