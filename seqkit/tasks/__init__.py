"""Tasks: each composes data, text, model, loss and scores; the trainer never names one."""

from seqkit.tasks.base import TASKS, RunConfig, RunTask

__all__ = ["TASKS", "RunConfig", "RunTask"]
