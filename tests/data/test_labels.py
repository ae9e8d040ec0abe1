"""Which spellings of labels are one, and which number each gets."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkit.data.labels import Labels, check_label, label_form
from seqkit.errors import listed, nearest, shown

WORDS = st.text(st.sampled_from("aé\u0301e한 \u00a0\t"), min_size=1, max_size=6).filter(str.strip)


@given(label=WORDS, left=st.sampled_from(["", " ", "\u00a0"]), right=st.sampled_from(["", "  ", "\t"]))
def test_white_space_and_unicode_form_make_no_other_label(label: str, left: str, right: str) -> None:
    for form in ("NFC", "NFD"):
        assert label_form(left + unicodedata.normalize(form, label) + right) == label_form(label)
    assert label_form(label_form(label)) == label_form(label)
    assert label_form(label) == unicodedata.normalize("NFC", label_form(label)).strip()


@pytest.mark.parametrize("other", ["Pos", "p os", "pos.", "p\u00f6s", "\uff50os"])
def test_what_looks_different_is_different(other: str) -> None:
    assert label_form(other) != label_form("pos")


@given(written=st.lists(WORDS, min_size=1, max_size=8, unique=True), known=st.lists(WORDS, max_size=5, unique=True))
def test_a_label_is_the_learned_one_of_its_spelling_or_else_of_its_form(written: list[str], known: list[str]) -> None:
    """Names that an old run learned as several stay several."""
    labels = Labels.match(written, known)
    assert labels.names[: labels.known] == known
    assert not {label_form(name) for name in known} & set(labels.unknown)
    for label, number in zip(written, labels.numbers, strict=True):
        name = labels.names[number]
        assert label_form(name) == label_form(label)
        assert name == label or label not in known
    used = set(labels.numbers.tolist())
    assert used >= set(range(labels.known, len(labels.names)))
    groups = {tuple(sorted(w for w, n in zip(written, labels.numbers, strict=True) if n == number)) for number in used}
    assert sorted(map(tuple, labels.joined)) == sorted(group for group in groups if len(group) > 1)


@pytest.mark.parametrize("label", ["", " ", "a\n", "a\u2028b", "\n"])
def test_what_cannot_be_a_line_of_output_is_no_label(label: str) -> None:
    assert "is not a valid label: it is blank or holds a line end" in check_label(label)
    assert not check_label(" a b ")


@given(names=st.lists(st.text(max_size=300), max_size=40))
def test_a_list_in_a_message_is_bounded_and_counts_what_it_leaves_out(names: list[str]) -> None:
    text = listed(names)
    assert len(text) <= 200 + len(" and 40 more")
    assert text.splitlines() in ([], [text])
    whole = ", ".join(" ".join(name.split()) for name in names)
    if len(names) <= 10 and len(whole) <= 200 - 2:
        assert text == whole
    if " more" in text and not any(" more" in name for name in names):
        head, _, left = text.removesuffix(" more").rpartition(" and ")
        assert len(names) - int(left) >= 1
        assert whole.startswith(head.removesuffix("...")[:150])


def test_thousands_of_names_make_a_short_message() -> None:
    names = [f"class{number}" for number in range(30_000)]
    assert listed(names) == ", ".join(names[:10]) + " and 29,990 more"
    assert nearest("class299999", names) == "; did you mean 'class29999'?"
    assert len(shown("x" * 1_000_000)) == 60
