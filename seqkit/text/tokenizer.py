"""The tokenizer: trained once on the training part, saved whole, and never changed after that."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from seqkit.errors import UserError
from seqkit.files import read_json, write_text
from seqkit.text import marks, pipeline, storage, train_tokenizer
from seqkit.text.config import TextConfig
from seqkit.text.foreign import splitter
from seqkit.text.texts import take_texts


class Tokenizer:
    """Turn texts into lists of token ids and back. Make one with `train` or `load`.

    Args:
        backend: a trained tokenizer of the `tokenizers` library.
        config: the settings it was trained with.

    Attributes:
        config: the settings it was trained with, without `auto`.
        pad_id, unk_id, bos_id, eos_id: 0, 1, 2, 3 in every vocabulary.
        vocabulary: the tokens in the order of their ids.
        fingerprint: 64 hex digits that change when anything that decides an encoding changes.
    """

    pad_id, unk_id, bos_id, eos_id = range(4)

    def __init__(self, backend: Backend, config: TextConfig) -> None:
        self._set(json.loads(backend.to_str()), config)

    def _set(self, parts: dict[str, Any], config: TextConfig) -> None:
        """Take over the library's JSON; with the config's last steps it decides every encoding."""
        text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
        self.config = config = config.settled()
        self._parts = parts
        self._backend = Backend.from_str(text)
        # Without offsets: about a third faster, where the library (>= 0.20) has it.
        self._encode_batch = getattr(self._backend, "encode_batch_fast", self._backend.encode_batch)
        entries = sorted(self._backend.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
        self.vocabulary: list[str] = [token for token, _ in entries]
        if [index for _, index in entries] != list(range(len(entries))):
            raise ValueError("the ids of the vocabulary are not 0, 1, 2, ...")
        if tuple(self.vocabulary[:4]) != pipeline.SPECIAL_TOKENS:
            raise ValueError(f"the vocabulary does not begin with {' '.join(pipeline.SPECIAL_TOKENS)}")
        self._before = [self.bos_id] * config.add_bos
        self._after = [self.eos_id] * config.add_eos
        room = config.max_length and config.max_length - config.add_bos - config.add_eos
        self._cut = slice(None)
        if room is not None:
            self._cut = {"start": slice(None, room), "end": slice(-room, None)}[config.keep]
        last = f"{self._before} {self._after} {self._cut}" + config.tokenizer * config.is_foreign
        self.fingerprint: str = hashlib.sha256((text + last).encode("utf-8")).hexdigest()

    @classmethod
    def train(cls, texts: Iterable[str], config: TextConfig, *, whole: bool = False) -> Tokenizer:
        """Build the vocabulary from the texts; their order makes no difference.

        Args:
            texts: read once.
            config: the settings.
            whole: each text is one word of the vocabulary and is not split; for the word tokenizer.

        Returns:
            the tokenizer.

        Raises:
            UserError: the texts hold no token, the stop words cannot be read, or the vocabulary size is too
                small for the characters of the texts.
            TypeError: one text where several are expected.
        """
        if isinstance(texts, str):  # else its characters would be the texts
            take_texts(texts)
        return cls(train_tokenizer.train(texts, config, whole=whole), config)

    @classmethod
    def train_counted(cls, counts: Mapping[str, int], config: TextConfig) -> Tokenizer:
        """Build the word tokenizer that `train` gives, from counts instead of texts.

        Args:
            counts: stretch of text between two spaces -> how often it occurs.
            config: the settings.

        Returns:
            the tokenizer.

        Raises:
            UserError: see `train`.
        """
        return cls(train_tokenizer.train_counted(counts, config), config)

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """Encode texts, all at once, on the library's threads.

        Args:
            texts: any iterable of str.

        Returns:
            token ids of each text, in the same order; a blank text gives an empty list (plus <bos>, <eos> if set).

        Raises:
            TypeError, ValueError: see `take_texts`.
        """
        # The library's own truncation also encodes everything it cuts off: ten times slower on long texts.
        texts = take_texts(texts) if isinstance(texts, str) or not isinstance(texts, Sequence) else list(texts)
        try:
            encodings = self._encode_batch(
                self._inputs(texts), is_pretokenized=self.config.is_foreign, add_special_tokens=False
            )
        except (TypeError, AttributeError, ValueError):  # the library's own words do not say which text it is
            take_texts(texts)
            raise
        return [[*self._before, *encoding.ids[self._cut], *self._after] for encoding in encodings]

    def _inputs(self, texts: list[str]) -> Sequence[Any]:
        """Return texts as the library takes them: whole, or as the words into which another library splits them."""
        if not self.config.is_foreign:
            return texts
        words = list(map(splitter(self.config.tokenizer), texts))
        return [marks.spaced(*pair) for pair in zip(words, texts, strict=True)] if self.config.marked else words

    @property
    def separable(self) -> bool:
        """Whether the tokens of a text are the tokens of its stretches between spaces, one stretch after the other.

        Not where a space is a token, or a stretch can vanish with its accents while its space mark stays.
        """
        subword = self.config.tokenizer in ("bpe", "unigram")
        split = self._backend.pre_tokenizer is not None and not self.config.is_foreign
        return split and not (subword and self.config.strip_accents)

    def resplit(self, **settings: Any) -> Tokenizer:
        """Return a tokenizer with the same vocabulary that splits texts otherwise.

        Args:
            settings: other values of `split` and `split_chinese`.
        """
        config = self.config.model_copy(update=settings)
        backend = Backend.from_str(self._backend.to_str())
        backend.pre_tokenizer = pipeline.splitter(config)
        return Tokenizer(backend, config)

    def bare(self) -> Tokenizer:
        """Return the same tokenizer without what it cuts off or adds at the ends of a text."""
        plain = {"add_bos": False, "add_eos": False, "max_length": None}
        return Tokenizer(self._backend, self.config.model_copy(update=plain))

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of one text as the vocabulary writes them, one for each id of `encode`.

        A space is written `▁` by bpe and unigram, a word without one before it begins with `￭` where words are marked;
        what is not in the vocabulary is `<unk>`.
        """
        return [self.vocabulary[index] for index in self.encode([text])[0]]

    def pieces(self, text: str) -> list[str]:
        """Return the stretch of the text that each token of `tokens` stands for, as written there.

        A stretch that begins with a space begins with `▁` where the tokenizer is bpe or unigram. Where another library
        splits the text, it is the word that it makes of the stretch. A mark that is a token of its own stands for "".
        """
        return [piece for piece, _ in self.placed(text)]

    def placed(self, text: str) -> list[tuple[str, bool]]:
        """Return the pieces of `text`, each with whether it follows another one without white space."""
        (given,) = self._inputs([text])
        encoding = self._backend.encode(given, is_pretokenized=self.config.is_foreign, add_special_tokens=False)
        mark = pipeline.SPACE if self.config.tokenizer in ("bpe", "unigram") else " "
        if self.config.is_foreign:
            found = self._placed_words(given, encoding)
        else:
            found = [
                (text[start:end].replace(" ", mark), start > 0 and not marks.is_space(text[start - 1]))
                for start, end in encoding.offsets
            ]
        # The space mark put before the text shares the place of the first character.
        alone = {mark: (mark, False), **({marks.MARK: ("", True)} if self.config.marked else {})}
        found = [alone.get(token, pair) for token, pair in zip(encoding.tokens, found, strict=True)]
        before, after = ([(self.vocabulary[index], False) for index in side] for side in (self._before, self._after))
        return [*before, *found[self._cut], *after]

    def _placed_words(self, given: Sequence[str], encoding: Any) -> list[tuple[str, bool]]:
        words, found = encoding.word_ids, []
        for number, (word, (start, end)) in enumerate(zip(words, encoding.offsets, strict=True)):
            first = number == 0 or words[number - 1] != word
            whole = words.count(word) == 1
            piece = given[word] if whole else given[word][start:end]
            joined = self.config.marked and not (first and given[word].startswith(marks.SPACED))
            found.append((piece.removeprefix(marks.SPACED) if self.config.marked else piece, joined))
        return found

    def written(self, word: str, joined: bool) -> str:
        """Return a word of a text as the token that it would be, were it in the vocabulary.

        Args:
            word: as it stands in the text, with `▁` for a space where the tokenizer is bpe or unigram.
            joined: whether no white space stands before it.
        """
        return marks.written(word, joined) if self.config.marked else word

    @property
    def words(self) -> list[str]:
        """Return the vocabulary as it stands in texts: without marks, so that a word may come twice."""
        return list(map(marks.plain, self.vocabulary)) if self.config.marked else self.vocabulary

    @cached_property
    def _numbers(self) -> dict[str, int]:
        """Word -> id; made once, for it takes longer than tagging a sentence."""
        entries = list(enumerate(self.vocabulary))[len(pipeline.SPECIAL_TOKENS) :]
        numbers = {token: number for number, token in entries}
        if self.config.marked:
            joined = ((token, number) for token, number in numbers.items() if marks.is_marked(token))
            numbers = {token.removeprefix(marks.MARK): number for token, number in joined} | numbers
        return numbers

    def lookup(self, words: Iterable[str]) -> list[int]:
        """Return the id of each of `words`, a text that is split already.

        A word is normalised and looked up as it stands, with a mark only where the vocabulary has no other form.
        """
        numbers = self._numbers
        normal = self._backend.normalizer
        normalised = words if normal is None else map(normal.normalize_str, words)
        if self.config.marked:
            normalised = (word.removeprefix(marks.SPACED) for word in normalised)
        return [numbers.get(word, self.unk_id) for word in normalised]

    def offsets(self, text: str) -> list[tuple[int, int]]:
        """Return where in `text` each token begins and ends (exclusive), in characters; <bos> and <eos> left out.

        Raises:
            ValueError: another library splits the texts, which does not tell.
        """
        if self.config.is_foreign:
            raise ValueError(f"{self.config.tokenizer} does not tell where in a text its tokens stand")
        found = self._backend.encode(text, add_special_tokens=False).offsets
        limits = [*(start for start, _ in found), len(text)][1:]
        whole = [
            (start, _whole_end(text, start, end, limit)) for (start, end), limit in zip(found, limits, strict=False)
        ]
        return whole[self._cut]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of `ids`; <pad>, <bos> and <eos> are left out.

        Word tokens that are not marked are joined by spaces. All others give back the text itself, as normalised,
        except what was cut, dropped or unknown, and a literal `▁`, which bpe and unigram read as a space; of white
        space marked words keep that there was some.

        Raises:
            ValueError: an id outside the vocabulary.
        """
        silent = (self.pad_id, self.bos_id, self.eos_id)
        kept = [int(index) for index in ids]
        if kept and (min(kept) < 0 or max(kept) >= len(self)):
            raise ValueError(f"ids must lie in 0..{len(self) - 1}, got {min(kept)}..{max(kept)}")
        kept = [index for index in kept if index not in silent]
        return str(self._backend.decode(kept, skip_special_tokens=False))

    def __len__(self) -> int:
        """Return the number of tokens, the four special ones included."""
        return len(self.vocabulary)

    def __repr__(self) -> str:
        return f"Tokenizer({self.config.tokenizer}, {len(self)} tokens)"

    def save(self, path: str | Path) -> None:
        """Write one JSON file to `path` that holds everything; an existing file is replaced whole or not at all.

        `tokenizers.Tokenizer.from_file` reads it and gives the same ids; see `seqkit.text.storage`.
        """
        write_text(Path(path), json.dumps(storage.pack(self._parts, self.config), ensure_ascii=False))

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """Read the file at `path`, written by `save` of this or an earlier version.

        Returns:
            the tokenizer.

        Raises:
            UserError: no such file, or one that is damaged, of another kind or from a newer version.
        """
        path = Path(path)
        tokenizer = cls.__new__(cls)
        try:
            tokenizer._set(*storage.unpack(read_json(path)))
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        except BaseException as error:  # the library raises Exception itself on JSON that is not its own
            # A panic of the Rust side arrives as a BaseException of a private class.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise UserError(f"{path}: damaged tokenizer file ({' '.join(str(error).split())})") from None
        return tokenizer


def _whole_end(text: str, start: int, end: int, limit: int) -> int:
    """Return the end of a token with the marks behind it: of characters that normalising joins, or drops, the library
    counts the first."""
    while start < end < limit:
        before = text[max(start, end - 2) : end]
        joined = len(unicodedata.normalize("NFC", before + text[end])) == len(unicodedata.normalize("NFC", before))
        if not joined and not unicodedata.combining(text[end]):
            break
        end += 1
    return end
