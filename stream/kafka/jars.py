"""The jars that Apache Kafka is made of, each pinned by its SHA-256 in `jars.json`.

They are fetched once, by Maven coordinates through jgo, into a cache that all brokers of this user share. Nothing runs
from a jar that is not the pinned one: each is checked when it arrives and again at every start.
"""

import hashlib
import importlib.resources
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stream.errors import PolytempoError

__all__ = ["Jar", "cache_dir", "ensure_jars", "kafka_version", "pinned_jars"]

_N_DOWNLOADS: Final = 8
_TIMEOUT_S: Final = 30
_N_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned artifact.

    Args:
        group, artifact, version: its Maven coordinates.
        bytes: its size.
        sha256: the hash of its content, in hexadecimal.
    """

    group: str
    artifact: str
    version: str
    bytes: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Its name in the cache."""
        return f"{self.artifact}-{self.version}.jar"


def pinned_jars() -> tuple[Jar, ...]:
    """The broker's and its console tools' whole class path."""
    text = importlib.resources.files("stream.kafka").joinpath("jars.json").read_text(encoding="utf-8")
    return tuple(Jar(**row) for row in json.loads(text))


def kafka_version() -> str:
    """The pinned version of Apache Kafka."""
    return next(jar.version for jar in pinned_jars() if jar.artifact == "kafka-clients")


def cache_dir() -> Path:
    """Where the jars are kept between runs: `polytempo/jars` in the user's cache directory."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "polytempo" / "jars"


def ensure_jars(
    folder: Path | None = None,
    *,
    jars: tuple[Jar, ...] | None = None,
    on_bytes: Callable[[int, int], None] | None = None,
) -> tuple[Path, ...]:
    """Give the class path, with every jar in place and checked; fetch those that are not there.

    Safe to call from several processes at once: a jar appears in the cache whole or not at all.

    Args:
        folder: where the jars are kept; None takes `cache_dir()`.
        jars: which; None takes all that are pinned.
        on_bytes: called from this thread with (bytes there, bytes in all) while jars are fetched.

    Raises:
        PolytempoError: a jar differs from its pinned hash (it is then deleted), cannot be fetched, or has no room.
    """
    folder = cache_dir() if folder is None else folder
    jars = pinned_jars() if jars is None else jars
    missing = [jar for jar in jars if not (folder / jar.file_name).exists()]
    for jar in jars:
        if jar not in missing:
            _verify(folder / jar.file_name, jar)
    if missing:
        _fetch_all(missing, folder, on_bytes)
    return tuple(folder / jar.file_name for jar in jars)


def _verify(path: Path, jar: Jar) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found == jar.sha256:
        return
    path.unlink()
    raise PolytempoError(
        f"{path.name} is not the pinned file: its SHA-256 is {found}, expected {jar.sha256}. It was deleted.",
        "Start again to fetch it anew; if this repeats, the repository or proxy in between serves something else.",
    )


def _fetch_all(missing: list[Jar], folder: Path, on_bytes: Callable[[int, int], None] | None) -> None:
    n_bytes = sum(jar.bytes for jar in missing)
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < 2 * n_bytes:
        raise PolytempoError(
            f"{folder} has no room for Kafka's jars ({n_bytes / 1e6:.0f} MB).", "Free some, or move XDG_CACHE_HOME."
        )
    n_done = 0
    if on_bytes is not None:
        on_bytes(0, n_bytes)
    with (
        tempfile.TemporaryDirectory(dir=folder, prefix=".incoming-") as incoming,
        _certificates(),
        ThreadPoolExecutor(_N_DOWNLOADS) as pool,
    ):
        largest_first = sorted(missing, key=lambda jar: -jar.bytes)
        fetches = {pool.submit(_fetch, jar, Path(incoming) / jar.file_name, folder): jar for jar in largest_first}
        try:
            for fetch in as_completed(fetches):
                fetch.result()
                n_done += fetches[fetch].bytes
                if on_bytes is not None:
                    on_bytes(n_done, n_bytes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _fetch(jar: Jar, incoming: Path, folder: Path) -> None:
    """Fetch one jar by its coordinates, check it, and only then give it its place."""
    # Imported here: it comes with the extra `broker`, and a broker whose jars are there does without it.
    from jgo.maven import MavenContext

    mirror = os.environ.get("POLYTEMPO_MAVEN")
    context = MavenContext(
        repo_cache=incoming, remote_repos={"mirror": mirror.rstrip("/")} if mirror else None, timeout=_TIMEOUT_S
    )
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact(packaging="jar")
    for i_try in range(_N_TRIES):
        try:
            path = context.resolver.download(artifact)
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo says "not found" with the other
            shutil.rmtree(incoming, ignore_errors=True)
            if i_try == _N_TRIES - 1:
                raise PolytempoError(
                    f"{jar.group}:{jar.artifact}:{jar.version} cannot be fetched: {error}.",
                    "Kafka's jars come from the public Maven repository once, then from the cache. "
                    "POLYTEMPO_MAVEN names a mirror's URL; POLYTEMPO_KAFKA a Kafka that runs already.",
                ) from error
        else:
            if path is None:
                raise PolytempoError(f"{jar.group}:{jar.artifact}:{jar.version} is in no Maven repository.")
            _verify(path, jar)
            path.replace(folder / jar.file_name)
            return


@contextmanager
def _certificates() -> Iterator[None]:
    """Let the download trust what SSL_CERT_FILE names, as the standard library does; requests has its own variable."""
    bundle = os.environ.get("SSL_CERT_FILE")
    if not bundle or "REQUESTS_CA_BUNDLE" in os.environ:
        yield
        return
    os.environ["REQUESTS_CA_BUNDLE"] = bundle
    try:
        yield
    finally:
        del os.environ["REQUESTS_CA_BUNDLE"]
