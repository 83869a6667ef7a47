"""What can be seen of the machine that a worker is to run on: its bundle, its folder, workers that run."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from stream.bundle.channel import resolve
from stream.bundle.load import load_bundle
from stream.doctor.findings import Finding, error, from_error, ok, unknown, warning
from stream.errors import PolytempoError
from stream.operations.listen import Token
from stream.operations.probe import ask

__all__ = ["check_bundle", "check_data", "check_worker"]

_MIN_FREE_BYTES: Final = 2 << 30


def check_bundle(path: Path) -> Finding:
    """Load the bundle that a path means, golden outputs and all."""
    try:
        bundle = load_bundle(resolve(path))
    except PolytempoError as problem:
        return from_error("bundle", problem)
    return ok("bundle", f"{bundle.reference} in {bundle.path} passes all its checks, golden outputs among them")


def check_data(folder: Path, *, store: str, prefix: str = "") -> Iterator[Finding]:
    """Look at a worker's --data folder: may it be written, is there room, a snapshot, the store's package."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        yield error("data", f"{place} cannot be written", "Let --data name a folder of the worker's own.")
        return
    free_bytes = shutil.disk_usage(place).free
    room = f"{free_bytes / 2**30:,.1f} GiB are free at {place}"
    if free_bytes < _MIN_FREE_BYTES:
        yield warning("data", room, "Make room: a full disk ends a worker with --store rocksdb.")
    else:
        yield ok("data", room)
    if store == "rocksdb" and importlib.util.find_spec("rocksdict") is None:
        yield error("store", "the package rocksdict is missing", "Install it with: pip install 'polytempo[rocksdb]'")
    snapshot = folder / f"{prefix}item-statistics.npz"
    if snapshot.exists():
        yield ok("snapshot", f"{snapshot} has {snapshot.stat().st_size / 2**20:,.1f} MiB")
    else:
        yield unknown("snapshot", f"there is no {snapshot} yet: the first start reads all item activity")


def check_worker(url: str, token: Token | None) -> Finding:
    """Ask a running worker for its status."""
    status, body = ask(f"{url.rstrip('/')}/status", token)
    if status == 401:
        return error("worker", f"{url} asks for a token", "Set POLYTEMPO_HTTP_TOKEN or POLYTEMPO_HTTP_TOKEN_FILE.")
    try:
        document = json.loads(body) if status == 200 else None
        if document is None:
            return error("worker", f"{url}: {body or f'status {status}'}", "Does it run, and with this --http?")
        said = "; ".join(f"{each['kind']}: {each['detail']}" for each in document["objections"])
        if not document["ready"]:
            return error("worker", f"{url} is not ready: {said}", "The runbook in the README says what to do.")
        models = ", ".join(document.get("models", {}).values()) or "no bundle yet"
        return ok("worker", f"{url} is ready, {models}, up {document['up_s']:,.0f} s")
    except (ValueError, KeyError, TypeError):
        return error(
            "worker", f"{url} answers, and is no worker", "Name the address that a worker says when it starts."
        )
