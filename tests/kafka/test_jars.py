"""The pinned jars: only what the repository names by its hash gets into the class path."""

import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from stream.errors import PolytempoError
from stream.kafka.jars import Jar, ensure_jars, kafka_version, pinned_jars

CONTENT = b"what the project pinned"
JAR = Jar("org.example", "thing", "1.0", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Maven repository on this machine, as the folder it serves."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("POLYTEMPO_MAVEN", f"http://127.0.0.1:{server.server_port}/")
        yield folder
        server.shutdown()
        thread.join()


def _publish(mirror: Path, content: bytes) -> None:
    folder = mirror / "org" / "example" / "thing" / "1.0"
    folder.mkdir(parents=True)
    (folder / JAR.file_name).write_bytes(content)


def test_every_jar_is_pinned_by_a_whole_hash_and_named_once() -> None:
    jars = pinned_jars()
    assert all(len(bytes.fromhex(jar.sha256)) == 32 and jar.bytes > 0 for jar in jars)
    assert len({(jar.group, jar.artifact) for jar in jars}) == len({jar.file_name for jar in jars}) == len(jars)


def test_all_of_kafka_is_of_one_version_and_it_is_4_1_or_later() -> None:
    assert {jar.version for jar in pinned_jars() if jar.group == "org.apache.kafka"} == {kafka_version()}
    assert tuple(map(int, kafka_version().split(".")[:2])) >= (4, 1)


def test_a_missing_jar_is_fetched_by_its_coordinates(mirror: Path, tmp_path: Path) -> None:
    _publish(mirror, CONTENT)
    progress: list[tuple[int, int]] = []
    (path,) = ensure_jars(tmp_path / "cache", jars=(JAR,), on_bytes=lambda *seen: progress.append(seen))
    assert path.read_bytes() == CONTENT
    assert progress == [(0, JAR.bytes), (JAR.bytes, JAR.bytes)]
    assert [entry.name for entry in path.parent.iterdir()] == [JAR.file_name], "nothing else stays behind"


def test_a_fetched_jar_with_another_hash_never_reaches_the_cache(mirror: Path, tmp_path: Path) -> None:
    _publish(mirror, b"something else")
    with pytest.raises(PolytempoError, match="not the pinned file"):
        ensure_jars(tmp_path / "cache", jars=(JAR,))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_jar_that_was_changed_in_the_cache_is_refused_and_deleted(tmp_path: Path) -> None:
    (tmp_path / JAR.file_name).write_bytes(b"tampered with")
    with pytest.raises(PolytempoError, match="not the pinned file"):
        ensure_jars(tmp_path, jars=(JAR,))
    assert not (tmp_path / JAR.file_name).exists()


def test_a_jar_that_cannot_be_fetched_is_named_with_the_ways_out(mirror: Path, tmp_path: Path) -> None:
    assert list(mirror.iterdir()) == []
    with pytest.raises(PolytempoError, match=r"org\.example:thing:1\.0 cannot be fetched") as caught:
        ensure_jars(tmp_path / "cache", jars=(JAR,))
    assert "POLYTEMPO_MAVEN" in caught.value.hint
