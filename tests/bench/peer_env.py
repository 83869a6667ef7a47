"""Where peers live: a virtual environment for each, made when it is first asked for and kept in the user's cache.

A peer brings the versions of its own dependencies, and everything that the job itself needs (NumPy, numba, ONNX
Runtime, msgspec) comes from the environment that the benchmark runs in, by a path file behind the peer's own packages.
So both sides compute with the very same libraries, and nothing of this environment is changed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError

__all__ = ["PEERS", "Peer", "environment", "find_environment"]

_TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Peer:
    """One of those that the product is compared with.

    Attributes:
        name: in figures.
        label: for people.
        module: what runs, a module of tests/bench.
        formulations: ways to write the job; the fastest counts as the peer's figure.
        requirements: what its environment must hold, pinned; empty for this very environment.
        in_kafka: whether it commits its offsets to Kafka.
    """

    name: str
    label: str
    module: str
    formulations: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    in_kafka: bool = True


PEERS: Final = (
    Peer("faust", "plain Faust", "tests.bench.peer_faust", ("event", "take")),
    Peer("quix", "Quix Streams", "tests.bench.peer_quix", ("event",), ("quixstreams==3.28.1",)),
    Peer(
        "bytewax",
        "Bytewax",
        "tests.bench.peer_bytewax",
        ("user", "partition", "crowd"),
        ("bytewax[kafka]==0.21.1", "confluent-kafka==2.12.2"),
        in_kafka=False,
    ),
)
"""The newest releases of each when this was written; Bytewax with the Kafka client that Quix Streams is held to."""


def find_environment(peer: Peer) -> Path | None:
    """The Python of the peer's environment; None if it has not been made."""
    if not peer.requirements:
        return Path(sys.executable)
    python = _folder(peer) / "bin" / "python"
    return python if (_folder(peer) / "complete").exists() and python.exists() else None


def environment(peer: Peer, say: Callable[[str], object] = lambda _: None) -> Path:
    """The Python of the peer's environment, which is made if it is not there: that takes half a minute and a network.

    Raises:
        PolytempoError: it cannot be installed here; the message says what the installer said.
    """
    found = find_environment(peer)
    if found is not None:
        return found
    folder = _folder(peer)
    say(f"making an environment for {peer.label} in {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    python = folder / "bin" / "python"
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is not None:
        _run(peer, [uv, "venv", "--quiet", "--python", sys.executable, str(folder)])
        _run(peer, [uv, "pip", "install", "--quiet", "--python", str(python), *peer.requirements])
    else:
        _run(peer, [sys.executable, "-m", "venv", str(folder)])
        _run(peer, [str(python), "-m", "pip", "install", "--quiet", *peer.requirements])
    tag = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Path files come behind the folder that they lie in: what the peer wants in a version of its own, it gets.
    (folder / "lib" / tag / "site-packages" / "polytempo_shared.pth").write_text(f"{_ours()}\n")
    (folder / "complete").touch()
    return python


def _ours() -> str:
    return sysconfig.get_paths()["purelib"]


def _folder(peer: Peer) -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    root = (Path(base) if base else Path.home() / ".cache") / "polytempo" / "peers"
    wanted = "\n".join([sys.version, _ours(), *peer.requirements])
    return root / f"{peer.name}-{hashlib.sha256(wanted.encode()).hexdigest()[:12]}"


def _run(peer: Peer, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise PolytempoError(
            f"{peer.label} was not installed within {_TIMEOUT_S} s.", "Is there a package registry?"
        ) from None
    if done.returncode != 0:
        said = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise PolytempoError(
            f"{peer.label} ({', '.join(peer.requirements)}) cannot be installed for Python "
            f"{sys.version_info.major}.{sys.version_info.minor}.",
            said,
        )
