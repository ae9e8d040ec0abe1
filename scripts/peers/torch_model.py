"""A plain torch model such as somebody else might have: learns the built-in reviews, and leaves its weights behind.

    python scripts/peers/torch_model.py torch-model.pt torch-words.txt

Writes the state dict (emb.weight, lstm.*, fc.*) and the words of the embedding's rows, a word a line. What it reaches
on dev is printed. `configs/finetune/torch.yaml` starts from the two files.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from seqkit.data.builtin import rows

LABELS = ["negative", "neutral", "positive"]


class Classifier(nn.Module):
    """Embedding, LSTM, mean and maximum over time, linear layer."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(words, 64, padding_idx=0)
        self.lstm = nn.LSTM(64, 96, batch_first=True)
        self.fc = nn.Linear(192, len(LABELS))

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids (B, T), lengths (B,) -> logits (B, C)."""
        packed = pack_padded_sequence(self.emb(ids), lengths, batch_first=True, enforce_sorted=False)
        output, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True)
        valid = (torch.arange(ids.size(1)) < lengths.unsqueeze(1)).unsqueeze(2)
        mean = output.sum(1) / lengths.unsqueeze(1)
        logits: Tensor = self.fc(torch.cat((mean, output.masked_fill(~valid, -torch.inf).amax(1)), 1))
        return logits


def read(part: str, count: int) -> list[tuple[list[str], int]]:
    """Words and label of the first so many reviews."""
    found = [(row["text"].lower().split(), LABELS.index(row["label"])) for row in islice(rows("reviews", part), count)]
    return [(words, label) for words, label in found if words]


def batch(some: list[tuple[list[str], int]], numbers: dict[str, int]) -> tuple[Tensor, Tensor, Tensor]:
    """ids (B, T), lengths (B,), labels (B,)."""
    ids = [torch.tensor([numbers.get(word, 1) for word in words]) for words, _ in some]
    return pad_sequence(ids, True), torch.tensor([len(one) for one in ids]), torch.tensor([label for _, label in some])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("words")
    parser.add_argument("--quick", action="store_true", help="little data and one epoch, to try it out")
    given = parser.parse_args()
    torch.manual_seed(1)
    train, dev = (read(part, 64 if given.quick else count) for part, count in (("train", 4000), ("dev", 500)))
    known = Counter(word for words, _ in train for word in words)
    vocabulary = ["<pad>", "<unk>", *sorted(known)]
    numbers = {word: number for number, word in enumerate(vocabulary)}
    model = Classifier(len(vocabulary))
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    for _ in range(1 if given.quick else 6):
        for rows_ in torch.randperm(len(train)).split(64):
            ids, lengths, labels = batch([train[row] for row in rows_.tolist()], numbers)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids, lengths), labels).backward()
            optimizer.step()
    with torch.no_grad():
        ids, lengths, labels = batch(dev, numbers)
        right = (model(ids, lengths).argmax(1) == labels).float().mean().item()
    torch.save(model.state_dict(), given.weights)
    Path(given.words).write_text("\n".join(vocabulary) + "\n", "utf-8")
    print(f"{given.weights}: accuracy on dev {right:.3f}")


if __name__ == "__main__":
    main()
