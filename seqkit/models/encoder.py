"""Token ids to vectors in context: an embedding and any recurrent module of seqkit.nn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqkit.nn import EmbeddingDropout, LockedDropout, Recurrent, State, WordDropout, padding_mask, send


class Embedding(nn.Module):
    """Look up token ids in a table, with the dropouts of Merity et al. 2017 (section 4.3) and Gal & Ghahramani 2016.

    Args:
        num_embeddings: V, size of the vocabulary.
        size: E, length of a vector.
        padding_idx: id of padding; its vector is zero.
        unk_idx: id of the unknown word, for `word_dropout`.
        embedding_dropout: probability that a word type is left out of the whole batch, in training.
        locked_dropout: rate of the dropout on the vectors with one mask for all steps of a sequence.
        dropout: rate of the ordinary dropout on the vectors, drawn per element.
        word_dropout: probability that a token is replaced by the unknown word, in training, so that its vector is
            learned.
        frozen: keep the table as it was initialised: it does not train.
        init_std: standard deviation of the normal distribution that the vectors start from (torch's own is 1).
        scale: a looked-up vector is multiplied by this (Vaswani et al. 2017, section 3.4).

    Attributes:
        pretrained: (V,) bool, which vectors are pretrained, set by whoever filled the table; None: none.

    Raises:
        ValueError: an argument outside its range; the message starts with its name.
    """

    pretrained: Tensor | None = None

    def __init__(
        self,
        num_embeddings: int,
        size: int = 100,
        *,
        padding_idx: int = 0,
        unk_idx: int = 1,
        embedding_dropout: float = 0.0,
        locked_dropout: float = 0.0,
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        frozen: bool = False,
        init_std: float = 1.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"size must be positive, got {size}")
        if size > 1_000_000:
            raise ValueError("size must be at most 1,000,000")
        if init_std <= 0:
            raise ValueError(f"init_std must be positive, got {init_std}")
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.size = size
        self.scale = scale
        self.table = nn.Embedding(num_embeddings, size, padding_idx=padding_idx)
        with torch.no_grad():
            self.table.weight.mul_(init_std)
        self.table.weight.requires_grad_(not frozen)
        self.words = WordDropout(word_dropout, unk_idx)
        self.types = EmbeddingDropout(embedding_dropout)
        self.locked = LockedDropout(locked_dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, shift: Tensor | None = None) -> Tensor:
        """Look up: ids (B, T) int64 -> (B, T, E); `shift` (B, T, E) is added to the vectors before their dropouts."""
        # A call that does nothing takes a microsecond, too.
        drops = self.words.training or self.types.training or self.locked.training or self.dropout.training
        vectors: Tensor = self.types(self.table, self.words(ids)) if drops else self.table(ids)
        if self.scale != 1:
            vectors = vectors * self.scale
        if shift is not None:
            vectors = vectors + shift
        return self.dropout(self.locked(vectors)) if drops else vectors


class Encoder(nn.Module):
    """Read tokens in context: an embedding, then a recurrent module.

    Args:
        embedding: gives (B, T, E).
        recurrent: takes E features, plus the C features of `extra` where there are some, batch first.
    """

    def __init__(self, embedding: Embedding, recurrent: Recurrent) -> None:
        super().__init__()
        self.embedding = embedding
        self.recurrent = recurrent

    @property
    def output_size(self) -> int:
        """Return the features of an output, both directions together."""
        return self.recurrent.output_size

    def forward(
        self,
        ids: Tensor,
        lengths: Tensor | None,
        shift: Tensor | None = None,
        extra: Tensor | None = None,
        hx: State | None = None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode a padded batch.

        Args:
            ids: (B, T) int64, padded at the end.
            lengths: (B,) int64, 0 allowed. They are used on the CPU: from elsewhere they are read back, which waits.
                None: all are T.
            shift: (B, T, E) added to the embedded input, for adversarial training.
            extra: (B, T, C) more features of each token.
            hx: the state to go on from, as returned; None: the initial one.

        Returns:
            output (B, T, output_size), zero past each length; and the final state, each part
            (num_layers * num_directions, B, size).
        """
        output, state = self.recurrent(embed(self.embedding, ids, shift, extra), hx, lengths=lengths)
        return output, state


def embed(embedding: Embedding, ids: Tensor, shift: Tensor | None, extra: Tensor | None) -> Tensor:
    """(B, T, E) of the embedding, with the features of `extra` (B, T, C), if any, behind them."""
    vectors: Tensor = embedding(ids, shift)
    return vectors if extra is None else torch.cat((vectors, extra), dim=2)


def last_output(recurrent: Recurrent, state: State) -> Tensor:
    """Join the final outputs of the top layer's directions: the final state -> (B, output_size)."""
    return torch.cat(list(state[0][-recurrent.num_directions :]), dim=1)


def valid_rows(lengths: Tensor, steps: int, device: torch.device) -> Tensor:
    """(B,) lengths -> (N,) int64 on a device: the rows of (B, T, ...), flattened to (B * T, ...), that are not padding.

    Their number is known on the CPU, so that lengths there need not wait for the device.
    """
    return send((~padding_mask(lengths, steps)).flatten().nonzero().squeeze(1), device)
