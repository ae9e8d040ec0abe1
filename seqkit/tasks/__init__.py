"""Tasks: each composes data, text, model, loss and scores; the trainer never names one."""

from seqkit.tasks.base import RunConfig, RunTask, resolve

TASKS = {
    "sentiment": "seqkit.tasks.sentiment:SentimentTask",
}

__all__ = ["TASKS", "RunConfig", "RunTask", "resolve"]
