"""Change one place of the code at random, run the tests that reach it, and count the changes that no test notices.

    python scripts/faults/mutants.py --cover cover.json --map tests/training tests/test_*.py   # who runs which line
    python scripts/faults/mutants.py --cover cover.json --rooms training config --number 40 --seed 1
    python scripts/faults/mutants.py --cover cover.json --only config:412 --seconds 600        # all tests of a survivor

`--map` runs tests under coverage, which takes 1.5 times as long as without (10 minutes of CPU time for the tests of
the rooms below), and adds them to the file; do so again for each file of tests that changes. A mutant then costs about
10 seconds of CPU time: its tests run in turn, quick ones first and one of each function before a second, until one
fails or `--seconds` are used up. So a survivor has survived those tests alone. Tests of subprocesses are not mapped.
A room is a folder or file of seqkit. The last table counts, and the places and changes of all survivors follow.
Needs pytest-cov and POSIX.
"""

from __future__ import annotations

import argparse
import ast
import compileall
import copy
import importlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
ROOMS = {name: [f"seqkit/{name}"] for name in ("training", "run", "config", "cli")}
FILES = ("files", "training/run_folder", "training/reservation", "training/locks", "training/checkpoint")
ROOMS["files"] = [f"seqkit/{name}.py" for name in FILES]
LIBRARIES = ["pytest", "torch", "numpy", "pydantic", "yaml", "typer", "tqdm", "safetensors.torch", "tokenizers"]
LIBRARIES += ["pyarrow", "pandas", "sacrebleu", "hypothesis"]

COMPARISONS: dict[type, list[type]] = {
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt], ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.In: [ast.NotIn], ast.NotIn: [ast.In], ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
}  # fmt: skip
ARITHMETIC: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
UNWRITTEN = "ignore::pytest.PytestAssertRewriteWarning"  # of what is imported before pytest begins
TIMES = """import json
def pytest_runtest_logreport(report):
    if report.outcome == "passed":
        with open("{home}/times", "a") as file:
            print(json.dumps([report.nodeid, report.duration]), file=file)
"""
PROSE = {"help", "description", "metavar", "rich_help_panel", "stacklevel", "strict"}  # keywords that may go
NOT_RUN = {"annotation", "returns", "decorator_list", "bases", "msg"}


def changed(node: ast.AST, **fields: Any) -> Any:
    new = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def expressions(node: ast.AST, parent: ast.AST, field: str) -> Iterator[tuple[str, ast.AST]]:
    """What is put in the place of an expression, and how that is called."""
    match node:
        case ast.Compare(ops=ops):
            for number, operator in enumerate(ops):
                for other in COMPARISONS[type(operator)]:
                    yield "comparison", changed(node, ops=[*ops[:number], other(), *ops[number + 1 :]])
        case ast.BinOp(left=left, right=right, op=op) if type(op) in ARITHMETIC:
            text = [ast.JoinedStr, ast.Constant]
            if not any(type(one) in text and isinstance(getattr(one, "value", ""), str) for one in (left, right)):
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
        case ast.Constant(value=int(value)):
            yield from (("off by one", ast.Constant(value + step)) for step in (1, -1))
        case ast.Constant(value=float(value)):
            yield "constant", ast.Constant(value * 2 + 0.5)
        case ast.Constant(value=str(value)) if value:
            keyed = isinstance(parent, ast.Subscript) or (isinstance(parent, ast.Dict) and field == "keys")
            looked_up = isinstance(parent, ast.Call) and ast.unparse(parent.func).endswith((".get", ".pop"))
            if keyed or isinstance(parent, ast.Compare) or (looked_up and parent.args[0] is node):  # type: ignore[attr-defined]
                yield "other text", ast.Constant(value + "~")
        case ast.Call(args=args, keywords=keywords):
            crash = ast.unparse(node.func) in ("isinstance", "getattr", "setattr", "hasattr")  # kills nobody's doubt
            if len(args) >= 2 and not crash and not any(isinstance(one, ast.Starred) for one in args[:2]):
                yield "arguments swapped", changed(node, args=[args[1], args[0], *args[2:]])
            for number, word in enumerate(keywords):
                if word.arg and word.arg not in PROSE:
                    yield "keyword dropped", changed(node, keywords=[*keywords[:number], *keywords[number + 1 :]])
        case ast.IfExp(body=body, orelse=orelse):
            yield "branches swapped", changed(node, body=orelse, orelse=body)
    if field == "test" and isinstance(parent, (ast.If, ast.While, ast.IfExp)):
        yield "condition negated", ast.UnaryOp(ast.Not(), copy.deepcopy(node))  # type: ignore[arg-type]


