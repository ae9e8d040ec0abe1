"""Change one place of the code at random, run the tests that reach it, and count the changes that no test notices.

    python scripts/faults/mutants.py --cover cover.json --map tests/training tests/test_*.py   # who runs which line
    python scripts/faults/mutants.py --cover cover.json --rooms training files.py --number 40 --seed 1
    python scripts/faults/mutants.py --cover cover.json --only config:412 --seconds 600        # all tests of a survivor

`--map` runs tests under coverage (extra `dev`), which takes 1.5 times as long as without, and adds them to the file; do
so again for each file of tests that changes. A mutant's tests run in turn, quick ones first and one of each function
before a second, until one fails or `--seconds` are used up: a survivor has survived those tests alone. Tests of
subprocesses are not mapped. Whatever fails without a change, too, kills nothing: look at the test that is named.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
# fmt: off
COMPARISONS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}
# fmt: on
TIMES = """import json
def pytest_runtest_logreport(report):
    if report.outcome == "passed":
        with open("{home}/times", "a") as file:
            print(json.dumps([report.nodeid, report.duration]), file=file)
"""
PROSE = {"help", "description", "metavar", "rich_help_panel", "stacklevel", "strict"}  # keywords that may go
NOT_RUN = {"annotation", "returns", "decorator_list", "bases", "msg"}


def changed(node: ast.AST, **fields: Any) -> Any:
    return type(node)(**{**dict(ast.iter_fields(node)), **fields})


def expressions(node: ast.AST, parent: ast.AST, field: str) -> Iterator[tuple[str, ast.AST]]:
    """Yield what is put in the place of an expression, and the name of the change."""
    match node:
        case ast.Compare(ops=ops):
            for number, operator in enumerate(ops):
                for other in COMPARISONS[type(operator)]:
                    yield "comparison", changed(node, ops=[*ops[:number], other(), *ops[number + 1 :]])
        case ast.BinOp(left=left, right=right, op=op) if type(op) in ARITHMETIC:
            text = (one for one in (left, right) if isinstance(one, (ast.JoinedStr, ast.Constant)))
            if not any(isinstance(getattr(one, "value", ""), str) for one in text):
                yield "arithmetic", changed(node, op=ARITHMETIC[type(op)]())
        case ast.BoolOp(op=op, values=values):
            yield "and/or", changed(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
            for number in range(len(values)):
                rest = [*values[:number], *values[number + 1 :]]
                yield "condition dropped", rest[0] if len(rest) == 1 else changed(node, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "sign", operand
        case ast.Constant(value=bool(value)):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield from (("off by one", ast.Constant(value + step)) for step in (1, -1))
        case ast.Constant(value=str(value)) if value:
            keyed = isinstance(parent, ast.Subscript) or (isinstance(parent, ast.Dict) and field == "keys")
            looked_up = isinstance(parent, ast.Call) and ast.unparse(parent.func).endswith((".get", ".pop"))
            if keyed or isinstance(parent, ast.Compare) or (looked_up and parent.args[0] is node):  # type: ignore[attr-defined]
                yield "other text", ast.Constant(value + "~")
        case ast.Call(args=args, keywords=keywords):
            crash = ast.unparse(node.func) in ("isinstance", "getattr", "setattr", "hasattr")  # any test would notice
            if len(args) >= 2 and not crash and not any(isinstance(one, ast.Starred) for one in args[:2]):
                yield "arguments swapped", changed(node, args=[args[1], args[0], *args[2:]])
            for number, word in enumerate(keywords):
                if word.arg and word.arg not in PROSE:
                    yield "keyword dropped", changed(node, keywords=[*keywords[:number], *keywords[number + 1 :]])
    if field == "test" and isinstance(parent, (ast.If, ast.While, ast.IfExp)):
        yield "condition negated", ast.UnaryOp(ast.Not(), node)  # type: ignore[arg-type]


def statements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Return(value=ast.Constant(value=None | False | "") | None):
            pass  # as good as None
        case ast.Expr(value=ast.Constant() | ast.Yield()):
            pass  # a docstring; what makes a function a context
        case ast.Return():
            yield "return None", ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Raise() | ast.AugAssign() | ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield "statement deleted", ast.Pass()
        case ast.Break() | ast.Continue():
            yield "other way out", ast.Continue() if isinstance(node, ast.Break) else ast.Break()


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Yield each node that runs, with its parent and the field that it stands in."""
    for field, value in ast.iter_fields(tree):
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or field in NOT_RUN or isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            if isinstance(node, ast.keyword) and node.arg in PROSE:
                continue
            yield node, tree, field
            if not isinstance(node, ast.JoinedStr):  # wording
                yield from places(node)


