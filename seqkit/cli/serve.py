"""`seqkit serve`: a page and an endpoint for runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from seqkit.cli.app import OPTIONS_OF_RUN, Device, Trust, app, split_runs
from seqkit.console import put

if TYPE_CHECKING:
    from seqkit.serve import Model

_DEFAULT = "127.0.0.1"


@app.command(context_settings=OPTIONS_OF_RUN, epilog="Example: seqkit serve runs/first runs/second --port 8080")
def serve(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN... | KEY=VALUE", help="Run folders. Options of predict, for all of them."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond this machine, clients need a token.")
    ] = _DEFAULT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen at; 0: a free one.")] = 8000,
    max_body: Annotated[int, typer.Option(min=1, help="Most bytes in a request.")] = 1 << 20,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts in a request.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens in a text.")] = 1000,
    max_beam: Annotated[int, typer.Option(min=1, help="Largest beam that a request may ask for.")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="Most texts that wait for a run.")] = 1024,
    max_batch: Annotated[int, typer.Option(min=1, help="Most texts answered together; 1: each request alone.")] = 64,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Serve runs: a page to try them on, and an endpoint that answers JSON."""
    from seqkit import serve as serving

    paths, options = split_runs(runs)
    limits = serving.Limits(max_body, max_texts, max_tokens, max_beam, max_queue, max_batch)

    def ready(address: str, models: Mapping[str, Model]) -> None:
        names = ", ".join(f"{name} ({model.task.kind})" for name, model in models.items())
        put(f"serving {names} at {address} (Ctrl-C ends it)")

    serving.serve(paths, host, port, device=device, trust=trust, options=options, limits=limits, ready=ready)
