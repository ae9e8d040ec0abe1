"""The file of a tokenizer: JSON of the `tokenizers` library, with our settings in it.

`tokenizers.Tokenizer.from_file` reads such a file, as does `transformers.PreTrainedTokenizerFast(tokenizer_file=...)`,
which is that library. It gives the same ids as `Tokenizer.encode`: <bos>, <eos> and `max_length` are there as its
post-processor and truncation. What it cannot hold:

- the splitting of torchtext:NAME, which is Python: give it words (`is_pretokenized=True`), and where words are marked
  each that stands behind white space with a tab before it;
- that no text may hold <pad>, <unk>, <bos> and <eos>: they are entries of the vocabulary and no "added tokens", which
  would be looked for in texts. Where transformers is told of them (`pad_token="<pad>"`), it looks for them;
- `max_length` for transformers, which cuts by the arguments of each call (`truncation=True, max_length=...`).

The settings stand under `model.seqkit`. The library passes over keys of the model that it does not know, but refuses
any at the top of the file; a second file could be lost, or belong to another tokenizer.
"""

from __future__ import annotations

from typing import Any

from seqkit.errors import UserError
from seqkit.text.config import TextConfig
from seqkit.text.pipeline import BOS, EOS, SPECIAL_TOKENS

_KEY = "seqkit"
_VERSION = 2
_FORMAT_1 = "seqkit.tokenizer"  # such a file was not one of the library: it held the library's JSON under a key


def pack(parts: dict[str, Any], config: TextConfig) -> dict[str, Any]:
    """Return the content of the file.

    Args:
        parts: the library's JSON, without post-processor and truncation.
        config: the settings.
    """
    own = {"version": _VERSION, "config": config.model_dump(mode="json")}
    return {
        **parts,
        "truncation": _truncation(config),
        "post_processor": _template(config),
        "model": {**parts["model"], _KEY: own},
    }


def _truncation(config: TextConfig) -> dict[str, Any] | None:
    if config.max_length is None:
        return None
    direction = "Right" if config.keep == "start" else "Left"
    return {"direction": direction, "max_length": config.max_length, "strategy": "LongestFirst", "stride": 0}


def _template(config: TextConfig) -> dict[str, Any] | None:
    """Put <bos> and <eos> around a text; a pair of texts is two of them."""
    before, after = [BOS] * config.add_bos, [EOS] * config.add_eos
    if not before and not after:
        return None

    def around(name: str, number: int) -> list[dict[str, Any]]:
        text = {"Sequence": {"id": name, "type_id": number}}
        first, last = ([{"SpecialToken": {"id": one, "type_id": number}} for one in side] for side in (before, after))
        return [*first, text, *last]

    special = {one: {"id": one, "ids": [SPECIAL_TOKENS.index(one)], "tokens": [one]} for one in (*before, *after)}
    pair = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special}


def unpack(document: Any) -> tuple[dict[str, Any], TextConfig]:
    """Return what `pack` was given.

    Raises:
        UserError: the content is not one of our tokenizers, or from a newer version.
        KeyError, TypeError, ValidationError: it is damaged.
    """
    parts: Any
    model = document.get("model") if isinstance(document, dict) else None
    if isinstance(model, dict) and isinstance(model.get(_KEY), dict):
        own = model[_KEY]
        rest = {key: value for key, value in model.items() if key != _KEY}
        parts = {**document, "truncation": None, "post_processor": None, "model": rest}
        expected = _VERSION
    elif isinstance(document, dict) and document.get("format") == _FORMAT_1:
        own, parts, expected = document, document.get("tokenizer"), 1
    else:
        raise UserError("not a seqkit tokenizer; expected a file written by Tokenizer.save")
    if own.get("version") != expected:
        raise UserError(f"tokenizer file of version {own.get('version')!r}; this seqkit reads version 1 and {_VERSION}")
    if not isinstance(parts, dict):
        raise KeyError("tokenizer")
    return parts, TextConfig.model_validate(own["config"])
