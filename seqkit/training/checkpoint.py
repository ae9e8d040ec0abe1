"""Checkpoints: safetensors and JSON, never pickle; written whole or not at all, and checked when read."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from seqkit.errors import UserError
from seqkit.files import flush, read_json, write_with_umask


def copy_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a copy of a state dict in memory of its own, in which tied weights are one tensor again."""
    copies: dict[tuple[Any, ...], Tensor] = {}
    return {name: copies.setdefault(_identity(tensor), tensor.detach().clone()) for name, tensor in state.items()}


def _identity(tensor: Tensor) -> tuple[Any, ...]:
    """Equal for two tensors that are the same numbers in the same memory; an empty tensor is like no other."""
    place = tensor.data_ptr() if tensor.numel() else id(tensor)
    return place, tuple(tensor.shape), tensor.stride(), tensor.dtype


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict. Tensors that share memory (tied weights) are stored once, the others as aliases."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in state.items():
        key = _identity(tensor)
        if key in seen:
            aliases[name] = seen[key]
        else:
            seen[key] = name
            storage = tensor.untyped_storage().data_ptr()
            # Of two views that overlap in part, each needs memory of its own.
            tensors[name] = tensor.detach().clone() if storage in storages else tensor.detach().contiguous()
            storages.add(storage)
    _save_tensors(tensors, path, {"aliases": json.dumps(aliases)})


