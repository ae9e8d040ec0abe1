"""Targets of `run.py` that use runs: their files, their predictions, their names."""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fuzz.choices import Broken, Choices
from fuzz.parts import RUNS, WORDS, Target, Tree, make_run

from seqkit import run
from seqkit.cli.app import _groups
from seqkit.data.sources import SourceConfig, open_source
from seqkit.errors import UserError
from seqkit.run.config_files import open_run
from seqkit.run.doctor import _checks
from seqkit.tasks.language_model.predictions import Sampler
from seqkit.training import RunFolder, Trainer
from seqkit.training.checkpoint import Checkpoints
from seqkit.training.reservation import reserve
from seqkit.training.run_folder import check_name
from seqkit.training.torch_weights import read_state_dict


class CheckpointTarget(Target):
    """Run folders: weights, checkpoints, run.json, config.yaml, tokenizers, labels; loaded, or training restored."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.folders = []
        for task in RUNS:
            make_run(home, task)
            copy = home / "copies" / task
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(home / "runs" / task, copy)
            self.folders.append(copy)
        self.names = {folder: self._names(folder) for folder in self.folders}
        self.whole = {path: path.read_bytes() for folder in self.folders for path in self.names[folder]}
        torch.save({"state_dict": {"a.weight": torch.zeros(2, 3), "step": 3}, "n": [1, None, "x"]}, home / "t.pt")
        self.foreign = (home / "t.pt").read_bytes()

    @staticmethod
    def _names(folder: Path) -> list[Path]:
        files = sorted(
            path for path in folder.rglob("*") if path.is_file() and path.suffix in (".json", ".yaml", ".safetensors")
        )
        return [path for path in files if path.name != "scores.json"]

    def cases(self) -> Iterator[Callable[[], object]]:
        folder = self.folders[0]
        deep = b"[" * 200_000
        for path in self.names[folder]:
            for data in (
                b"",
                b"\0",
                deep,
                b'{"a":' * 100_000,
                b"\xff" * 64,
                (2**62).to_bytes(8, "little") + b"{}",
                b"9" * 6000,
            ):
                yield partial(self._with, folder, {path: data}, restore="checkpoints" in path.parts)
        step = next(path for path in self.names[folder] if path.name == "manifest.json").parent
        for name in ("/dev/zero", "../../../x", "\0", "a" * 5000):
            data = json.dumps({name: "0"}).encode()
            yield partial(self._with, folder, {step / "manifest.json": data}, restore=True, sign=False)
        for key, value in (
            ("num_layers", 10**9),
            ("hidden_size", 10**7),
            ("hidden_size", 10**12),
            ("hidden_size", 10**30),
        ):
            text = (folder / "config.yaml").read_text("utf-8")
            changed = re.sub(rf"\b{key}: \d+", f"{key}: {value}", text).encode()
            yield partial(self._with, folder, {folder / "config.yaml": changed}, restore=False)
        size = re.sub(r"\bsize: \d+", f"size: {10**9}", (folder / "config.yaml").read_text("utf-8")).encode()
        yield partial(self._with, folder, {folder / "config.yaml": size}, restore=False)

    def __call__(self, choices: Choices) -> None:
        if choices.chance(8):  # what another program saved, which `init.torch` reads
            read_state_dict(self.write("x.pt", choices.mutated(self.foreign, WORDS)))
            return
        folder = choices.one(self.folders)
        path = choices.one(self.names[folder])
        data = self.whole[path]
        if path.suffix == ".json" and choices.number(3):
            data = json.dumps(Tree.changed(choices, json.loads(data))).encode()
        elif path.suffix == ".safetensors" and choices.number(3):
            size = int.from_bytes(data[:8], "little")
            head = json.dumps(Tree.changed(choices, json.loads(data[8 : 8 + size]))).encode()
            told = choices.one((len(head), len(head), len(head), 0, len(head) - 1, 2**40, 2**64 - 1))
            data = told.to_bytes(8, "little") + head + data[8 + size :][: choices.one((None, None, -1, 0))]
        else:
            data = choices.mutated(data, WORDS)
        self._with(folder, {path: data}, restore="checkpoints" in path.parts, sign=bool(choices.number(7)))

    def _with(self, folder: Path, files: dict[Path, bytes], *, restore: bool, sign: bool = True) -> None:
        """Load the run, or restore its training, with these files in the place of its own."""
        try:
            for path, data in files.items():
                path.write_bytes(data)
                manifest = path.parent / "manifest.json"
                if sign and manifest != path and manifest in self.whole:
                    told = {**json.loads(self.whole[manifest]), path.name: hashlib.sha256(data).hexdigest()}
                    manifest.write_text(json.dumps(told), "utf-8")
                    files = {**files, manifest: b""}
            self._restore(folder) if restore else self._load(folder)
        finally:
            for path in files:
                path.write_bytes(self.whole[path])

    def _load(self, folder: Path) -> None:
        task = run.load(folder)
        for prediction in task.predict(["one two", ""]):
            task.format(prediction, "jsonl")

    def _restore(self, folder: Path) -> None:
        if not list(_checks(folder)):
            raise Broken("the doctor had nothing to say")
        if Checkpoints(folder / "checkpoints").latest() is None:
            raise UserError("no whole checkpoint")
        opened, checked, kind = open_run(folder)
        Trainer(kind.create(checked, folder, fresh=False), checked.training, opened.path).restore()


class PredictTarget(Target):
    """Any bytes as lines of text through `predict` of all four tasks, with all kinds of decoding options."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.tasks = {task: run.load(make_run(home, task)) for task in RUNS}
        known = [word.encode() for word in self.tasks["slots"].tokenizer.vocabulary]
        self.tokens = [*WORDS, *known, *[b"a ", b"the ", b"flight to Boston ", b"not bad ", b"\n"] * 8]
        self.settings: dict[str, tuple[Any, ...]] = {
            "beam_size": (1, 2, 5, 0, -1, 10**4, 10**9, 2**63, 10**30),
            "n_best": (1, 2, 5, 0, 10**4, 10**9, 2**63),
            "length_penalty": (0.0, 1.0, 40.0, -1.0, 1e308, math.nan, math.inf),
            "length_penalty_kind": ("gnmt", "average", "x"),
            "coverage_penalty": (0.0, 0.2, 1e6, 1e308, math.nan),
            "min_length": (0, 1, 9, -1, 2**63),
            "max_length": (1, 5, 20, 0, -1, 2**63, 10**30),
            "min_ratio": (0.0, 0.5, 2.0, -1.0, math.nan),
            "max_ratio": (0.5, 1.0, 2.0, 0.0, math.inf),
            "no_repeat_ngram": (0, 1, 2, 3, 10**9, 2**63),
            "sample": (False, True),
            "temperature": (1.0, 0.5, 1e-300, 1e-30, 1e300, 0.0, -1.0, math.nan, math.inf),
            "top_k": (0, 1, 3, -1, 10**9, 2**63, 10**30),
            "top_p": (1.0, 0.5, 1e-300, 0.0, 2.0, math.nan),
            "allow_unknown": (True, False),
        }

    def cases(self) -> Iterator[Callable[[], object]]:
        long = (
            b"a" * 10**6,
            b"a " * 500_000,
            "\u0301".encode() * 300_000,
            b"\0" * 10**6,
            "漢".encode() * 300_000,
            b"." * 10**6,
        )
        for task in ("sentiment", "slots", "language_model"):
            for data in long:
                yield partial(self.predict, task, data)
        for data in long:
            yield partial(self.translate, {"max_length": 5}, {}, data)
        yield lambda: list(_groups(io.BytesIO(b"a" * 2**28), "x"))

    def __call__(self, choices: Choices) -> None:
        task = choices.one(tuple(RUNS))
        names = [choices.one(tuple(self.settings)) for _ in range(choices.number(4))]
        chosen = {name: choices.one(self.settings[name]) for name in names}
        attention = bool(choices.number(1))
        more = {"attention": attention, "replace_unknown": choices.chance(4), "seed": choices.one((1, 0, 2**62))}
        if choices.chance(8):
            more["prefix"] = choices.one(("a", "der Mann", "", "\0", "<eos>", "a " * 500))
        data = choices.mutated(
            choices.one((b"not bad at all\n\nfine", b"to Boston", b"the old man sleeps .\n")), self.tokens, 20
        )
        if task == "translation":
            self.translate({"max_length": 12, **chosen} if "max_ratio" not in chosen else chosen, more, data)
            return
        if task == "language_model":
            own = {name: chosen[name] for name in ("temperature", "top_k", "top_p", "max_length") if name in chosen}
            sampled: dict[str, Any] = {"sample": True, "max_length": 12, "seed": more["seed"], **own}
            if sampled["max_length"] > 10**5:
                Sampler(
                    self.tasks[task].model,
                    self.tasks[task].tokenizer,
                    **{k: v for k, v in sampled.items() if k != "sample"},
                )
                return
            self.tasks[task].adjust(**(sampled if attention else {}))
        self.predict(task, data)

    def translate(self, decoding: dict[str, Any], more: dict[str, Any], data: bytes) -> None:
        self.tasks["translation"].adjust(
            **decoding, **{"prefix": "", "attention": False, "replace_unknown": False, **more}
        )
        self.predict("translation", data, alignments=bool(more.get("attention")))

    def predict(self, task: str, data: bytes, **options: Any) -> None:
        model = self.tasks[task]
        for lines in _groups(io.BytesIO(data), "x"):
            found = model.predict(lines)
            if len(found) != len(lines):
                raise Broken(f"{len(lines)} lines in, {len(found)} out")
            for prediction in found:
                for form in ("text", "jsonl"):
                    text = model.format(prediction, form, **options)
                    text.encode("utf-8")
                    several = form == "text" and getattr(prediction, "n_best", ())
                    if "\n" in text and not several:
                        raise Broken(f"more than one line for {lines!r:.200}: {text!r:.200}")
                json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> None:
    raise Broken(f"{name} is no JSON")


