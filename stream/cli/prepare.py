"""`polytempo prepare`: a log as it was published becomes events, with an account of every row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stream.cli.console import people, print_json, results
from stream.errors import PolytempoError

if TYPE_CHECKING:
    from training.preprocess.account import Account

__all__ = ["prepare"]


def prepare(
    config: Path,
    /,
    *,
    data: Path | None = None,
    out: Path | None = None,
    report: Path | None = None,
    json: bool = False,
) -> None:
    """Clean a raw log as the section [preprocess] of a configuration says, and show what was found and done.

    Steps: complete, keep (rows for what they are); duplicates, bots, sessions, lines (of an order), returns, k_core,
    rare (the log as a whole); indicator, gaps, outliers (missing and absurd numbers); and, last, those that the worker
    repeats on live events: fill, clip, log1p, scale. Each is a table [[preprocess.steps]] with `step = NAME`.

    The same steps run inside `polytempo train`; this command is for looking at them, and for logs that go elsewhere.
    Steps are fitted on what lies before the end of training, if the configuration has a [window]. In what comes out,
    `value` is as producers would send it; `value_model` is what a model sees of it, and the worker makes that of live
    events by itself. Needs the extra `training`.

    Examples:

    `polytempo prepare training/configs/retail-ranker.toml --data online_retail.parquet` shows the account only.

    `polytempo prepare shop.toml --data orders.csv --out events.parquet --report account.md`

    `polytempo produce events.parquet` sends what came out.

    Args:
        config: A configuration for training, or a TOML file with [preprocess] and whichever of [data] and [window].
        data: The raw log, instead of the one that the configuration names.
        out: Where the events go, a Parquet file.
        report: Where the account goes: Markdown (.md) or JSON (.json).
        json: Print one line at the end: rows, events, steps.
    """
    import msgspec

    from training.preprocess import as_markdown, as_table, preprocess
    from training.preprocess.declare import read_declaration
    from training.preprocess.pipeline import read_events

    declared = read_declaration(config)
    file = declared.data.file if data is None else str(data)
    if file is None:
        raise PolytempoError("there is no log to prepare.", "Name one with --data.")
    for path, suffixes in ((out, (".parquet",)), (report, (".md", ".json"))):
        if path is not None and path.suffix.lower() not in suffixes:
            raise PolytempoError(f"{path.name} ends with none of {', '.join(suffixes)}.")
    with people.status("preparing"):
        mapping = declared.data.columns.mapping(tuple(declared.features.segments))
        raw = read_events(file, mapping, declared.preprocess)
        prepared = preprocess(
            raw.events,
            declared.preprocess,
            known_until_ms=declared.known_until_ms(raw.events),
            types=declared.types(),
            found=raw.found,
        )
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            declared.finished(prepared).write_parquet(out)
    account = prepared.account
    (people if json else results).print(as_table(account))
    if report is not None:
        report.parent.mkdir(parents=True, exist_ok=True)
        text = as_markdown(account, f"How {Path(file).name} was prepared")
        report.write_bytes(
            msgspec.json.format(msgspec.json.encode(account)) if report.suffix.lower() == ".json" else text.encode()
        )
    if json:
        print_json(_line(account, out))


def _line(account: Account, out: Path | None) -> dict[str, object]:
    return {
        "out": None if out is None else str(out),
        "n_rows": account.n_rows,
        "n_events": account.n_events,
        "known_until_ms": account.known_until_ms,
        "steps": [
            {
                "step": step.step,
                "removed": step.n_removed,
                "changed": step.n_changed,
                "parameters": {k: v for k, v in step.parameters.items() if not isinstance(v, list)},
            }
            for step in account.steps
        ],
    }