def reach(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> list[tuple[int, int]]:
    """Return ranges of lines; the tests of the first range that any test runs are those of the node."""
    ranges = [(getattr(node, "lineno", 1), getattr(node, "lineno", 1))]
    while node in parents:
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            ranges.append((node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0))
            ranges.append((node.lineno, node.end_lineno or 0))
        node = parents[node]
        if isinstance(node, ast.FunctionDef) and len(ranges) > 1:
            return ranges
    return [*ranges, (1, 10**6)]


def mutants(file: Path) -> Iterator[dict[str, Any]]:
    """Yield all changes of a file, in the order of its text: kind, line, the old text, the new text."""
    text = file.read_bytes()
    starts = [0, *itertools.accumulate(map(len, text.splitlines(keepends=True)))]
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    seen = {ast.dump(tree)}
    for node, parent, field in places(tree):
        if not hasattr(node, "lineno"):
            continue
        begin = starts[node.lineno - 1] + node.col_offset
        end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
        for kind, new in [*expressions(node, parent, field), *statements(node)]:
            words = ast.unparse(ast.fix_missing_locations(new))
            if isinstance(new, ast.expr) and not isinstance(new, (ast.Constant, ast.Call, ast.Name)):
                words = f"({words})"
            result = text[:begin] + words.encode() + text[end:]
            with suppress(SyntaxError):
                shape = ast.dump(ast.parse(result))
                if shape not in seen:
                    seen.add(shape)
                    place = {"file": str(file.relative_to(HERE)), "line": node.lineno, "kind": kind}
                    change = {"old": text[begin:end].decode(), "new": words, "text": result.decode()}
                    yield {**place, **change, "ranges": reach(node, parents)}


def add_to_map(cover: Path, tests: list[str]) -> None:
    """Run the tests under coverage, and write into `cover` which of them run which line and how long each takes."""
    if importlib.util.find_spec("pytest_cov") is None:
        raise SystemExit("mutants.py: --map needs pytest-cov: pip install pytest-cov")
    import coverage

    known = json.loads(cover.read_text()) if cover.exists() else {"lines": {}, "times": {}}
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "rc").write_text(f"[run]\ndata_file = {home}/data\ninclude = {HERE}/seqkit/*\n")
        (Path(home) / "times_of_tests.py").write_text(TIMES.format(home=home))
        options = ["--cov", f"--cov-config={home}/rc", "--cov-context=test", "--cov-report=", "-p", "times_of_tests"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *tests]
        subprocess.run(command, cwd=HERE, env={**os.environ, "PYTHONPATH": f"{home}{os.pathsep}{HERE}"})
        times = Counter[str]()
        for line in (Path(home) / "times").read_text().splitlines():
            name, seconds = json.loads(line)
            times[name] += seconds
        data = coverage.CoverageData(f"{home}/data")
        data.read()
        again = {name.partition("::")[0] for name in times}
        known["times"] = {n: s for n, s in known["times"].items() if n.partition("::")[0] not in again} | times
        for file in data.measured_files():
            lines = known["lines"].setdefault(str(Path(file).relative_to(HERE)), {})
            for line, contexts in data.contexts_by_lineno(file).items():
                new = {one.rpartition("|")[0] for one in contexts}
                # What a fixture runs, all tests of its file may see: the file's name stands for them.
                new |= {one.partition("::")[0] for one in contexts if one.endswith("|setup")}
                old = {one for one in lines.get(str(line), []) if one.partition("::")[0] not in again}
                lines[str(line)] = sorted((new & (known["times"].keys() | again)) | old)
    cover.write_text(json.dumps(known))


