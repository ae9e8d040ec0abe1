"""The peer of `bench/language_model.py`: a word language model as one would write it in torch alone; nothing of seqkit.

Embedding, `torch.nn.LSTM`, tied softmax (Press & Wolf 2017), truncated backpropagation with the state carried on; time
first, as torch.nn.LSTM likes it. It takes its batches from the caller.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]


class WordModel(nn.Module):
    """Embedding, LSTM, linear layer over the vocabulary; tied where the sizes allow it."""

    def __init__(self, words: int, size: int, hidden_size: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, size)
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(size, hidden_size, layers, dropout=dropout if layers > 1 else 0.0)
        self.output = nn.Linear(hidden_size, words)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        if size == hidden_size:
            self.output.weight = self.embedding.weight

    def forward(self, ids: Tensor, state: State | None) -> tuple[Tensor, State]:
        """ids (T, B) -> logits (T, B, V) and the final state."""
        output, state = self.lstm(self.dropout(self.embedding(ids)), state)
        return self.output(self.dropout(output)), state


def build(words: int, size: int, hidden_size: int, layers: int, dropout: float) -> tuple[WordModel, torch.optim.Adam]:
    """The model and its optimiser."""
    model = WordModel(words, size, hidden_size, layers, dropout)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def train_step(
    model: WordModel, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, state: State | None
) -> tuple[float, State]:
    """One update from a window (T, B); returns the loss of a token and the state to go on from."""
    optimizer.zero_grad()
    logits, state = model(inputs, state)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item(), (state[0].detach(), state[1].detach())


@torch.inference_mode()
def evaluate(model: WordModel, inputs: Tensor, targets: Tensor, state: State | None) -> tuple[float, State]:
    """Loss of a window (T, B) of a token, and the state."""
    logits, state = model(inputs, state)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item(), state
