"""Commands for translation runs: translate, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from seqkit.cli.app import (
    Device,
    InputFile,
    RunPath,
    SampleSeed,
    Temperature,
    TopK,
    TopP,
    Trust,
    app,
    line_groups,
    tell,
)
from seqkit.cli.streams import finish, put
from seqkit.errors import UserError

_HELP = "; without it the run's own value."


# Long because typer reads the options from the signature: they are all that it holds.
@app.command(epilog="Example: seqkit translate runs/first news.de --beam-size 5 --length-penalty 1 > news.en")
def translate(
    run_path: RunPath,
    file: InputFile = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="One more run to decode with; may be given several times.")
    ] = None,
    beam_size: Annotated[int | None, typer.Option(help="Hypotheses kept at each step; 1 is greedy" + _HELP)] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Exponent of the length penalty; higher is longer" + _HELP)
    ] = None,
    length_penalty_kind: Annotated[
        Literal["gnmt", "average"] | None, typer.Option(help="Formula of the length penalty" + _HELP)
    ] = None,
    coverage_penalty: Annotated[
        float | None, typer.Option(help="Factor of the penalty for source words hardly looked at" + _HELP)
    ] = None,
    n_best: Annotated[
        int | None,
        typer.Option(help="Translations for each line: `line number from 0 ||| translation ||| score`."),
    ] = None,
    min_length: Annotated[int | None, typer.Option(help="Fewest tokens.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Most tokens.")] = None,
    min_ratio: Annotated[float | None, typer.Option(help="Fewest tokens, as a multiple of the source's.")] = None,
    max_ratio: Annotated[float | None, typer.Option(help="Most tokens, as a multiple of the source's.")] = None,
    no_repeat_ngram: Annotated[
        int | None, typer.Option(help="Allow no n-gram of this size twice; 0: allow all.")
    ] = None,
    no_unknown: Annotated[bool, typer.Option("--no-unknown", help="Never write the unknown word.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Draw each token at random.")] = False,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: SampleSeed = None,
    prefix: Annotated[str, typer.Option(help="What every translation begins with.")] = "",
    replace_unknown: Annotated[
        bool, typer.Option("--replace-unknown", help="Copy the source word for an unknown word, by attention.")
    ] = False,
    form: Annotated[
        Literal["text", "jsonl"], typer.Option("--format", help="The text, or JSON with tokens and log-probabilities.")
    ] = "text",
    alignments: Annotated[
        bool, typer.Option("--alignments", help="Add the most attended source token of each: `||| source-target ...`.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the attention of the first line that is not blank (.png, .pdf, .svg)."),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Most sentences decoded together.")] = 64,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Translate each line of input, in order; a blank line gives a blank line."""
    from seqkit import run

    settings = {
        "beam_size": beam_size,
        "length_penalty": length_penalty,
        "length_penalty_kind": length_penalty_kind,
        "coverage_penalty": coverage_penalty,
        "n_best": n_best,
        "min_length": min_length,
        "max_length": max_length,
        "min_ratio": min_ratio,
        "max_ratio": max_ratio,
        "no_repeat_ngram": no_repeat_ngram,
        "allow_unknown": False if no_unknown else None,
        "sample": sample or None,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
    }
    with line_groups(file) as groups:
        task = run.load_translator(
            run_path,
            ensemble or [],
            device,
            {name: value for name, value in settings.items() if value is not None},
            trust=trust,
            prefix=prefix,
            **({} if seed is None else {"seed": seed}),
            batch_size=batch_size,
            attention=alignments or plot is not None,
            copy_unknown=replace_unknown,
        )
        if plot is not None:
            task.check_plot(plot)
        _write(task, groups, form, alignments, plot)


def _write(task: Any, groups: Any, form: str, alignments: bool, plot: Path | None) -> None:
    number = 0
    for lines in groups:
        for found in task.predict(lines):
            put(task.format(found, form, number=number, alignments=alignments), flush=False)
            number += 1
            if plot is not None and found.tokens:
                task.plot(found, plot)
                plot = None
        finish()
    if plot is not None:
        raise UserError("--plot: there is no sentence to draw")


@app.command(epilog="Example: seqkit compare runs/first runs/second")
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="The baseline.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="What is compared with it.")],
    data: Annotated[
        str | None, typer.Option(help="A file with both columns; with --reference the file of sources.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="The text file of references.")] = None,
    trust: Trust = False,
    device: Device = "auto",
) -> None:
    """Test whether one translation run is better than another: paired bootstrap on test data (Koehn 2004)."""
    from seqkit import run

    for line in run.compare(first, second, data, reference, device, trust=trust):
        tell(line)
