"""What the sentiment job costs beside the mathematics, measured in turn in one run; medians.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench/sentiment.py [--config FILE] [--rounds 5] [--only torch]

torch     trained tokens a second / those of scripts/peers/sentiment.py, without adversarial training on both sides
loop      wall time of a training epoch / of replaying the same collated batches through forward, backward, clipping
          and step
start     from the shell's return key to the first update done, warm cache; and `import` beside torch's own
predict   p50 and p95 latency of one text on a loaded model, and `seqkit predict` on 10,000 lines, start included
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import seqkit
from seqkit.run import read_config
from seqkit.tasks import RunTask
from seqkit.training import Trainer
from seqkit.training.optim import clip, make_optimizer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import CONFIGS, medians, parser_for, ratio, seconds, setting, take_turns, write
from peers import sentiment as peer


def timed_epoch(task: RunTask, config: Any, epoch: int) -> float:
    """Seconds from asking for the first batch to the end of the last update, by the trainer's own loop."""
    marks: list[float] = []
    batches = task.batches

    def watched(number: int, start: int = 0) -> Iterator[Any]:
        marks.append(time.perf_counter())
        yield from batches(epoch)
        marks.append(time.perf_counter())

    task.batches = watched  # type: ignore[method-assign]
    evaluate, task.evaluate = task.evaluate, dict  # type: ignore[method-assign,assignment]
    settings = config.training.model_copy(update={"epochs": 1, "steps": None})
    settings = settings.model_copy(update={"schedule": type(settings.schedule)(), "early_stopping": None})
    with tempfile.TemporaryDirectory() as folder:
        Trainer(task, settings, folder, device="cpu", seed=epoch).fit()
    task.batches, task.evaluate = batches, evaluate  # type: ignore[method-assign]
    return marks[-1] - marks[-2]


def timed_replay(task: RunTask, config: Any, epoch: int) -> float:
    """Seconds for the same batches, collated beforehand."""
    batches = list(task.batches(epoch))
    optimizer = make_optimizer(task.model, config.training.optimizer)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    task.model.train()
    start = time.perf_counter()
    for batch in batches:
        loss = task.loss(batch, None)[0]["loss"]
        (loss.sum / loss.weight).backward()  # type: ignore[no-untyped-call]
        clip(parameters, config.training.clip_norm, config.training.clip_value)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return time.perf_counter() - start


def make_peer(task: RunTask, config: Any) -> peer.Classifier:
    """The torch script's model with the weights of ours; raises if it computes something else."""
    ours, given = task.model, config.model
    table = ours.encoder.embedding.table.weight.detach()
    model = peer.Classifier(
        table,
        given.encoder.hidden_size,
        ours.output.out_features,
        word_dropout=given.embedding.word_dropout,
        input_dropout=given.embedding.dropout,
        dropout=given.dropout,
    )
    model.lstm.load_state_dict(ours.encoder.recurrent.state_dict())
    for name in ("project", "score"):
        getattr(model, name).load_state_dict(getattr(ours.pooling, name).state_dict())
    model.output.load_state_dict(ours.output.state_dict())
    batch = next(iter(task.batches(0)))
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(batch.ids, batch.lengths), ours.eval()(batch.ids, batch.lengths), atol=1e-4, rtol=1e-4
        )
    return model


def against_torch(config_path: Path, rounds: int) -> dict[str, Any]:
    """Whole epochs of both in turn: batches made, trained on, weights updated."""
    config, kind = read_config(config_path, ["training.adversarial=0"])
    torch.manual_seed(1)
    task = kind.create(config)
    model, settings = make_peer(task, config), config.training
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.optimizer.lr)
    split = task.splits["train"]
    sequences: list[Tensor] = [torch.tensor(split.ids[row], dtype=torch.int64) for row in range(len(split))]
    labels = torch.from_numpy(split.labels)
    epochs = {"seqkit": itertools.count(), "torch": itertools.count()}

    def their_epoch() -> float:
        order = [batch.rows for batch in task.batches(next(epochs["torch"]))]
        return seconds(lambda: peer.train_epoch(model, optimizer, sequences, labels, order, settings.clip_norm))

    ours = {"seqkit": lambda: timed_epoch(task, config, next(epochs["seqkit"]))}
    times = take_turns({**ours, "torch": their_epoch}, rounds)
    tokens = sum(len(sequence) for sequence in sequences)
    rates = {f"{name}_tokens_per_second": tokens / value for name, value in medians(times).items()}
    return {**rates, "ratio": ratio(times["torch"], times["seqkit"])}


