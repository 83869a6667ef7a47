"""Known vulnerabilities of what the lock files name, as the OSV database has them; pip-audit asks it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["Vulnerability", "known", "read_answer"]

_TIMEOUT_S: Final = 600

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One that is known.

    Attributes:
        package, version: what has it.
        identifier: its name in the database.
        fixed_in: versions without it; may be empty.
    """

    package: str
    version: str
    identifier: str
    fixed_in: tuple[str, ...]


class UnreachableError(Exception):
    """The database does not answer, so nothing is known; its last words say why."""


def known(lock: Path, run: Run | None = None) -> list[Vulnerability]:
    """Look up every pinned version of a lock file, none of which is installed or resolved for it.

    Raises:
        UnreachableError: nothing could be learned.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--require-hashes"]
    command += ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off"]
    answer = (_run if run is None else run)(command)
    return read_answer(answer.stdout, answer.stderr)


def read_answer(stdout: str, stderr: str) -> list[Vulnerability]:
    """What pip-audit found. Its exit status is 1 for findings and for failures alike; only its document tells.

    Raises:
        UnreachableError: there is no document.
    """
    try:
        document = json.loads(stdout)
    except ValueError:
        words = [line.strip() for line in stderr.splitlines() if line.strip()]
        raise UnreachableError(words[-1] if words else "pip-audit said nothing") from None
    return [
        Vulnerability(each["name"], each["version"], vulnerability["id"], tuple(vulnerability["fix_versions"]))
        for each in document["dependencies"]
        for vulnerability in each.get("vulns", ())
    ]


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
