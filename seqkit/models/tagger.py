"""A tag for every token and, if wanted, a class for the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqkit.models.encoder import Encoder, valid_rows
from seqkit.models.pooling import Pooling, Poolings
from seqkit.models.window import WindowEncoder
from seqkit.nn import CRF

OutputName = Literal["crf", "softmax"]


class Spelling(NamedTuple):
    """How the tokens of a batch are written.

    Attributes:
        ids: (W, L) int64, the characters of its W distinct words, padded at the end.
        lengths: (W,) int64.
        words: (B, T) int64, which of them each token is; any on padding.
    """

    ids: Tensor
    lengths: Tensor
    words: Tensor


class CharacterEncoder(nn.Module):
    """A vector for each token out of its characters: the final state of a recurrent module's top layer, that of both
    directions (Lample et al. 2016, section 4.1).

    A word that occurs more than once in a batch is read once.

    Args:
        encoder: over characters.
        dropout: on the vectors.
    """

    def __init__(self, encoder: Encoder, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.output_size = encoder.output_size

    def forward(self, spelling: Spelling) -> Tensor:
        """-> (B, T, output_size)."""
        _, state = self.encoder(spelling.ids, spelling.lengths)
        vectors = torch.cat(list(state[0][-self.encoder.recurrent.num_directions :]), dim=1)  # (W, C)
        dropped: Tensor = self.dropout(vectors[spelling.words])
        return dropped


class Tagger(nn.Module):
    """Encoder, then scores of the tags of each token, and scores of the whole sequence's classes.

    Args:
        encoder: over tokens; its extra features are those of `characters`.
        num_tags: K.
        num_intents: classes of a whole sequence; 0: none.
        characters: gives more features of each token.
        allowed: (K, K) bool, from row to column: which tag may follow which; default: all.
        allowed_start: (K,) bool: which may come first.
        output: crf, the tags of a sequence are scored together; softmax, each for itself. Neither gives tags that are
            not allowed: those of a softmax are the most probable sequence that is.
        constrain_loss: see `seqkit.nn.CRF`.
        dropout: on the encoder's outputs, and on the pooled vector.
        intent_pooling: see `Poolings`.

    Raises:
        ValueError: the message starts with the argument's name.
    """

    def __init__(
        self,
        encoder: Encoder | WindowEncoder,
        num_tags: int,
        num_intents: int = 0,
        *,
        characters: CharacterEncoder | None = None,
        allowed: Tensor | None = None,
        allowed_start: Tensor | None = None,
        output: OutputName = "crf",
        constrain_loss: bool = False,
        dropout: float = 0.0,
        intent_pooling: Sequence[str | Callable[..., Pooling]] = ("max",),
    ) -> None:
        super().__init__()
        if output not in get_args(OutputName):
            raise ValueError(f"output must be one of {', '.join(get_args(OutputName))}, got {output!r}")
        if constrain_loss and output != "crf":
            raise ValueError("constrain_loss is for the output crf")
        self.encoder, self.characters, self.output = encoder, characters, output
        self.dropout = nn.Dropout(dropout)
        self.tag_scores = nn.Linear(encoder.output_size, num_tags)
        self.crf = CRF(num_tags, allowed=allowed, allowed_start=allowed_start, constrain_loss=constrain_loss)
        if output == "softmax":  # transitions that stay at zero: the tags are scored each for itself
            self.crf.requires_grad_(False)
        self.pooling = Poolings(encoder.output_size, intent_pooling) if num_intents else None
        if self.pooling is not None:
            if self.pooling.reads_last and encoder.recurrent is None:
                raise ValueError("intent_pooling: a window has no last state")
            self.intent_scores = nn.Linear(self.pooling.output_size, num_intents)

    def forward(
        self, ids: Tensor, lengths: Tensor, spelling: Spelling | None = None, shift: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Scores.

        Args:
            ids: (B, T) int64, padded at the end.
            lengths: (B,) int64.
            spelling: of the tokens, where there is an encoder of characters.
            shift: see `Encoder`.

        Returns:
            scores of tags (B, T, K), and those of classes (B, num_intents) or None.
        """
        extra = self.characters(spelling) if self.characters is not None else None
        output, state = self.encoder(ids, lengths, shift, extra)
        tags = self.tag_scores(self.dropout(output))
        if self.pooling is None:
            return tags, None
        last = output[:, 0]  # not looked at where pooling does not ask for it
        if self.encoder.recurrent is not None:
            last = torch.cat(list(state[0][-self.encoder.recurrent.num_directions :]), dim=1)
        return tags, self.intent_scores(self.dropout(self.pooling(output, last, lengths)))

    def tag_loss(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Negative log-likelihood (nats) of the tags, added up over the batch.

        Args:
            scores: (B, T, K) from `forward`.
            tags: (B, T) int64; any legal number on padding.
            lengths: (B,).
        """
        if self.output == "crf":
            losses: Tensor = self.crf(scores, tags, lengths)
            return losses.sum()
        rows = valid_rows(lengths, tags.size(1), tags.device)
        held, wanted = (part.flatten(0, 1).index_select(0, rows) for part in (scores, tags))
        return F.cross_entropy(held.float(), wanted, reduction="sum")

    def decode(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Tags (B, T) int64, 0 on padding: the most probable sequence that is allowed."""
        tags, _ = self.crf.decode(scores, lengths)
        return tags
