"""Which words decided: integrated gradients and occlusion, for any model that looks words up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqkit.errors import UserError, require

Method = Literal["auto", "gradients", "occlusion"]
METHODS: tuple[Method, ...] = ("auto", "gradients", "occlusion")
BASELINE = "zero vectors"
"""What stands for the absence of a word: its vector is replaced by zeros, as padding has them."""

LONGEST = 1_000
"""Tokens of a text that can be explained: the work grows with the square of the length."""

_TOGETHER = 8192  # tokens in a batch
_STEPS, _MOST_STEPS = 16, 2048  # points on a stretch of the path, and on all of it
_CLOSE, _CLOSER = 1e-3, 1e-4  # share of the difference of the logits that the gap may be; and what is tried for
_CHEAP = 1 << 15  # tokens on the paths of all targets up to which the closer gap is tried for


@dataclass(frozen=True)
class Attribution:
    """What each token of a text added to one score.

    Attributes:
        target: what the score is of, such as a label.
        score: the logit of the target.
        baseline_score: the logit where every word is replaced by the baseline.
        gradients: integrated gradients of each token (Sundararajan et al. 2017); None where captum is not installed or
            they were not asked for. They add up to `score - baseline_score`, but for the gap.
        occlusion: for each token how far the score falls when this token alone is replaced by the baseline.
        steps: points on the path from the baseline to the text; 0 without gradients.
        place: the number of the token that the target belongs to; None: the whole text.
    """

    target: str
    score: float
    baseline_score: float
    gradients: list[float] | None = None
    occlusion: list[float] = field(default_factory=list)
    steps: int = 0
    place: int | None = None

    @property
    def gap(self) -> float | None:
        """How far the sum of the gradients is from the difference of the logits."""
        return None if self.gradients is None else sum(self.gradients) - (self.score - self.baseline_score)

    @property
    def best(self) -> list[float]:
        """The gradients, or else the occlusion."""
        return self.occlusion if self.gradients is None else self.gradients


@dataclass(frozen=True)
class Problem:
    """A text that a model reads.

    Attributes:
        sites: modules whose outputs, (N, T, F) each, are the inputs that are explained, such as an embedding.
        scores: runs the model on N copies of the text, and returns its scores, (N, K).
        length: T, tokens of the text.
        work: tokens that a copy costs; 0: T.
    """

    sites: Sequence[nn.Module]
    scores: Callable[[int], Tensor]
    length: int
    work: int = 0

    @property
    def together(self) -> int:
        """How many copies are run at once."""
        return max(1, _TOGETHER // max(self.length, self.work, 1))


def check_method(method: str) -> bool:
    """Return whether gradients are to be computed.

    Raises:
        UserError: no such method; gradients are asked for and captum is not installed.
    """
    if method not in METHODS:
        raise UserError(f"expected one of {', '.join(METHODS)}, got {method!r}", key="method")
    if method == "occlusion":
        return False
    try:
        require("captum.attr", "explain")
    except UserError:
        if method == "gradients":
            raise
        return False
    return True


def refuse_long(length: int) -> None:
    """Raise UserError for a text that is too long to explain."""
    if length > LONGEST:
        raise UserError(f"a text of {length:,} tokens cannot be explained (the limit is {LONGEST:,})")


def attribute(problem: Problem, targets: Sequence[int], names: Sequence[str], *, gradients: bool,
              places: Sequence[int | None] | None = None) -> list[Attribution]:  # fmt: skip
    """Explain some of a model's scores.

    Args:
        problem: the text and the model, in evaluation mode.
        targets: columns of the scores.
        names: of the targets.
        gradients: compute integrated gradients beside occlusion.
        places: of the targets, where they belong to tokens.

    Returns:
        an explanation of each target.
    """
    refuse_long(problem.length)
    vectors = _vectors(problem)
    with torch.no_grad():
        zeros = [torch.zeros_like(value) for value in vectors]
        here = _run(problem, vectors)[0, list(targets)].double().cpu()
        without = _run(problem, zeros)[0, list(targets)].double().cpu()
        hidden = _occluded(problem, vectors)[:, list(targets)].double().cpu()
    found: Sequence[tuple[list[float] | None, int]] = [(None, 0)] * len(targets)
    if gradients:
        found = _gradients(problem, vectors, targets, (here - without).tolist())
    return [
        Attribution(names[number], float(here[number]), float(without[number]), values,
                    (here[number] - hidden[:, number]).tolist(), steps, places[number] if places else None)
        for number, (values, steps) in enumerate(found)
    ]  # fmt: skip


@contextmanager
def _hooked(sites: Sequence[nn.Module], hook: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `hook(number, output)` at the first call of each site; what it returns replaces the output."""
    seen: set[int] = set()
    handles: list[Any] = []
    for number, site in enumerate(sites):

        def first(_: nn.Module, __: Any, output: Tensor, number: int = number) -> Tensor | None:
            if number in seen:  # a shared embedding looks up the target later
                return None
            seen.add(number)
            return hook(number, output)

        handles.append(site.register_forward_hook(first))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _vectors(problem: Problem) -> list[Tensor]:
    """What the sites give for the text, each (1, T, F)."""
    found: dict[int, Tensor] = {}

    def keep(number: int, output: Tensor) -> None:
        found[number] = output.detach().clone()

    with _hooked(problem.sites, keep):
        problem.scores(1)
    return [found[number] for number in range(len(problem.sites))]


