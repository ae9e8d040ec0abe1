"""`AttentionalRecurrent`: cells x layers x attention x input feeding, a decoder without words.

With input feeding each step takes the features of the step before, so steps run one by one:
`seqkit.nn.kernels.stack.step_loop` is that loop under autograd, for any cell and any attention, and defines what is
computed; plain cells with an attention that has a `kernel` run in `seqkit.nn.kernels.input_feeding`, whose backward
pass is derived by hand.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import type_before_parametrizations

from seqkit.nn.attention import ATTENTIONS, Attention, make_attention, padding_mask
from seqkit.nn.attentional_step import KeptSteps, alone, linear_step, step_layer
from seqkit.nn.backends.backend import Choice
from seqkit.nn.cell import Cell, Prepared, State, drop_mask
from seqkit.nn.checks import (
    autocast_enabled,
    check_choice,
    check_flag,
    check_probability,
    check_size,
    recorded,
    tracing,
)
from seqkit.nn.custom_op import outside
from seqkit.nn.dropout import LockedDropout, between_layers
from seqkit.nn.exported_loops import draws, fed_loop, loops_exported
from seqkit.nn.kernels.input_feeding import feed_scan, rounds
from seqkit.nn.kernels.kernel import tanh_
from seqkit.nn.kernels.packing import Packing, check_lengths, length_vector, no_rows
from seqkit.nn.kernels.pointwise import cell_steps
from seqkit.nn.kernels.stack import FedSteps, Stack, joined, step_loop
from seqkit.nn.linear import Linear
from seqkit.nn.recurrent import Recurrent

Memory = tuple[Tensor, ...]


class AttentionalRecurrent(nn.Module):
    """Run recurrent layers that read from a memory (an encoded source) at every step.

    Step t, with x_t the input and s^l_t the output of layer l:

        s^1_t = cell(x_t), or cell([x_t; a_(t-1)]) with `input_feeding`, or cell([x_t; v]) with `feed_context`
        s^l_t = cell(s^(l-1)_t) up to `attention_layer` k;  c_t = attention(query s^k_t)
        s^l_t = cell([s^(l-1)_t; c_t]) above k (GNMT, Wu et al. 2016, section 3.2, feeds the current step's context)
        a_t = tanh(W [s^L_t; c_t])       the features, or attentional vector (Luong et al. 2015, eq. 5)

    so the query is the current state of layer k for every kind of attention. Input feeding (Luong et al. 2015, section
    3.3) gives the first step a zero vector; for `bahdanau` it replaces c_t = attention(s_(t-1)) in the cell's input
    (Bahdanau et al. 2015, eq. 6), since a_(t-1) holds that context. Without it the recurrence runs over all steps at
    once.

    With `attention="none"` the source reaches the layers by their initial state (Sutskever et al. 2014), and with
    `feed_context` also by v, one vector for each source (Cho et al. 2014). Then a_t = s^L_t, or W s^L_t where
    `feature_size` asks for another size.

    `output="deep"` replaces a_t by tanh(W [s^L_t; c_t; x_t]), with c_t or v where there is one (Pascanu et al. 2014).

    Args:
        input_size: features of the input, E.
        memory_size: features of the memory's vectors, M.
        cell: a name in `CELLS`, a `Cell` class, or a factory of cells.
        hidden_size: features of the state of each layer, H.
        num_layers: number of stacked layers, L.
        attention: how the source is read at each step: the score of Bahdanau et al. 2015 ("bahdanau"), of Luong et al.
            2015 ("dot", "general", "concat") or of Vaswani et al. 2017 ("scaled_dot", "multi_head"); "none": no
            attention; or an `Attention` class.
        attention_size: features inside the attention, where its kind has a choice; 0: as many as the query has.
        heads: number of heads of `multi_head`.
        attention_layer: the layer whose output is the query, k, from 1; the layers above it take what was read. 0: the
            last layer.
        input_feeding: the first layer also takes the attentional vector of the step before (Luong et al. 2015, section
            3.3); needs an attention. Slower: the recurrence can no longer run over all steps at once.
        feed_context: the first layer also takes the source's one vector v (a decoder's: the encoder's final output) at
            every step (Cho et al. 2014); needs `attention="none"`.
        output: what the features are: "linear", the attentional vector (without attention the top layer's output);
            "deep", a tanh layer that also sees the input (Pascanu et al. 2014).
        feature_size: features of a_t, F; 0: as many as s^L_t has.
        memory_dropout: dropout on what is read from the source (the memory, or v), one mask per source.
        dropout: rate of the dropout on the output of every layer but the last, drawn per element.
        locked_dropout: rate of a dropout at the same place as `dropout` with one mask per sequence, held over all steps
            (Gal & Ghahramani 2016).
        residual: every layer but the first adds its input (before dropout) to its output (He et al. 2016).
        **options: more of `Recurrent` and of the cell. There is one direction, batch first, and the first state is
            always passed: `bidirectional`, `batch_first` and `learn_initial_state` are refused.

    Raises:
        TypeError, ValueError: a bad value or combination; the message starts with the argument's name.

    Example:
        decoder = AttentionalRecurrent(32, 64, "lstm", 48, num_layers=2, attention="general", input_feeding=True)
        memory = decoder.remember(encoded, encoded_lengths)  # encoded (B, S, 64)
        state = decoder.initial_state(len(encoded))
        features, weights = decoder(inputs, lengths, state, memory)  # inputs (B, T, 32) -> (B, T, 48), (B, T, S)

        decoder.eval()
        state = decoder.start(state)
        features, state, weights = decoder.step(inputs[:, :1], state, memory)  # one step: (B, 1, 48)
    """

    def __init__(
        self,
        input_size: int,
        memory_size: int,
        cell: str | Callable[..., Cell],
        hidden_size: int,
        num_layers: int = 1,
        *,
        attention: str | Callable[..., Attention] = "bahdanau",
        attention_size: int = 0,
        heads: int = 1,
        attention_layer: int = 0,
        input_feeding: bool = False,
        feed_context: bool = False,
        output: Literal["linear", "deep"] = "linear",
        feature_size: int = 0,
        memory_dropout: float = 0.0,
        dropout: float = 0.0,
        locked_dropout: float = 0.0,
        residual: bool = False,
        **options: Any,
    ) -> None:
        super().__init__()
        self.input_size = check_size("input_size", input_size)
        self.memory_size = check_size("memory_size", memory_size)
        self.num_layers = check_size("num_layers", num_layers)
        if isinstance(attention, str):
            check_choice("attention", attention, ("none", *ATTENTIONS))
        self.input_feeding = check_flag("input_feeding", input_feeding)
        self.feed_context = check_flag("feed_context", feed_context)
        self.output_kind = check_choice("output", output, ("linear", "deep"))
        self.rate = check_probability("dropout", dropout)
        self.attention_layer = attention_layer or num_layers
        self._check(attention, attention_layer, attention_size, heads, options)
        self._single = KeptSteps()  # for `step`
        between: dict[str, Any] = {"locked_dropout": locked_dropout, "residual": residual}
        probe = Recurrent(cell, 1, hidden_size, num_layers, device="meta", **between, **options)
        self.locked_rate, self.residual = probe.locked_dropout, probe.residual
        self.query_size = probe.output_size
        self.state_names, self.state_sizes = probe.cell_at(0).state_names, probe.state_sizes
        self.feature_size = check_size("feature_size", feature_size or self.query_size)
        self.attention = None
        self.context_size = self.memory_size if feed_context else 0  # of c_t or v; 0: neither
        if attention != "none":
            self.attention = make_attention(attention, self.query_size, memory_size, size=attention_size, heads=heads)
            self.context_size = self.attention.context_size
        # Features of what goes into the first layer beside the input.
        self.feed_size = self.feature_size if input_feeding else self.memory_size if feed_context else 0
        self._build_layers(cell, hidden_size, between, options)
        self.memory_dropout = LockedDropout(memory_dropout)
        if memory_dropout and not self.context_size:
            raise ValueError(f"memory_dropout needs an attention or feed_context, got {memory_dropout} with neither")
        self._build_vector()

    def _check(
        self, attention: Any, attention_layer: int, attention_size: int, heads: int, options: dict[str, Any]
    ) -> None:
        for name in ("bidirectional", "batch_first", "learn_initial_state"):
            if name in options:
                raise TypeError(f"{name} is not an option of a decoder")
        if type(attention_layer) is not int or not 0 <= attention_layer <= self.num_layers:
            raise ValueError(
                f"attention_layer must be an int from 0 to num_layers {self.num_layers}, got {attention_layer!r}"
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
        if self.num_layers == 1 and self.rate:
            warnings.warn(
                f"dropout acts on all layers but the last, so dropout={self.rate} with num_layers=1 does nothing; "
                "output_dropout of seqkit.models.Decoder acts before the output layer",
                UserWarning,
                stacklevel=3 if type(self) is AttentionalRecurrent else 4,
            )

    def _build_layers(self, cell: Any, hidden_size: int, between: dict[str, Any], options: dict[str, Any]) -> None:
        k, below, above = self.attention_layer, self.input_size + self.feed_size, self.query_size + self.context_size
        between = between | {"dropout": self.rate} if k > 1 else {}
        self.lower = Recurrent(cell, below, hidden_size, k, batch_first=True, **between, **options)
        self.upper = nn.ModuleList(
            Recurrent(cell, above, hidden_size, batch_first=True, **options) for _ in range(self.num_layers - k)
        )

    def _build_vector(self) -> None:
        deep = self.output_kind == "deep"
        size, self.combines = self.query_size, deep or self.attention is not None
        if self.combines:
            size += self.context_size + (self.input_size if deep else 0)
        self.vector = Linear(size, self.feature_size) if self.combines or size != self.feature_size else None

    def initial_state(self, batch_size: int) -> State:
        """Return a first state of zeros (or what the cell begins with) for batch_size sources, each (L, B, size)."""
        like = next(self.lower.parameters())
        each = [cell.initial_state(batch_size, like) for cell in self._cells]
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True))

    def remember(self, memory: Tensor, lengths: Tensor | Sequence[int], vector: Tensor | None = None) -> Memory:
        """Compute what every step reads, once per batch.

        Args:
            memory: (B, S, M), the source.
            lengths: (B,) of the source; what lies past a length is never read, and with length 0 the context is zero.
            vector: v (B, M), for `feed_context` alone.

        Returns:
            the memory, tensors (B, ...).

        Raises:
            ValueError: a shape that does not fit, or `feed_context` without a vector. TypeError: lengths that are not
            integers.
        """
        if memory.dim() != 3 or memory.size(2) != self.memory_size:
            raise ValueError(f"memory must have the shape (B, S, {self.memory_size}), got {tuple(memory.shape)}")
        if self.attention is not None:
            lengths = length_vector(lengths)
            if lengths.shape != memory.shape[:1]:
                raise ValueError(f"lengths must have the shape ({memory.size(0)},), got {tuple(lengths.shape)}")
            padding = padding_mask(lengths, memory.size(1), memory.device)
            return (*self.attention.project(self.memory_dropout(memory), padding), padding)
        if not self.feed_context:
            return ()
        shape = (memory.size(0), self.memory_size)
        if vector is None or vector.shape != shape:
            came = None if vector is None else tuple(vector.shape)
            raise ValueError(f"vector must have the shape {shape} with feed_context, got {came}")
        return (self.memory_dropout(vector.unsqueeze(1)).squeeze(1),)

    def forward(
        self, input: Tensor, lengths: Tensor | Sequence[int] | None, state: State, memory: Memory
    ) -> tuple[Tensor, Tensor | None]:
        """Run over all steps of known inputs (teacher forcing).

        Args:
            input: (B, T, E).
            lengths: (B,) in [0, T]; None: all are T.
            state: the first state, each (L, B, size).
            memory: from `remember`.

        Returns:
            features (B, T, F), and the attention's weights (B, T, S) or None. Both are arbitrary past a length.

        Raises:
            ValueError: a shape that does not fit, lengths out of range. TypeError: lengths that are not integers.
        """
        self._check_call(input, memory)
        shapes = [(self.num_layers, input.size(0), size) for size in self.state_sizes]
        if [tuple(part.shape) for part in state] != shapes:
            came = [tuple(part.shape) for part in state]
            raise ValueError(f"state must hold {', '.join(self.state_names)} with the shapes {shapes}, got {came}")
        run = self._fed if self.input_feeding else self._whole
        return run(input, lengths, state, memory)

    def _check_call(self, input: Tensor, memory: Memory) -> None:
        if input.dim() != 3 or input.size(2) != self.input_size:
            raise ValueError(f"input must have the shape (B, T, {self.input_size}), got {tuple(input.shape)}")
        if len(memory) != (3 if self.attention is not None else int(self.feed_context)):
            raise ValueError(f"memory must be what `remember` returned, got {len(memory)} tensors")
        if memory and memory[0].size(0) != input.size(0):
            raise ValueError(f"memory must hold {input.size(0)} sources, one per row of input, got {memory[0].size(0)}")

    def _whole(self, input: Tensor, lengths: Any, state: State, memory: Memory) -> tuple[Tensor, Tensor | None]:
        """Run all steps at once, layer after layer; `lower` is one call."""

        def layer(number: int, parts: list[Tensor]) -> Tensor:
            module, _ = self.layer(number)
            if number and self.training:
                x = parts[0]
                parts[0] = between_layers(x, self.rate, self.locked_rate, x.size(0), lambda mask: mask.unsqueeze(1))
            first = tuple(part[number : number + module.num_layers] for part in state)
            output: Tensor = module(joined(parts), first, lengths=lengths)[0]
            return output

        context = memory[0].unsqueeze(1).expand(-1, input.size(1), -1) if self.feed_context else None
        x = input if context is None else torch.cat([input, context], 2)
        attention = self.attention
        read = None if attention is None else lambda query: attention(query, *memory, clean=True)
        top, context, weights = self.stack.through(x, context, layer, read, self.attention_layer)
        return self.combine(top, context, input), weights

    def _read(self, query: Tensor, memory: Sequence[Tensor | None], hypotheses: int = 1) -> tuple[Tensor, Tensor]:
        """One step of K hypotheses a source: query (B * K, H) to the context (B * K, C) and the weights (B, K, S)."""
        assert self.attention is not None
        context, weights = self.attention(query.view(-1, hypotheses, query.size(1)), *memory, clean=True)
        return context.flatten(0, 1), weights

    @property
    def stack(self) -> Stack:
        """Tell how the layers follow each other."""
        return Stack(self.num_layers, self.attention_layer, self.residual)

    def combine(self, top: Tensor, context: Tensor | None, input: Tensor, layer: Any = None) -> Tensor:
        """Make the features: top (..., H), context (..., C), input (..., E) -> (..., F); `layer` is for `vector`."""
        layer = layer or self.vector
        if layer is None:
            return top
        if not self.combines:
            return layer(top)  # type: ignore[no-any-return]
        parts = [top, *([] if context is None else [context]), *([input] if self.output_kind == "deep" else [])]
        inner: Tensor = layer(torch.cat(parts, -1))
        return torch.tanh(inner) if inner.requires_grad or recorded() else tanh_(inner, inner)  # which looks at values

    def layer(self, number: int) -> tuple[Recurrent, int]:
        """Return the module that holds layer `number`, and the layer's index in it."""
        k = self.attention_layer
        return (self.lower, number) if number < k else (self.upper[number - k], 0)  # type: ignore[return-value]

    @property
    def _cells(self) -> list[Cell]:
        return [module.cell_at(index) for module, index in map(self.layer, range(self.num_layers))]

    def prepare(self, rows: Tensor, batch_sizes: Sequence[int]) -> list[Prepared]:
        """Fix weights and sample masks of every layer for a call.

        Args:
            rows: packed (N, F); gives the dtype.
            batch_sizes: rows alive at each step.

        Returns:
            weights and masks of each layer; see `Cell.prepare`.
        """
        return [module.prepare(index, rows, batch_sizes) for module, index in map(self.layer, range(self.num_layers))]

    def start(self, state: State) -> tuple[tuple[State, ...], Tensor | None]:
        """Return the state of a first `step`: state, each (L, B, size), to layers of (B, 1, size) and what is fed."""
        self._single.renew(self)
        layers = tuple(tuple(part[number].unsqueeze(1) for part in state) for number in range(self.num_layers))
        fed = state[0].new_zeros(state[0].size(1), 1, self.feed_size) if self.input_feeding else None
        return layers, fed

    def step(self, input: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, Tensor | None]:
        """Run one step for K hypotheses of each source; evaluation only.

        Weights are laid out once for all searches; `start` sees whether one has changed. It sees a change in place
        through `.data` or NumPy, which torch does not count, only once `train` or `eval` has switched the mode.

        Args:
            input: (B, K, E).
            state: from `start` or the step before, its tensors (B, K, ...).
            memory: from `remember`, one row per source.

        Returns:
            features (B, K, F), the next state, and the attention's weights (B, K, S) or None.

        Raises:
            RuntimeError: in training. ValueError: a shape that does not fit.
        """
        if self.training:
            raise RuntimeError("step serves evaluation only; call eval() first")
        self._check_call(input, memory)
        (layers, fed), shape, context = state, input.shape[:2], None
        x = rows = input.flatten(0, 1)
        if fed is not None:
            x = torch.cat([rows, fed.flatten(0, 1)], 1)
        elif self.feed_context:
            context = memory[0].unsqueeze(1).expand(-1, shape[1], -1).flatten(0, 1)
            x = torch.cat([rows, context], 1)
        lone, new = alone(input), []

        def layer(number: int, parts: list[Tensor]) -> Tensor:
            before = tuple(part.flatten(0, 1) for part in layers[number])
            output, after = step_layer(*self.layer(number), joined(parts), before, self._single, lone)
            new.append(tuple(part.view(*shape, part.size(-1)) for part in after))
            return output

        read = None
        if self.attention is not None:
            spared = lone and type(self.attention) in ATTENTIONS.values() and self._single.unpadded(memory[2])
            seen = (*memory[:2], None) if spared else memory
            read = partial(self._read, memory=seen, hypotheses=shape[1])
        top, context, weights = self.stack.through(x, context, layer, read)
        vector = None if self.vector is None else partial(linear_step, self.vector, kept=self._single, lone=lone)
        features = self.combine(top, context, rows, vector).view(*shape, self.feature_size)
        return features, (tuple(new), features if self.input_feeding else None), weights

    def project(self, layer: nn.Module, rows: Tensor) -> Tensor:
        """Return (N, M): a linear layer of this module on the rows (N, K) of a `step`, its weight laid out once."""
        return linear_step(layer, rows, self._single, alone(rows))

    def train(self, mode: bool = True) -> AttentionalRecurrent:
        if mode != self.training:
            self._single = KeptSteps()
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_single"}  # packed: no pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_single": KeptSteps()})  # type: ignore[no-untyped-call]

    def _fed(self, input: Tensor, lengths: Any, state: State, memory: Memory) -> tuple[Tensor, Tensor]:
        """Run all steps with input feeding. Sentences are sorted by falling length and leave the batch as they end.

        Features and weights are zero past a length.
        """
        if tracing():
            raise RuntimeError(
                "torch.jit.trace cannot record the loop of a decoder with input feeding, which would be right for "
                "these lengths alone; trace its `step`, or take input_feeding=False"
            )
        if loops_exported():
            if self.training:
                raise RuntimeError(draws("decoder"))
            prepared = self.prepare(input.flatten(0, 1), [input.size(0), input.size(0) * (input.size(1) - 1)])
            parts = prepared, self._cells, self._read, self.combine, self.feed_size
            return fed_loop(self.stack, input, lengths, state, memory, *parts)
        if torch.compiler.is_compiling():
            what = "a decoder with input feeding (export its `step`, or take input_feeding=False)"
            return outside(what, self._fed, input, lengths, state, memory)  # type: ignore[no-any-return]
        batch, steps = input.shape[:2]
        packing = Packing.full(steps, batch)
        if lengths is not None:
            packing = Packing.from_lengths(check_lengths(lengths, batch, steps), steps, input.device)
        rows = packing.pack(input.transpose(0, 1))  # (N, E)
        if not rows.size(0):
            features = no_rows([rows, *self.parameters()], self.feature_size)
            weights = rows.new_zeros(0, memory[2].size(1))
        else:
            count = packing.first_rows  # sentences of length 0 come last and have no part in it
            order = None if packing.order is None else packing.order[:count]
            memory = tuple(part[:count] if order is None else part.index_select(0, order) for part in memory)
            state = tuple(packing.sort(part)[:, :count] for part in state)
            sizes = packing.batch_sizes
            inner = Packing(None if packing.is_rectangle else sizes, count, len(sizes))
            features, weights = self._fed_rows(rows, inner, state, memory)
        return packing.unpack(features).transpose(0, 1), packing.unpack(weights).transpose(0, 1)

    def _fed_rows(self, rows: Tensor, packing: Packing, state: State, memory: Memory) -> tuple[Tensor, Tensor]:
        """`_fed` in the packed layout, without sentences of length 0: rows (N, E) to features (N, F), weights (N, S).

        All masks are drawn before the loop. The state, each (L, b_0, size), and the memory are in packed order.
        """
        prepared = self.prepare(rows, packing.batch_sizes)
        masks = [self._input_mask(rows, packing) if number else None for number in range(self.num_layers)]
        states = [tuple(part[number] for part in state) for number in range(self.num_layers)]
        call = FedSteps(self.stack, rows, packing, states, memory, prepared, masks)
        if self.step_backend(rows, prepared).name == "reference":
            return step_loop(call, self._cells, self._read, self.combine, self.feed_size)
        reader = None if self.attention is None else self.attention.kernel()
        assert reader is not None
        assert self.vector is not None
        steps = [factory for cell in self._cells if (factory := cell_steps(cell.kernel())) is not None]
        return feed_scan(call, steps, *reader, self.vector.weight, self.vector.bias)

    def _input_mask(self, rows: Tensor, packing: Packing) -> Tensor | None:
        """Return the dropout on the input of a layer above the first, for all steps: (N, H)."""
        if not (self.training and (self.rate or self.locked_rate)):
            return None
        shape = rows.size(0), self.query_size
        # Not torch's dropout on ones: on a GPU it draws other numbers, and old runs resume with the mask's.
        mask = drop_mask(rows, *shape, self.rate) if self.rate else rows.new_ones(shape)
        return between_layers(mask, 0.0, self.locked_rate, packing.batch_size, packing.spread)

    def step_backend(self, rows: Tensor, prepared: Sequence[Prepared] = ()) -> Choice:
        """Return the backend on which the steps of input feeding run, and why.

        Args:
            rows: the input (N, E), for its device and dtype.
            prepared: weights and masks of each layer for this call.
        """
        attention, vector = self.attention, self.vector
        unserved = [type(cell).__name__ for cell in self._cells if cell_steps(cell.kernel()) is None]
        linear = vector is not None and type_before_parametrizations(vector) in (Linear, nn.Linear)
        reasons = (
            (self.lower.backend == "reference", "asked for"),
            (recorded(), "a compiler, torch.func or forward-mode differentiation needs the step loop"),
            (rows.is_complex(), "complex numbers, whose gradients only the step loop has"),
            (
                autocast_enabled(rows.device.type) and not rounds(rows),
                "under autocast, which chooses a precision for each product",
            ),
            (unserved, f"{''.join(unserved[:1])} with these options has no steps with a hand-derived backward"),
            (any(one.step_masks for one in prepared), "a mask of the cell is drawn at every step"),
            (
                attention is None or attention.kernel() is None,
                f"{type(attention).__name__} has no reader with a hand-derived backward",
            ),
            (not linear, f"the features are made by a {type(vector).__name__}"),
        )
        slow = next((reason for applies, reason in reasons if applies), None)
        quick = "hand-derived backward" + (", products in bfloat16" if rounds(rows) else "")
        return Choice("fused", quick) if slow is None else Choice("reference", slow)
