"""The layers of the shipped models, as patterns of parameter names from the input to the output; see
`Task.layer_groups`."""

from __future__ import annotations

from typing import Any

from seqkit.nn import Recurrent

Groups = list[list[str]]


def reader_groups(encoder: Any, *beside: str) -> Groups:
    """Return embedding, each recurrent layer (or the window), and all the rest of the model.

    Args:
        encoder: the model's `encoder`: an `Encoder` or a `WindowEncoder`.
        beside: patterns of what else the first group holds.
    """
    layers = [["encoder.window.*"]]
    if encoder.recurrent is not None:
        layers = recurrent_layers("encoder.recurrent", encoder.recurrent)
    return [["encoder.embedding.*", *beside], *layers, ["*"]]


def translation_groups(model: Any) -> Groups:
    """Of a `Seq2Seq`: source embedding, encoder layers, bridge, target embedding, decoder layers, and the rest:
    attention and output."""
    decoder = recurrent_layers("decoder.lower", model.decoder.lower)
    for number, upper in enumerate(model.decoder.upper):
        decoder += recurrent_layers(f"decoder.upper.{number}", upper)
    encoder = recurrent_layers("encoder.recurrent", model.encoder.recurrent)
    return [["encoder.embedding.*"], *encoder, ["bridge.*"], ["decoder.embedding.*"], *decoder, ["*"]]


def recurrent_layers(prefix: str, recurrent: Recurrent) -> Groups:
    """Return a group for each layer of a recurrent module called `prefix`, both directions together."""
    groups = []
    for layer in range(recurrent.num_layers):
        places = range(layer * recurrent.num_directions, (layer + 1) * recurrent.num_directions)
        own = [f"{prefix}.*{recurrent.suffix(place)}" for place in places]
        # What hangs on a weight (an adapter) lies below its name; cells that are not flat keep their own parameters.
        groups.append([*own, *(f"{name}.*" for name in own), *(f"{prefix}.cells.{place}.*" for place in places)])
    return groups