def _run(problem: Problem, vectors: Sequence[Tensor]) -> Tensor:
    """Scores (N, K) where the sites give these vectors, each (N, T, F)."""
    with _hooked(problem.sites, lambda number, _: vectors[number]):
        return problem.scores(vectors[0].size(0))


def _occluded(problem: Problem, vectors: Sequence[Tensor]) -> Tensor:
    """Scores (T, K), row t without token t."""
    rows = []
    size = problem.together
    for start in range(0, problem.length, size):
        places = torch.arange(start, min(start + size, problem.length), device=vectors[0].device)
        copies = [value.repeat(len(places), 1, 1) for value in vectors]
        for value in copies:
            value[torch.arange(len(places), device=value.device), places] = 0.0
        rows.append(_run(problem, copies))
    return torch.cat(rows)


def _gradients(
    problem: Problem, vectors: Sequence[Tensor], targets: Sequence[int], differences: Sequence[float]
) -> list[tuple[list[float], int]]:
    """Integrated gradients of each target over the tokens, and the points on the path that they took.

    The path is cut in two where the sum of a stretch is not the difference of its logits, as it is near the zero
    vectors with layer normalisation, which is steep there, and at the bends of max pooling.
    """
    most = max(1, problem.together // _STEPS)
    found: list[tuple[list[float], int]] = []
    for start in range(0, len(targets), most):
        part = slice(start, start + most)
        found += _adaptive(problem, vectors, targets[part], [max(abs(one), 0.1) for one in differences[part]])
    return found


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A stretch of the path: sums (K, T) of each target's gradients, and gaps (K,) to the differences of its logits."""

    low: float
    high: float
    sums: Tensor
    gaps: Tensor


def _adaptive(
    problem: Problem, vectors: Sequence[Tensor], targets: Sequence[int], sizes: Sequence[float]
) -> list[tuple[list[float], int]]:
    """Integrated gradients of a few targets; of all stretches the one with the largest gap is cut in two next, for
    those targets that are not close enough yet. `sizes` are the differences of their logits."""

    def measure(low: float, high: float, rows: list[int]) -> _Stretch:
        """A stretch; the other targets' rows are 0."""
        chosen = [targets[row] for row in rows]
        with torch.no_grad():
            ends = [_run(problem, [value * end for value in vectors])[0, chosen] for end in (low, high)]
        sums = torch.zeros(len(targets), problem.length, dtype=torch.float64, device="cpu")
        gaps = torch.zeros(len(targets), dtype=torch.float64, device="cpu")
        sums[rows] = _integrate(problem, vectors, low, high, chosen)
        gaps[rows] = sums[rows].sum(1) - (ends[1].double() - ends[0].double()).cpu()
        return _Stretch(low, high, sums, gaps)

    limits = torch.tensor(sizes, dtype=torch.float64, device="cpu")
    stretches, steps = [measure(0.0, 1.0, list(range(len(targets))))], [_STEPS] * len(targets)
    while max(steps) < _MOST_STEPS:
        close = _CLOSER if max(steps) * problem.length * len(targets) <= _CHEAP else _CLOSE
        missing = torch.stack([one.gaps for one in stretches]).sum(0).abs() > limits * close
        rows = missing.nonzero()[:, 0].tolist()
        if not rows:
            break
        worst = max(stretches, key=lambda one: float((one.gaps.abs() / limits)[rows].max()))
        stretches.remove(worst)
        middle = (worst.low + worst.high) / 2
        first, second = measure(worst.low, middle, rows), measure(middle, worst.high, rows)
        first.sums[~missing], first.gaps[~missing] = worst.sums[~missing], worst.gaps[~missing]
        stretches += [first, second]
        for row in rows:
            steps[row] += 2 * _STEPS
    sums = torch.stack([one.sums for one in stretches]).sum(0)
    return list(zip(sums.tolist(), steps, strict=True))


def _integrate(problem: Problem, vectors: Sequence[Tensor], low: float, high: float, targets: list[int]) -> Tensor:
    """Integrated gradients (targets, T), on the CPU, on the path from `low` to `high`, by the Gauss-Legendre rule."""
    captum = require("captum.attr", "explain")
    copies = [value.repeat(len(targets), 1, 1) for value in vectors]
    with torch.enable_grad():
        found = captum.IntegratedGradients(lambda *given: _run(problem, given)).attribute(
            tuple(value * high for value in copies),
            baselines=tuple(value * low for value in copies),
            target=targets,
            n_steps=_STEPS,
            method="gausslegendre",
            internal_batch_size=max(len(targets), problem.together),
        )
    return torch.stack([part.cpu().double().sum(2) for part in found]).sum(0)
