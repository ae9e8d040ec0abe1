"""Any task, also one of the user's: examples with their answers, as far as its records tell."""

from __future__ import annotations

from seqkit.drawing import Example, Piece, example_list, paragraph, section
from seqkit.report.classes import class_section
from seqkit.report.section import Explainer, number_of, sample_note, shown_text
from seqkit.report.stored import StoredRun, texts


def generic_section(run: StoredRun, size: int, explain: Explainer) -> list[str]:
    """Return the section of a task that this version has none for; [] where its records show nothing.

    Args:
        run: its records are in dev.jsonl.
        size: how many examples of each kind are shown.
        explain: what each opens into.
    """
    records = run.outputs
    if texts(records, "gold", "prediction", "text") and all("probabilities" in one for one in records):
        return class_section(run, size, explain)
    shown = [one for one in records if any(isinstance(one.get(key), str) for key in ("text", "prediction"))]
    if not shown:
        return []
    least = sorted(shown, key=lambda one: number_of(one, "confidence"))[:size]
    items = []
    for one in least:
        lines = [(key, [Piece(shown_text(one[key]))]) for key in ("text", "gold", "prediction") if key in one]
        sure = f"confidence {number_of(one, 'confidence'):.3f}" if "confidence" in one else ""
        items.append(Example(sure, str(one.get("place", "")), lines, explain(str(one.get("text", "")))))
    note = sample_note(run.examples("dev"), len(records))
    return [section("Examples"), paragraph(f"The least certain answers. {note}"), example_list(items)]
