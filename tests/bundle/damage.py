"""Ways to damage a bundle and seal it again, as somebody would who wants it to be believed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["replace_file", "rewrite"]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest as JSON, and give it the seal that belongs to it then."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    manifest["seal"] = ""
    manifest["seal"] = hashlib.sha256(json.dumps(manifest, indent=2).encode()).hexdigest()
    file.write_text(json.dumps(manifest, indent=2))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, with the hash and length that belong to it then."""
    (folder / name).write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}

    rewrite(folder, change)
