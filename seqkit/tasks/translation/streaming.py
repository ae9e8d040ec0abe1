"""Training pairs that are read in windows, instead of an index of all of them (`data.window`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from numpy.typing import NDArray

from seqkit.console import say
from seqkit.data.batching import BatchingConfig, Plan, by_sentences, plan_batches
from seqkit.data.pairs import pairs_job
from seqkit.data.source import LINE
from seqkit.data.streaming import Sizes, Stream, WindowBatches
from seqkit.data.token_cache import Encoder, encode_here
from seqkit.tasks.translation.config import TranslationData
from seqkit.tasks.translation.data import PairBatch, Pairs, choose, left_out_lines
from seqkit.text import Tokenizer


class PairStream:
    """See `Stream`.

    Args:
        config: the whole `data:` section.
        seed: of the order.
    """

    def __init__(self, config: TranslationData, seed: int) -> None:
        assert config.window is not None
        self._config, self._seed = config, seed
        self._stream = Stream(partial(pairs_job, config.train, "train"), config.window)
        self.texts = self._stream.texts
        self._seen = 0

    def tokenise(self, source: Tokenizer, target: Tokenizer) -> None:
        """Settle what the ids are."""
        self._target = target
        self._encoders = Encoder(source), Encoder(target)
        data = self._config
        own = {"max_source_length", "max_target_length", "max_ratio", "window"} | set(BatchingConfig.model_fields)
        key = [self._stream.key, source.fingerprint, target.fingerprint, data.model_dump(mode="json", include=own)]
        self._key = hashlib.sha256(repr(key).encode()).hexdigest()
        self._sizes = Sizes([self._key, self._seed], alike=by_sentences(data))

    def batches(
        self, collate: Callable[[Pairs, NDArray[np.int64]], PairBatch], epoch: int, start: int
    ) -> WindowBatches[PairBatch, Pairs]:
        """Return the batches of an epoch, made by `collate`, from number `start` on."""
        return WindowBatches(self._read, partial(self._plan, epoch), collate, self._sizes, epoch, start)

    def _plan(self, epoch: int, pairs: Pairs, window: int) -> Plan:
        return plan_batches(
            pairs.target.lengths,
            self._config,
            seed=self._seed,
            epoch=epoch,
            window=window,
            then=pairs.source.lengths,
            rows=pairs.kept,
            extra=1,
        )

    def _read(self, first: int, line: int) -> Iterator[tuple[int, int, Pairs]]:
        """Yield the windows from a number on, which may be known to begin at a line; see `WindowBatches`.

        After the first whole pass it says what was there.
        """
        used, left_out = 0, dict[str, tuple[int, str]]()
        for number, origin in self._stream.windows(first, line):
            source = encode_here(origin.dataset, "source", self._encoders[0])
            target = encode_here(origin.dataset, "target", self._encoders[1])
            pairs = choose(origin, source, target, self._target, self._config)
            used += len(pairs)
            for reason, (count, place) in pairs.left_out.items():
                before, first_place = left_out.get(reason, (0, place))
                left_out[reason] = before + count, first_place
            yield number, int(origin.dataset[0][LINE]), pairs
        if first == 0 and not self._seen:
            self._seen = used
            say(f"train: {used:,} pairs in windows of {self._config.window:,}")
            for reason in left_out_lines(left_out):
                say(f"train: left out, {reason}")
            if skipped := self._stream.skipped.note():
                say(f"train: {skipped}")

    def report(self) -> str:
        """Return a line about the data."""
        return f"train: {self._stream.name}, read in windows of {self._config.window:,} pairs"

    def fingerprint(self) -> str:
        """Return a digest of the file's name, size and time of change, and of how it is read."""
        return self._key
