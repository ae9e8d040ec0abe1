"""Independent oracle: a small model, and searches over it in plain Python, one sentence and one hypothesis at a time.

Nothing is shared with seqkit.decoding but the settings' names. The plain beam search goes on to the maximum length or
to K complete hypotheses: it knows no early exit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

PAD, UNK, BOS, EOS = range(4)
DEFAULTS = {
    "beam_size": 1,
    "n_best": 1,
    "length_penalty": 0.0,
    "length_penalty_kind": "gnmt",
    "coverage_penalty": 0.0,
    "min_length": 0,
    "max_length": None,
    "min_ratio": 0.0,
    "max_ratio": None,
    "no_repeat_ngram": 0,
    "allow_unknown": True,
}


class Model:
    """A recurrent cell with attention and random weights, in float64."""

    def __init__(self, seed: int, vocabulary: int = 7, eos: float = 0.0, sharp: float = 2.0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.size, self.calls = 6, 0
        self.steps = 0  # of the last plain beam search
        self.rows: list[int] = []  # hypotheses scored in each call
        self.sharp, self.vocabulary = sharp, vocabulary
        self.table, self.words = normal(vocabulary, self.size), normal(30, self.size)
        self.turn, self.out, self.bias = normal(self.size, self.size), normal(self.size, vocabulary), normal(vocabulary)
        self.bias[EOS] += eos

    def encode(self, sources: list[list[int]], padding: int = 0):
        """Ragged sources, padded with rubbish -> state, memory, lengths."""
        width = max(map(len, sources)) + padding
        ids = torch.tensor([source + [29] * (width - len(source)) for source in sources]).long()
        lengths = torch.tensor([len(source) for source in sources])
        mask = torch.arange(width) >= lengths[:, None]
        hidden = torch.zeros(len(sources), 1, self.size, dtype=torch.float64)
        return {"h": (hidden, None)}, [self.words[ids], mask], lengths

    def step(self, tokens, state, memory):
        words, mask = memory
        self.calls += 1
        self.rows.append(tokens.numel())
        hidden = torch.tanh(state["h"][0] @ self.turn + self.table[tokens])
        scores = (hidden @ words.transpose(1, 2)).masked_fill(mask[:, None], -torch.inf)
        attention = torch.softmax(scores, dim=2).nan_to_num(0.0)  # an empty source
        hidden = hidden + attention @ words
        return self.sharp * torch.tanh(hidden) @ self.out + self.bias, {"h": (hidden, None)}, attention


class Live(NamedTuple):
    """A hypothesis on its way."""

    tokens: list[int]
    log_probs: list[float]
    attention: list[list[float]]
    state: object


class Result(NamedTuple):
    """What `Hypothesis` holds."""

    tokens: list[int]
    score: float
    log_probs: list[float]
    attention: list[list[float]]
    finished: bool


class Sentence:
    """The rules for one source, from settings as `Search` takes them."""

    def __init__(self, model: Model, source: list[int], prefix: list[int], settings: dict) -> None:
        self.model, self.prefix = model, prefix
        self.settings = {**DEFAULTS, **settings}
        self.state, self.memory, _ = model.encode([source])
        self.words = len(source)
        self.shortest, self.longest = self._limits()

    def _limits(self) -> tuple[int, int]:
        s = self.settings
        shortest = max(s["min_length"], math.ceil(s["min_ratio"] * self.words))
        if s["max_length"] is None and s["max_ratio"] is None:
            return shortest, max(2 * self.words + 20, shortest)
        limits = [] if s["max_length"] is None else [s["max_length"]]
        limits += [] if s["max_ratio"] is None else [math.floor(s["max_ratio"] * self.words)]
        longest = max(1, min(limits))
        return min(shortest, longest), longest

    def start(self) -> Live:
        return Live([], [], [], self.state)

    def next(self, live: Live) -> tuple[dict[int, float], Live]:
        """The log-probabilities of the tokens allowed, and the hypothesis with its new state and attention."""
        last = live.tokens[-1] if live.tokens else BOS
        logits, state, attention = self.model.step(torch.tensor([[last]]), live.state, self.memory)
        values = logits[0, 0].tolist()
        total = math.log(sum(math.exp(value - max(values)) for value in values)) + max(values)
        log_probs = {token: value - total for token, value in enumerate(values)}
        after = live._replace(state=state, attention=live.attention + attention[0].tolist())
        place = len(live.tokens)
        if place < len(self.prefix):
            return {self.prefix[place]: log_probs[self.prefix[place]]}, after
        allowed = {token: value for token, value in log_probs.items() if token not in (PAD, BOS, EOS)}
        if not self.settings["allow_unknown"]:
            allowed.pop(UNK, None)
        size = self.settings["no_repeat_ngram"]
        if size:
            seen = {tuple(live.tokens[i : i + size]) for i in range(place - size + 1)}
            start = tuple(live.tokens[place - size + 1 :]) if size > 1 else ()
            allowed = {token: value for token, value in allowed.items() if (*start, token) not in seen}
        if place >= self.shortest or not allowed:
            allowed[EOS] = log_probs[EOS]
        return allowed, after

    def result(self, live: Live, log_prob: float | None) -> Result:
        """A hypothesis that ended in <eos> with this log-probability, or was cut (None)."""
        s, log_probs = self.settings, live.log_probs + ([] if log_prob is None else [log_prob])
        attention = live.attention[: len(log_probs)]
        length = len(log_probs)
        base = (5 + length) / 6 if s["length_penalty_kind"] == "gnmt" else length
        score = sum(log_probs) / base ** s["length_penalty"]
        if s["coverage_penalty"]:
            covered = [sum(step[i] for step in attention) for i in range(self.words)]
            score += s["coverage_penalty"] * sum(math.log(max(min(value, 1.0), 1e-10)) for value in covered)
        return Result(live.tokens, score, log_probs, attention, log_prob is not None)

    def extend(self, live: Live, after: Live, token: int, value: float) -> Live:
        return after._replace(tokens=live.tokens + [token], log_probs=live.log_probs + [value])


def beam(model: Model, source: list[int], prefix: list[int] = (), **settings) -> list[Result]:
    """Beam search without early exit."""
    sentence = Sentence(model, source, list(prefix), settings)
    width = sentence.settings["beam_size"]
    lives, complete, cut = [sentence.start()], [], []
    for length in range(sentence.longest + 1):
        candidates = []
        for live in lives:
            allowed, after = sentence.next(live)
            candidates += [(sum(live.log_probs) + value, token, value, live, after) for token, value in allowed.items()]
        candidates.sort(key=lambda item: -item[0])
        ended = [item for item in candidates[:width] if item[1] == EOS]
        complete += [sentence.result(after, value) for _, _, value, _, after in ended]
        if length == sentence.longest:
            over = [id(live) for _, _, _, live, _ in ended]
            cut = [sentence.result(live, None) for live in lives if id(live) not in over]
        going = [item for item in candidates if item[1] != EOS][:width]
        lives = [sentence.extend(live, after, token, value) for _, token, value, live, after in going]
        model.steps = length + 1
        if len(complete) >= width or not lives:
            break
    ranked = [sorted(part, key=lambda result: -result.score) for part in (complete, cut)]
    return (ranked[0] + ranked[1])[: sentence.settings["n_best"]]


def everything(model: Model, source: list[int], prefix: list[int] = (), **settings) -> list[Result]:
    """All outputs that the settings allow, best first."""
    sentence = Sentence(model, source, list(prefix), settings)

    def walk(live: Live) -> Iterator[Result]:
        allowed, after = sentence.next(live)
        if EOS in allowed:
            yield sentence.result(after, allowed[EOS])
        if len(live.tokens) < sentence.longest:
            for token, value in allowed.items():
                if token != EOS:
                    yield from walk(sentence.extend(live, after, token, value))

    return sorted(walk(sentence.start()), key=lambda result: -result.score)[: sentence.settings["n_best"]]


def greedy(model: Model, source: list[int], **settings) -> tuple[list[int], list[float], bool]:
    """The most probable token at each step."""
    sentence = Sentence(model, source, [], settings)
    live = sentence.start()
    while True:
        allowed, after = sentence.next(live)
        token = max(allowed, key=lambda item: allowed[item])
        if token == EOS:
            return live.tokens, live.log_probs + [allowed[EOS]], True
        if len(live.tokens) == sentence.longest:
            return live.tokens, live.log_probs, False
        live = sentence.extend(live, after, token, allowed[token])


def assert_same(found, expected: list[Result]) -> None:
    """Assert that hypotheses agree to rounding errors."""
    assert [one.tokens for one in found] == [one.tokens for one in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.finished == other.finished
        assert math.isclose(one.score, other.score, rel_tol=1e-9, abs_tol=1e-9)
        torch.testing.assert_close(one.log_probs, other.log_probs, rtol=1e-9, atol=1e-9)
        if one.attention is not None:
            wanted = torch.as_tensor(other.attention, dtype=torch.float64).view(one.attention.shape)
            torch.testing.assert_close(one.attention, wanted, rtol=1e-9, atol=1e-9)
