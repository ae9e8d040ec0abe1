"""Attention one step at a time with a hand-derived backward, for loops in which the next step depends on what was read.

With scores e, weights w = softmax(e) and context c = sum of w v over the source: d w = v . d c, d e = w * (d w - sum of
w d w). What is a sum over all steps (the gradients of keys, values and weights) is one product after the loop, except
for additive keys. Small buffers are padded, (T, b_0, ...) with zeros past a length, so that these products are batched.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from seqkit.nn.kernels.gemm import outer, step_product
from seqkit.nn.kernels.kernel import SLOPES, Tensors, quick, reaches
from seqkit.nn.kernels.packing import Packing
from seqkit.nn.kernels.tuning import MIN_REACH


class Reader:
    """Softmax, context and their derivative; a subclass has the scores.

    Args:
        tensors: "keys" and "values" (b_0, S, ...) or (b_0, heads, S, ...), "padding" (b_0, S), and of the attention's
            weights those it has: "query" (A, H), "score" (A,), "output" (C, size).
        packing: of the target.
        low: products of the weights may round their operands to bfloat16; see `product`.
    """

    def __init__(self, tensors: Tensors, packing: Packing, *, low: bool = False) -> None:
        self.tensors, self.packing, self.sizes, self.low = tensors, packing, packing.batch_sizes, low
        keys, values, padding = tensors["keys"], tensors["values"], tensors["padding"]
        self.values = (values if values.dim() == 4 else values.unsqueeze(1)).contiguous()  # (b_0, heads, S, V)
        self.keys = (keys if keys.dim() == 4 else keys.unsqueeze(1)).contiguous()
        self.rows, self.heads, self.steps = self.sizes[0], self.values.size(1), len(self.sizes)
        lowest = torch.finfo(values.dtype).min
        self.bias = torch.zeros_like(padding, dtype=values.dtype).masked_fill_(padding, lowest).unsqueeze(1)
        # Asking whether a source is empty would wait for any device but the CPU: elsewhere weights are always
        # masked, which changes nothing for sources that are not empty.
        self.asks = padding.device.type == "cpu"
        masked = not self.asks or bool(padding.all(1).any())
        self.valid = (~padding).to(values.dtype).unsqueeze(1) if masked else None
        self.ask = step_product(self.query_weight(), self.rows, self.steps, low=low) if "query" in tensors else None
        self.join = step_product(tensors["output"], self.rows, self.steps, low=low) if "output" in tensors else None
        self.context_size = tensors["output"].size(0) if self.join else self.heads * self.values.size(3)

    def query_weight(self) -> Tensor:
        """Return what the forward pass multiplies a query with."""
        return self.tensors["query"]

    def start(self) -> None:
        """Make the buffers of the forward pass."""
        self.weights = self.buffer(self.heads, self.bias.size(2))
        self.queries = self.buffer(self.keys.size(1) * self.keys.size(3))
        self.contexts = self.buffer(self.heads * self.values.size(3)) if self.join else None

    def buffer(self, *shape: int) -> Tensor:
        """(T, b_0, *shape), zero where a row may be past its length."""
        make = self.values.new_empty if self.packing.is_rectangle else self.values.new_zeros
        return make(self.steps, self.rows, *shape)

    def pack(self, buffer: Tensor) -> Tensor:
        """(T, b_0, ...) to (N, ...)."""
        rows = buffer.flatten(0, 1)
        return rows if self.packing.is_rectangle else rows.index_select(0, self.packing.on(rows.device, "rectangle"))

    def forward(self, t: int, x: Tensor) -> Tensor:
        """Return the context (b, C) for x (b, H)."""
        size = x.size(0)
        query = self.queries[t, :size]
        query.copy_(x if self.ask is None else self.ask.times(x))
        weights = self.weights[t, :size]
        torch.softmax(self.scores(query).add_(self.bias[:size]), -1, out=weights)
        if self.valid is not None:
            weights.mul_(self.valid[:size])
        context = torch.bmm(weights.view(-1, 1, weights.size(-1)), self.values[:size].flatten(0, 1)).view(size, -1)
        if self.join is None or self.contexts is None:
            return context
        self.contexts[t, :size] = context
        return self.join.times(context)

    def scores(self, query: Tensor) -> Tensor:
        """query (b, A) to (b, heads, S), in fresh memory."""
        raise NotImplementedError

    def mean_weights(self) -> Tensor:
        """Return the weights of all steps, their mean over the heads: (N, S)."""
        packed = self.pack(self.weights)
        return packed.squeeze(1).clone() if self.heads == 1 else packed.mean(1)

    def saved(self) -> Tensors:
        """Return the buffers that `rewind` wants."""
        buffers = {"reader.weights": self.weights, "reader.queries": self.queries}
        return buffers if self.contexts is None else {**buffers, "reader.contexts": self.contexts}

    def rewind(self, saved: Tensors) -> None:
        """Prepare for the backward pass."""
        self.weights, self.queries = saved["reader.weights"], saved["reader.queries"]
        self.contexts = saved.get("reader.contexts")
        self.d_queries = torch.empty_like(self.queries)
        self.d_contexts = self.buffer(self.heads * self.values.size(3))
        self.d_joined = self.buffer(self.tensors["output"].size(0)) if self.join else None
        self.unjoin, self.unask = (
            step_product(self.tensors[name].t(), self.rows, self.steps, low=self.low) if used else None
            for name, used in (("output", self.join), ("query", self.ask))
        )

    def backward(self, t: int, d_context: Tensor, d_weights: Tensor | None) -> Tensor:
        """Return the gradient of x (b, H), from those of the context (b, C) and the weights' mean over heads (b, S)."""
        size = d_context.size(0)
        if self.unjoin is not None and self.d_joined is not None:
            self.d_joined[t, :size] = d_context
            d_context = self.unjoin.times(self.d_joined[t, :size])
        d_context = self.d_contexts[t, :size].copy_(d_context)
        # The vector stands on the left: on the right the same product takes ten times as long.
        grad = torch.bmm(d_context.view(size * self.heads, 1, -1), self.values[:size].flatten(0, 1).transpose(1, 2))
        grad = grad.view(size, self.heads, -1)
        if d_weights is not None:
            grad.add_(d_weights.unsqueeze(1), alpha=1 / self.heads)
        weights = self.weights[t, :size]
        if self.valid is None or not self.asks:  # masked weights are zero, and so is what comes of them
            d_scores = torch._softmax_backward_data(grad, weights, -1, grad.dtype)
        else:
            grad = grad * weights
            d_scores = grad - weights * grad.sum(-1, keepdim=True)
        d_query = self.d_queries[t, :size]
        self.scores_backward(t, d_scores, d_query)
        return d_query if self.unask is None else self.unask.times(d_query)

    def scores_backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        """From d_scores (b, heads, S) write the gradient of the (projected) query, (b, A)."""
        raise NotImplementedError

    def gradients(self, queries: Tensor) -> Tensors:
        """All that is left after the loop; `queries` (N, H) are those before their projection."""
        heads = self.heads
        weights = self.weights.permute(1, 2, 3, 0).flatten(0, 1)  # (b_0 * heads, S, T)
        d_contexts = _by_head(self.d_contexts, heads)
        grads = {"values": torch.bmm(weights, d_contexts).view(self.tensors["values"].shape)}
        if self.ask is not None:
            grads["query"] = outer(self.pack(self.d_queries), queries, low=self.low)
        if self.d_joined is not None and self.contexts is not None:
            grads["output"] = outer(self.pack(self.d_joined), self.pack(self.contexts), low=self.low)
        return grads


