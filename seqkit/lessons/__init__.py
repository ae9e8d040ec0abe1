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
    "taipei": Lesson(
        "Taipei: destination or origin?",
        "Taggers with and without memory, trained to tell where a journey begins and ends.",
        "seqkit.lessons.taipei:blocks",
        task="slots",
        most=5,
    ),
    "variants": Lesson(
        "Variants: Elman, Jordan, deep, bidirectional, gated, peephole",
        "One sequence through each kind of network, and what each of them can learn.",
        "seqkit.lessons.variants:blocks",
    ),
    "keywords": Lesson(
        "Key words: what an LSTM keeps of a review",
        "An LSTM trained on reviews: what it writes, and what is left of each word at the end.",
        "seqkit.lessons.keywords:blocks",
        task="sentiment",
        most=1,
    ),
    "bottleneck": Lesson(
        "Bottleneck: a sentence in one vector, and attention",
        "Translation with a fixed vector and with attention, by the length of the sentence.",
        "seqkit.lessons.bottleneck:blocks",
        task="translation",
        most=5,
    ),
}
"""The lessons by name, in the order in which to read them."""

TAKING_RUNS = [name for name, lesson in LESSONS.items() if lesson.task]
"""Those that can look at runs."""

__all__ = ["LESSONS", "TAKING_RUNS", "Lesson", "find_lesson"]
