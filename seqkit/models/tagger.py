"""A tag for every token and, if wanted, a class for the whole sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn
from torch.nn import functional as F

from seqkit.models.encoder import Encoder, last_output, valid_rows
from seqkit.models.pooling import Pooling, Poolings
from seqkit.models.window import WindowEncoder
from seqkit.nn import CRF, State, padding_mask

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
    """Make a vector of the characters of each token: the final state of the top layer in both directions (Lample et al.
    2016, section 4.1).

    A word that occurs more than once in a batch is read once.

    Args:
        encoder: reads characters.
        dropout: rate of the dropout on the vectors.
    """

    def __init__(self, encoder: Encoder, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.output_size = encoder.output_size

    def forward(self, spelling: Spelling) -> Tensor:
        """Encode: spelling with W words of L characters -> (B, T, output_size)."""
        _, state = self.encoder(spelling.ids, spelling.lengths)
        vectors = last_output(self.encoder.recurrent, state)  # (W, C)
        dropped: Tensor = self.dropout(vectors[spelling.words])
        return dropped


class Tagger(nn.Module):
    """Tag each token, and classify the whole sequence: an encoder, then scores of tags and of classes.

    Args:
        encoder: reads tokens; its extra features come from `characters`.
        num_tags: number of tags, K.
        num_intents: number of classes of a whole sequence; 0: none.
        characters: gives more features of each token.
        allowed: (K, K) bool, which tag (column) may follow which (row); default: all.
        allowed_start: (K,) bool, which tags may come first; default: all.
        output: how tags are scored: "crf", all of a sequence together; "softmax", each by itself. Neither gives tags
            that are not allowed: a softmax gives the most probable sequence that is.
        constrain_loss: crf only: leave sequences of tags that are not allowed out of the sum of the loss.
        dropout: rate of the dropout on the encoder's outputs and on the pooled vector.
        intent_pooling: ways to pool the outputs for the intent, concatenated: "last" (the final output of each
            direction), "mean", "max", "attention" (Yang et al. 2016), or `Pooling` classes.

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
        """Score tags and classes.

        Args:
            ids: (B, T) int64, padded at the end.
            lengths: (B,) int64.
            spelling: of the tokens, where there is an encoder of characters.
            shift: (B, T, E) added to the embedded input, for adversarial training.

        Returns:
            scores of tags (B, T, K), and scores of classes (B, num_intents) or None.
        """
        extra = self.characters(spelling) if self.characters is not None else None
        output, state = self.encoder(ids, lengths, shift, extra)
        return self.classify(output, state, lengths)

    def classify(self, output: Tensor, state: State, lengths: Tensor) -> tuple[Tensor, Tensor | None]:
        """Score, as `forward`, what the encoder returned: output (B, T, H) and its final state; lengths (B,)."""
        tags = self.tag_scores(self.dropout(output))
        if self.pooling is None:
            return tags, None
        last = output[:, 0]  # not looked at where pooling does not ask for it
        if self.encoder.recurrent is not None:
            last = last_output(self.encoder.recurrent, state)
        return tags, self.intent_scores(self.dropout(self.pooling(output, last, lengths)))

    def tag_loss(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Compute the negative log-likelihood (nats) of the tags, added up over the batch.

        Args:
            scores: (B, T, K) from `forward`.
            tags: (B, T) int64; any legal number on padding.
            lengths: (B,) int64.

        Returns:
            a scalar.
        """
        if self.output == "crf":
            losses: Tensor = self.crf(scores, tags, lengths)
            return losses.sum()
        rows = valid_rows(lengths, tags.size(1), tags.device)
        held, wanted = (part.flatten(0, 1).index_select(0, rows) for part in (scores, tags))
        return F.cross_entropy(held.float(), wanted, reduction="sum")

    def log_probs(self, scores: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Compute the log-probability (nats) of each sequence of tags; of a softmax, the tags are independent.

        Args:
            scores: (B, T, K) from `forward`.
            tags: (B, T) int64; any legal number on padding.
            lengths: (B,) int64.

        Returns:
            (B,), float64 with a crf.
        """
        if self.output == "crf":
            losses: Tensor = self.crf(scores, tags, lengths)
            return -losses
        held = scores.float().log_softmax(2).gather(2, tags.unsqueeze(2)).squeeze(2)
        return held.masked_fill(padding_mask(lengths, tags.size(1), tags.device), 0.0).sum(1)

    def decode(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Find the most probable sequence of tags that is allowed.

        Args:
            scores: (B, T, K) from `forward`.
            lengths: (B,) int64.

        Returns:
            (B, T) int64, 0 on padding.
        """
        tags, _ = self.crf.decode(scores, lengths)
        return tags
