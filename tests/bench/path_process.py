"""A Python process of a benchmark, started and stopped, and the JSON lines that it says."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stream.errors import PolytempoError

__all__ = ["ROOT", "Process"]

ROOT: Final = Path(__file__).resolve().parents[2]
_POLL_S: Final = 0.02


@dataclass(slots=True)
class Process:
    """A Python process of the benchmark, and what it says: JSON lines."""

    module: str
    arguments: Sequence[str]
    workdir: Path
    label: str = "worker"
    python: Path = Path(sys.executable)
    _process: subprocess.Popen[bytes] | None = None

    async def start(self, timeout_s: float = 120.0) -> None:
        """Start it, and wait until it is ready.

        Raises:
            PolytempoError: it ended, or was not ready in time.
        """
        command = [str(self.python), "-m", self.module, *self.arguments]
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)
        deadline_s = time.monotonic() + timeout_s
        while b'"ready"' not in self._out.read_bytes():
            self.check()
            if time.monotonic() > deadline_s:
                raise PolytempoError(f"{self.module} was not ready within {timeout_s:.0f} s.", self._said())
            await asyncio.sleep(_POLL_S)

    def check(self) -> None:
        """Raise PolytempoError if it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise PolytempoError(f"{self.module} ended by itself.", self._said())

    async def stop(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """End it with SIGTERM; its last line."""
        process = self._process
        if process is None:
            return {}
        process.terminate()
        try:
            await asyncio.get_running_loop().run_in_executor(None, process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise PolytempoError(f"{self.module} did not stop within {timeout_s:.0f} s.", self._said()) from None
        if process.returncode != 0:
            raise PolytempoError(f"{self.module} ended with {process.returncode}.", self._said())
        last: dict[str, Any] = json.loads(self._out.read_bytes().splitlines()[-1])
        return last

    def begin(self) -> None:
        """What it measures counts from now on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def said(self) -> list[dict[str, Any]]:
        """Its lines so far."""
        return [json.loads(line) for line in self._out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]

    def last(self, name: str, default: Any = None) -> Any:
        """The newest value that it has said of something."""
        return next((line[name] for line in reversed(self.said()) if name in line), default)

    @property
    def _out(self) -> Path:
        return self.workdir / f"{self.label}.out"

    @property
    def _err(self) -> Path:
        return self.workdir / f"{self.label}.err"

    def _said(self) -> str:
        return self._err.read_text(errors="replace")[-2000:]