class NamesTarget(Target):
    """Names and paths of runs."""

    parts = (
        *(
            "a",
            "..",
            ".",
            "/",
            "\\",
            "\0",
            "\n",
            "-",
            "--",
            " ",
            "~",
            "$HOME",
            "${HOME}",
            "*",
            "é",
            "漢",
            "\ud800",
            "_",
            "1",
        ),
        *(
            "x" * 99,
            "é" * 99,
            "漢" * 99,
            "con",
            "a:b",
            "%00",
            "\u202e",
            "run",
            "../",
            "/etc",
            "name",
            ".hidden",
            "x.old",
        ),
    )

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.root = home / "names"
        self.folder = make_run(home, "sentiment")

    def cases(self) -> Iterator[Callable[[], object]]:
        for name in ("..", "a/../../b", "/tmp/x", "", "\0", "a" * 10**6, "漢" * 100, "\ud800"):
            yield partial(self.make, name)
            yield partial(RunFolder.open, name)
            yield partial(run.average, self.folder, None, name)

    def __call__(self, choices: Choices) -> None:
        name = "".join(choices.one(self.parts) for _ in range(1 + choices.number(4)))
        kind = choices.number(3)
        if kind == 0:
            RunFolder.open(name)
        elif kind == 1:
            open_source(SourceConfig(path=name), {"text": str}, "train")
        elif kind == 2:
            run.read_config({**RUNS["sentiment"], "task": "sentiment", "name": name})
        else:
            self.make(name)

    def make(self, name: str) -> None:
        check_name(name)
        shutil.rmtree(self.root, ignore_errors=True)
        with reserve(name, "x", root=self.root) as reserved, reserved.made():
            pass
        made = [path.name for path in self.root.iterdir()]
        if made != [name]:
            raise Broken(f"{name!r} made {made}")
