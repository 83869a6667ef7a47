"""Stands between a broker and whoever started it, so that neither outlives the other.

Run as a script of its own, with the standard library alone:

    python watchdog.py PARENT_PID REMOVE COMMAND...

It starts COMMAND, whose output joins this script's standard error, and prints its process id. At SIGTERM, and when the
process PARENT_PID is gone, however that came about, it ends COMMAND (SIGTERM, and SIGKILL after a grace) and exits with
its exit code. In the second case nobody else is left to clean up, so it deletes the folder REMOVE too ("" for none).
A signal on the death of the parent's thread could not do that, and it fires as well when only the thread ends that
happened to start the broker.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from typing import Final

_POLL_S: Final = 0.1
_GRACE_S: Final = 15
_PR_SET_PDEATHSIG: Final = 1


def _die_with_watchdog() -> None:
    """Runs in the child: SIGKILL it should this watchdog itself be killed. Linux only; elsewhere that risk stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(parent: int, remove: str, command: list[str]) -> int:
    """Watch until the end; give the command's exit code."""
    stopping = False

    def stop(_signal: int, _frame: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One thread, and the child runs exec at once: what preexec_fn is warned of cannot happen.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        preexec_fn=_die_with_watchdog,  # noqa: PLW1509 - as said
    )
    print(child.pid, flush=True)
    while not stopping and child.poll() is None and os.getppid() == parent:
        time.sleep(_POLL_S)
    child.terminate()
    try:
        code = child.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        code = child.wait()
    if remove and os.getppid() != parent:
        shutil.rmtree(remove, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]) & 0xFF)
