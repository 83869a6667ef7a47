"""`polytempo bundle`: look at bundles, verify them, and say which one a channel serves."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cyclopts import App, Parameter
from rich.markup import escape
from rich.table import Table

from stream.bundle.channel import Channel, activate, resolve, rollback
from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle, read_manifest
from stream.bundle.manifest import Manifest, Retrieval
from stream.cli.console import print_json, results
from stream.core.scales import scale_name

__all__ = ["bundle"]

bundle = App(
    name="bundle",
    help="Inspect and verify a bundle; activate it for running workers, or roll back.",
    default_parameter=Parameter(negative=()),
)


@bundle.command
def show(path: Path, /, *, json: bool = False) -> None:
    """Show what a bundle says about itself. Checks the manifest only; `verify` checks everything.

    Parameters
    ----------
    path
        A bundle folder, or a channel file that points to one.
    json
        Print one line of JSON instead of a table.
    """
    folder = resolve(path)
    manifest = read_manifest(folder)
    if json:
        print_json(_facts(folder, manifest))
    else:
        results.print(_table(folder, manifest))


@bundle.command
def verify(path: Path, /, *, json: bool = False) -> None:
    """Check a bundle as a worker does before serving it: every hash, the features, the graph, the golden outputs.

    Exits with code 2 and the exact reason if it is refused.

    Parameters
    ----------
    path
        A bundle folder, or a channel file that points to one.
    json
        Print one line of JSON: ok, and the reason if not.
    """
    try:
        loaded = load_bundle(resolve(path))
    except BundleError as error:
        if json:
            print_json({"ok": False, "path": str(error.path), "reason": error.message})
        raise
    if json:
        print_json({"ok": True, **_facts(loaded.path, loaded.manifest)})
        return
    n_rows = len(loaded.parity.outputs["items"])
    results.print(f"[bold green]ok[/] {loaded.reference} ({loaded.manifest.digest()[:12]})")
    results.print(f"files, features, graph and vocabulary agree; {n_rows} golden outputs were computed again")


@bundle.command(name="activate")
def activate_command(channel: Path, path: Path, /, *, json: bool = False) -> None:
    """Make a bundle the active one of a channel. Workers that serve the channel load it without a restart.

    The bundle is verified first; the one that was active becomes the channel's previous one.

    Parameters
    ----------
    channel
        The channel file, such as models/live.json; created if there is none.
    path
        The bundle folder.
    json
        Print one line of JSON: the active and the previous bundle.
    """
    _report(channel, activate(channel, path), json=json)


@bundle.command(name="rollback")
def rollback_command(channel: Path, /, *, json: bool = False) -> None:
    """Go back to the bundle that a channel served before; doing it twice changes nothing.

    Parameters
    ----------
    channel
        The channel file, such as models/live.json.
    json
        Print one line of JSON: the active and the previous bundle.
    """
    _report(channel, rollback(channel), json=json)


def _report(channel: Path, now: Channel, *, json: bool) -> None:
    if json:
        print_json({"channel": str(channel), "active": now.active, "previous": now.previous})
        return
    results.print(f"{channel} serves {now.active}", markup=False)
    if now.previous is not None:
        results.print(f"before: {now.previous}", markup=False)


def _facts(folder: Path, manifest: Manifest) -> dict[str, Any]:
    return {
        "path": str(folder),
        "reference": manifest.reference,
        "description": manifest.description,
        "digest": manifest.digest(),
        "space": manifest.space,
        "inputs": {name: str(tensor) for name, tensor in manifest.inputs.items()},
        "outputs": {name: str(tensor) for name, tensor in manifest.outputs.items()},
        "n_state": manifest.n_state,
        "retrieval": _retrieval(manifest),
        "state_dtype": manifest.state_dtype,
        "scales_ms": list(manifest.scales_ms),
        "feature_digest": manifest.feature_digest,
        "n_vocabulary": manifest.n_vocabulary,
        "trained_on": manifest.training.source,
        "from_ms": manifest.training.from_ms,
        "to_ms": manifest.training.to_ms,
        "n_events": manifest.training.n_events,
        "preprocessing": manifest.preprocessing if isinstance(manifest.preprocessing, dict) else None,
        "command": manifest.training.command,
        "created_from": manifest.created_from,
        "metrics": manifest.metrics,
        "n_bytes": sum(entry.n_bytes for entry in manifest.files.values()),
    }


def _retrieval(manifest: Manifest) -> dict[str, Any] | None:
    """What the sequence model that goes before wants and gives."""
    before = manifest.retrieval
    if not isinstance(before, Retrieval):
        return None
    return {
        "inputs": {name: str(tensor) for name, tensor in before.inputs.items()},
        "outputs": {name: str(tensor) for name, tensor in before.outputs.items()},
        "n_state": before.n_state,
    }


def _preparation(manifest: Manifest) -> str:
    """The steps that the training log went through; those in capitals the worker repeats."""
    record = manifest.preprocessing
    if not isinstance(record, dict):
        return "nothing"
    steps = [str(step["step"]).upper() if step["live"] else str(step["step"]) for step in record["steps"]]
    return f"{', '.join(steps)}: {record['n_rows']:,} rows, {record['n_events']:,} events"


def _table(folder: Path, manifest: Manifest) -> Table:
    training = manifest.training
    before = manifest.retrieval
    n_state = before.n_state if isinstance(before, Retrieval) else manifest.n_state
    state = f"{n_state} floats, kept as {manifest.state_dtype}" if n_state > 0 else "none"
    rows = {
        "folder": str(folder),
        "description": manifest.description,
        "digest": manifest.digest()[:16],
        "ranks": "the candidates it is given" if manifest.space == "candidates" else "its whole vocabulary",
        "vocabulary": f"{manifest.n_vocabulary:,} items",
        "inputs": "\n".join(f"{name}: {tensor}" for name, tensor in manifest.inputs.items()),
        "outputs": "\n".join(f"{name}: {tensor}" for name, tensor in manifest.outputs.items()),
        "before it": "a sequence model, whose best are candidates" if isinstance(before, Retrieval) else "nothing",
        "state": state,
        "scales": " ".join(scale_name(span_ms) for span_ms in manifest.scales_ms),
        "policy": f"{manifest.policy.n} recommendations, leaving out seen items: {manifest.policy.seen}",
        "features": manifest.feature_digest[:16],
        "trained on": f"{training.source}: {training.n_events:,} events, {_time(training.from_ms)} to "
        f"{_time(training.to_ms)}",
        "prepared by": _preparation(manifest),
        "trained by": training.command,
        "written by": manifest.created_from,
        "metrics": "\n".join(f"{name}: {figure:.4g}" for name, figure in manifest.metrics.items()),
        "size": f"{sum(entry.n_bytes for entry in manifest.files.values()) / 1e6:.2f} MB",
    }
    table = Table(title=manifest.reference, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text != "":
            table.add_row(name, escape(text))
    return table


def _time(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
