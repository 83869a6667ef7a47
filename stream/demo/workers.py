"""Workers as processes of their own, that end with whoever started them."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError
from stream.kafka import watchdog
from stream.kafka.settings import KafkaSettings

__all__ = ["WorkerProcess", "environment_for", "wait_until_ready"]

_READY_TIMEOUT_S: Final = 180.0
_STOP_TIMEOUT_S: Final = 20.0
_N_LAST_LINES: Final = 12


class WorkerProcess:
    """One `polytempo worker`; what it says goes to a file.

    Args:
        name: for messages, and of the log file.
        bundle: what it scores with.
        settings: the cluster.
        prefix: of the topics.
        logs: folder for its log.
    """

    def __init__(self, name: str, *, bundle: Path, settings: KafkaSettings, prefix: str, logs: Path) -> None:
        self.name: Final = name
        self.log_file: Final = logs / f"{name}.log"
        self._ready: Final[queue.SimpleQueue[bool]] = queue.SimpleQueue()
        self.is_ready = False
        worker = [sys.executable, "-m", "stream.cli.main", "worker", "--bundle", str(bundle), "--json"]
        worker += ["--prefix", prefix] if prefix else []
        # The watchdog sends the worker's output to its own standard error, and ends the worker when this process ends,
        # even by kill -9. In a session of its own Ctrl-C does not reach it: who started it decides when it stops.
        self._process: Final = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, str(os.getpid()), "", *worker],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment_for(settings),
            start_new_session=True,
        )
        self._reader: Final = threading.Thread(target=self._read, name=f"{name}-log", daemon=True)
        self._reader.start()

    def check(self) -> None:
        """Raise a PolytempoError if it has ended by itself: with its last words, and where its log is."""
        code = self._process.poll()
        if code is None:
            return
        self._reader.join(_STOP_TIMEOUT_S)
        lines = self.log_file.read_text(encoding="utf-8", errors="replace").splitlines()
        said = "\n".join(f"  {line}" for line in lines[-_N_LAST_LINES:])
        raise PolytempoError(f"{self.name} ended with exit code {code}. It said last:\n{said}", f"Log: {self.log_file}")

    def wait_until_ready(self, deadline_s: float) -> None:
        """Wait for its line that says so.

        Args:
            deadline_s: until when, on the monotonic clock.

        Raises:
            PolytempoError: it ended, or the time is over.
        """
        if self.is_ready:
            return
        try:
            self.is_ready = self._ready.get(timeout=max(deadline_s - time.monotonic(), 0.0))
        except queue.Empty:
            raise PolytempoError(
                f"{self.name} was not ready within {_READY_TIMEOUT_S:.0f} s.", f"Log: {self.log_file}"
            ) from None
        if not self.is_ready:
            self._process.wait()
            self.check()

    def ask_to_stop(self) -> None:
        """Tell it to finish what it has begun, commit and leave; `stop` waits for that."""
        if self._process.poll() is None:
            self._process.terminate()

    def stop(self) -> None:
        """Stop it, gracefully as long as that takes no more than some seconds. No harm if it has ended."""
        self.ask_to_stop()
        try:
            self._process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # takes the worker with it
            self._process.wait()
        self._reader.join(_STOP_TIMEOUT_S)
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _read(self) -> None:
        """Copy what it says to the log; False into the queue at its end, for those who still wait for it."""
        stream = self._process.stderr
        if stream is None:
            return
        with self.log_file.open("wb") as log:
            for line in stream:
                log.write(line)
                log.flush()
                if line.startswith(b'{"ready"'):
                    self._ready.put(_says_ready(line))
        self._ready.put(False)


def wait_until_ready(workers: list[WorkerProcess], on_ready: Callable[[int], object]) -> None:
    """Wait until all workers read input.

    Args:
        workers: just started.
        on_ready: called with the number of those that are ready.

    Raises:
        PolytempoError: one of them ended, or takes too long.
    """
    deadline_s = time.monotonic() + _READY_TIMEOUT_S
    for number, worker in enumerate(workers, start=1):
        worker.wait_until_ready(deadline_s)
        on_ready(number)


def environment_for(settings: KafkaSettings, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a process that is to use this cluster, and none that our own environment may name.

    Passwords travel like this because a command line can be read by every user of the machine.
    """
    inherited = os.environ if environment is None else environment
    wanted = {
        "": settings.servers,
        "_SECURITY": settings.security,
        "_SASL_MECHANISM": settings.sasl_mechanism,
        "_USER": settings.user,
        "_PASSWORD": settings.password,
        "_CA": settings.ca_file,
        "_CERT": settings.cert_file,
        "_KEY": settings.key_file,
    }
    others = {name: value for name, value in inherited.items() if not name.startswith("POLYTEMPO_KAFKA")}
    return others | {f"POLYTEMPO_KAFKA{name}": str(value) for name, value in wanted.items() if value}


def _says_ready(line: bytes) -> bool:
    try:
        return json.loads(line).get("ready") is True
    except (ValueError, AttributeError):
        return False
