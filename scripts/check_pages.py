"""Check the pages that seqkit writes: valid HTML, and accessible at desktop and phone width, in light and dark.

python scripts/check_pages.py [NAME or FILE.html ...] [--keep FOLDER]

Pages are made in a temporary folder. html-validate checks the HTML; axe-core, inlined into a copy of each page, checks
WCAG 2.2 A and AA (contrast among it) and good practice in headless Chromium; a page that is wider than its screen is a
finding, too. Both come from npm and are installed into a cache folder. Exit code 1: there are findings; 2: a program is
missing. --keep also leaves the pages, and pictures of them, in a folder.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import seqkit
from seqkit import report
from seqkit.console import table
from seqkit.lessons import LESSONS

PACKAGES = {"html-validate": "10", "axe-core": "4"}
WIDTHS = {"desktop": 1200, "phone": 390}
SCHEMES = {"light": 1, "dark": 0}  # Blink's preferredColorScheme
# Off: heat maps colour each cell by its value, in its style.
RULES = {"extends": ["html-validate:recommended"], "rules": {"no-inline-style": "off", "long-title": "off"}}


class Finding(NamedTuple):
    """Something wrong with a page: where it was seen, the broken rule, and what it is about."""

    page: str
    where: str
    rule: str
    message: str


class Missing(Exception):
    """A program that the checks need is not installed."""


# --- what is checked --------------------------------------------------------------------------------------------------

Maker = Callable[[Path], Sequence[Path]]
"""Writes pages into an empty folder, and returns their paths."""


def lesson(name: str) -> Maker:
    """Return the maker of a lesson's page."""

    def make(folder: Path) -> list[Path]:
        page = folder / f"{name}.html"
        LESSONS[name].write_page(page, LESSONS[name].blocks())
        return [page]

    return make


MAKERS: dict[str, Maker] = {f"lesson-{name}": lesson(name) for name in LESSONS}
"""Each kind of page. A new one is a line here: `MAKERS["report"] = make_report`."""

_LSTM = {"cell": "lstm", "hidden_size": 16}
RUNS: dict[str, dict[str, Any]] = {
    "sentiment": {
        "data": "builtin:reviews",
        "model": {"embedding": {"size": 16}, "encoder": _LSTM},
        "text": "the film is anything but dull .",
    },
    "slots": {
        "data": "builtin:travel",
        "model": {"embedding": {"size": 16}, "encoder": {**_LSTM, "bidirectional": True}},
        "text": "leave Taipei for Tokyo on Monday",
    },
    "translation": {
        "data": "builtin:phrases",
        "model": {"source": {"size": 16}, "target": {"size": 16}, "encoder": _LSTM, "decoder": _LSTM},
        "text": "the small dog sleeps",
    },
    "language_model": {
        "data": "builtin:reviews",
        "model": {"embedding": {"size": 16}, "encoder": _LSTM},
        "text": "the film is dull",
    },
}
"""Small runs whose pages are checked: data, model, and a text to explain."""


def train(root: Path, task: str, **training: Any) -> Path:
    """Train one of `RUNS` for a few updates, and return its folder."""
    chosen, source = RUNS[task], {"path": RUNS[task]["data"], "limit": 300}
    settings = {"steps": 30, "log_every": 3, "evaluate_every": 10, "report": False, **training}
    data = {"train": source, "dev": source, "batch_size": 8}
    tree = {"task": task, "name": training.get("name", task), "device": "cpu", "data": data, "model": chosen["model"]}
    settings.pop("name", None)
    return seqkit.train({**tree, "training": settings}, root=root).folder


def report_pages(task: str) -> Maker:
    """Return the maker of a run's pages: summary, whole report, one of two runs, and an explanation."""

    def make(folder: Path) -> list[Path]:
        runs = folder / "runs"
        first, second = train(runs, task), train(runs, task, name="second", steps=10)
        summary = shutil.copy(report.write_summary(first), folder / f"{task}-summary.html")
        whole = report.report(first, folder / f"{task}-report.html")
        both = report.report([first, second], folder / f"{task}-two-runs.html")
        why = folder / f"{task}-explained.html"
        command = [sys.executable, "-m", "seqkit", "explain", str(first), RUNS[task]["text"], "你好 مرحبا"]
        subprocess.run([*command, "--html", str(why)], capture_output=True, check=True)
        return [Path(summary), whole, both, why, *odd_pages(folder, task, first)]

    return make


