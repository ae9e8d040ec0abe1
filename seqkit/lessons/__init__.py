"""Lessons: what recurrent networks do, computed by the modules themselves. Importing this runs no lesson."""

from seqkit.lessons.base import Lesson, find_lesson

LESSONS = {
    "memory": Lesson(
        "Memory: a network that knows what came before",
        "What a recurrent network remembers, and why the order of its inputs matters.",
        "seqkit.lessons.memory:blocks",
    ),
    "gates": Lesson(
        "Gates: when to write, to keep, to erase and to show",
        "An LSTM with weights set by hand, every gate at every step.",
        "seqkit.lessons.gates:blocks",
    ),
    "gradients": Lesson(
        "Gradients: why long memories are hard to learn",
        "How gradients vanish and explode, what an LSTM does about it, and what clipping does.",
        "seqkit.lessons.gradients:blocks",
    ),
}
"""The lessons by name, in the order in which to read them."""

__all__ = ["LESSONS", "Lesson", "find_lesson"]
