"""The account of a preparation for people: a table in the terminal, or Markdown to keep."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group
from rich.table import Table

from training.preprocess.account import Account, ColumnAccount, StepAccount

__all__ = ["as_markdown", "as_table"]

_STEPS = ("step", "rows before", "removed", "changed", "rows after", "what it did")
_COLUMNS = ("column", "missing", "different", "lowest", "median", "highest", "below 0", "commonest")


def as_table(account: Account) -> Group:
    """Tables for `rich`: what was found, what was done, what came out."""
    return Group(
        _table(f"Found: {account.n_rows:,} rows", _COLUMNS, [_column(column) for column in account.before]),
        _table("Done", _STEPS, [_step(step) for step in account.steps]),
        _table(f"Came out: {account.n_events:,} events", _COLUMNS, [_column(column) for column in account.after]),
        _fitted(account),
    )


def as_markdown(account: Account, title: str) -> str:
    """The same as a document."""
    parts = [
        f"# {title}",
        f"{account.n_rows:,} rows became {account.n_events:,} events. {_fitted(account)}",
        "## Found",
        _lines(_COLUMNS, [_column(column) for column in account.before]),
        "## Done",
        _lines(_STEPS, [_step(step) for step in account.steps]),
        "## Came out",
        _lines(_COLUMNS, [_column(column) for column in account.after]),
    ]
    return "\n\n".join(parts) + "\n"


def _fitted(account: Account) -> str:
    if account.known_until_ms is None:
        return "Everything was fitted to the whole log."
    end = datetime.fromtimestamp(account.known_until_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"Everything was fitted to what lies before {end}, the end of training."


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left")
    texts = {"step", "column", "commonest", "what it did"}
    for name in head:
        is_name = name in {"step", "column"}
        table.add_column(name, justify="left" if name in texts else "right", overflow="fold", no_wrap=is_name)
    for row in rows:
        table.add_row(*row)
    return table


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    written = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in written)


def _step(step: StepAccount) -> tuple[str, ...]:
    said = [f"{name} {_value(value)}" for name, value in step.parameters.items()]
    said += [f"adds {name} ({n:,})" for name, n in step.added.items()]
    said += ["repeated by the worker"] if step.live else []
    counts = (f"{step.n_in:,}", f"{step.n_removed:,}", f"{step.n_changed:,}", f"{step.n_out:,}")
    return (step.step, *counts, "; ".join(said))


def _column(column: ColumnAccount) -> tuple[str, ...]:
    figures = [column.low, column.median, column.high]
    # Times read better as such.
    shown = ["" if figure is None else _number(figure, is_time=column.name == "ts_ms") for figure in figures]
    below = "" if column.n_negative is None else f"{column.n_negative:,}"
    commonest = "" if column.commonest is None else f"{column.commonest[0]} ({column.commonest[1]:,})"
    return (column.name, f"{column.n_missing:,}", f"{column.n_different:,}", *shown, below, commonest)


def _number(figure: float, *, is_time: bool) -> str:
    if is_time:
        return datetime.fromtimestamp(figure / 1000, UTC).strftime("%Y-%m-%d %H:%M")
    return f"{figure:,.6g}"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return f"{len(value)} texts: {', '.join(map(str, value[:5]))}{' …' if len(value) > 5 else ''}"
    return "none" if value is None else str(value)
