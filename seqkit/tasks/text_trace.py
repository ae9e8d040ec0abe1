"""Gates with their words: what every layer and direction of a model did at every token of a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqkit import drawing
from seqkit.console import table
from seqkit.errors import require
from seqkit.nn import Cell, Recurrent
from seqkit.text import Tokenizer
from seqkit.text.marks import MARK
from seqkit.text.pipeline import SPACE


@dataclass(frozen=True)
class Token:
    """A token as it stands in the text.

    Attributes:
        text: as written there.
        joined: no white space stands before it.
        unknown: the vocabulary lacks it.
    """

    text: str
    joined: bool = False
    unknown: bool = False


@dataclass(frozen=True)
class LayerTrace:
    """What one layer and direction did.

    Attributes:
        layer: from 0.
        direction: `forward` or `backward`.
        values: gates and states by name, each (T, size), as `Recurrent.trace` gives them.
        states: which of the names are states; the last one is the memory.
        kept: (T, size), how much of what the memory held after each token is still in the final state: the product of
            what each later step keeps (of an LSTM its forget gates); None for a cell that keeps nothing as it is.
        share: (T,), the part of the final memory that each token wrote: what it wrote and what was kept of it, as
            absolute values, beside the sum over all tokens; the mean over the units. None as above.
        norm: (T,), the length of the memory's vector after each token.
        part: `encoder` or `decoder` of a model that has both.
    """

    layer: int
    direction: str
    values: dict[str, Tensor]
    states: tuple[str, ...]
    kept: Tensor | None
    share: Tensor | None
    norm: Tensor
    part: str = ""

    @property
    def title(self) -> str:
        """Say which layer and direction it is."""
        return f"{self.part}{', ' if self.part else ''}layer {self.layer + 1}, {self.direction}"

    @property
    def gates(self) -> dict[str, Tensor]:
        """The values that are no states."""
        return {name: value for name, value in self.values.items() if name not in self.states}

    @property
    def memory(self) -> Tensor:
        """The memory after each token, (T, size)."""
        return self.values[self.states[-1]]

    def still(self) -> Tensor | None:
        """Return how much of each token's memory is still in the final state, (T,): the mean over the units."""
        return None if self.kept is None else self.kept.mean(1)


@dataclass(frozen=True)
class TextTrace:
    """The gates of a model while it read a text. A notebook shows it.

    Attributes:
        text: what was read.
        tokens: of the text.
        layers: each layer and direction, layer 0 forward first; none for a text without tokens.
        output_tokens: what the decoder of a translation wrote, a token a step, `<eos>` last where it ends by itself.
        output_layers: the layers of the decoder at these steps; at each it has read the token before.
    """

    text: str
    tokens: list[Token] = field(default_factory=list)
    layers: list[LayerTrace] = field(default_factory=list)
    output_tokens: list[Token] = field(default_factory=list)
    output_layers: list[LayerTrace] = field(default_factory=list)

    @property
    def _sides(self) -> list[tuple[list[Token], list[LayerTrace], str]]:
        """The tokens and layers that belong together, with what is seen: of the text and of the outputs."""
        sides = [(self.tokens, self.layers, f"{_CAPTION} {_LINES}")]
        return sides + ([(self.output_tokens, self.output_layers, f"{_STEPS} {_LINES}")] if self.output_tokens else [])

    def lines(self) -> list[str]:
        """Return a table for a terminal: for each layer and token the mean of every gate, and what was kept."""
        if not self.tokens:
            return ["nothing to show: the text has no tokens"]
        lines = []
        for tokens, layers, _ in self._sides:
            for layer in layers:
                lines += [f"{layer.title}: means over the units", *table(_mean_rows(tokens, layer)), ""]
        return lines[:-1]

    def html(self, *, units: int = 64) -> str:
        """Return the gate viewer as an HTML fragment.

        Args:
            units: how many units of a layer are shown at most: those whose memory moves most.

        Raises:
            UserError: jinja2 is not installed.
        """
        if not self.tokens:
            return drawing.paragraph("Nothing to show: the text has no tokens.")
        viewers = [
            drawing.gate_viewer(words_of(tokens), [_panel(layer) for layer in layers], caption, units=units)
            for tokens, layers, caption in self._sides
        ]
        return "".join(viewers)

    def to_json(self) -> dict[str, Any]:
        """Return all values as lists, layer by layer, to 6 significant digits."""
        made: dict[str, Any] = {"text": self.text}
        for name, (tokens, layers, _) in zip(("", "output_"), self._sides, strict=False):
            made |= {f"{name}tokens": [token.text for token in tokens], f"{name}layers": list(map(_layer_json, layers))}
        rounded: dict[str, Any] = digits(made)
        return rounded

    def _repr_html_(self) -> str | None:
        return drawing.notebook(lambda: [self.html()])

    def plot(self) -> Any:
        """Return matplotlib axes: how much of the memory after each token of the text is still in the final state of
        each layer (or, where the cell cannot tell, the norm of the memory).

        Raises:
            UserError: matplotlib is not installed.
        """
        axes = figure_axes(0.35 * len(self.tokens))
        for layer in self.layers:
            still = layer.still()
            axes.plot((layer.norm if still is None else still).tolist(), marker="o", label=layer.title)
        names = [name.replace("$", r"\$") for name in plain_words(self.tokens)]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_ylabel(_STILL if all(layer.kept is not None for layer in self.layers) else "norm of the memory")
        if self.layers:
            axes.legend()
        return axes


