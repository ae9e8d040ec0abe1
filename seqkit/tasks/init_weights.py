"""`init:` weights to start from, of an earlier run or of any other torch model."""

from __future__ import annotations

from collections.abc import Callable

import torch

from seqkit.console import say
from seqkit.errors import UserError, at_key
from seqkit.tasks.base import RunConfig, RunTask
from seqkit.tasks.start_config import InitConfig
from seqkit.text import TextConfig, Tokenizer
from seqkit.training import RunFolder
from seqkit.training.checkpoint import load_finite
from seqkit.training.torch_weights import read_state_dict, read_words
from seqkit.training.transfer import Given, Transfer, transfer_weights

SOURCE_TABLE = "encoder.embedding.table.weight"
TARGET_TABLE = "decoder.embedding.table.weight"
# The tokenizers of a run folder, and the weights whose rows are their words.
_TABLES = {
    "tokenizer.json": SOURCE_TABLE,
    "tokenizer.source.json": SOURCE_TABLE,
    "tokenizer.target.json": TARGET_TABLE,
}


def keeps_text(config: RunConfig, table: str = SOURCE_TABLE) -> bool:
    """Return whether an embedding is to have the vocabulary of the earlier run: the vectors of words go with their
    numbers, so without a `text:` section both are kept.

    Args:
        config: the whole configuration.
        table: the name of the embedding's weight.
    """
    init = config.init
    return init is not None and init.run is not None and "text" not in config.model_fields_set and init.takes(table)


def check_new_words(config: RunConfig, key: str, section: object, table: str = SOURCE_TABLE) -> None:
    """Refuse `vectors_vocabulary` in an embedding section where the earlier run's vocabulary is kept.

    Raises:
        ValueError: it starts with the key.
    """
    if keeps_text(config, table) and getattr(section, "vectors_vocabulary", False):
        raise ValueError(f"{key}.vectors_vocabulary makes a new vocabulary: give a text section too")


def kept_tokenizer(
    config: RunConfig, table: str = SOURCE_TABLE, check: Callable[[TextConfig], None] | None = None
) -> Tokenizer | None:
    """Find the tokenizer of the earlier run that gives an embedding its vectors, where it is to be kept.

    Args:
        config: the whole configuration.
        table: the name of the embedding's weight.
        check: raises ValueError for settings that the task cannot use.

    Returns:
        the tokenizer, or None: make one from the data.

    Raises:
        UserError: no such run, or its tokenizer is damaged or of no use here.
    """
    if not keeps_text(config, table):
        return None
    assert config.init is not None
    assert config.init.run is not None
    folder = RunFolder.open(config.init.run)
    choice = config.init.choice
    # What the map says goes before equal names, as with the weights.
    for name, there in sorted(_TABLES.items(), key=lambda pair: not choice.maps(pair[1])):
        path = folder.path / name
        if path.exists() and table in choice.places(there):
            tokenizer = Tokenizer.load(path)
            try:
                if check is not None:
                    check(tokenizer.config)
            except ValueError as error:
                raise UserError(
                    f"{folder}: {error} (give a text section for a new vocabulary)", key="init.run"
                ) from None
            say(f"init: kept {path} for {table}, as there is no text section")
            return tokenizer
    say(f"init: {folder} has no vocabulary for {table}; a new one is made")
    return None


def given_by_run(folder: RunFolder, config: RunConfig, kind: type[RunTask]) -> Given:
    """Return the weights of an earlier run, of any task, and what their rows stand for.

    Raises:
        UserError: the folder is damaged, or a weight is NaN or infinite.
    """
    with torch.random.fork_rng(devices=[]):  # the start of its weights is thrown away and may not move the seed
        earlier = kind.restore(config, folder.path)
    rows, weights = earlier.rows(), load_finite(folder.weights, earlier.model.state_dict())
    for name, its in rows.items():
        if name in weights and len(weights[name]) != len(its.names):
            raise UserError(f"{folder.weights}: {name} lacks a row for some of the {len(its.names):,} names: damaged")
    return Given(str(folder), weights, rows)


def given_by_torch(init: InitConfig) -> Given:
    """Read the weights of any other torch model.

    Raises:
        UserError: a file cannot be read; see `read_state_dict` and `read_words`.
    """
    assert init.torch is not None
    with at_key("init.torch"):
        weights, note = read_state_dict(init.torch)
    if note:
        say(f"init: {note}")
    with at_key("init.vocabulary"):
        words = None if init.vocabulary is None else read_words(init.vocabulary)
    return Given(init.torch, weights, words=words)


def initialise(task: RunTask, init: InitConfig, given: Given) -> Transfer:
    """Load the weights into the model of a task and say what became of each, which is returned too.

    Raises:
        UserError: see `transfer_weights`.
    """
    report = transfer_weights(task.model, given, task.rows(), init.choice)
    for line in report.lines():
        say(line)
    return report
