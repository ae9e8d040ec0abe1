"""Token ids to vectors that know their neighbours and nothing else: what a tagger without memory has."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Embedding, embed
from seqkit.nn import padding_mask


class WindowEncoder(nn.Module):
    """Read each token with its neighbours: an embedding, then one tanh layer over a window of tokens (Collobert et al.
    2011, section 3.3.1).

    Args:
        embedding: gives (B, T, E).
        window: tokens in a window, an odd number: 1 is the token alone, 3 also its two neighbours. Beyond the ends of
            a sequence lie zeros.
        hidden_size: features of the tanh layer.
        extra_size: features of each token beside its embedding, C.

    Raises:
        ValueError: the message starts with the argument's name.
    """

    recurrent = None

    def __init__(self, embedding: Embedding, window: int = 1, hidden_size: int = 128, *, extra_size: int = 0) -> None:
        super().__init__()
        if window < 1 or window % 2 == 0:
            raise ValueError(f"window must be odd and positive, got {window}")
        if hidden_size < 1:
            raise ValueError(f"hidden_size must be positive, got {hidden_size}")
        self.embedding = embedding
        self.window = nn.Conv1d(embedding.size + extra_size, hidden_size, window, padding=window // 2)
        self.output_size = hidden_size

    def forward(
        self, ids: Tensor, lengths: Tensor, shift: Tensor | None = None, extra: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode a padded batch; there is no final state.

        Args:
            ids: (B, T) int64, padded at the end.
            lengths: (B,) int64, 0 allowed.
            shift: (B, T, E) added to the embedded input, for adversarial training.
            extra: (B, T, C) more features of each token.

        Returns:
            output (B, T, output_size), zero past each length; and an empty tuple.
        """
        valid = ~padding_mask(lengths, ids.size(1), ids.device).unsqueeze(2)  # (B, T, 1)
        inputs = torch.where(valid, embed(self.embedding, ids, shift, extra), 0.0)  # 0 times what lies there may be NaN
        output = torch.tanh(self.window(inputs.transpose(1, 2))).transpose(1, 2)
        return torch.where(valid, output, 0.0), ()
