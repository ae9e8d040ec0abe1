"""Tokens a second of one process and of several on this machine, a thread each, in turn; prints a table.

    SEQKIT_DATA=/folder/of/the/data python scripts/bench/processes.py                      # about 10 minutes
    python scripts/bench/processes.py configs/sentiment/quickstart.yaml --processes 1 2 4 --rounds 5

Each round starts every number of processes once, as a user does, and trains the same global batches: the first updates
are left out, then a median is taken within the run (timing.jsonl has a line for each 10 updates) and another over the
rounds. `CPU` is processor time for a million tokens beside that of one process, reading the data left out: what is lost
to communication and to smaller batches, whatever else runs on the machine.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.timing import CONFIGS, SCRIPTS, parser_for, setting, take_turns, write

SKIPPED = 3  # lines of the log in which everything warms up


def run(config: Path, overrides: list[str], processes: int, steps: int, root: Path) -> tuple[float, float]:
    """Tokens a second, and processor seconds of the whole job."""
    name = f"p{processes}-{steps}"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    settings = ["training.epochs=null", f"training.steps={steps}", "training.log_every=10", "device=cpu"]
    # What chooses by scores on dev would want dev data.
    settings += ["training.keep_best=1", "training.average_best=false", "training.early_stopping=null"]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "seqkit", "train", str(config)]
    command += [*overrides, *settings, "data.dev=null", "data.test=null"]
    command += [f"name={name}", "--overwrite"]
    paths = os.pathsep.join([str(SCRIPTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    place = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=root, env=place, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    lines = (root / "runs" / name / "timing.jsonl").read_text("utf-8").splitlines()
    speeds = [json.loads(line)["tokens_per_second"] for line in lines[SKIPPED:]]
    return statistics.median(speeds) if speeds else 0.0, seconds


def main() -> None:
    parser = parser_for(__doc__, rounds=3)
    default = CONFIGS / "translation/multi30k-de-en.yaml"
    parser.add_argument("config", nargs="?", type=Path, default=default)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=150)
    given = parser.parse_args()
    about = setting(given, config=str(given.config), updates=given.steps)
    with tempfile.TemporaryDirectory() as folder:
        config, root = given.config.resolve(), Path(folder)
        for count in given.processes:  # also fills the data cache
            run(config, given.overrides, count, 1, root)

        def measure(count: int) -> tuple[float, float]:
            speed, long = run(config, given.overrides, count, given.steps, root)
            return speed, long - run(config, given.overrides, count, 1, root)[1]

        measures = {str(count): partial(measure, count) for count in given.processes}
        taken = take_turns(measures, given.rounds, warmup=0)
    speeds = {int(count): [speed for speed, _ in values] for count, values in taken.items()}
    costs = {int(count): [cost for _, cost in values] for count, values in taken.items()}
    first = given.processes[0]
    print(f"{given.config}: {given.steps} updates, median (least, most) of {given.rounds} rounds")
    print("processes  tokens/s                   speed   CPU")
    for count in given.processes:
        middle, base = (statistics.median(speeds[number]) for number in (count, first))
        cost, cost_base = (statistics.median(costs[number]) for number in (count, first))
        spread = f"{middle:9,.0f} ({min(speeds[count]):,.0f}, {max(speeds[count]):,.0f})"
        print(f"{count:9}  {spread:25}  {middle / base:5.2f}  {cost / cost_base:5.2f}")
    rows = [{"processes": n, "tokens_per_second": speeds[n], "cpu_s": costs[n]} for n in given.processes]
    write(given, about, rows)


if __name__ == "__main__":
    main()
