"""The one training loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from shutil import copyfile
from typing import Any

import torch

from seqkit.console import say
from seqkit.distributed import GONE, gathered, held, is_lost, largest, on_first, quiet, start, world
from seqkit.errors import Stopped, UserError
from seqkit.files import replace_file
from seqkit.training.ahead import Ahead
from seqkit.training.averaging import MovingAverage
from seqkit.training.best import OLD_TIES, choose
from seqkit.training.checkpoint import Checkpoints, copy_weights, save_weights
from seqkit.training.config import TrainingConfig
from seqkit.training.data_parallel import own_part
from seqkit.training.devices import failure, pick_device, repeatable, slow_bfloat16
from seqkit.training.loggers import Logger
from seqkit.training.random_state import kept_random, own_seed, random_states, seed_all, set_random_states
from seqkit.training.run_folder import RunFolder, write_outputs
from seqkit.training.run_log import Progress
from seqkit.training.scores import Result
from seqkit.training.signals import SignalWatch, not_finite
from seqkit.training.task import Task
from seqkit.training.trainer_state import (
    State,
    check_metric,
    check_settings,
    count_steps,
    differences,
    early_news,
    log_positions,
    shapes,
    surroundings,
)
from seqkit.training.update import NotFinite, Updater

_SOON = 3  # evaluations after which a score that is still 0 is said


class Trainer:
    """Trains a task into a run folder.

    Args:
        task: what is learned.
        config: how.
        folder: where logs, checkpoints and weights go; made where absent. A `RunFolder` that is locked stays so.
        device: `auto`, `cpu`, `cuda`, `mps`, `xpu`, or one of several by its number: `cuda:1`.
        seed: of every random generator, set by `fit` unless a checkpoint was restored.
    """

    def __init__(
        self,
        task: Task,
        config: TrainingConfig,
        folder: str | Path | RunFolder,
        *,
        device: str = "auto",
        seed: int = 1,
    ) -> None:
        start()
        self.task, self.config, self.seed = task, config, seed
        self.folder = folder if isinstance(folder, RunFolder) else RunFolder(folder)
        on_first(lambda: self.folder.checkpoints.mkdir(parents=True, exist_ok=True))
        self.device = pick_device(device)
        task.model.to(self.device)
        check_settings(task, config)
        self.state = State()
        self.updater = Updater(task, config, self.device)
        self.average = MovingAverage(task.model, config.ema) if config.ema else None
        self._checkpoints = Checkpoints(self.folder.checkpoints)  # only the first process reads and writes them
        self._restored = self._asked = False
        self._batch = ""  # the shapes of the one in work
        self._ahead: Ahead | None = None
        # Of several processes each may get Ctrl-C twice, from the terminal and from torchrun.
        self._watch = SignalWatch(insist=world() == 1)
        if config.compile:
            task.model.compile(dynamic=True)

    def restore(self) -> int:
        """Go back to the last whole checkpoint, if there is one.

        A damaged checkpoint is passed over, and leaves the list of the best.

        Returns:
            the step of the checkpoint, or 0.

        Raises:
            UserError: the checkpoint does not fit the task, or another version of seqkit wrote it; another process
                trains in the folder.
        """
        with held(self.folder.locked()):
            return self._find()

    def _find(self) -> int:
        self._asked = True
        step = on_first(self._checkpoints.latest)
        for damaged in on_first(self._checkpoints.damaged):
            say(f"{self._checkpoints.path(damaged)}: damaged checkpoint; passed over")
        if step is None:
            say(f"{self.folder}: no whole checkpoint; starting over")
            return 0
        try:
            self._restore(step)
        except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(
                f"{self._checkpoints.path(step)}: does not fit this configuration and this version of seqkit ({error})"
            ) from error
        return step

    def _restore(self, step: int) -> None:
        weights, saved = on_first(lambda: self._checkpoints.load(step, self.task.model.state_dict()))
        if own := saved.get("own_form"):
            weights = {name: value for name, value in weights.items() if name in self.task.model.state_dict()} | own
        self.task.model.load_state_dict(weights)
        self.updater.restore(**{name: saved[name] for name in ("optimizer", "scaler", "carry")})
        if self.average:
            # The weights file holds the averages, which are for use; the trained ones lie with the trainer's state.
            self.average.restore(**saved["average"])
            self.task.model.load_state_dict(saved["trained"], strict=False)
        whole = on_first(
            lambda: [tuple(pair) for pair in saved["state"]["best"] if self._checkpoints.is_whole(pair[1])]
        )
        known = {**saved["state"], "logs": log_positions(saved["state"]), "best": whole[: self.config.keep_best]}
        known.pop("sizes", None)
        self.state = State(**{"ties": OLD_TIES, **known})
        for line in differences(saved["made_with"], surroundings(self.device)):
            say(f"{self.folder}: {line}")
        set_random_states(saved["random"], self.seed, step)
        self._restored = True

    def fit(self) -> Result:
        """Train to the end; afterwards the model has the best weights, which are also in the run folder.

        Returns:
            steps, epochs and scores.

        Raises:
            Stopped: a signal came, the loss is not finite, or a checkpoint could not be written.
            UserError: another process trains in the folder, or a training that was not restored has checkpoints there.
        """
        with held(self.folder.locked()):
            return self._fit()

    def _fit(self) -> Result:
        if not self._asked and on_first(self._checkpoints.steps):
            raise UserError(
                f"{self.folder}: holds the checkpoints of an earlier training; call restore() before fit() to go on "
                "with it, or take another folder"
            )
        if not self._restored:
            seed_all(own_seed(self.seed))
        self._total = count_steps(self.task, self.config)
        if late := self.updater.freezing.unreached(None if self.config.steps else self.config.most_epochs, self._total):
            say(late)
        if self.config.precision == "bf16" and (slow := slow_bfloat16(self.device)) is not None:
            say(slow)
        loggers: dict[str, Logger] = {}
        on_first(lambda: self._start(loggers))
        self._progress = Progress(self.state.step, self._total, loggers)
        result: Result | None = None
        try:
            with self._watch, repeatable(self.config.deterministic):
                self.task.model.train()
                while not self._finished():
                    self._epoch()
                result = self._finish()
                if self._received():
                    self._leave()
                return result
        except OSError as error:
            raise Stopped(f"{self.folder}: {error}; {self.folder.kept()}") from error
        except (Exception, KeyboardInterrupt) as error:
            if is_lost(error):
                raise Stopped(f"{GONE}; {self.folder.kept()}") from None
            if (why := failure(error, self.device, self._batch, self.folder.kept)) is not None:
                raise Stopped(f"step {self.state.step + 1}: {why}") from error
            if not isinstance(error, Stopped):
                cause = "" if isinstance(error, KeyboardInterrupt) else " by an error"
                say(f"{self.folder}: stopped in update {self.state.step + 1}{cause}; {self.folder.kept()}")
            raise
        finally:
            self.updater.freezing.release()
            self._progress.close(result)

    def _start(self, loggers: dict[str, Logger]) -> None:
        """Start the loggers of the configuration, and put them into a dict."""
        settings = self.folder.settings() or {"training": self.config.model_dump(mode="json")}
        for name, logger in self.config.make_loggers().items():
            if self._restored:
                logger.resumed(self.state.step, self.state.logs.get(name))
            try:
                logger.start(self.folder.path, settings)
            except BaseException:
                for started in loggers.values():
                    started.end(None)
                raise
            loggers[name] = logger

    def _finished(self) -> bool:
        return self.state.complete(self.config) or self.state.lost_patience(self.config)

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
            self._unfreeze()
            self._batch = shapes(window[0])
            try:
                done = self.updater(window, state.step, self._total, state.plateau_factor, self._fetch)
            except NotFinite as error:
                examples = gathered(self.task.describe(error.batch) if error.batch is not None else [])
                raise quiet(not_finite(state.step + 1, str(error), examples, self.folder.kept())) from None
            state.count(done.losses, done.norm, done.rate, self.config.clip_norm)
            if self.average and not done.skipped:
                self.average.update()
            state.step += 1
            state.position += len(window)
            self._progress.step(done.tokens, waited)
            if state.step - state.logged >= self.config.log_every:
                self._log()
            if self.config.evaluate_every and state.step % self.config.evaluate_every == 0:
                self._evaluate()
            elif self.config.checkpoint_every and state.step % self.config.checkpoint_every == 0:
                self._save()
            if self._received():
                self._leave()
        else:
            return
        if not state.position:
            raise UserError("the training data gave no batch")
        state.epoch, state.position, self.updater.carry = state.epoch + 1, 0, None
        if not self.config.evaluate_every and state.epoch % self.config.evaluate_epochs == 0:
            self._evaluate()
        if self._received():
            self._leave()

    def _unfreeze(self) -> None:
        """Let train what is due, and say so once: what a resumed run has said before its checkpoint is in its log."""
        state = self.state
        stage = self.updater.advance(state.epoch, state.step)
        if stage != state.stage:
            state.stage = stage
            if news := self.updater.freezing.news(stage, state.epoch, state.step):
                self._progress.event("unfreeze", news.line, news.record)

    def _windows(self) -> Iterator[list[Any]]:
        """Yield the batches of each update that is left in this epoch."""
        batches = iter(own_part(self.task.batches(self.state.epoch, self.state.position)))
        self._ahead = None
        if self.device.type != "cpu":
            batches = self._ahead = Ahead(batches, lambda batch: self.task.send(batch, self.device))
        while window := list(islice(batches, self.config.accumulate)):
            yield window

    def _fetch(self) -> None:
        """Make and send the next batch, where there is a device that computes meanwhile."""
        if self._ahead is not None:
            self._ahead.fetch()

    def _log(self) -> None:
        state = self.state
        count = state.step - state.logged
        record: dict[str, Any] = {"step": state.step, "epoch": state.epoch + bool(state.position)}
        record.update({name: value / count for name, value in state.losses.items()})
        norm = state.norms / max(count - state.skipped, 1)
        clipped = {} if self.config.clip_norm is None else {"clipped": state.clipped}
        self._progress.train({**record, "grad_norm": norm, "lr": state.rate, **clipped})
        state.losses, state.norms, state.skipped, state.clipped, state.logged = {}, 0.0, 0, 0, state.step

    def _evaluate(self) -> None:
        """Score dev, remember whether it is better, and save."""
        state = self.state
        self._batch = ""
        if state.step > state.logged:
            self._log()
        scores = self._scores()
        state.evaluated = state.step
        if scores:
            check_metric(self.config.metric, tuple(scores))
        verdict = state.judge(scores, self.config) if scores else None
        if verdict is not None:
            self._progress.scores(state.step, state.epoch + bool(state.position), scores, verdict.note)
            self._progress.samples(state.step, self.task.samples())
            for name, item in self.task.artifacts().items():
                self._progress.artifact(item, name)
            if state.evaluations == _SOON and not self._finished():
                self._say_zeros()
        due = self.config.checkpoint_every and state.step % self.config.checkpoint_every == 0
        if (verdict and verdict.kept) or due or not self.config.checkpoint_every:
            self._save()

    def _say_zeros(self) -> None:
        """A score that has always been 0 says nothing about what is best."""
        state = self.state
        if state.zeros:
            times = "its only evaluation" if state.evaluations == 1 else f"all {state.evaluations} evaluations"
            say(f"{', '.join(state.zeros)}: 0 in {times}: {self.task.why_zero(state.zeros)}")

    def _scores(self) -> dict[str, float]:
        with self._evaluating():
            scores = self.task.evaluate()
            return on_first(lambda: scores)

    def _scores_and_outputs(self) -> tuple[dict[str, float], list[dict[str, Any]]]:
        scores, limit = self._scores(), self.config.keep_outputs
        with self._evaluating():
            return scores, self.task.dev_outputs(limit) if limit and scores else []

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        model = self.task.model
        averaged = self.average.applied() if self.average else nullcontext()
        model.eval()
        try:
            with torch.no_grad(), kept_random(self.device), averaged, self.updater.autocast():
                yield
        finally:
            model.train()

    def _save(self) -> None:
        """Write a checkpoint, drop those that are no longer wanted, and write model.safetensors again.

        Raises:
            Stopped: the disk refuses; the checkpoint before is whole.
        """
        state, model = self.state, self.task.model
        what = f"the checkpoint of step {state.step}"
        try:
            state.logs = on_first(self._progress.positions)
            saved = {"state": asdict(state), **self.updater.state(), "random": random_states()}
            saved["made_with"] = surroundings(self.device)
            weights = dict(model.state_dict())
            if self.average:
                saved["average"] = self.average.state()
                saved["trained"] = {name: weights[name].clone() for name in self.average.average}
                with self.average.applied():
                    weights = copy_weights(model.state_dict())
            plain = self.task.export(weights)
            saved["own_form"] = {name: value for name, value in weights.items() if name not in plain}
            on_first(lambda: self._checkpoints.save(state.step, plain, saved))
            what = f"{self.folder.weights.name} after step {state.step}"
            self._prune()
            source = self._checkpoints.weights(self._chosen()[0])
            on_first(lambda: self._replace_weights(lambda path: copyfile(source, path)))
            self._take_place()
        except OSError as error:
            why = f"cannot write {what} ({error.strerror or error})"
            raise Stopped(f"{self.folder}: {why}; {self.folder.kept()}") from error

    def _replace_weights(self, write: Callable[[Path], object]) -> None:
        """Write model.safetensors; outputs of the weights before are no longer true."""
        self.folder.outputs.unlink(missing_ok=True)
        replace_file(self.folder.weights, write)

    def _take_place(self) -> None:
        """A run that replaces another one gets its name as soon as it has weights."""
        if self.folder.becomes is not None and on_first(self.folder.take_place):
            self.folder.move(self.folder.becomes)
            self._checkpoints.folder = self.folder.checkpoints
            self._progress.moved(self.folder.path)

    def _prune(self) -> None:
        on_first(lambda: self._checkpoints.prune({self.state.step, *self._chosen()}))

    def _say_early(self) -> str:
        """Say that early stopping has ended the training, where it has; returns that line."""
        if self.state.complete(self.config) or not self.state.lost_patience(self.config):
            return ""
        line, record = early_news(self.state, self.config)
        self._progress.event("early_stopping", line, record)
        return line

    def _chosen(self) -> list[int]:
        """Return the steps whose weights are for use, the best first; the last one where nothing is scored."""
        return [step for _, step in self.state.best] or [self.state.step]

    def _received(self) -> bool:
        """Return whether any process has got a signal; all stop for it after the same update."""
        if agreed := largest(self._watch.received):  # 0 must not efface a signal that comes meanwhile
            self._watch.received = agreed
        return bool(agreed)

    def _leave(self) -> None:
        """A signal came: save and say how to go on."""
        if on_first(self._checkpoints.latest) != self.state.step:
            self._save()
        how = f"everything is saved. Continue with: {self.folder.resume_command}"
        how = how if self.folder.becomes is None else self.folder.kept()
        raise quiet(Stopped(f"stopped after step {self.state.step}; {how}", self._watch.exit_code))

    def _finish(self) -> Result:
        """Score what was not scored, average if asked, and give the model the chosen weights."""
        state = self.state
        if state.evaluated != state.step:
            self._evaluate()
        if self._received():
            self._leave()
        if on_first(self._checkpoints.latest) != state.step:
            self._save()
        self._prune()  # a process killed right after it had saved did not
        while self.folder.becomes is not None:  # another process resumes the run that is to be replaced
            if self._received():
                self._leave()
            time.sleep(1)
            self._take_place()
        self._say_zeros()
        stopped = self._say_early()
        self.task.settle()
        self.average = None  # the chosen weights are averages already
        files = [self._checkpoints.weights(step) for step in self._chosen()]
        chosen = choose(self.task, files, self._scores_and_outputs, self.config, state.ties)
        on_first(lambda: self._replace_weights(lambda path: save_weights(path, chosen.weights)))
        on_first(lambda: write_outputs(self.folder.outputs, chosen.outputs))
        self._progress.artifact(self.folder.weights, self.folder.weights.name)
        self.task.model.eval()
        return Result(self._chosen()[0], chosen.scores, chosen.averaged, stopped)
