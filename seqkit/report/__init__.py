"""Pages about runs, from what lies in their folders."""

from seqkit.report.after import resume, summarise, train
from seqkit.report.page import report, write_summary
from seqkit.report.runs import RunRow, run_rows, write_runs
from seqkit.report.stored import stored_outputs

__all__ = [
    "RunRow",
    "report",
    "resume",
    "run_rows",
    "stored_outputs",
    "summarise",
    "train",
    "write_runs",
    "write_summary",
]
