"""The peer of `bench/translation.py`: a translation model as one would write it in torch alone; nothing of seqkit.

    python scripts/peers/translation.py FOLDER [--epochs 2] [--no-feeding]     # FOLDER holds train.de, train.en, test.*

BiLSTM encoder on packed sequences, LSTM decoder with additive attention (Bahdanau et al. 2015) and, as an option,
input feeding (Luong et al. 2015, 3.3). Keys are projected once a sentence and the vocabulary projection is one product
after the loop; without feeding the decoder is one `torch.nn.LSTM` and attention is batched over all steps.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

PAD, UNK, BOS, EOS = range(4)
Batch = tuple[
    Tensor, Tensor, Tensor, Tensor
]  # source (B, S), its lengths, inputs <bos> ... and targets ... <eos> (B, T)
Memory = tuple[Tensor, Tensor, Tensor]  # values (B, S, 2H), keys (B, S, H), padding (B, S)


class Translator(nn.Module):
    """Encoder, attention and decoder; `feeding` hands the attentional vector to the decoder's next step."""

    def __init__(
        self, source_words: int, target_words: int, size: int = 256, dropout: float = 0.3, feeding: bool = True
    ) -> None:
        super().__init__()
        self.feeding, self.size = feeding, size
        self.source = nn.Embedding(source_words, size, padding_idx=PAD)
        self.target = nn.Embedding(target_words, size, padding_idx=PAD)
        self.encoder = nn.LSTM(size, size, batch_first=True, bidirectional=True)
        self.bridge_h, self.bridge_c = nn.Linear(2 * size, size), nn.Linear(2 * size, size)
        self.cell = nn.LSTMCell(2 * size, size) if feeding else None
        self.rnn = None if feeding else nn.LSTM(size, size, batch_first=True)
        self.key, self.query = nn.Linear(2 * size, size, bias=False), nn.Linear(size, size, bias=False)
        self.energy = nn.Linear(size, 1, bias=False)
        self.combine = nn.Linear(3 * size, size)
        self.output = nn.Linear(size, target_words)
        self.dropout = nn.Dropout(dropout)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Tensor, Tensor]:
        """(B, S) -> the memory and the decoder's first state, each (B, H)."""
        packed = pack_padded_sequence(
            self.dropout(self.source(source)), lengths, batch_first=True, enforce_sorted=False
        )
        output, (h, c) = self.encoder(packed)
        values = self.dropout(pad_packed_sequence(output, batch_first=True)[0])
        h, c = (
            torch.tanh(bridge(torch.cat([s[0], s[1]], 1))) for bridge, s in ((self.bridge_h, h), (self.bridge_c, c))
        )
        return (values, self.key(values), source == PAD), h, c

    def attend(self, h: Tensor, memory: Memory) -> Tensor:
        """Attentional vectors (B, T, H) of decoder states (B, T, H), before dropout."""
        values, keys, padding = memory
        energies = self.energy(torch.tanh(keys.unsqueeze(1) + self.query(h).unsqueeze(2))).squeeze(3)
        weights = energies.masked_fill(padding.unsqueeze(1), -torch.inf).softmax(2)
        return torch.tanh(self.combine(torch.cat([h, torch.bmm(weights, values)], 2)))

    def step(self, tokens: Tensor, h: Tensor, c: Tensor, fed: Tensor, memory: Memory) -> tuple[Tensor, ...]:
        """One step of decoding: tokens (B,) -> logits (B, V) and the new h, c and fed vector, each (B, H)."""
        x = self.target(tokens)
        if self.cell is not None:
            h, c = self.cell(torch.cat([x, fed], 1), (h, c))
        else:
            _, (h, c) = self.rnn(x.unsqueeze(1), (h.unsqueeze(0), c.unsqueeze(0)))
            h, c = h.squeeze(0), c.squeeze(0)
        fed = self.attend(h.unsqueeze(1), memory).squeeze(1)
        return self.output(fed), h, c, fed

    def forward(self, source: Tensor, lengths: Tensor, inputs: Tensor) -> Tensor:
        """Logits (B, T, V)."""
        memory, h, c = self.encode(source, lengths)
        x = self.dropout(self.target(inputs))
        if self.cell is None:
            states, _ = self.rnn(x, (h.unsqueeze(0), c.unsqueeze(0)))
            return self.output(self.dropout(self.attend(states, memory)))
        fed, features = torch.zeros_like(h), []
        for step in x.unbind(1):
            h, c = self.cell(torch.cat([step, fed], 1), (h, c))
            fed = self.dropout(self.attend(h.unsqueeze(1), memory).squeeze(1))
            features.append(fed)
        return self.output(torch.stack(features, 1))


def build(source_words: int, target_words: int, feeding: bool = True) -> tuple[Translator, torch.optim.Optimizer]:
    """The model and its optimiser."""
    model = Translator(source_words, target_words, feeding=feeding)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def train_step(model: Translator, optimizer: torch.optim.Optimizer, batch: Batch) -> float:
    """One update; returns the loss of a token."""
    source, lengths, inputs, targets = batch
    optimizer.zero_grad()
    logits = model(source, lengths, inputs)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


