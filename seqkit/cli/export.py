"""`seqkit export`: a run to a folder that predicts without torch and seqkit."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from seqkit.cli.app import RunPath, Trust, app
from seqkit.console import tell


@app.command(epilog="Example: seqkit export runs/first --to first-onnx")
def export(
    run_path: RunPath,
    to: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder to make; without it RUN-onnx, beside RUN.")
    ] = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Hold the weights as 8-bit integers: a quarter of the size.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an exported folder of this name.")] = False,
    trust: Trust = False,
) -> None:
    """Write a run as ONNX graphs, with a predict.py that needs numpy, onnxruntime and tokenizers alone."""
    from seqkit.export import export as export_run

    made = export_run(run_path, to, int8, trust, overwrite)
    tell(f"exported: {made}")
    tell(f"try it: python {shlex.quote(str(made / 'predict.py'))} FILE")
