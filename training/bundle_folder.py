"""A bundle's folder, put in its place in one step: whole, and loaded as a worker would load it.

A bundle is written aside and passes every check before it gets its name, so that a folder with a bundle's name is
always a whole bundle that this machine could serve.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from stream.bundle.errors import BundleError
from stream.bundle.load import load_bundle, read_manifest
from stream.bundle.manifest import MANIFEST, Manifest

__all__ = ["is_there", "put"]


def is_there(path: Path, manifest: Manifest, *, replace: bool) -> bool:
    """Whether the very bundle is at `path` already.

    Raises:
        BundleError: something else is there that may not be replaced.
    """
    if not os.path.lexists(path):
        return False
    if not path.is_dir() or path.is_symlink():
        raise BundleError(path, "it is in the way, and is not a folder")
    try:
        there = read_manifest(path)
    except BundleError as error:
        if not any(path.iterdir()):
            return False
        # Only what was once a bundle may ever be deleted, whatever the caller asks for.
        if replace and (path / MANIFEST).is_file():
            return False
        raise BundleError(path, "it is in the way, and is not a bundle", hint=str(error)) from error
    if there.digest() == manifest.digest():
        load_bundle(path)
        return True
    if not replace:
        raise BundleError(
            path,
            "another bundle is in the way",
            expected=f"{manifest.reference} ({manifest.digest()[:12]})",
            found=f"{there.reference} ({there.digest()[:12]})",
            hint="Write to another folder, or allow it to be replaced.",
        )
    return False


def put(path: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder aside, load it as a worker would, and move it to its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(4)
    aside, old = (path.with_name(f".{path.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        aside.mkdir()
        for name, content in files.items():
            with (aside / name).open("wb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
        load_bundle(aside)
        if path.exists():
            path.rename(old)
        aside.rename(path)
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
