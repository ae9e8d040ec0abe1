"""Tasks: each composes data, text, model, loss and scores; the trainer never names one."""

from seqkit.tasks.base import RunConfig, RunTask

TASKS = {
    "language_model": "seqkit.tasks.language_model:LanguageModelTask",
    "sentiment": "seqkit.tasks.sentiment:SentimentTask",
    "slots": "seqkit.tasks.slots:SlotsTask",
    "translation": "seqkit.tasks.translation:TranslationTask",
}

__all__ = ["TASKS", "RunConfig", "RunTask"]
