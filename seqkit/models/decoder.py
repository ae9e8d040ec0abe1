"""Decoder: a recurrent language model of the target that reads from the source by attention or by a fixed vector."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqkit.models.encoder import Embedding
from seqkit.models.feeding import feed
from seqkit.nn import Cell, LockedDropout, Prepared, Recurrent, State, make_attention
from seqkit.nn.attention import ATTENTIONS
from seqkit.nn.backends import choose, scan
from seqkit.nn.cell import drop_mask
from seqkit.nn.checks import check_choice, check_flag, check_probability, check_size
from seqkit.nn.kernels.decode_step import SingleStep
from seqkit.nn.kernels.kernel import tanh_
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.linear import Linear

Memory = tuple[Tensor, ...]
Layers = tuple[State, ...]

# Rows of a single step from which a backend earns the weights' new arrangement. One core of an AMD EPYC (Zen 5, torch
# 2.13), ms for 512 features into 256 units, the cell's own step beside the best backend: LSTM, 5 rows 0.25 beside 0.47,
# 64 rows 1.35 beside 1.04, 320 rows 9.9 beside 3.0; GRU, 5 rows 0.17 beside 0.17, 320 rows 8.0 beside 2.6.
MIN_ROWS = 32


class Decoder(nn.Module):
    """Predict a target token by token: embedding, recurrent layers, attention, output layer.

    Step t, with e_t the embedded token and s^l_t the output of layer l:

        s^1_t = cell(e_t), or cell([e_t; a_(t-1)]) with `input_feeding`, or cell([e_t; v]) with `feed_context`
        s^l_t = cell(s^(l-1)_t) up to `attention_layer` k;  c_t = attention(query s^k_t)
        s^l_t = cell([s^(l-1)_t; c_t]) above k (GNMT, Wu et al. 2016, section 3.2, feeds the current step's context)
        a_t = tanh(W [s^L_t; c_t])       the attentional vector (Luong et al. 2015, eq. 5);  logits = V a_t + b

    so the query is the current state of layer k for every kind of attention. Input feeding (Luong et al. 2015, section
    3.3) gives the first step a zero vector; for `bahdanau` it replaces c_t = attention(s_(t-1)) in
    the cell's input (Bahdanau et al. 2015, eq. 6), for a_(t-1) holds that context. Without it the recurrence runs
    over all steps at once.

    With `attention="none"` the source reaches the decoder by its initial state (Sutskever et al. 2014), and with
    `feed_context` also by v, the final output of the encoder's top layer in both directions (Cho et al. 2014). Then
    logits = V s^L_t + b.

    `output="deep"` replaces a_t by tanh(W [s^L_t; c_t; e_t]), with c_t or v where there is one (Pascanu et al. 2014).

    Args:
        embedding: embedding of the target.
        memory_size: features of the encoder's outputs, M.
        cell: a name in `seqkit.nn.CELLS`, a `Cell` class, or a factory of cells.
        hidden_size: features of the state of each layer, H.
        num_layers: number of stacked layers, L.
        attention: how the source is read at each step: the score of Bahdanau et al. 2015 ("bahdanau"), of Luong et al.
            2015 ("dot", "general", "concat") or of Vaswani et al. 2017 ("scaled_dot", "multi_head"); "none": no
            attention.
        attention_size: features inside the attention, where its kind has a choice; 0: as many as the query has.
        heads: number of heads of `multi_head`.
        attention_layer: the layer whose output is the query, k, from 1; the layers above it take what was read. 0: the
            last layer.
        input_feeding: the first layer also takes the attentional vector of the step before (Luong et al. 2015, section
            3.3); needs an attention. Slower: the recurrence can no longer run over all steps at once.
        feed_context: the first layer also takes the encoder's final output at every step (Cho et al. 2014); needs
            `attention="none"`.
        output: what the output layer takes: "linear", the attentional vector (without attention the top layer's
            output); "deep", a tanh layer that also sees the embedded token (Pascanu et al. 2014).
        memory_dropout: dropout on what is read from the source (the encoder's outputs, or v), one mask per sentence.
        output_dropout: dropout on what the output layer takes. What is fed back is not dropped.
        tie: share the output layer's weights, V. "target": with the target's embedding table (Press & Wolf 2017);
            "all": with the source's, too (one joint vocabulary). The vector before V then has the embedding's size (by
            a projection without tanh where the attention and `deep` have none of their own). The table's start is
            divided by the root of that size, so that the first logits are small, and the embedding's `scale` is
            multiplied by it, so that its vectors are not.
        output_bias: whether the output layer has a bias, b.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        **options: more of `Recurrent` and of the cell. The decoder has one direction, batch first, and its first
            state comes from the bridge: `bidirectional`, `batch_first` and `learn_initial_state` are refused.

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
        attention: Literal["none", "bahdanau", "dot", "general", "concat", "scaled_dot", "multi_head"] = "bahdanau",
        attention_size: int = 0,
        heads: int = 1,
        attention_layer: int = 0,
        input_feeding: bool = False,
        feed_context: bool = False,
        output: Literal["linear", "deep"] = "linear",
        memory_dropout: float = 0.0,
        output_dropout: float = 0.0,
        output_bias: bool = True,
        tie: Literal["none", "target", "all"] = "none",
        dropout: float = 0.0,
        locked_dropout: float = 0.0,
        residual: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.embedding = embedding
        self.memory_size = check_size("memory_size", memory_size)
        self.num_layers = check_size("num_layers", num_layers)
        check_choice("attention", attention, ("none", *ATTENTIONS))
        self.input_feeding = check_flag("input_feeding", input_feeding)
        self.feed_context = check_flag("feed_context", feed_context)
        self.output_kind = check_choice("output", output, ("linear", "deep"))
        self.tie = check_choice("tie", tie, ("none", "target", "all"))
        self.rate = check_probability("dropout", dropout)
        self.locked_rate = check_probability("locked_dropout", locked_dropout)
        self.residual = check_flag("residual", residual)
        self.attention_layer = attention_layer or num_layers
        self._check(attention, attention_layer, attention_size, heads, options)
        self._single: dict[int, SingleStep] = {}  # by layer, for `step`
        self.feed_size = 0  # features of what goes into the first layer beside the embedding
        self._build_layers(attention, attention_size, heads, cell, hidden_size, options)
        self.memory_dropout = LockedDropout(memory_dropout)
        if memory_dropout and not self.context_size:
            raise ValueError(f"memory_dropout needs an attention or feed_context, got {memory_dropout} with neither")
        self._build_output(output_dropout, output_bias)

    def _check(
        self, attention: str, attention_layer: int, attention_size: int, heads: int, options: dict[str, Any]
    ) -> None:
        for name in ("bidirectional", "batch_first", "learn_initial_state"):
            if name in options:
                raise TypeError(f"{name} is not an option of a decoder")
        if isinstance(attention_layer, bool) or not 0 <= attention_layer <= self.num_layers:
            raise ValueError(
                f"attention_layer must be between 0 and num_layers {self.num_layers}, got {attention_layer}"
            )
        if self.feed_context and attention != "none":
            raise ValueError(f"feed_context needs attention 'none', got {attention!r}")
        if attention == "none":
            for name, value, unused in (
                ("input_feeding", self.input_feeding, False),
                ("attention_layer", attention_layer, 0),
                ("attention_size", attention_size, 0),
                ("heads", heads, 1),
            ):
                if value != unused:
                    raise ValueError(f"{name} needs an attention, got {value!r} with attention 'none'")
        if self.input_feeding and options.get("checkpoint_chunks", 1) != 1:
            raise ValueError("checkpoint_chunks needs input_feeding=False")
        if self.num_layers == 1:
            if self.residual or self.locked_rate:
                name = "residual" if self.residual else "locked_dropout"
                raise ValueError(f"{name} acts between layers and needs num_layers >= 2, got num_layers=1")
            if self.rate:
                warnings.warn(
                    f"dropout acts on all layers but the last, so dropout={self.rate} with num_layers=1 does nothing; "
                    "output_dropout acts before the output layer",
                    UserWarning,
                    stacklevel=3,
                )

    def _build_layers(
        self, attention: str, attention_size: int, heads: int, cell: Any, hidden_size: int, options: dict[str, Any]
    ) -> None:
        """`lower` holds the layers up to the attention, `upper` one module for each layer above."""
        probe = Recurrent(cell, 1, hidden_size, device="meta", **options)
        self.query_size = probe.output_size
        self.state_names, self.state_sizes = probe.cell_at(0).state_names, probe.state_sizes
        self.attention = None
        context_size = self.memory_size if self.feed_context else 0
        if attention != "none":
            self.attention = make_attention(
                attention, self.query_size, self.memory_size, size=attention_size, heads=heads
            )
            context_size = self.attention.context_size
        self.context_size = context_size  # of c_t or v; 0: neither
        tied = self.tie != "none"
        wide = self.output_kind == "deep" or tied
        self.feature_size = self.embedding.size if wide else self.query_size
        if self.input_feeding:
            self.feed_size = self.feature_size
        elif self.feed_context:
            self.feed_size = self.memory_size
        between: dict[str, Any] = {}
        if self.attention_layer > 1:
            between = {"dropout": self.rate, "locked_dropout": self.locked_rate, "residual": self.residual}
        self.lower = Recurrent(
            cell,
            self.embedding.size + self.feed_size,
            hidden_size,
            self.attention_layer,
            batch_first=True,
            **between,
            **options,
        )
        self.upper = nn.ModuleList(
            Recurrent(cell, self.query_size + context_size, hidden_size, batch_first=True, **options)
            for _ in range(self.num_layers - self.attention_layer)
        )

    def _build_output(self, output_dropout: float, output_bias: bool) -> None:
        deep = self.output_kind == "deep"
        size = self.query_size
        self.combines = deep or self.attention is not None
        if self.combines:
            size += self.context_size + (self.embedding.size if deep else 0)
        self.vector = Linear(size, self.feature_size) if self.combines or size != self.feature_size else None
        self.dropout = nn.Dropout(check_probability("output_dropout", output_dropout))
        table = self.embedding.table
        self.output = Linear(self.feature_size, table.num_embeddings, bias=check_flag("output_bias", output_bias))
        if self.tie != "none":
            self.output.weight = table.weight
            with torch.no_grad():
                table.weight.mul_(self.embedding.size**-0.5)
            self.embedding.scale *= self.embedding.size**0.5

    def remember(self, output: Tensor, last: Tensor, padding: Tensor) -> Memory:
        """Compute what every step reads, once per batch.

        Args:
            output: (B, S, M) of the encoder.
            last: (B, M), the final output of its top layer, the directions concatenated.
            padding: (B, S) bool, True where the source has ended.

        Returns:
            the memory, tensors (B, ...).
        """
        if self.attention is not None:
            return (*self.attention.project(self.memory_dropout(output), padding), padding)
        return (self.memory_dropout(last.unsqueeze(1)).squeeze(1),) if self.feed_context else ()

    def forward(self, inputs: Tensor, lengths: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Run all steps on given tokens (teacher forcing).

        Args:
            inputs: (B, T) int64, from <bos> on.
            lengths: (B,) of the inputs.
            state: the first state, each (L, B, size).
            memory: from `remember`.

        Returns:
            features (B, T, F), what the output layer takes, after dropout; and the attention's weights (B, T, S) or
            None. Both are arbitrary past a length.
        """
        embedded = self.embedding(inputs)
        context: Tensor | None = None
        weights: Tensor | None = None
        if self.input_feeding:
            features, weights = feed(self, embedded, lengths, state, memory)
            return self.dropout(features), weights
        x = embedded
        if self.feed_context:
            context = memory[0].unsqueeze(1).expand(-1, inputs.size(1), -1)
            x = torch.cat([embedded, context], 2)
        k = self.attention_layer
        top, _ = self.lower(x, tuple(part[:k] for part in state), lengths=lengths)
        if self.attention is not None:
            context, weights = self.attention(top, *memory, clean=True)
        for number, layer in enumerate(self.upper, k):
            assert context is not None
            inside = torch.cat([self._drop(top), context], 2)
            above, _ = layer(inside, tuple(part[number : number + 1] for part in state), lengths=lengths)
            top = above + top if self.residual else above
        return self.dropout(self.combine(top, context, embedded)), weights

    def _drop(self, x: Tensor) -> Tensor:
        """Dropout between layers on x (B, T, H)."""
        if not self.training:
            return x
        if self.rate:
            x = nn.functional.dropout(x, self.rate)
        if self.locked_rate:
            x = x * drop_mask(x, x.size(0), x.size(2), self.locked_rate).unsqueeze(1)
        return x

    def combine(self, top: Tensor, context: Tensor | None, embedded: Tensor) -> Tensor:
        """Make the vector before the output layer: top (..., H), context (..., C), embedded (..., E) -> (..., F)."""
        if self.vector is None:
            return top
        if not self.combines:
            return self.vector(top)  # type: ignore[no-any-return]
        parts = [top, *([] if context is None else [context])]
        if self.output_kind == "deep":
            parts.append(embedded)
        inner: Tensor = self.vector(torch.cat(parts, -1))
        return torch.tanh(inner) if inner.requires_grad else tanh_(inner, inner)

    def layer(self, number: int) -> tuple[Recurrent, int]:
        """Return the module that holds layer `number`, and the layer's index in it."""
        k = self.attention_layer
        return (self.lower, number) if number < k else (self.upper[number - k], 0)  # type: ignore[return-value]

    def prepare(self, rows: Tensor, batch_sizes: Sequence[int]) -> list[Prepared]:
        """Fix weights and sample masks of every layer for a call, in the dtype of rows (N, F); see `Cell.prepare`.

        Args:
            rows: packed (N, F); gives the dtype.
            batch_sizes: rows alive at each step.

        Returns:
            weights and masks of each layer.
        """
        return [
            recurrent.prepare(index, rows, batch_sizes) for recurrent, index in map(self.layer, range(self.num_layers))
        ]

    def start(self, state: State) -> tuple[Layers, Tensor | None]:
        """Return the first state of a search: state, each (L, B, size), to layers of (B, 1, size) and what is fed."""
        self._single = {}  # the weights may be others than in the search before
        layers = tuple(tuple(part[number].unsqueeze(1) for part in state) for number in range(self.num_layers))
        fed = state[0].new_zeros(state[0].size(1), 1, self.feed_size) if self.input_feeding else None
        return layers, fed

    def _step_layer(self, number: int, x: Tensor, packing: Packing, state: State) -> tuple[Tensor, State]:
        """One step of one layer without gradient: x (N, F), state each (N, size)."""
        recurrent, index = self.layer(number)
        cell = recurrent.cell_at(index)
        backend = choose(recurrent, x, packing).name if x.size(0) >= MIN_ROWS else "reference"
        if backend == "reference" or torch.is_grad_enabled() or not SingleStep.serves(cell):
            return scan(backend, cell, x, packing, state, recurrent.prepare(index, x, packing.batch_sizes))
        if number not in self._single:
            weights = recurrent.prepare(index, x, packing.batch_sizes).weights
            self._single[number] = SingleStep(cell, weights, x.size(0))
        return self._single[number](x, state)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_single": {}}  # packed weights can neither be copied nor pickled

    def step(self, tokens: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, Tensor | None]:
        """Run one step for K hypotheses of each sentence; evaluation only.

        Args:
            tokens: (B, K) int64.
            state: as `start` or a step gave it, its tensors (B, K, ...).
            memory: from `remember`, one row per sentence.

        Returns:
            logits (B, K, V), the next state, and the attention's weights (B, K, S) or None.

        Raises:
            RuntimeError: the module is in training mode.
        """
        if self.training:
            raise RuntimeError("step serves evaluation only; call eval() first")
        layers, fed = state
        shape = tokens.shape
        embedded = self.embedding(tokens).flatten(0, 1)
        x = embedded
        context: Tensor | None = None
        weights: Tensor | None = None
        if fed is not None:
            x = torch.cat([embedded, fed.flatten(0, 1)], 1)
        elif self.feed_context:
            context = memory[0].unsqueeze(1).expand(-1, shape[1], -1).flatten(0, 1)
            x = torch.cat([embedded, context], 1)
        packing, new = Packing.full(1, x.size(0)), []
        for number, before in enumerate(layers):
            inside = torch.cat([x, context], 1) if number >= self.attention_layer and context is not None else x
            rows = tuple(part.flatten(0, 1) for part in before)
            above, after = self._step_layer(number, inside, packing, rows)
            new.append(tuple(part.view(*shape, part.size(-1)) for part in after))
            x = above + x if self.residual and number else above
            if self.attention is not None and number + 1 == self.attention_layer:
                context, weights = self.attention(x.view(*shape, x.size(-1)), *memory, clean=True)
                context = context.flatten(0, 1)
        features = self.combine(x, context, embedded)
        fed = features.view(*shape, features.size(-1)) if self.input_feeding else None
        return self.output(features).view(*shape, self.output.out_features), (tuple(new), fed), weights
