"""Which task is exported by which class."""

from __future__ import annotations

from seqkit.config import resolve
from seqkit.errors import UserError, listed
from seqkit.export.base import Exporter
from seqkit.tasks import RunTask

EXPORTERS: dict[str, str | type[Exporter]] = {
    "sentiment": "seqkit.export.classes:ClassesExporter",
    "translation": "seqkit.export.translation:TranslationExporter",
    "language_model": "seqkit.export.language_model:LanguageModelExporter",
    "slots": "seqkit.export.tags:TagsExporter",
}
"""`kind` of a task -> its exporter, a class or `package.module:Name`. The module of a task of your own adds a row."""


def find_exporter(kind: type[RunTask]) -> Exporter:
    """Return the exporter of a task.

    Raises:
        UserError: there is none.
    """
    entry = EXPORTERS.get(kind.kind)
    if entry is None:
        raise UserError(
            f"no exporter for tasks of the kind {kind.kind!r} (there are those for {listed(EXPORTERS)}): add one to "
            "seqkit.export.EXPORTERS, or give the model to torch.onnx.export(model, ..., dynamo=True)"
        )
    if isinstance(entry, str):
        entry = resolve("task", kind.kind, Exporter, {kind.kind: entry})  # type: ignore[type-abstract]
    return entry()