def _save_tensors(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    try:
        write_with_umask(path, lambda place: save_file(tensors, place, metadata=metadata))  # it would give 0600
    except SafetensorError as error:  # the library's name for a write that failed
        raise OSError(str(error)) from error


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what `save_weights` wrote (or any safetensors file).

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            aliases = dict(json.loads((file.metadata() or {}).get("aliases", "{}")))
        return {**tensors, **{name: tensors[original] for name, original in aliases.items()}}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; was the run stopped before its first checkpoint?") from None
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: damaged weights file ({error})") from None


def load_finite(path: Path, own: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the same for weights that a model will compute with.

    Args:
        path: the file.
        own: the state dict of the model as it was made; what is not finite there may be so in the file, too.

    Raises:
        UserError: the file is missing or damaged, or a tensor holds NaN or infinity.
    """
    return refuse_not_finite(path, load_weights(path), own)


def refuse_not_finite(
    path: Path, tensors: dict[str, Tensor], own: Mapping[str, Tensor] | None, way: str = "train again"
) -> dict[str, Tensor]:
    """Return the same tensors, if every number in them is finite.

    Args:
        path: the file that they are from.
        tensors: by their names, or by paths that end in them.
        own: see `load_finite`.
        way: what to do about it, for the message.

    Raises:
        UserError: it names the first that is not.
    """
    for name in not_finite(tensors, own):
        bad, of = int((~tensors[name].isfinite()).sum()), tensors[name].numel()
        raise UserError(
            f"{path}: {bad:,} of the {of:,} numbers of {name.lstrip('/')} are NaN or infinite: the weights are "
            f"damaged, or the training that made them diverged; {way}"
        )
    return tensors


def not_finite(weights: Mapping[str, Tensor], own: Mapping[str, Tensor] | None = None) -> list[str]:
    """Return names of the weights with a NaN or an infinity; not of those that have one in `own`, too (a mask of
    -inf)."""
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    here = {} if own is None else own
    return [name for name in bad if (at := name.rpartition("/")[2]) not in here or bool(here[at].isfinite().all())]


def pack(tree: Any, tensors: dict[str, Tensor], name: str = "") -> Any:
    """Return a JSON-ready copy of nested dicts, lists, tuples and scalars; tensors go to `tensors` under their path."""
    if isinstance(tree, Tensor):
        tensors[name] = tree.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(tree, Mapping):
        return {"items": [[key, pack(value, tensors, f"{name}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, (list, tuple)):
        kind = "tuple" if isinstance(tree, tuple) else "list"
        return {kind: [pack(value, tensors, f"{name}/{number}") for number, value in enumerate(tree)]}
    if isinstance(tree, float) and not math.isfinite(tree):  # of which JSON has none
        return {"float": repr(tree)}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"cannot save a {type(tree).__name__} at {name or 'the top'}")


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the inverse of `pack`.

    Raises:
        KeyError, TypeError, ValueError, RecursionError: `pack` did not make this.
    """
    if not isinstance(tree, dict):
        return tree
    ((kind, value),) = tree.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "float":
        return float(value)
    if kind == "items":
        return {key: unpack(item, tensors) for key, item in value}
    items = [unpack(item, tensors) for item in value]
    return {"tuple": tuple, "list": list}[kind](items)


_FILES = {"model.safetensors", "trainer.safetensors", "trainer.json"}


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, in hex digits; it is read piece by piece."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            found.update(part)
    return found.hexdigest()


class Checkpoints:
    """The checkpoints of a run: `step-NNNNNNNN/` folders, each with weights, trainer state and a manifest.

    At every moment, also where a process is killed, the newest one that was written in full is there: a folder gets
    its name when it is whole, and an old one goes after that. Hidden names are what a killed process leaves behind:
    `.step-N.tmp` is half-written, `.step-N.old` was about to be replaced, `.step-N.gone` half-deleted.

    Args:
        folder: where they lie; it must exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._whole: set[int] = set()  # verified or written by this process

    def path(self, step: int) -> Path:
        """Return the folder of the checkpoint after `step` updates."""
        return self.folder / f"step-{step:08d}"

    def _hidden(self, step: int, kind: str) -> Path:
        return self.folder / f".step-{step:08d}.{kind}"

    def recover(self) -> None:
        """Put back what a killed process was about to replace, and delete what it left half-done.

        For a process that has the lock of the run folder alone.
        """
        for path in self.folder.glob(".step-*.old"):
            whole = path.with_name(path.stem[1:])
            if not whole.exists():
                os.replace(path, whole)
        for path in self.folder.glob(".step-*"):
            shutil.rmtree(path, ignore_errors=True)

    def weights(self, step: int) -> Path:
        """Return the weights file of that checkpoint."""
        return self.path(step) / "model.safetensors"

    def steps(self) -> list[int]:
        """Return the checkpoints that are there, oldest first, whole or not."""
        names = (path.name for path in self.folder.glob("step-*"))
        return sorted(int(name[5:]) for name in names if name[5:].isdigit())

    def save(self, step: int, weights: Mapping[str, Tensor], state: Any) -> None:
        """Write a checkpoint under a temporary name, flush it, rename it: a torn one is never found.

        Raises:
            OSError: the disk is full or refuses; nothing that was there before is touched.
        """
        temporary = self._hidden(step, "tmp")
        try:
            temporary.mkdir()
            save_weights(temporary / "model.safetensors", weights)
            tensors: dict[str, Tensor] = {}
            text = json.dumps(pack(state, tensors), allow_nan=False)
            _save_tensors(tensors, temporary / "trainer.safetensors")
            (temporary / "trainer.json").write_text(text, "utf-8")
            manifest = {path.name: digest(path) for path in sorted(temporary.iterdir())}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=2), "utf-8")
            for path in temporary.iterdir():
                flush(path)
            flush(temporary)
            if self.path(step).exists():
                os.replace(self.path(step), self._hidden(step, "old"))
            os.replace(temporary, self.path(step))
            flush(self.folder)
        finally:
            self.recover()
        self._whole.add(step)

    def is_whole(self, step: int) -> bool:
        """Return whether every file of that checkpoint is there with the checksum of its manifest."""
        if step not in self._whole:
            try:
                manifest = read_json(self.path(step) / "manifest.json")
                # Files of this folder alone: a path would lead out of it.
                if not manifest.keys() >= _FILES or not all(
                    Path(name).name == name and digest(self.path(step) / name) == told
                    for name, told in manifest.items()
                ):
                    return False
            except (OSError, ValueError, AttributeError):
                return False
            self._whole.add(step)
        return True

    def damaged(self) -> list[int]:
        """Return the checkpoints that are there and not whole, oldest first."""
        return [step for step in self.steps() if not self.is_whole(step)]

    def latest(self) -> int | None:
        """Return the newest whole checkpoint."""
        return next((step for step in reversed(self.steps()) if self.is_whole(step)), None)

    def load(self, step: int, own: Mapping[str, Tensor] | None = None) -> tuple[dict[str, Tensor], Any]:
        """Return weights and trainer state of a checkpoint.

        Args:
            step: its number.
            own: the state dict of a model that is to go on with them: NaN and infinity are refused where it has none.

        Raises:
            UserError: it is damaged; a tensor of the weights, of the optimiser or of an average is not finite.
        """
        if not self.is_whole(step):
            raise UserError(f"{self.path(step)}: damaged checkpoint (a file is missing or its checksum differs)")
        tensors = load_weights(self.path(step) / "trainer.safetensors")
        try:
            state = unpack(read_json(self.path(step) / "trainer.json"), tensors)
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{self.path(step)}: damaged checkpoint (trainer.json: {error!r:.200})") from None
        weights = load_weights(self.weights(step))
        if own is not None:
            way = f"a new run, or, where {self.folder} has an earlier checkpoint, `seqkit resume` without this one"
            for name, held in (("model.safetensors", weights), ("trainer.safetensors", tensors)):
                refuse_not_finite(self.path(step) / name, held, own, f"training cannot continue from here: {way}")
        return weights, state

    def prune(self, keep: set[int]) -> None:
        """Delete every checkpoint but these."""
        for step in self.steps():
            if step not in keep:
                # Renamed first: what bears the name of a checkpoint is never half-deleted.
                os.replace(self.path(step), self._hidden(step, "gone"))
                shutil.rmtree(self._hidden(step, "gone"), ignore_errors=True)
                self._whole.discard(step)