def statements(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    match node:
        case ast.Return(value=ast.Constant(value=None | False | "") | None):
            pass  # as good as None
        case ast.Expr(value=ast.Constant() | ast.Yield()):
            pass  # a docstring; what makes a function a context
        case ast.Return():
            yield "return None", ast.Return(ast.Constant(None))
        case ast.Expr() | ast.Raise() | ast.AugAssign():
            yield "statement deleted", ast.Pass()
            if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
                yield "arithmetic", changed(node, op=ARITHMETIC[type(node.op)]())
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield "statement deleted", ast.Pass()
        case ast.Break():
            yield "continue for break", ast.Continue()
        case ast.Continue():
            yield "break for continue", ast.Break()


def places(tree: ast.AST) -> Iterator[tuple[ast.AST, ast.AST, str]]:
    """Each node that runs, with its parent and the field that it stands in."""
    for field, value in ast.iter_fields(tree):
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or field in NOT_RUN or isinstance(node, (ast.Import, ast.ImportFrom)):
                continue
            checked_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            if checked_only or (isinstance(node, ast.keyword) and node.arg in PROSE):
                continue
            yield node, tree, field
            if not isinstance(node, ast.JoinedStr):  # wording
                yield from places(node)


def reach(node: ast.AST, parents: dict[ast.AST, ast.AST]) -> list[tuple[int, int]]:
    """Ranges of lines: who runs the first one that any test runs, runs a node. Its statement, then what uses that."""
    while not isinstance(node, ast.stmt):
        node = parents[node]
    body = getattr(node, "body", None)
    ranges = [(node.lineno, body[0].lineno - 1 if body else node.end_lineno or 0)]
    above = [node] if isinstance(node, ast.FunctionDef) else []  # a default, which its calls use
    while node in parents:
        node = parents[node]
        if isinstance(node, ast.FunctionDef):
            return ranges
        above.append(node)
    return ranges + [(getattr(one, "lineno", 1), getattr(one, "end_lineno", None) or 10**6) for one in above]


def mutants(file: Path) -> Iterator[dict[str, Any]]:
    """All changes of a file, in the order of its text: kind, line, what stood there, what stands there now."""
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
                    yield {**place, **change, "ranges": [(node.lineno, node.lineno), *reach(node, parents)]}


def add_to_map(cover: Path, tests: list[str]) -> None:
    """Run the tests under coverage, and write into `cover` which of them run which line and how long each takes."""
    import coverage

    known = json.loads(cover.read_text()) if cover.exists() else {"lines": {}, "times": {}}
    with tempfile.TemporaryDirectory() as home:
        names = [name for names in ROOMS.values() for name in names]
        rooms = "\n    ".join(f"{HERE}/{name}{'' if name.endswith('.py') else '/*'}" for name in names)
        (Path(home) / "rc").write_text(f"[run]\ndata_file = {home}/data\ninclude =\n    {rooms}\n")
        (Path(home) / "times_of_tests.py").write_text(TIMES.format(home=home))
        options = ["--cov", f"--cov-config={home}/rc", "--cov-context=test", "--cov-report=", "-p", "times_of_tests"]
        paths = {"PYTHONPATH": f"{home}{os.pathsep}{HERE}"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *tests]
        subprocess.run(command, cwd=HERE, env={**os.environ, **paths})
        passed = Counter()
        for line in (Path(home) / "times").read_text().splitlines():
            name, seconds = json.loads(line)
            passed[name] += seconds
        data = coverage.CoverageData(f"{home}/data")
        data.read()
        again = {name.partition("::")[0] for name in passed}
        known["times"] = {n: s for n, s in known["times"].items() if n.partition("::")[0] not in again} | passed
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
    """The tests that reach a mutant: quick ones first, one of each function before a second, as time allows."""
    lines, times = known["lines"].get(mutant["file"], {}), known["times"]
    for first, last in mutant["ranges"]:
        reaching = {test for line, tests in lines.items() if first <= int(line) <= last for test in tests}
        if reaching:
            break
    else:
        return []
    order: list[tuple[bool, int, float, str]] = []
    turns: Counter[str] = Counter()
    for name in sorted(times, key=lambda name: times[name]):
        direct = name in reaching
        if direct or name.partition("::")[0] in reaching:
            turns[name.partition("[")[0]] += 1
            order.append((not direct, turns[name.partition("[")[0]], times[name], name))
    chosen = []
    for *_, cost, name in sorted(order):
        seconds -= cost + 0.05
        if seconds < 0 and chosen:
            break
        chosen.append(name)
    return chosen


class Tree:
    """A copy of the checkout, in which one mutant at a time stands."""

    def __init__(self, path: Path) -> None:
        self.path, self.log = path, path.with_suffix(".log")
        command = ["git", "ls-files", "-co", "--exclude-standard"]
        for name in subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.splitlines():
            if (HERE / name).is_file():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(HERE / name, path / name)
        compileall.compile_dir(path / "seqkit", quiet=2)

    def start(self, tests: list[str], mutant: dict[str, Any] | None = None) -> None:
        """Fork into pytest; libraries are imported already, seqkit is not."""
        self.mutant, self.begun, self.tests = mutant, time.time(), tests
        if mutant is not None:
            (self.path / mutant["file"]).write_text(mutant["text"], "utf-8")
            os.utime(self.path / mutant["file"], (1, 1))  # no compiled file is of this time
        self.pid = os.fork()
        if self.pid:
            return
        os.setsid()
        file = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for number in (1, 2):
            os.dup2(file, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(self.path)
        elsewhere = [one for one in sys.path if not Path(one or ".").resolve().is_relative_to(HERE)]
        sys.path[:] = [str(self.path), *elsewhere]
        os.environ.update(PYTHONPATH=str(self.path), PYTHONDONTWRITEBYTECODE="1", TMPDIR=f"{self.path}.tmp")
        Path(f"{self.path}.tmp").mkdir(exist_ok=True)
        tempfile.tempdir, sys.argv, sys.dont_write_bytecode = None, ["pytest"], True
        code = 3
        try:
            import pytest

            code = int(pytest.main(["-x", "-n0", "--tb=no", "-p", "no:cacheprovider", "-W", UNWRITTEN, *tests]))
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)

    def ended(self, limit: float) -> str:
        """`killed` or `survived`; empty while the tests run."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        late = time.time() - self.begun > limit
        if not found and not late:
            return ""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if not found:
            os.waitpid(self.pid, 0)
        shutil.rmtree(f"{self.path}.tmp", ignore_errors=True)
        if self.mutant is not None:
            shutil.copy2(HERE / self.mutant["file"], self.path / self.mutant["file"])
        text = self.log.read_text("utf-8", "replace")
        lines = [line for line in text.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        failed = [line.partition(" ")[2].partition(" - ")[0] for line in lines]
        self.by = failed[0] if failed else "endless" if late else ""
        code = os.waitstatus_to_exitcode(status) if found else 1
        if code and not self.by and "ERROR collecting" not in text:
            raise SystemExit(f"pytest did not run:\n{text}")
        return "killed" if code else "survived"


def tell(mutant: dict[str, Any]) -> None:
    line = "{id} {result} {file}:{line} {kind}, {took:.0f} s, {tests} tests {by}".format(**mutant)
    print(line if mutant["result"] == "killed" else f"\n{line}\n- {mutant['old']}\n+ {mutant['new']}\n", flush=True)


def run_all(chosen: list[dict[str, Any]], known: dict[str, Any], given: argparse.Namespace) -> None:
    """Put a result into each mutant; who killed it must live without it."""
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    home = Path(tempfile.mkdtemp(prefix="mutants-"))
    free, busy, waiting = [Tree(home / str(job)) for job in range(given.jobs)], [], list(chosen)
    try:
        while waiting or busy:
            while waiting and free:
                mutant = waiting.pop(0)
                tests = tests_of(mutant, known, given.seconds)
                if not tests:
                    mutant.update(result="not run", by="", tests=0, took=0)
                    tell(mutant)
                    continue
                busy.append(free.pop())
                busy[-1].start(tests, mutant)
            time.sleep(0.05)
            for tree in list(busy):
                result = tree.ended(120 + 5 * given.seconds)
                if result and tree.mutant is not None:
                    tree.mutant.update(result=result, by=tree.by, tests=len(tree.tests), took=time.time() - tree.begun)
                    tell(tree.mutant)
                    busy.remove(tree)
                    free.append(tree)
        for test in sorted({one["by"] for one in chosen if "::" in one["by"]}):
            free[0].start([test])
            while not (result := free[0].ended(600)):
                time.sleep(0.05)
            for one in chosen:
                if one["by"] == test and result != "survived":
                    one["result"] = "killed by a test that fails without it"
    finally:
        shutil.rmtree(home, ignore_errors=True)


def draw(rooms: list[str], number: int, seed: int, only: list[str]) -> list[dict[str, Any]]:
    chosen = []
    for room in rooms:
        files = [HERE / name for name in ROOMS[room]]
        files = [one for file in files for one in ([file] if file.is_file() else sorted(file.rglob("*.py")))]
        every = [{**one, "room": room} for file in files for one in mutants(file)]
        for place, one in enumerate(every):
            one["id"] = f"{room}:{place}"
        some = random.Random(f"{room} {seed}").sample(every, min(number, len(every)))
        chosen += [one for one in every if one["id"] in only] if only else some
    return random.Random(seed).sample(chosen, len(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cover", type=Path, required=True, help="JSON file: which tests run which line")
    parser.add_argument("--map", nargs="+", default=[], metavar="TEST", help="run these under coverage first")
    parser.add_argument("--rooms", nargs="*", default=list(ROOMS), choices=list(ROOMS))
    parser.add_argument("--number", type=int, default=0, help="mutants of each room")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[], metavar="ROOM:NUMBER", help="these")
    parser.add_argument("--seconds", type=float, default=60, help="of tests for each mutant")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file for all results")
    given = parser.parse_args()
    if given.map:
        add_to_map(given.cover, given.map)
    chosen = draw(given.rooms, given.number, given.seed, given.only)
    run_all(chosen, json.loads(given.cover.read_text()), given)
    if given.out:
        given.out.write_text(json.dumps([{**one, "text": ""} for one in chosen], indent=1))
    for one in chosen:
        if one["result"] != "killed":
            tell(one)
    table = defaultdict(Counter)
    for one in chosen:
        table[one["room"]][one["result"]] += 1
    for room, counts in table.items():
        print(f"{room}: {counts.total()} mutants, " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