def odd_pages(folder: Path, task: str, run: Path) -> list[Path]:
    """Write the page of a run that was killed before its first evaluation, without logs or outputs."""
    bare = shutil.copytree(run, folder / "bare")
    for name in ("metrics.jsonl", "timing.jsonl", "dev.jsonl", "scores.json"):
        (bare / name).unlink()
    return [Path(shutil.copy(report.write_summary(bare), folder / f"{task}-bare.html"))]


def runs_page(folder: Path) -> list[Path]:
    """Write the page about all runs of a folder, one with a report and one without."""
    report.write_summary(train(folder, "sentiment"))
    train(folder, "slots", steps=5)
    return [report.write_runs(report.run_rows(folder), folder / "runs.html")]


MAKERS |= {f"report-{task}": report_pages(task) for task in RUNS}
MAKERS["runs"] = runs_page


def serve_pages(folder: Path) -> list[Path]:
    """Make copies of what `seqkit serve` shows: an answer, with an explanation and with gates, and /docs."""
    try:
        from selenium import webdriver
        from selenium.webdriver.support.wait import WebDriverWait
    except ImportError:
        raise Missing("selenium is not installed; pip install selenium") from None
    fixtures = Path(__file__).resolve().parents[1] / "tests" / "fixtures" / "2026-11"
    runs = [str(fixtures / f"{task}-finished") for task in ("translation", "sentiment")]
    command = [sys.executable, "-m", "seqkit", "serve", *runs, "--port", "0", "--device", "cpu"]
    options = webdriver.ChromeOptions()
    options.binary_location = browser()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    pages = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
        try:
            assert server.stdout is not None
            address = re.findall(r"http://[^/]+/", server.stdout.readline())[0]
            for name, path, done, selector in _SERVED:
                driver.get(address + path)
                driver.execute_script(_DRIVE, selector)
                WebDriverWait(driver, 60).until(lambda one, done=done: one.execute_script(f"return {done}"))
                page = folder / f"serve-{name}.html"
                page.write_text(driver.execute_async_script(_COPY), "utf-8")
                pages.append(page)
        finally:
            driver.quit()
            server.terminate()
    return pages


_SERVED = [
    ("words", "", "document.querySelector('#explanation table, #explanation figure') !== null", "[data-what=words]"),
    ("gates", "", "document.querySelector('[data-gates]') !== null", "[data-what=gates]"),
    ("docs", "docs", "document.readyState === 'complete'", ""),
]
"""Name, address, when it is there, and what is clicked, once there is an answer."""

_DRIVE = """
const box = document.getElementById("text"), what = arguments[0];
if (what) setTimeout(function wait() {
  if (!/parameters/.test(document.getElementById("about").textContent)) return setTimeout(wait, 50);
  if (!box.value) { box.value = "a superb , warm film"; box.dispatchEvent(new Event("input")); }
  if (document.getElementById("more").hidden) return setTimeout(wait, 50);
  document.querySelector(what).click();
});
"""

_COPY = """
const done = arguments[0], links = [...document.querySelectorAll("link[rel=stylesheet]")];
Promise.all(links.map(link => fetch(link.href).then(answer => answer.text()))).then(sheets => {
  links.forEach((link, place) => {
    const style = document.createElement("style");
    style.textContent = sheets[place];
    link.replaceWith(style);
  });
  document.querySelectorAll("script").forEach(script => script.remove());
  done("<!DOCTYPE html>\\n" + document.documentElement.outerHTML.replace(/ (autofocus|hidden)=""/g, " $1"));
});
"""

MAKERS["serve"] = serve_pages

# --- programs ---------------------------------------------------------------------------------------------------------


