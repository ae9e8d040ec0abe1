"""Learning: the Task contract, the one loop, optimisers and schedules, checkpoints and logs."""

from seqkit.training.config import TrainingConfig
from seqkit.training.devices import pick_device
from seqkit.training.loggers import Logger
from seqkit.training.run_folder import RunFolder
from seqkit.training.schedules import Schedule
from seqkit.training.scores import Result
from seqkit.training.task import Loss, Task
from seqkit.training.trainer import Trainer

__all__ = ["Logger", "Loss", "Result", "RunFolder", "Schedule", "Task", "Trainer", "TrainingConfig", "pick_device"]
