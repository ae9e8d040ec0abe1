"""What a notebook shows of a loaded model."""

from __future__ import annotations

from torch import nn

from seqkit import drawing


def model_summary(kind: str, model: nn.Module) -> list[str]:
    """Return HTML on a model: its parts, what they are, their parameters.

    Args:
        kind: of the task.
        model: of any class.
    """
    parameters = {id(value): value for value in model.parameters()}
    total = sum(value.numel() for value in parameters.values())
    trained = sum(value.numel() for value in parameters.values() if value.requires_grad)
    device = next(iter(parameters.values())).device if parameters else "none"
    rows = []
    for name, part in _parts(model):
        own = {id(value): value.numel() for value in part.parameters()}
        rows.append([name, f"{type(part).__name__}({part.extra_repr()})", f"{sum(own.values()):,}"])
    about = f"A {kind} model: {total:,} parameters, of which {trained:,} train, on {device}."
    caption = "The parts of the model; parts that share weights both count them."
    return [drawing.paragraph(about), drawing.table(["part", "what it is", "parameters"], rows, caption)]


def _parts(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children that have parameters, and of the plain containers among them the children."""
    found = []
    for name, part in model.named_children():
        if not any(True for _ in part.parameters()):
            continue
        below = [child for child in part.named_children() if any(True for _ in child[1].parameters())]
        if below and not any(True for _ in part.parameters(recurse=False)) and not part.extra_repr():
            found += [(f"{name}.{child}", inner) for child, inner in below]
        else:
            found.append((name, part))
    return found