_STILL = "still in the final state"
_CAPTION = (
    "A column for each token in reading order, a row of each picture for each unit. Gates go from pale (0) to dark "
    "(1); what can be negative goes from orange to purple. The last picture is the memory after each token."
)
_STEPS = (
    "The decoder, a column for each step, under the word that it wrote there; it had read the word before. Rows and "
    "colours are as above."
)
_LINES = (
    "The lines are the length of the memory's vector, and how much of the memory after each token is still in the "
    "final state: the mean over the units of the product of what each later step keeps."
)


def _mean_rows(tokens: Sequence[Token], layer: LayerTrace) -> list[list[str]]:
    still = layer.still()
    columns = {name: value.double().mean(1) for name, value in layer.gates.items()}
    columns |= {"norm of the memory": layer.norm} | ({} if still is None else {_STILL: still})
    rows = [["token", *columns]]
    for place, token in enumerate(tokens):
        rows.append([token.text, *(f"{float(values[place]):.3f}" for values in columns.values())])
    return rows


def _layer_json(layer: LayerTrace) -> dict[str, Any]:
    return {
        "layer": layer.layer,
        "direction": layer.direction,
        "memory": layer.states[-1],
        "values": {name: value.tolist() for name, value in layer.values.items()},
        "kept": None if layer.kept is None else layer.kept.tolist(),
        "share": None if layer.share is None else layer.share.tolist(),
        "norm": layer.norm.tolist(),
    }


def _panel(layer: LayerTrace) -> drawing.Panel:
    still = layer.still()
    lines = {"norm of the memory": layer.norm.numpy()} | ({} if still is None else {_STILL: still.numpy()})
    maps = [drawing.Map(name, value.double().numpy()) for name, value in layer.values.items()]
    return drawing.Panel(layer.title, maps, lines)


def words_of(tokens: Sequence[Token]) -> list[drawing.Word]:
    """Return tokens for `seqkit.drawing`."""
    return [drawing.Word(token.text, token.joined) for token in tokens]


def plain_words(tokens: Sequence[Token]) -> list[str]:
    """Return the texts of tokens; a space is made visible."""
    return [token.text if token.text.strip() else token.text.replace(" ", "␣") for token in tokens]


