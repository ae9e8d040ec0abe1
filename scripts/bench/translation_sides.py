"""What `translation.py` compares: the data, and the peer's model made of our parts, with its weights."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from peers import translation as peer

WORDS = (7882, 5898)  # of Multi30k, for generated data

Pairs = tuple[list[Tensor], list[Tensor]]


def read_data() -> tuple[Pairs, Pairs, tuple[int, int], str]:
    """Training and test pairs as ids, the sizes of the vocabularies, and where the data is from."""
    folder = Path(os.environ.get("SEQKIT_DATA", "")) / "multi30k"
    if not (folder / "train.de").exists():
        return generated(9600), generated(640), WORDS, "generated"
    sides = [peer.read(folder / f"train.{side}") for side in ("de", "en")]
    words = [peer.vocabulary(sentences) for sentences in sides]
    train = [peer.ids(sentences, known) for sentences, known in zip(sides, words, strict=True)]
    test = [
        peer.ids(peer.read(folder / f"test.{side}"), known) for side, known in zip(("de", "en"), words, strict=True)
    ]
    return (train[0], train[1]), (test[0], test[1]), (len(words[0]), len(words[1])), "multi30k"


def generated(count: int) -> Pairs:
    """Pairs with the lengths of Multi30k; the target follows from the source word by word."""
    dice = random.Random(count)
    source = [
        torch.tensor([4 + int((WORDS[0] - 5) * dice.random() ** 4) for _ in range(dice.randint(7, 18))])
        for _ in range(count)
    ]
    return source, [4 + one % (WORDS[1] - 5) for one in source]


def ours(words: tuple[int, int], feeding: bool) -> Any:
    """The peer's model from our parts."""
    from seqkit.models import Decoder, Embedding, Encoder, Seq2Seq
    from seqkit.nn import LSTM

    encoder = Encoder(Embedding(words[0], 256, dropout=0.3), LSTM(256, 256, bidirectional=True, batch_first=True))
    decoder = Decoder(
        Embedding(words[1], 256, dropout=0.3),
        encoder.output_size,
        "lstm",
        256,
        attention="bahdanau",
        input_feeding=feeding,
        output_dropout=0.3,
    )
    return Seq2Seq(encoder, decoder, "linear")


@torch.no_grad()
def copy_weights(theirs: nn.Module, mine: nn.Module) -> None:
    """Give our model the peer's weights; what it has beyond them (biases, the bridge's cross terms) becomes zero."""
    source, target = theirs.state_dict(), mine.state_dict()
    for value in target.values():
        value.zero_()
    recurrent = "cell" if theirs.cell is not None else "rnn"
    for name, place in (
        ("source.weight", "encoder.embedding.table.weight"),
        ("target.weight", "decoder.embedding.table.weight"),
        ("key.weight", "decoder.attention.key.weight"),
        ("query.weight", "decoder.attention.query.weight"),
        ("combine.weight", "decoder.vector.weight"),
        ("combine.bias", "decoder.vector.bias"),
        ("output.weight", "decoder.output.weight"),
        ("output.bias", "decoder.output.bias"),
    ):
        target[place].copy_(source[name])
    target["decoder.attention.score"].copy_(source["energy.weight"][0])
    for name, value in source.items():
        if name.startswith("encoder."):
            target["encoder.recurrent." + name.removeprefix("encoder.")].copy_(value)
        elif name.startswith(recurrent + "."):
            target["decoder.lower." + name.removeprefix(recurrent + ".").removesuffix("_l0") + "_l0"].copy_(value)
    size = theirs.size
    weight, bias = target["bridge.maps.0.weight"], target["bridge.maps.0.bias"]
    for index, part in enumerate(("bridge_h", "bridge_c")):
        rows, columns = slice(index * size, (index + 1) * size), slice(2 * index * size, 2 * (index + 1) * size)
        weight[rows, columns] = source[f"{part}.weight"]
        bias[rows] = source[f"{part}.bias"]


def our_step(model: Any, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, ...]) -> float:
    """One update, as `seqkit.training` does it."""
    from seqkit.training.optim import clip

    source, source_lengths, inputs, targets = batch
    lengths = (targets != peer.PAD).sum(1)
    optimizer.zero_grad(set_to_none=True)
    loss, _ = model.loss(source, source_lengths, inputs, targets, lengths)
    (loss / lengths.sum()).backward()
    clip(model.parameters(), 1.0, None)
    optimizer.step()
    return float(loss.detach())


def our_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Adam 1e-3 as a configuration would have it."""
    from seqkit.training.config import OptimizerConfig
    from seqkit.training.optim import make_optimizer

    return make_optimizer(model, OptimizerConfig(name="adam", lr=1e-3, weight_decay=0.0))
