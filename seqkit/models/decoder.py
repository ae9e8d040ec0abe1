"""Decoder: a recurrent language model of the target that reads from the source by attention or by a fixed vector."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Embedding
from seqkit.nn import AttentionalRecurrent, Cell, Linear, State, check_choice, check_flag, check_probability

Memory = tuple[Tensor, ...]


class Decoder(AttentionalRecurrent):
    """Predict a target token by token: embedding, `seqkit.nn.AttentionalRecurrent`, output layer.

    The logits are V a_t + b for the features a_t.

    Args:
        embedding: embedding of the target.
        memory_size: features of the encoder's outputs, M.
        cell: a name in `seqkit.nn.CELLS`, a `Cell` class, or a factory of cells.
        hidden_size: features of the state of each layer, H.
        num_layers: number of stacked layers, L.
        output: what the output layer takes: "linear", the attentional vector (without attention the top layer's
            output); "deep", a tanh layer that also sees the embedded token (Pascanu et al. 2014), with features of the
            embedding's size.
        output_dropout: dropout on what the output layer takes. What is fed back is not dropped.
        output_bias: whether the output layer has a bias, b.
        tie: share the output layer's weights, V. "target": with the target's embedding table (Press & Wolf 2017);
            "all": with the source's, too (one joint vocabulary). The features then have the embedding's size (by a
            projection without tanh where the attention and `deep` have none of their own). The table's start is divided
            by the root of that size, so that the first logits are small, and the embedding's `scale` is multiplied by
            it, so that its vectors are not.
        **options: more of `AttentionalRecurrent`, of `Recurrent` and of the cell.

    Raises:
        TypeError, ValueError: a bad value or combination; the message starts with the argument's name.
    """

    def __init__(
        self,
        embedding: Embedding,
        memory_size: int,
        cell: str | Callable[..., Cell] = "lstm",
        hidden_size: int = 256,
        num_layers: int = 1,
        *,
        output: Literal["linear", "deep"] = "linear",
        output_dropout: float = 0.0,
        output_bias: bool = True,
        tie: Literal["none", "target", "all"] = "none",
        **options: Any,
    ) -> None:
        check_choice("tie", tie, ("none", "target", "all"))
        wide = output == "deep" or tie != "none"
        super().__init__(
            embedding.size,
            memory_size,
            cell,
            hidden_size,
            num_layers,
            output=output,
            feature_size=embedding.size if wide else 0,
            **options,
        )
        self.embedding, self.tie = embedding, tie
        # Optimisers and norms of gradients go through the parameters in order: the embedding's come first.
        for name in [name for name in self._modules if name != "embedding"]:
            self._modules[name] = self._modules.pop(name)
        self.dropout = nn.Dropout(check_probability("output_dropout", output_dropout))
        table = embedding.table
        self.output = Linear(self.feature_size, table.num_embeddings, bias=check_flag("output_bias", output_bias))
        if tie != "none":
            self.output.weight = table.weight
            with torch.no_grad():
                table.weight.mul_(embedding.size**-0.5)
            embedding.scale *= embedding.size**0.5

    def forward(
        self, inputs: Tensor, lengths: Tensor | Sequence[int] | None, state: State, memory: Memory
    ) -> tuple[Tensor, Tensor | None]:
        """Run all steps on given tokens (teacher forcing).

        Args:
            inputs: (B, T) int64, from <bos> on.
            lengths: (B,) of the inputs; None: all are T.
            state: the first state, each (L, B, size).
            memory: from `remember`.

        Returns:
            features (B, T, F), what the output layer takes, after dropout; and the attention's weights (B, T, S) or
            None. Both are arbitrary past a length.
        """
        features, weights = super().forward(self.embedding(inputs), lengths, state, memory)
        return self.dropout(features), weights

    def step(self, tokens: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, Tensor | None]:
        """Run one step for K hypotheses of each sentence; evaluation only.

        Args:
            tokens: (B, K) int64.
            state: from `start` or the step before, its tensors (B, K, ...).
            memory: from `remember`, one row per sentence.

        Returns:
            logits (B, K, V), the next state, and the attention's weights (B, K, S) or None.

        Raises:
            RuntimeError: the module is in training mode.
        """
        features, state, weights = super().step(self.embedding(tokens), state, memory)
        logits = self.project(self.output, features.flatten(0, 1))
        return logits.view(*tokens.shape, logits.size(-1)), state, weights
