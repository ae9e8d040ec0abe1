"""Several runs that differ in their seed, and what their scores are together."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from seqkit.console import say
from seqkit.distributed import on_all, on_first, start
from seqkit.errors import UserError
from seqkit.files import to_json, write_text
from seqkit.run.config_files import read_config
from seqkit.run.launch import Run, asked, resume, train_reserved
from seqkit.tasks import RunConfig, RunTask
from seqkit.training import RunFolder
from seqkit.training.reservation import Reservation, reserve
from seqkit.training.scores import Scores


@dataclass(frozen=True)
class Spread:
    """A score over several runs: the mean, the standard deviation (0 of a single run), and the score of each."""

    mean: float
    deviation: float
    values: list[float]


@dataclass(frozen=True)
class Seeds:
    """What `train_seeds` made.

    Attributes:
        runs: by their seed.
        dev: the scores on dev.
        test: those on test.
        file: where they are written, as JSON.
    """

    runs: dict[int, Run]
    dev: dict[str, Spread]
    test: dict[str, Spread]
    file: Path


@dataclass(frozen=True)
class _Part:
    """One of the runs to be: a name that is reserved, or where the same command has begun it, the folder."""

    seed: int
    config: RunConfig
    kind: type[RunTask]
    reserved: Reservation | None
    path: Path


def train_seeds(
    source: str | Path,
    overrides: list[str],
    seeds: int,
    *,
    overwrite: bool = False,
    root: str | Path = "runs",
    trust: bool = False,
    ended: Callable[[int, Run], object] = lambda seed, run: None,
) -> Seeds:
    """Train several runs, NAME-seedN, NAME being the file's by default; the summary is `root/NAME-seeds.json`.

    A second call with the same arguments goes on where the first was stopped or killed: what it had begun is resumed.

    Args:
        source: path of a YAML file.
        overrides: `KEY.PATH=VALUE` texts.
        seeds: how many runs, with seeds from `seed` on.
        overwrite: replace runs of these names, rather than to go on with them.
        root: the folder of runs.
        trust: see `train`.
        ended: called with each seed and its run.

    Raises:
        UserError: a name is taken by a run of another configuration; found before the first of them trains.
        Stopped: see `train`.
    """
    start()
    checked, _ = on_all(lambda: read_config(source, overrides, trust=trust))
    base, root = checked.name or Path(source).stem, Path(root)
    runs: dict[int, Run] = {}
    with ExitStack() as stack:
        parts = []
        for seed in range(checked.seed, checked.seed + seeds):
            own = [*overrides, f"seed={seed}", f"name={base}-seed{seed}"]
            config, kind = on_all(lambda own=own: read_config(source, own, trust=trust))  # type: ignore[misc]
            path = root / f"{base}-seed{seed}"
            reserved = on_first(lambda c=config, k=kind, p=path: _reserve(c, k, p, overwrite))  # type: ignore[misc]
            parts.append(_Part(seed, config, kind, reserved, path))
            if reserved is not None:
                stack.enter_context(reserved)
        for part in parts:
            runs[part.seed] = _train(part, trust)
            ended(part.seed, runs[part.seed])
    dev, test = (_spreads(getattr(run, part) for run in runs.values()) for part in ("dev", "test"))
    found = Seeds(runs, dev, test, root / f"{base}-seeds.json")
    on_first(lambda: _write(found))
    return found


def _reserve(config: RunConfig, kind: type[RunTask], path: Path, overwrite: bool) -> Reservation | None:
    """Return a name for a new run; None where the same command has begun it."""
    try:
        about = RunFolder.open(path).about() if not overwrite and path.exists() else {}
    except UserError:  # no run; what it is, is said below
        about = {}
    same = about.get("asked") == asked(config) if "asked" in about else about.get("config") == _dumped(config)
    if not about or not same:
        return reserve(config.name, kind.kind, root=path.parent, overwrite=overwrite)
    with RunFolder(path).locked():  # nobody else goes on with it
        return None


def _dumped(config: RunConfig) -> object:
    return config.model_dump(mode="json")


def _train(part: _Part, trust: bool) -> Run:
    if part.reserved is None:
        say(f"{part.path}: started by the same command before; continuing it")
        # What the user's own file names is the user's.
        return resume(part.path, trust=trust or part.config._names.known)
    with part.reserved:
        return train_reserved(part.reserved, part.config, part.kind, trust)


def _spreads(scores: Iterable[dict[str, float]]) -> dict[str, Spread]:
    table = list(scores)
    found = {}
    for name in table[0]:
        values = [row[name] for row in table]
        found[name] = Spread(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0, values)
    return found


def _write(found: Seeds) -> None:
    runs = {str(seed): run.folder.name for seed, run in found.runs.items()}
    tree: dict[str, object] = {"runs": runs}
    for part in ("dev", "test"):
        tree[part] = {name: asdict(spread) for name, spread in getattr(found, part).items()}
        given = [getattr(run, part) for run in found.runs.values()]
        tree[f"{part}_counts"] = [one.counts() for one in given if isinstance(one, Scores)]
    write_text(found.file, to_json(tree, indent=2) + "\n")
