"""Learning: the Task contract, the one loop, optimisers and schedules, checkpoints and logs."""

from seqkit.training.distributed import pick_device
from seqkit.training.folder import RunFolder
from seqkit.training.loop import Trainer
from seqkit.training.settings import TrainingConfig
from seqkit.training.signals import Stopped
from seqkit.training.state import Result
from seqkit.training.task import Loss, Task

__all__ = ["Loss", "Result", "RunFolder", "Stopped", "Task", "Trainer", "TrainingConfig", "pick_device"]