def cache() -> Path:
    """Return the folder that holds the packages from npm."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seqkit-check-pages"


def browser() -> str:
    """Return the path of Chromium.

    Raises:
        Missing: it is not installed.
    """
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if path := shutil.which(name):
            return path
    raise Missing("chromium is not installed; on Debian: apt-get install chromium")


def packages(install: bool = True) -> Path:
    """Return the folder `node_modules` with html-validate and axe-core, installed by npm where it lacks them.

    Raises:
        Missing: there is no node or npm, or npm cannot install them.
    """
    for program in ("node", "npm"):
        if not shutil.which(program):
            raise Missing(f"{program} is not installed; on Debian: apt-get install nodejs npm")
    folder = cache() / "node_modules"
    if all((folder / name).is_dir() for name in PACKAGES):
        return folder
    if not install:
        raise Missing(f"{', '.join(PACKAGES)}: not installed yet; run python scripts/check_pages.py")
    cache().mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache()), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"npm cannot install {' and '.join(wanted)}: {done.stderr.strip()[-300:]}")
    return folder


# --- checks -----------------------------------------------------------------------------------------------------------


def validate(pages: Sequence[Path], modules: Path) -> list[Finding]:
    """Return what html-validate finds."""
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "rules.json"
        config.write_text(json.dumps({"root": True, **RULES}), "utf-8")
        held = Path(name) / "results.json"  # to a pipe the program writes 64 KiB at most before it ends
        program = ["node", str(modules / "html-validate" / "bin" / "html-validate.mjs")]
        command = [*program, "--formatter", f"json={held}", "--config", str(config), *map(str, pages)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not held.is_file():
            raise Missing(f"html-validate failed: {(done.stderr or done.stdout).strip()[-500:]}")
        results = json.loads(held.read_text("utf-8"))
    return [
        Finding(Path(result["filePath"]).name, f"line {message['line']}", message["ruleId"], message["message"])
        for result in results
        for message in result["messages"]
    ]


_INSIDE = """
<script>%(axe)s</script>
<script>
addEventListener("load", async () => {
  const tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"];
  const found = [];
  try {
    const result = await axe.run(document, {runOnly: {type: "tag", values: tags}});
    for (const broken of result.violations)
      for (const node of broken.nodes)
        found.push([broken.id, broken.help + ": " + node.target.join(" ") + " "
          + node.any.concat(node.all, node.none).map(check => check.message).join("; ")]);
    const wide = document.documentElement.scrollWidth - innerWidth;
    const scrolls = one => one && (getComputedStyle(one).overflowX !== "visible" || scrolls(one.parentElement));
    const out = [...document.body.querySelectorAll("*")].filter(
      one => one.getBoundingClientRect().right > innerWidth + 0.5 && !scrolls(one.parentElement));
    if (wide > 0) found.push(["overflow", "the page is " + wide + " pixels wider than the screen: "
      + out.slice(-1).map(one => one.outerHTML.slice(0, 90)).join("")]);
  } catch (error) { found.push(["failed", String(error)]); }
  parent.postMessage({found, dark: matchMedia("(prefers-color-scheme: dark)").matches, width: innerWidth}, "*");
});
</script>
"""

_OUTSIDE = """<!DOCTYPE html><meta charset="utf-8"><title>check</title><body><script>
const jobs = %(jobs)s, results = [];
function next() {
  if (results.length === jobs.length) {
    const shown = document.createElement("pre");
    shown.id = "results";
    shown.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(results))));
    document.body.replaceChildren(shown);
    return;
  }
  const frame = document.createElement("iframe");
  frame.width = jobs[results.length].width;
  frame.height = 800;
  frame.style.border = 0;
  frame.src = jobs[results.length].page;
  document.body.replaceChildren(frame);
}
addEventListener("message", event => { results.push(event.data); next(); });
next();
</script></body>
"""


def chromium(*arguments: str) -> str:
    """Run Chromium without a window, and return what it prints.

    Raises:
        Missing: it is not installed, or does not end.
    """
    with tempfile.TemporaryDirectory() as profile:
        command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", *arguments]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False).stdout
        except subprocess.TimeoutExpired:
            raise Missing("chromium did not end within 10 minutes") from None


def audit(pages: Sequence[Path], modules: Path) -> list[Finding]:
    """Return what axe-core finds in each page, at each width and in each colour scheme."""
    axe = (modules / "axe-core" / "axe.min.js").read_text("utf-8").replace("</script", "<\\/script")
    findings = []
    with tempfile.TemporaryDirectory() as name:
        folder, jobs = Path(name), []
        for place, page in enumerate(pages):
            copy = folder / f"{place}.html"
            text = page.read_text("utf-8")
            end = text.rfind("</body>")
            copy.write_text(text[:end] + _INSIDE % {"axe": axe} + text[end:], "utf-8")
            jobs += [{"page": copy.as_uri(), "name": page.name, "kind": kind, "width": w} for kind, w in WIDTHS.items()]
        outside = folder / "outside.html"
        outside.write_text(_OUTSIDE % {"jobs": json.dumps(jobs)}, "utf-8")
        for scheme, number in SCHEMES.items():
            how = f"--blink-settings=preferredColorScheme={number}"
            shown = chromium(
                how, "--window-size=1300,900", "--virtual-time-budget=600000", "--dump-dom", outside.as_uri()
            )
            findings += _read(shown, jobs, scheme)
    return findings


def _read(shown: str, jobs: Sequence[dict[str, object]], scheme: str) -> list[Finding]:
    held = re.search(r'<pre id="results">([^<]*)</pre>', shown)
    if held is None:
        raise Missing(f"chromium returned no results ({len(shown)} characters)")
    findings = []
    for job, result in zip(jobs, json.loads(base64.b64decode(held[1])), strict=True):
        if result["dark"] != (scheme == "dark") or result["width"] != job["width"]:
            raise Missing("chromium shows neither the colour scheme nor the width that was asked for")
        where = f"{job['kind']}, {scheme}"
        findings += [Finding(str(job["name"]), where, rule, message) for rule, message in result["found"]]
    return findings


def photograph(pages: Sequence[Path], folder: Path) -> None:
    """Write a picture of each page, at each width and in each colour scheme."""
    with tempfile.TemporaryDirectory() as name:
        for page in pages:
            for kind, width in WIDTHS.items():
                frame = Path(name) / "frame.html"  # a window is at least 500 pixels wide, a frame is not
                frame.write_text(
                    '<!DOCTYPE html><title>frame</title><body style="margin:0">'
                    f'<iframe src="{page.resolve().as_uri()}" '
                    f'style="border:0" width="{width}" height="{HEIGHT}"></iframe></body>',
                    "utf-8",
                )
                for scheme, number in SCHEMES.items():
                    picture = folder / f"{page.stem}-{kind}-{scheme}.png"
                    chromium(
                        f"--blink-settings=preferredColorScheme={number}", "--hide-scrollbars",
                        f"--window-size={max(width, 500)},{HEIGHT}", f"--screenshot={picture}", frame.as_uri(),
                    )  # fmt: skip


HEIGHT = 4000
"""Of a picture, in pixels."""


def check(pages: Sequence[Path], *, install: bool = True) -> list[Finding]:
    """Return all that is wrong with the pages.

    Raises:
        Missing: a program is missing.
    """
    modules = packages(install)
    browser()
    return [*validate(pages, modules), *audit(pages, modules)]


def grouped(findings: Sequence[Finding]) -> list[list[str]]:
    """Return a row for each rule that a page breaks: page, rule, how often, and the first thing it is about."""
    rows: dict[tuple[str, str], list[Finding]] = {}
    for one in findings:
        rows.setdefault((one.page, one.rule), []).append(one)
    return [
        [page, rule, str(len(ones)), f"{ones[0].where}: {ones[0].message[:200]}"] for (page, rule), ones in rows.items()
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the pages, check them, print a table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MAKERS)}, or a page; all without it")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the pages and pictures of them here")
    given = parser.parse_args(arguments)
    files = [Path(name) for name in given.names if name.endswith(".html")]
    if unknown := {name for name in given.names if not name.endswith(".html")} - MAKERS.keys():
        parser.error(f"no page {', '.join(sorted(unknown))}; expected some of {', '.join(MAKERS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = (given.keep or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        pages = list(files)
        try:
            packages(), browser()  # before a lesson trains for a minute
            for wanted in MAKERS if not given.names else [name for name in given.names if name in MAKERS]:
                (folder / wanted).mkdir(parents=True, exist_ok=True)
                pages += MAKERS[wanted](folder / wanted)
            findings = check(pages)
            if given.keep:
                photograph(pages, folder)
        except Missing as error:
            print(f"check_pages: {error}", file=sys.stderr)
            return 2
    rows = [[page.name, str(sum(one.page == page.name for one in findings))] for page in pages]
    print(*table([["page", "findings"], *rows]), sep="\n")
    if findings:
        print()
        print(*table([["page", "rule", "times", "what"], *grouped(findings)]), sep="\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