@torch.inference_mode()
def greedy(model: Translator, source: Tensor, lengths: Tensor, max_length: int = 60) -> list[list[int]]:
    """The most probable word at every step."""
    memory, h, c = model.encode(source, lengths)
    fed, tokens = torch.zeros_like(h), source.new_full((len(source),), BOS)
    found, ended = [], torch.zeros_like(tokens, dtype=torch.bool)
    for _ in range(max_length):
        logits, h, c, fed = model.step(tokens, h, c, fed, memory)
        tokens = logits.argmax(1)
        found.append(tokens)
        ended |= tokens == EOS
        if ended.all():
            break
    return [_cut(row) for row in torch.stack(found, 1).tolist()]


@torch.inference_mode()
def beam(model: Translator, source: Tensor, lengths: Tensor, width: int = 5, max_length: int = 60) -> list[list[int]]:
    """Batched beam search without penalties; an ended hypothesis keeps its place and its score."""
    memory, h, c = model.encode(source, lengths)
    size = len(source)
    values, keys, padding, h, c = (part.repeat_interleave(width, 0) for part in (*memory, h, c))
    fed, tokens = torch.zeros_like(h), source.new_full((size * width, 1), BOS)
    scores = h.new_full((size, width), -torch.inf)
    scores[:, 0] = 0
    first_rows = torch.arange(size, device=source.device).unsqueeze(1) * width
    for _ in range(max_length):
        logits, h, c, fed = model.step(tokens[:, -1], h, c, fed, (values, keys, padding))
        gains = logits.log_softmax(1)
        ended = tokens[:, -1] == EOS
        gains[ended] = -torch.inf
        gains[ended, EOS] = 0
        words = gains.size(1)
        scores, best = (scores.view(-1, 1) + gains).view(size, -1).topk(width)
        rows = (first_rows + best // words).flatten()
        tokens = torch.cat([tokens[rows], (best % words).view(-1, 1)], 1)
        h, c, fed = h[rows], c[rows], fed[rows]
        if (tokens[:, -1] == EOS).all():
            break
    return [_cut(row) for row in tokens.view(size, width, -1)[:, 0, 1:].tolist()]


def _cut(tokens: list[int]) -> list[int]:
    return tokens[: tokens.index(EOS)] if EOS in tokens else tokens


def read(path: Path) -> list[list[str]]:
    """Lower-cased words and punctuation marks of every line."""
    return [re.findall(r"\w+|[^\w\s]", line.lower()) for line in path.read_text("utf-8").splitlines()]


def vocabulary(sentences: list[list[str]], min_frequency: int = 2) -> dict[str, int]:
    """Words to ids, by falling frequency, after the four special ones."""
    counts = Counter(word for words in sentences for word in words)
    kept = [word for word, count in counts.most_common() if count >= min_frequency]
    return {word: index for index, word in enumerate(["<pad>", "<unk>", "<bos>", "<eos>", *kept])}


def ids(sentences: list[list[str]], words: dict[str, int]) -> list[Tensor]:
    """Each sentence as (length,) int64."""
    return [torch.tensor([words.get(word, UNK) for word in one]) for one in sentences]


def collate(source: list[Tensor], target: list[Tensor]) -> Batch:
    """Pad the sides of a batch."""
    ends, lengths = torch.tensor([EOS]), torch.tensor([len(one) for one in source])
    inputs = pad_sequence([torch.cat([torch.tensor([BOS]), one]) for one in target], batch_first=True)
    targets = pad_sequence([torch.cat([one, ends]) for one in target], batch_first=True)
    return pad_sequence(source, batch_first=True), lengths, inputs, targets


def buckets(source: list[Tensor], target: list[Tensor], size: int = 64, pool: int = 50) -> list[Batch]:
    """One epoch: shuffled, sorted by target length within pools of `pool` batches, batches shuffled."""
    order = torch.randperm(len(source)).tolist()
    batches = []
    for first in range(0, len(order), size * pool):
        here = sorted(order[first : first + size * pool], key=lambda i: (len(target[i]), len(source[i])))
        parts = [here[i : i + size] for i in range(0, len(here), size)]
        batches += [collate([source[i] for i in part], [target[i] for i in part]) for part in parts]
    return [batches[i] for i in torch.randperm(len(batches)).tolist()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--no-feeding", dest="feeding", action="store_false")
    args = parser.parse_args()
    torch.manual_seed(1)
    sides = {side: read(args.folder / f"train.{side}") for side in ("de", "en")}
    words = {side: vocabulary(sentences) for side, sentences in sides.items()}
    source, target = (ids(sides[side], words[side]) for side in ("de", "en"))
    model, optimizer = build(len(words["de"]), len(words["en"]), args.feeding)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    for epoch in range(args.epochs):
        start, tokens, total = time.perf_counter(), 0, 0.0
        model.train()
        for batch in buckets(source, target):
            count = int((batch[3] != PAD).sum())
            total += count * train_step(model, optimizer, batch)
            tokens += count
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {total / tokens:.3f}, {tokens / seconds:.0f} target tokens/s, {seconds:.0f} s")
    model.eval()
    test = sorted(ids(read(args.folder / "test.de"), words["de"]), key=len)
    for name, decode in (("greedy", greedy), ("beam 5", beam)):
        start = time.perf_counter()
        for first in range(0, len(test), 64):
            part = test[first : first + 64]
            decode(model, pad_sequence(part, batch_first=True), torch.tensor([len(one) for one in part]))
        print(f"{name}: {len(test) / (time.perf_counter() - start):.0f} sentences/s")


if __name__ == "__main__":
    main()
