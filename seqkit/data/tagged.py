"""Sentences with a tag for every token, as one source with `tokens`, `tags` and perhaps `intent`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from seqkit.data.formats import detect, reader
from seqkit.data.labels import check_label
from seqkit.data.readers import BadRow, Rows, Value
from seqkit.data.source import BUILTIN, HUB, TORCHTEXT, Source, SourceConfig
from seqkit.data.sources import make_job, open_job
from seqkit.errors import shown


def has_intents(config: SourceConfig) -> bool:
    """Return whether files of this format can say the intent of a sentence; of other libraries' data, whether `columns`
    does.

    Raises:
        UserError: the file's name does not tell its format.
    """
    if config.path.startswith((HUB, TORCHTEXT)):
        return "intent" in config.columns
    if config.path.startswith(BUILTIN):
        return True
    return not reader(detect(Path(config.path)) if config.format == "auto" else config.format).line_a_token


def open_tagged(config: SourceConfig, part: str, *, intent: bool) -> Source:
    """Read tagged sentences, or map what an earlier run read.

    A sentence without tokens, with a blank one, with another number of tags than tokens, or with a tag that is not
    of IOB2's form is a bad line. Whether its tags follow each other as they should is not looked at.

    Args:
        config: which file and how.
        part: train, dev or test.
        intent: read the column `intent`, too.

    Raises:
        UserError: what `open_source` raises.
    """
    fields: dict[str, type] = {"tokens": list, "tags": list, **({"intent": str} if intent else {})}
    job = make_job(config, fields, part)
    rows = _checked(job.rows, job.line_a_token)
    return open_job(replace(job, rows=rows, identity=[*job.identity, "tagged-2"]))


def _checked(rows: Rows, line_a_token: bool) -> Rows:
    with closing(rows):
        for line, row in rows:
            if not isinstance(row, BadRow) and (problem := _problem(row)):
                row = BadRow(problem, lines=len(row[0]) if line_a_token else 1)
            yield line, row


def _problem(row: list[Value]) -> str:
    """Return what is wrong with a sentence, or ""."""
    tokens, tags, *rest = row
    if not tokens and not tags:
        return "a sentence without tokens"
    if len(tokens) != len(tags):
        return f"{len(tokens)} tokens and {len(tags)} tags; expected one tag for each token"
    for number, (token, tag) in enumerate(zip(tokens, tags, strict=True), 1):
        if not token.strip():
            return f"token {number} is blank"
        if tag != "O" and (tag[:2] not in ("B-", "I-") or not tag[2:].strip() or tag.splitlines() != [tag]):
            return f"tag {number} ({shown(token)}) is {shown(tag)}; expected O, B-type or I-type (IOB2), on one line"
    return next((problem for intent in rest if (problem := check_label(str(intent), "intent"))), "")
