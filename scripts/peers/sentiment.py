"""The sentiment job as a straightforward torch script: torch.nn.LSTM on packed batches, torch's defaults elsewhere.

`bench/sentiment.py` runs it beside seqkit on the same sequences, in batches of the same rows in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence


class Classifier(nn.Module):
    """Embedding, BiLSTM, attention over the valid steps (Yang et al. 2016, eq. 5-7), linear layer.

    Args:
        vectors: (V, E) initial embedding; row 0 is padding, row 1 the unknown word.
        hidden_size: H of each direction.
        num_classes: C.
        word_dropout: rate at which a word becomes the unknown one, in training.
        input_dropout, dropout: rates on the embedded words and on the pooled vector.
    """

    def __init__(
        self,
        vectors: Tensor,
        hidden_size: int,
        num_classes: int,
        *,
        word_dropout: float,
        input_dropout: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding.from_pretrained(vectors.clone(), freeze=False, padding_idx=0)
        self.input_dropout = nn.Dropout(input_dropout)
        self.lstm = nn.LSTM(vectors.size(1), hidden_size, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden_size, 2 * hidden_size)
        self.score = nn.Linear(2 * hidden_size, 1, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(2 * hidden_size, num_classes)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, T), lengths (B,) -> logits (B, C)."""
        if self.training and self.word_dropout:
            ids = ids.masked_fill((torch.rand(ids.shape) < self.word_dropout) & (ids != 0), 1)
        embedded = self.input_dropout(self.embedding(ids))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        scores = self.score(torch.tanh(self.project(output))).squeeze(2)
        scores = scores.masked_fill(torch.arange(ids.size(1)) >= lengths.unsqueeze(1), -math.inf)
        pooled = (torch.softmax(scores, 1).unsqueeze(2) * output).sum(1)
        logits: Tensor = self.output(self.dropout(pooled))
        return logits


def train_epoch(
    model: Classifier,
    optimizer: torch.optim.Optimizer,
    sequences: Sequence[Tensor],
    labels: Tensor,
    order: Iterable[Sequence[int]],
    clip_norm: float,
) -> float:
    """One pass over the batches of rows in `order`; returns the sum of the losses."""
    model.train()
    total = 0.0
    for rows in order:
        batch = [sequences[row] for row in rows]
        ids = pad_sequence(batch, batch_first=True)
        lengths = torch.tensor([len(one) for one in batch])
        loss = F.cross_entropy(model(ids, lengths), labels[torch.as_tensor(rows)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()
        total += loss.item()
    return total
