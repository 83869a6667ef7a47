"""Where output goes: people read standard error, programs read standard output.

A command writes its progress, tables and remarks to `people`, and its one line of `--json` to standard output, so that
`polytempo ... --json | jq` works while the progress bar is still in sight.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stream.errors import PolytempoError

__all__ = ["people", "print_error", "print_json", "progress", "results"]

people = Console(stderr=True, highlight=False)
"""Progress, remarks and errors: standard error."""

results = Console(highlight=False)
"""What a command was asked for, such as a table: standard output."""


def progress(*, unit: str = "", transient: bool = False) -> Progress:
    """A progress bar on standard error that looks the same in every command.

    Args:
        unit: what is counted, shown behind `done/total` (for example "events"); empty shows a percentage instead.
        transient: whether the bar vanishes when it is done.
    """
    counted = (MofNCompleteColumn(), TextColumn(unit)) if unit else (TaskProgressColumn(),)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        *counted,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=people,
        transient=transient,
    )


def print_json(document: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write `document` to standard output as one line, at once, untouched by terminal width or colours.

    Raises:
        ValueError: a figure is NaN or infinite, which JSON has no form for.
    """
    sys.stdout.write(json.dumps(document, allow_nan=False, ensure_ascii=False, separators=(", ", ": ")) + "\n")
    sys.stdout.flush()


def print_error(error: PolytempoError) -> None:
    """Show what went wrong in red, and below it what to do."""
    people.print(f"error: {error.message}", style="bold red", markup=False, soft_wrap=True)
    if error.hint:
        people.print(error.hint, markup=False, soft_wrap=True)