def tests_of(mutant: dict[str, Any], known: dict[str, Any], seconds: float) -> list[str]:
    """Return the tests that reach a mutant: quick ones first, one of each function before a second, as time allows."""
    lines, times = known["lines"].get(mutant["file"], {}), known["times"]
    found = ({t for line, ts in lines.items() if a <= int(line) <= b for t in ts} for a, b in mutant["ranges"])
    reaching = next(filter(None, found), set())
    turns = Counter[str]()
    order: list[tuple[bool, int, float, str]] = []
    for name in sorted(times, key=lambda name: times[name]):
        if name in reaching or name.partition("::")[0] in reaching:
            turns[name.partition("[")[0]] += 1
            order.append((name not in reaching, turns[name.partition("[")[0]], times[name], name))
    order.sort()
    fits = sum(at < seconds for at in itertools.accumulate(cost + 0.05 for *_, cost, _ in order))
    return [name for *_, name in order[: max(fits, 1)]]


def judge(tree: Path, mutant: dict[str, Any], tests: list[str], seconds: float) -> None:
    """Run the tests on a mutant, and put what came of it into its `result`."""
    if not tests:
        mutant["result"] = "not run"
        return
    (tree / mutant["file"]).write_text(mutant["text"], "utf-8")
    own = {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-n0", "--tb=no", "-p", "no:cacheprovider", *tests]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=tree, env={**os.environ, **own}, start_new_session=True, text=True, **streams)
    try:
        text, _ = run.communicate(timeout=120 + 5 * seconds)
    except subprocess.TimeoutExpired:
        text = "FAILED endless"
    with suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    shutil.copy2(HERE / mutant["file"], tree / mutant["file"])
    failed = [line.split(" - ")[0] for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if run.wait() and not failed:
        raise SystemExit(f"pytest did not run:\n{text}")
    mutant.update(result="killed" if failed else "survived", by=failed[0] if failed else f"{len(tests)} tests")


def draw(rooms: list[str], number: int, seed: int, only: list[str]) -> Iterator[dict[str, Any]]:
    for room in rooms:
        path = HERE / "seqkit" / room
        every = [one for file in ([path] if path.is_file() else sorted(path.rglob("*.py"))) for one in mutants(file)]
        for place, one in enumerate(every):
            one.update(room=room, id=f"{room}:{place}", by="")
        some = random.Random(f"{room} {seed}").sample(every, min(number, len(every)))
        yield from [one for one in every if one["id"] in only] if only else some


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cover", type=Path, required=True, help="JSON file: which tests run which line")
    parser.add_argument("--map", nargs="+", default=[], metavar="TEST", help="run these under coverage first")
    rooms = ["training", "run", "config", "cli", "files.py"]
    parser.add_argument("--rooms", nargs="*", default=rooms, help="folders and files of seqkit")
    parser.add_argument("--number", type=int, default=0, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROOM:NUMBER", help="these")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant")
    given = parser.parse_args()
    if given.map:
        add_to_map(given.cover, given.map)
    known, counts = json.loads(given.cover.read_text()), Counter[tuple[str, str]]()
    with tempfile.TemporaryDirectory(prefix="mutants-") as home:
        skipped = shutil.ignore_patterns(".*", "__pycache__", "build", "runs")  # else changes go unseen
        tree = Path(shutil.copytree(HERE, f"{home}/tree", ignore=skipped))
        for one in draw(given.rooms, given.number, given.seed, given.only):
            judge(tree, one, tests_of(one, known, given.seconds), given.seconds)
            print("{id} {file}:{line} {kind}: {result} {by}".format(**one), flush=True)
            if one["result"] != "killed":
                print(f"- {one['old']}\n+ {one['new']}\n", flush=True)
            counts[one["room"], one["result"]] += 1
    for (room, result), count in sorted(counts.items()):
        print(f"{room}: {count} {result}")


if __name__ == "__main__":
    main()
