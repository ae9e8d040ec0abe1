"""Tasks: each composes data, text, model, loss and scores; the trainer never names one."""

from seqkit.tasks.base import RunConfig, RunTask

TASKS = {
    "language_model": "seqkit.tasks.language_model.task:LanguageModelTask",
    "sentiment": "seqkit.tasks.sentiment.task:SentimentTask",
    "slots": "seqkit.tasks.slots.task:SlotsTask",
    "translation": "seqkit.tasks.translation.task:TranslationTask",
}

__all__ = ["TASKS", "RunConfig", "RunTask"]
