"""The encoder-decoder: from a sentence of the source to one of the target.

A configuration builds it so (names are the constructors' arguments):

    model:
      source: {size: 256, dropout: 0.3}                                         # Embedding
      target: {size: 256, dropout: 0.3}                                         # Embedding
      encoder: {cell: lstm, hidden_size: 256, num_layers: 2, bidirectional: true}     # Recurrent
      decoder: {cell: lstm, hidden_size: 256, attention: bahdanau, tie: target}       # Decoder (and Recurrent)
      bridge: linear

    encoder = Encoder(Embedding(len(source), **source), Recurrent(input_size=256, batch_first=True, **encoder))
    decoder = Decoder(Embedding(len(target), **target), encoder.output_size, **decoder)
    model = Seq2Seq(encoder, decoder, bridge)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqkit.models.bridge import BRIDGES, Bridge
from seqkit.models.decoder import Decoder, Memory
from seqkit.models.encoder import Encoder, last_output, valid_rows
from seqkit.nn import LOGIT_ROWS, State, from_table, linear_cross_entropy, padding_mask, send, send_together


class Seq2Seq(nn.Module):
    """Translate a sentence into another: encoder, bridge, decoder.

    Args:
        encoder: of the source.
        decoder: of the target, its `memory_size` the encoder's `output_size`.
        bridge: how the encoder's final state becomes the decoder's first one. "linear": a tanh layer for each layer of
            the decoder; "copy": as it is, where sizes agree; "mean": a tanh layer on the mean of the encoder's outputs;
            "zero": zeros; or a `Bridge` class.

    Raises:
        ValueError: parts that do not fit; with `tie="all"`, embeddings of different vocabularies or sizes.

    Example:
        encoder = Encoder(Embedding(5000, 128), LSTM(128, 128, bidirectional=True, batch_first=True))
        model = Seq2Seq(encoder, Decoder(Embedding(4000, 128), encoder.output_size, "gru", 256), "linear")
        loss, nll = model.loss(source, source_lengths, targets_from_bos, targets_to_eos, target_lengths)
        (loss / target_lengths.sum()).backward()

        model.eval()
        state, memory = model.encode(source, source_lengths)
        logits, state, attention = model.step(bos, state, memory)  # bos (B, 1) -> logits (B, 1, V)
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, bridge: str | Callable[..., Bridge] = "linear") -> None:
        super().__init__()
        if decoder.memory_size != encoder.output_size:
            raise ValueError(
                f"decoder: its memory_size {decoder.memory_size} is not the encoder's output_size {encoder.output_size}"
            )
        self.encoder = encoder
        self.decoder = decoder
        make = from_table("bridge", bridge, BRIDGES)
        self.bridge = make(encoder.recurrent, decoder.state_names, decoder.state_sizes, decoder.num_layers)
        if not self.bridge.reads_source and decoder.attention is None and not decoder.feed_context:
            raise ValueError(
                f"bridge {bridge!r} with neither attention nor feed_context: the decoder would see no source"
            )
        if decoder.tie == "all":
            source, target = encoder.embedding.table, decoder.embedding.table
            if source.weight.shape != target.weight.shape:
                raise ValueError(
                    f"tie 'all' needs one vocabulary and size: the source's embedding is {tuple(source.weight.shape)}, "
                    f"the target's {tuple(target.weight.shape)}"
                )
            source.weight = target.weight
            if encoder.embedding is not decoder.embedding:
                encoder.embedding.scale *= encoder.embedding.size**0.5

    def _read(self, source: Tensor, lengths: Tensor) -> tuple[State, Memory]:
        """Return the decoder's first state, each (L, B, size), and its memory."""
        output, state = self.encoder(source, lengths)
        return self._from(output, state, lengths)

    def _from(self, output: Tensor, state: State, lengths: Tensor) -> tuple[State, Memory]:
        """`_read` from what the encoder returned: output (B, S, M) and its final state."""
        last = last_output(self.encoder.recurrent, state)  # (B, M)
        lengths = send(lengths, output.device)
        memory = self.decoder.remember(output, lengths, last)
        return self.bridge(output, state, lengths), memory

    def encode(self, source: Tensor, source_lengths: Tensor) -> tuple[Any, Memory]:
        """Read the source and return the start of a decoding.

        Args:
            source: (B, S) int64, padded at the end.
            source_lengths: (B,) int64, 0 allowed.

        Returns:
            state, a tree of tensors (B, 1, ...) that belong to a hypothesis; and memory, a tuple of tensors (B, ...)
            that belong to a sentence.
        """
        output, state = self.encoder(source, source_lengths)
        return self.begin(output, state, source_lengths)

    def begin(self, output: Tensor, state: State, source_lengths: Tensor) -> tuple[Any, Memory]:
        """Return what `encode` returns, from what the encoder returned.

        Args:
            output: (B, S, M).
            state: the encoder's final state, each part (num_layers * num_directions, B, size).
            source_lengths: (B,) int64.
        """
        first, memory = self._from(output, state, source_lengths)
        return self.decoder.start(first), memory

    def step(self, tokens: Tensor, state: Any, memory: Memory) -> tuple[Tensor, Any, Tensor | None]:
        """Run one step of decoding with K hypotheses a sentence; evaluation only.

        Args:
            tokens: (B, K) int64.
            state: from `encode` or the step before, its tensors (B, K, ...).
            memory: from `encode`, its tensors (B, ...).

        Returns:
            logits (B, K, V), the next state, and the attention's weights (B, K, S) or None.
        """
        return self.decoder.step(tokens, state, memory)

    def forward(self, source: Tensor, source_lengths: Tensor, target: Tensor, target_lengths: Tensor) -> Tensor:
        """Compute what the output layer takes.

        Args:
            source: (B, S) int64, padded at the end.
            source_lengths: (B,) int64, 0 allowed.
            target: (B, T) int64, from <bos> on.
            target_lengths: (B,) int64.

        Returns:
            features (B, T, F).
        """
        state, memory = self._read(source, source_lengths)
        features: Tensor = self.decoder(target, target_lengths, state, memory)[0]
        return features

    def loss(
        self,
        source: Tensor,
        source_lengths: Tensor,
        inputs: Tensor,
        targets: Tensor,
        lengths: Tensor,
        *,
        label_smoothing: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Compute the cross-entropy with teacher forcing, summed over all target tokens (there are `lengths.sum()`).

        Args:
            source: (B, S) int64.
            source_lengths: (B,), best on the CPU: from elsewhere they are read back.
            inputs: (B, T) int64, <bos> and the tokens.
            targets: (B, T) int64, the tokens and <eos>.
            lengths: (B,) of both.
            label_smoothing: share of the target probability that is spread evenly over the vocabulary.

        Returns:
            the sum to minimise, and the sum of negative log-likelihoods in nats without smoothing; float32 scalars.

        Raises:
            ValueError: targets of another shape than inputs.
        """
        if inputs.shape != targets.shape:
            raise ValueError(f"targets must have the shape of inputs {tuple(inputs.shape)}, got {tuple(targets.shape)}")
        features = self(source, source_lengths, inputs, lengths)
        rows = valid_rows(lengths, inputs.size(1), features.device)
        packed = features.flatten(0, 1).index_select(0, rows)
        output = self.decoder.output
        return linear_cross_entropy(
            packed, output.weight, output.bias, targets.flatten().index_select(0, rows), label_smoothing=label_smoothing
        )

    def attend(self, source: Tensor, source_lengths: Tensor, inputs: Tensor, lengths: Tensor) -> Tensor | None:
        """Return the attention's weights for a given target (forced alignment).

        Args:
            source: (B, S) int64.
            source_lengths: (B,) int64.
            inputs: (B, T) int64, <bos> and the tokens.
            lengths: (B,) of the inputs.

        Returns:
            (B, T, S), or None without attention. Row t is what was read when the token after `inputs[:, t]` was
            predicted; zero past a target's length.
        """
        state, memory = self._read(source, source_lengths)
        _, weights = self.decoder(inputs, lengths, state, memory)
        if weights is None:
            return None
        padding = padding_mask(lengths, inputs.size(1), weights.device)
        return weights.masked_fill(padding.unsqueeze(2), 0.0)  # type: ignore[no-any-return]

    @torch.no_grad()
    def mix_inputs(
        self,
        source: Tensor,
        source_lengths: Tensor,
        inputs: Tensor,
        lengths: Tensor,
        rate: float,
        *,
        sample: bool = False,
    ) -> Tensor:
        """Replace some inputs by the model's predictions: scheduled sampling in two passes (Mihaylova & Martins 2019).

        A first pass with teacher forcing predicts every token; each position but the first is then replaced with
        probability `rate` by what was predicted for it. The second pass is `loss` on the result.

        Args:
            source: (B, S) int64.
            source_lengths: (B,) int64.
            inputs: (B, T) int64, <bos> and the tokens.
            lengths: (B,) of the inputs.
            rate: in [0, 1].
            sample: draw the prediction from the model's distribution instead of taking the most probable token.

        Returns:
            (B, T) int64; without a change past each length.

        Raises:
            ValueError: `rate` outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be between 0 and 1, got {rate}")
        padding = padding_mask(lengths.cpu(), inputs.size(1))[:, 1:]
        # Drawn on the CPU: how many are chosen must be known there.
        chosen = (torch.rand(padding.shape, device="cpu") < rate) & ~padding
        rows, columns = send_together(chosen.nonzero(as_tuple=True), inputs.device)
        features = self(source, source_lengths, inputs, lengths)[rows, columns]
        mixed = inputs.clone()
        own = [self._predict(part, sample) for part in features.split(LOGIT_ROWS)]
        mixed[rows, columns + 1] = torch.cat(own)
        return mixed

    def _predict(self, features: Tensor, sample: bool) -> Tensor:
        """features (N, F) -> tokens (N,)."""
        logits = self.decoder.output(features)
        if sample:
            # As torch.multinomial draws, without its questions to the device.
            probs = torch.softmax(logits.float(), 1)
            return (probs / torch.empty_like(probs).exponential_(1)).argmax(1)
        return logits.argmax(1)  # type: ignore[no-any-return]