def _by_head(buffer: Tensor, heads: int) -> Tensor:
    """(T, b_0, heads * F) to (b_0 * heads, T, F)."""
    steps, rows = buffer.shape[:2]
    return buffer.view(steps, rows, heads, -1).permute(1, 2, 0, 3).flatten(0, 1)


class DotReader(Reader):
    """score = q . k, for `dot`, `general`, `scaled_dot` and each head of `multi_head`."""

    def scores(self, query: Tensor) -> Tensor:
        size = query.size(0)
        scores = torch.bmm(query.view(size * self.heads, 1, -1), self.keys[:size].flatten(0, 1).transpose(1, 2))
        return scores.view(size, self.heads, -1)

    def rewind(self, saved: Tensors) -> None:
        super().rewind(saved)
        self.d_scores = self.buffer(self.heads, self.bias.size(2))

    def scores_backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        size = d_query.size(0)
        self.d_scores[t, :size] = d_scores
        grad = torch.bmm(d_scores.view(size * self.heads, 1, -1), self.keys[:size].flatten(0, 1))
        d_query.copy_(grad.view(size, -1))

    def gradients(self, queries: Tensor) -> Tensors:
        d_scores = self.d_scores.permute(1, 2, 3, 0).flatten(0, 1)  # (b_0 * heads, S, T)
        d_keys = torch.bmm(d_scores, _by_head(self.queries, self.heads)).view(self.tensors["keys"].shape)
        return {**super().gradients(queries), "keys": d_keys}