def loop_overhead(config_path: Path, rounds: int) -> dict[str, Any]:
    config, kind = read_config(config_path)
    torch.manual_seed(1)
    task = kind.create(config)
    epochs = {"epoch_s": itertools.count(), "replay_s": itertools.count()}
    measures = {
        "epoch_s": lambda: timed_epoch(task, config, next(epochs["epoch_s"])),
        "replay_s": lambda: timed_replay(task, config, next(epochs["replay_s"])),
    }
    times = take_turns(measures, rounds)
    found, tokens = medians(times), sum(task.tokens(batch) for batch in task.batches(0))
    share = ratio(times["epoch_s"], times["replay_s"])
    return {**found, "ratio": share, "tokens_per_second": tokens / found["epoch_s"]}


def wall(*command: str) -> float:
    return seconds(lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True))


def first_step(config_path: Path, folder: str, name: str) -> float:
    """Seconds until the first update is done."""
    command = ["-m", "seqkit", "train", str(config_path.resolve()), "training.epochs=null", "training.steps=1"]
    command += ["training.log_every=1", f"name={name}"]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, *command], cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.startswith("step 1"):
                process.kill()
                return time.perf_counter() - start
    raise RuntimeError("the training ended before its first update")


def starting(config_path: Path, rounds: int) -> dict[str, Any]:
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        measures = {
            "first_step_s": lambda: first_step(config_path, folder, f"run{next(numbers)}"),
            "import_torch_s": lambda: wall("-c", "import torch"),
            "import_seqkit_s": lambda: wall("-c", "import seqkit; seqkit.train"),
        }
        return medians(take_turns(measures, rounds))


def predicting(config_path: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        shorter = ["training.epochs=null", "training.steps=1"]
        run = seqkit.train(config_path, *shorter, root=folder)
        task = seqkit.load(run.folder)
        texts = [text for text, _ in zip(_texts(task), range(10_000), strict=False)]
        times = [seconds(lambda text=text: task.predict([text])) for text in texts[:300]]  # type: ignore[misc]
        path = Path(folder) / "lines.txt"
        path.write_text("\n".join(texts) + "\n", "utf-8")
        whole = wall("-m", "seqkit", "predict", str(run.folder), str(path))
    times = sorted(times[20:])
    return {
        "p50_ms": 1e3 * times[len(times) // 2],
        "p95_ms": 1e3 * times[int(len(times) * 0.95)],
        "lines_per_second": len(texts) / whole,
    }


def _texts(task: Any) -> Iterator[str]:
    """Texts of the training data, over and over."""
    made = type(task).create(task.config)
    while True:
        for row in made.splits["train"].source.dataset:
            yield row["text"]


def main() -> None:
    parser = parser_for(__doc__, rounds=5)
    parser.add_argument("--config", type=Path, default=CONFIGS / "sentiment/sst2.yaml")
    parser.add_argument("--only", nargs="*", choices=["torch", "loop", "start", "predict"])
    given = parser.parse_args()
    about = setting(given)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "torch": lambda: against_torch(given.config, given.rounds),
        "loop": lambda: loop_overhead(given.config, given.rounds),
        "start": lambda: starting(given.config, given.rounds),
        "predict": lambda: predicting(given.config),
    }
    rows = [{"what": name, **parts[name]()} for name in given.only or parts]
    print(json.dumps(rows, indent=2))
    write(given, about, rows)


if __name__ == "__main__":
    main()
