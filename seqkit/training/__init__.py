"""Learning: the Task contract, the one loop, optimisers and schedules, checkpoints and logs."""

from seqkit.training.config import TrainingConfig
from seqkit.training.devices import pick_device
from seqkit.training.run_folder import RunFolder
from seqkit.training.schedules import Schedule
from seqkit.training.task import Loss, Task
from seqkit.training.trainer import Trainer
from seqkit.training.trainer_state import Result

__all__ = ["Loss", "Result", "RunFolder", "Schedule", "Task", "Trainer", "TrainingConfig", "pick_device"]