def tokens_of(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> list[Token]:
    """Return the tokens of a text as they stand there, one for each id; a mark that is a token of its own as itself."""
    pairs = tokenizer.placed(text)[: len(ids)]
    tokens = []
    for (piece, joined), number in zip(pairs, ids, strict=True):
        written = piece.replace(SPACE, " ")
        shown = written.strip(" ") or written or MARK
        tokens.append(Token(shown, joined and not piece.startswith(SPACE), number == tokenizer.unk_id))
    return tokens


def figure_axes(width: float, height: float = 2.0) -> Any:
    """Return the axes of a new figure that holds words; sizes in inches, without labels.

    Raises:
        UserError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "plot")
    require("matplotlib", "plot")
    return figures.Figure(figsize=(min(2 + width, 40), min(2 + height, 40)), layout="constrained").add_subplot()


def digits(value: Any, most: int = 6) -> Any:
    """Return a tree of dicts and lists with its numbers to so many significant digits."""
    if isinstance(value, dict):
        return {name: digits(one, most) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [digits(one, most) for one in value]
    return float(f"{value:.{most}g}") if isinstance(value, float) else value


def retention(
    cell: Cell, values: Mapping[str, Tensor], *, backward: bool, initial: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """Return what of each step is still in the final memory.

    With m_t = k_t m_(t-1) + w_t, where k_t is what the cell says that it keeps, the final memory is the sum over t of
    w_t k_(t+1) ... k_T, and what is left of the first memory.

    Args:
        cell: says what it keeps, see `Cell.keeps`.
        values: gates and states by name, each (T, size), at the step of the input that they belong to.
        backward: the sequence was read from its end.
        initial: (size,), the memory before the first step; None: zero.

    Returns:
        the products k_(t+1) ... k_T and the summands of the final memory, both (T, size), or None.
    """
    keeps = cell.keeps(values)
    if keeps is None:
        return None
    memory = values[cell.state_names[-1]]
    keeps, memory = (value.double().flip(0) if backward else value.double() for value in (keeps, memory))
    first = torch.zeros_like(memory[:1]) if initial is None else initial.double().view(1, -1)
    written = memory - keeps * torch.cat([first, memory[:-1]])
    after = torch.cat([keeps[1:], torch.ones_like(keeps[:1])])
    kept = after.flip(0).cumprod(0).flip(0)
    summands = written * kept
    return (kept.flip(0), summands.flip(0)) if backward else (kept, summands)


@torch.no_grad()
def trace_module(module: Recurrent, run: Callable[[], Any]) -> list[LayerTrace]:
    """Return what a recurrent module does in a run of the model around it on one text.

    Args:
        module: batch first.
        run: runs the model on a batch of one text.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = module.register_forward_pre_hook(
        lambda _, given, options: calls.append((given, options)), with_kwargs=True
    )
    try:
        run()
    finally:
        handle.remove()
    given, options = calls[0]
    return layers_of(module, module.trace(*given, **options).records)


def layers_of(module: Recurrent, records: Sequence[Mapping[str, Tensor]]) -> list[LayerTrace]:
    """Return the records of a batch of one text as layers."""
    layers = []
    for index, record in enumerate(records):
        cell, reverse = module.cell_at(index), index % module.num_directions == 1
        initial = None
        if module.learn_initial_state:
            initial = getattr(module, f"initial_{cell.state_names[-1]}{module.suffix(index)}").detach().cpu()
        layers.append(layer_of(cell, record, index // module.num_directions, backward=reverse, initial=initial))
    return layers


def layer_of(
    cell: Cell, record: Mapping[str, Tensor], number: int, *, backward: bool, initial: Tensor | None, part: str = ""
) -> LayerTrace:
    """Return the record of a layer and direction, of a batch of one text, as a layer.

    Args:
        cell: of the layer.
        record: gates and states by name, each (1, T, size).
        number: of the layer, from 0.
        backward: it read the text from its end.
        initial: (size,), its memory before the first step, on the CPU; None: zero.
        part: of the model.
    """
    values = {name: value[0].cpu() for name, value in record.items()}
    found = retention(cell, values, backward=backward, initial=initial)
    kept = share = None
    if found is not None:
        kept, size = found[0], found[1].abs()
        share = (size / size.sum(0).clamp(min=1e-30)).mean(1)
    norm = values[cell.state_names[-1]].double().norm(dim=1)
    direction = "backward" if backward else "forward"
    return LayerTrace(number, direction, values, cell.state_names, kept, share, norm, part)


def one_row(ids: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return a batch of one text: ids (1, T) on a device and lengths (1,) on the CPU, where they are used."""
    return torch.tensor([list(ids)], device=device), torch.tensor([len(ids)], device="cpu")
