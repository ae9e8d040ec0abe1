"""The one training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from seqkit.config import UserError
from seqkit.files import replace_file
from seqkit.training.averaging import MovingAverage, average_weights
from seqkit.training.checkpoint import (
    Checkpoints,
    copy_weights,
    load_weights,
    random_state,
    save_weights,
    seed_all,
    set_random_state,
)
from seqkit.training.folder import RunFolder
from seqkit.training.progress import Progress, say
from seqkit.training.settings import TrainingConfig
from seqkit.training.signals import SignalWatch, Stopped
from seqkit.training.state import Result, State, check_metric, check_settings, count_steps, pick_device
from seqkit.training.task import Task
from seqkit.training.update import NotFinite, Updater


class Trainer:
    """Trains a task into a run folder.

    Args:
        task: what is learned.
        config: how.
        folder: where logs, checkpoints and weights go; made where absent.
        device: `auto`, `cpu` or `cuda`.
        seed: of every random generator, set by `fit` unless a checkpoint was restored.
    """

    def __init__(
        self, task: Task, config: TrainingConfig, folder: str | Path, *, device: str = "auto", seed: int = 1
    ) -> None:
        self.task, self.config, self.seed = task, config, seed
        self.folder = RunFolder(folder)
        self.folder.checkpoints.mkdir(parents=True, exist_ok=True)
        self.device = pick_device(device)
        task.model.to(self.device)
        check_settings(task, config)
        self.state = State()
        self.updater = Updater(task, config, self.device)
        self.average = MovingAverage(task.model, config.ema) if config.ema else None
        self._checkpoints = Checkpoints(self.folder.checkpoints)
        self._restored = False
        self._watch = SignalWatch()
        if config.compile:
            task.model.compile(dynamic=True)

    def restore(self) -> int:
        """Go back to the last whole checkpoint, if there is one; returns its step."""
        step = self._checkpoints.latest()
        if step is None:
            return 0
        weights, saved = self._checkpoints.load(step)
        self.task.model.load_state_dict(weights)
        self.updater.restore(**{name: saved[name] for name in ("optimizer", "scaler", "carry")})
        if self.average:
            # The weights file holds the averages, which are for use; the trained ones lie with the trainer's state.
            self.average.restore(**saved["average"])
            self.task.model.load_state_dict(saved["trained"], strict=False)
        self.state = State(**{**saved["state"], "best": [tuple(pair) for pair in saved["state"]["best"]]})
        set_random_state(saved["random"])
        self._restored = True
        return step

    def fit(self) -> Result:
        """Train to the end; afterwards the model has the best weights, which are also in the run folder.

        Raises:
            Stopped: a signal came, the loss is not finite, or a checkpoint could not be written.
        """
        self.folder.lock()
        if not self._restored:
            seed_all(self.seed)
        self._total = count_steps(self.task, self.config)
        self._progress = Progress(
            self.folder, self.state.step, self._total, self.state.sizes, tensorboard=self.config.tensorboard
        )
        try:
            with self._watch:
                self.task.model.train()
                while not self._finished():
                    self._epoch()
                return self._finish()
        except OSError as error:
            raise Stopped(f"{self.folder}: {error}; `seqkit resume {self.folder}` continues the run") from error
        finally:
            self._progress.close()
            self.folder.unlock()

    def _finished(self) -> bool:
        stopping = self.config.early_stopping
        if stopping and self.state.stale >= stopping.patience:
            return True
        if self.config.steps:
            return self.state.step >= self.config.steps
        return self.state.epoch >= (self.config.epochs or 10)

    def _epoch(self) -> None:
        """Go on from where the epoch stands, to its end or to the end of training."""
        state = self.state
        windows = self._windows()
        while not self._finished():
            started = time.perf_counter()
            window = next(windows, None)
            if window is None:
                break
            waited = time.perf_counter() - started
            try:
                done = self.updater(window, state.step, self._total, state.plateau_factor)
            except NotFinite as error:
                raise self._not_finite(error) from None
            state.count(done.losses, done.norm, done.rate)
            if self.average and not done.skipped:
                self.average.update()
            state.step += 1
            state.position += len(window)
            self._progress.step(sum(self.task.tokens(batch) for batch in window), waited)
            if state.step - state.logged >= self.config.log_every:
                self._log()
            if self.config.evaluate_every and state.step % self.config.evaluate_every == 0:
                self._evaluate()
            elif self.config.checkpoint_every and state.step % self.config.checkpoint_every == 0:
                self._save()
            if self._watch.received:
                self._leave()
        else:
            return
        if not state.position:
            raise UserError("the training data gave no batch")
        state.epoch, state.position, self.updater.carry = state.epoch + 1, 0, None
        if not self.config.evaluate_every and state.epoch % self.config.evaluate_epochs == 0:
            self._evaluate()
        if self._watch.received:
            self._leave()

    def _windows(self) -> Iterator[list[Any]]:
        """The batches of each update that is left in this epoch."""
        batches = iter(self.task.batches(self.state.epoch, self.state.position))
        while window := list(islice(batches, self.config.accumulate)):
            yield window

    def _log(self) -> None:
        state = self.state
        count = state.step - state.logged
        record: dict[str, Any] = {"step": state.step, "epoch": state.epoch + bool(state.position)}
        record.update({name: value / count for name, value in state.losses.items()})
        self._progress.train({**record, "grad_norm": state.norms / count, "lr": state.rate})
        state.losses, state.norms, state.logged = {}, 0.0, state.step

    def _evaluate(self) -> None:
        """Score dev, remember whether it is better, and save."""
        state = self.state
        if state.step > state.logged:
            self._log()
        scores = self._scores()
        state.evaluated = state.step
        if scores:
            check_metric(self.config.metric, tuple(scores))
        kept = self._judge(scores[self.config.metric]) if scores else False
        if scores:
            best = state.best and state.best[0][1] == state.step
            self._progress.scores(state.step, state.epoch + bool(state.position), scores, "  (best)" if best else "")
            self._progress.samples(state.step, self.task.samples())
        due = self.config.checkpoint_every and state.step % self.config.checkpoint_every == 0
        if kept or due or not self.config.checkpoint_every:
            self._save()

    def _scores(self) -> dict[str, float]:
        model = self.task.model
        averaged = self.average.applied() if self.average else nullcontext()
        model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(), averaged, self.updater.autocast():
                return self.task.evaluate()
        finally:
            model.train()

    def _judge(self, score: float) -> bool:
        """Enter a score into the list of the best; whether it is in it."""
        state, config = self.state, self.config
        sign = 1.0 if config.more_is_better else -1.0
        margin = config.early_stopping.min_delta if config.early_stopping else 0.0
        value = sign * score if math.isfinite(score) else -math.inf
        better = state.reference is None or value > sign * state.reference + margin
        if better:
            state.reference = sign * value
        state.stale = 0 if better else state.stale + 1
        state.plateau_stale = 0 if better else state.plateau_stale + 1
        if config.schedule.name == "plateau" and state.plateau_stale > config.schedule.patience:
            state.plateau_factor *= config.schedule.factor
            state.plateau_stale = 0
        entry = (sign * value, state.step)
        # Sorting is stable: of two equal scores the earlier step stays ahead.
        state.best = sorted([*state.best, entry], key=lambda pair: -sign * pair[0])[: config.keep_best]
        return entry in state.best

    def _save(self) -> None:
        """Write a checkpoint, drop those that are no longer wanted, and renew model.safetensors.

        Raises:
            Stopped: the disk refuses; the checkpoint before is whole.
        """
        state, model = self.state, self.task.model
        before = self._checkpoints.latest()
        try:
            state.sizes = self._progress.sizes()
            saved = {
                "state": asdict(state),
                **self.updater.state(),
                "random": random_state(),
            }
            weights = dict(model.state_dict())
            if self.average:
                saved["average"] = self.average.state()
                saved["trained"] = {name: weights[name].clone() for name in self.average.average}
                with self.average.applied():
                    weights = copy_weights(model.state_dict())
            self._checkpoints.save(state.step, weights, saved)
            self._checkpoints.prune({state.step, *(step for _, step in state.best)})
            source = self._checkpoints.weights(self._chosen())
            replace_file(self.folder.weights, lambda path: copyfile(source, path))
        except OSError as error:
            rest = f"that of step {before} is whole: free some space, then `seqkit resume {self.folder}`"
            raise Stopped(
                f"{self.folder}: cannot write the checkpoint of step {state.step} ({error.strerror or error}); "
                + (rest if before is not None else "there is none before it")
            ) from error

    def _chosen(self) -> int:
        """The step whose weights are for use: the best, or the last where nothing is scored."""
        return self.state.best[0][1] if self.state.best else self.state.step

    def _leave(self) -> None:
        """A signal came: save and say how to go on."""
        if self._checkpoints.latest() != self.state.step:
            self._save()
        raise Stopped(
            f"stopped after step {self.state.step}; everything is saved. Continue with: seqkit resume {self.folder}",
            self._watch.exit_code,
        )

    def _not_finite(self, error: NotFinite) -> Stopped:
        last = self._checkpoints.latest()
        examples = self.task.describe(error.batch)
        shown = "".join(f"\n  {text[:200]}" for text in examples[:8])
        more = f"\n  ... and {len(examples) - 8} more" if len(examples) > 8 else ""
        kept = (
            f"the last good checkpoint is {self._checkpoints.path(last)}" if last is not None else "no checkpoint yet"
        )
        return Stopped(
            f"step {self.state.step + 1}: {error}; {kept}. A lower training.optimizer.lr or a smaller "
            f"training.clip_norm may help. The batch:{shown}{more}"
        )

    def _finish(self) -> Result:
        """Score what was not scored, average if asked, and give the model the chosen weights."""
        state = self.state
        if state.evaluated != state.step:
            self._evaluate()
        if self._watch.received:
            self._leave()
        if self._checkpoints.latest() != state.step:
            self._save()
        model = self.task.model
        chosen = load_weights(self._checkpoints.weights(self._chosen()))
        model.load_state_dict(chosen)
        self.average = None  # the chosen weights are averages already
        scores = self._scores()
        averaged = False
        if self.config.average_best and len(state.best) > 1:
            mean = average_weights([self._checkpoints.weights(step) for _, step in state.best])
            model.load_state_dict(mean)
            mean_scores = self._scores()
            sign = 1 if self.config.more_is_better else -1
            averaged = sign * mean_scores[self.config.metric] >= sign * scores[self.config.metric]
            say(
                f"average of the best {len(state.best)}: {self.config.metric} {mean_scores[self.config.metric]:.4f}"
                f" against {scores[self.config.metric]:.4f}: {'kept' if averaged else 'not kept'}"
            )
            scores = mean_scores if averaged else scores
            chosen = mean if averaged else chosen
            model.load_state_dict(chosen)
        replace_file(self.folder.weights, lambda path: save_weights(path, chosen))
        model.eval()
        return Result(self._chosen(), scores, averaged)
