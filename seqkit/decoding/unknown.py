"""Words for what a model could not name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def replace_unknown(
    tokens: Sequence[str],
    attention: Tensor,
    source: Sequence[str],
    *,
    unknown: str = "<unk>",
    dictionary: Mapping[str, str] | None = None,
) -> list[str]:
    """Replace each unknown word by the source word it is most aligned with (Jean et al. 2015, section 3.3).

    Args:
        tokens: T words of an output.
        attention: (T or more, S) weights; further rows, such as the row of <eos>, are ignored.
        source: S words.
        unknown: what stands for an unknown word.
        dictionary: translations; a source word that has none is copied.

    Returns:
        T words. An empty source leaves all as they are.

    Raises:
        ValueError: attention does not fit the words.
    """
    if attention.dim() != 2 or attention.size(0) < len(tokens) or attention.size(1) != len(source):
        need = (len(tokens), len(source))
        raise ValueError(
            f"attention: must have one row a token and one column a source word {need}, got {tuple(attention.shape)}"
        )
    if not source:
        return list(tokens)
    aligned = attention.argmax(1).tolist()
    words = dictionary or {}
    return [
        words.get(source[place], source[place]) if token == unknown else token
        for token, place in zip(tokens, aligned, strict=False)
    ]