class AdditiveReader(Reader):
    """score = v . tanh(q + k), where it is faster and as exact with tanh(x) = 2 s(2x) - 1, s the sigmoid.

    The -1 shifts all scores alike and falls out of the softmax. The (b, S, A) terms are computed again in the backward
    pass: at these sizes that costs less than fresh memory for all steps.

    Attributes:
        scale: 2 where terms are s(2x), 1 where they are tanh(x): in low precision, on other devices than the CPU, and
            where no key is large, so that s(2x) would have lost the digits of x.
    """

    def __init__(self, tensors: Tensors, packing: Packing, *, low: bool = False) -> None:
        super().__init__(tensors, packing, low=low)
        self.scaled = self.keys.squeeze(1) * self.scale
        self.terms = torch.empty_like(self.scaled)
        self.vector = tensors["score"] * self.scale

    @cached_property
    def scale(self) -> int:
        keys = self.tensors["keys"]
        return 2 if quick(keys) and reaches(keys, MIN_REACH) else 1

    def query_weight(self) -> Tensor:
        return self.tensors["query"] * self.scale

    def _terms(self, query: Tensor) -> Tensor:
        size = query.size(0)
        total = torch.add(self.scaled[:size], query.unsqueeze(1), out=self.terms[:size])
        return total.sigmoid_() if self.scale == 2 else total.tanh_()

    def scores(self, query: Tensor) -> Tensor:
        terms = self._terms(query)
        return torch.mv(terms.view(-1, terms.size(2)), self.vector).view(query.size(0), 1, -1)

    def rewind(self, saved: Tensors) -> None:
        super().rewind(saved)
        self.slopes, self.d_keys = torch.empty_like(self.scaled), torch.zeros_like(self.scaled)
        self.d_vector = torch.zeros_like(self.vector)

    def scores_backward(self, t: int, d_scores: Tensor, d_query: Tensor) -> None:
        size = d_query.size(0)
        terms, slopes = self._terms(self.queries[t, :size]), self.slopes[:size]
        flat = d_scores.view(-1)
        self.d_vector.addmv_(terms.view(flat.size(0), -1).t(), flat)
        grad = d_scores.view(size, -1, 1)
        # `vector` and the inner derivative are the same for all terms and come in at the end.
        if self.scale == 2:
            SLOPES["sigmoid"](grad.expand_as(terms), terms, slopes)
            self.d_keys[:size] += slopes
            torch.sum(slopes, 1, out=d_query)
        else:
            # 1 - tanh^2 in two parts: the gradients of a softmax add up to nothing, in which small squares would drown.
            torch.mul(terms.square_(), grad, out=slopes)
            self.d_keys[:size].add_(grad).sub_(slopes)
            torch.sub(grad.sum(1), slopes.sum(1), out=d_query)
        d_query.mul_(self.tensors["score"]).mul_(self.scale**2)

    def gradients(self, queries: Tensor) -> Tensors:
        d_keys = self.d_keys.mul_(self.scale**2 * self.tensors["score"])
        # d score = v . d(2 s), and the scores have lost their sum of v, whose gradient over a softmax is zero.
        return {**super().gradients(queries), "keys": d_keys, "score": self.d_vector * self.scale}
