"""seqkit: recurrent sequence models in PyTorch, trained, tuned and used through YAML files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from seqkit._version import __version__

if TYPE_CHECKING:
    from seqkit.run import load as load
    from seqkit.run import train as train

__all__ = ["__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    # Lazy (PEP 562), so that `import seqkit.nn` needs nothing but torch.
    if name == "train":
        from seqkit.report import train

        return train
    if name == "load":
        from seqkit.run import load

        return load
    raise AttributeError(f"module 'seqkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
