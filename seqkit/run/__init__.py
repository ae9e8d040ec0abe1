"""Train, resume, evaluate and load runs: the only room that joins configuration, tasks and trainer."""

from seqkit.run.averaging import Average, average
from seqkit.run.config_files import config_schema, read_config
from seqkit.run.launch import Run, resume, train
from seqkit.run.loading import compare, evaluate, load, load_predictor, load_translator
from seqkit.run.options import describe_options, spelling
from seqkit.run.seeds import Seeds, train_seeds
from seqkit.tasks import TASKS
from seqkit.training.scores import counted

__all__ = [
    "TASKS",
    "Average",
    "Run",
    "Seeds",
    "average",
    "compare",
    "config_schema",
    "counted",
    "describe_options",
    "evaluate",
    "load",
    "load_predictor",
    "load_translator",
    "read_config",
    "resume",
    "spelling",
    "train",
    "train_seeds",
]
