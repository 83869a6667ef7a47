"""Answers, cut out of what a socket brings."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest, ApiVersionResponse_v0, ApiVersionResponse_v1
from hypothesis import given
from hypothesis import strategies as st

from stream.batching.frames import Frames, take_frames
from tests.kafka.certificates import Authority


class FakeConnection:
    """Notes its answers, and how it was closed; a request waits for each of `n_requests` answers."""

    def __init__(self, n_requests: int = 1_000) -> None:
        self._requests: deque[str] = deque(["request"] * n_requests)
        self.answers: list[bytes] = []
        self.closed: list[tuple[CloseReason, BaseException | None]] = []

    def _handle_frame(self, answer: bytes) -> None:
        self.answers.append(answer)
        self._requests.popleft()

    def close(self, reason: CloseReason, exc: BaseException | None) -> None:
        self.closed.append((reason, exc))
        self._requests.clear()


class Before:
    """The protocol that had the connection before."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connection_lost(self, exc: Exception | None) -> None:
        self.heard.append(exc)

    def pause_writing(self) -> None:
        self.heard.append("pause")

    def resume_writing(self) -> None:
        self.heard.append("resume")


def framed(answer: bytes) -> bytes:
    return struct.pack(">i", len(answer)) + answer


# -- cutting -----------------------------------------------------------------------------------------------------------


@given(answers=st.lists(st.binary(max_size=20) | st.binary(min_size=250, max_size=300), max_size=12), data=st.data())
def test_answers_are_the_same_wherever_the_stream_is_cut(answers: list[bytes], data: st.DataObject) -> None:
    """Whole answers, many at once, one byte after the other, also between the bytes of a size."""
    stream = b"".join(map(framed, answers))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=40)))
    connection = FakeConnection()
    frames = Frames(connection, Before())
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        frames.data_received(stream[start:end])
    assert (connection.answers, connection.closed) == (answers, [])


@given(answers=st.lists(st.binary(max_size=5), min_size=1, max_size=5))
def test_an_answer_is_handed_over_with_its_last_byte_and_not_before(answers: list[bytes]) -> None:
    connection = FakeConnection()
    frames = Frames(connection, Before())
    for i, answer in enumerate(answers):
        for byte in framed(answer):
            assert len(connection.answers) == i
            frames.data_received(bytes([byte]))
        assert connection.answers == answers[: i + 1]


def test_a_piece_of_an_answer_that_looks_like_one_is_none() -> None:
    connection = FakeConnection()
    frames = Frames(connection, Before())
    answer = b"begins" + framed(b"inner")
    frames.data_received(framed(answer)[: -len(framed(b"inner"))])
    frames.data_received(framed(b"inner"))
    assert connection.answers == [answer]


@pytest.mark.parametrize("together", [False, True])
def test_what_nobody_asked_for_is_ignored(*, together: bool) -> None:
    connection = FakeConnection(n_requests=1)
    frames = Frames(connection, Before())
    pieces = [framed(b"asked"), framed(b"not asked")]
    for piece in [b"".join(pieces)] if together else pieces:
        frames.data_received(piece)
    assert (connection.answers, connection.closed) == ([b"asked"], [])
    connection._requests.append("another")
    frames.data_received(framed(b"asked again"))
    assert connection.answers == [b"asked", b"asked again"]


@pytest.mark.parametrize("behind", [b"", framed(b"next")])
def test_an_answer_that_cannot_be_read_ends_the_connection_and_what_is_behind_it(behind: bytes) -> None:
    error = ValueError("no words")

    class Confused(FakeConnection):
        def _handle_frame(self, answer: bytes) -> None:
            super()._handle_frame(answer)
            raise error

    connection = Confused()
    Frames(connection, Before()).data_received(framed(b"?") + behind)
    assert connection.answers == [b"?"]
    assert connection.closed == [(CloseReason.CONNECTION_BROKEN, error)]


@pytest.mark.parametrize(
    "size",
    [-1, -4, -10, -(2**31)],
)
def test_a_size_below_zero_ends_the_connection(size: int) -> None:
    """As in aiokafka's reader: what speaks so is no broker, or the two have lost each other."""

    class Patient(FakeConnection):
        """Says so when it is asked for ever."""

        n_asked = 0

        def __getattribute__(self, name: str) -> Any:
            if name == "_requests":
                self.n_asked += 1
                assert self.n_asked < 100, "goes round and round"
            return super().__getattribute__(name)

        def _handle_frame(self, answer: bytes) -> None:  # noqa: ARG002 - as the real one
            raise ValueError("no answer to the first request")

    connection = Patient()
    Frames(connection, Before()).data_received(struct.pack(">i", size) + b"0123456789")
    assert [reason for reason, _ in connection.closed] == [CloseReason.CONNECTION_BROKEN]


# -- how the connection fares ------------------------------------------------------------------------------------------


def test_the_end_of_the_stream_closes_the_connection() -> None:
    connection = FakeConnection()
    assert not Frames(connection, Before()).eof_received()  # a true one would leave our side open
    ((reason, error),) = connection.closed
    assert reason is CloseReason.CONNECTION_BROKEN
    assert isinstance(error, EOFError)


@pytest.mark.parametrize("error", [None, ConnectionResetError("reset")])
def test_a_lost_socket_closes_the_connection_and_the_earlier_protocol_hears_of_it(error: Exception | None) -> None:
    connection, before = FakeConnection(), Before()
    Frames(connection, before).connection_lost(error)
    assert before.heard == [error]
    assert connection.closed == [(CloseReason.CONNECTION_BROKEN, error)]


def test_the_earlier_protocol_hears_whether_the_socket_takes_more() -> None:
    before = Before()
    frames = Frames(FakeConnection(), before)
    frames.pause_writing()
    frames.resume_writing()
    assert before.heard == ["pause", "resume"]


# -- taking over -------------------------------------------------------------------------------------------------------


def idle_connection(changes: list[Any]) -> Any:
    """One that waits for nothing; what is done to it goes into `changes`."""
    transport = SimpleNamespace(set_protocol=changes.append, is_closing=lambda: False)
    return SimpleNamespace(
        _protocol=Before(),
        _requests=deque(),
        _reader=SimpleNamespace(exception=lambda: None),
        _writer=SimpleNamespace(transport=transport),
        _read_task=SimpleNamespace(cancel=lambda: changes.append("cancelled")),
    )


def test_a_connection_that_waits_for_nothing_is_taken_over_once() -> None:
    changes: list[Any] = []
    connection = idle_connection(changes)
    take_frames(connection)
    frames = connection._protocol
    assert isinstance(frames, Frames)
    assert changes == ["cancelled", frames]
    take_frames(connection)
    assert changes == ["cancelled", frames]
    assert connection._protocol is frames


def test_a_connection_with_requests_under_way_is_left_alone_until_they_are_answered() -> None:
    changes: list[Any] = []
    connection = idle_connection(changes)
    before = connection._protocol
    connection._requests.append("request")
    take_frames(connection)
    assert (changes, connection._protocol) == ([], before)
    connection._requests.clear()
    take_frames(connection)
    assert isinstance(connection._protocol, Frames)


def test_a_closed_connection_is_left_alone() -> None:
    changes: list[Any] = []
    connection = idle_connection(changes)
    connection._writer = None
    take_frames(connection)
    assert changes == []


# -- with a real connection --------------------------------------------------------------------------------------------


class Server:
    """Answers questions for versions; which one it was stands where the throttle time should.

    Attributes:
        n_answered: how many questions it answers after the first; the next one ends the connection.
        at_once: answers are held back until so many are there, and then go in three pieces.
    """

    def __init__(self) -> None:
        self.n_answered = 1_000
        self.at_once = 1
        self.reset = False
        self.port = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        n_asked, held = -1, b""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                _, version, number = struct.unpack(">hhi", (await reader.readexactly(size))[:8])
                n_asked += 1
                if n_asked > self.n_answered:
                    if self.reset:
                        writer.transport.abort()
                    break
                versions = [(18, 0, 1)]
                answer = ApiVersionResponse_v1(0, versions, n_asked) if version else ApiVersionResponse_v0(0, versions)
                held += framed(struct.pack(">i", number) + answer.encode())
                if n_asked % self.at_once > 0:
                    continue
                for piece in held[:3], held[3:-5], held[-5:]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                held = b""
        writer.close()


Connect = Callable[[], Any]


@pytest.fixture(params=["plain", "tls"])
async def tls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ssl.SSLContext, ssl.SSLContext] | None:
    """Contexts of server and client; None for plain sockets."""
    if request.param == "plain":
        return None
    authority = Authority(tmp_path, "authority")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.issue("server"))
    return server, ssl.create_default_context(cafile=str(authority.file))


@pytest.fixture
async def server(tls: tuple[ssl.SSLContext, ssl.SSLContext] | None) -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls and tls[0])
    server.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield server
        for writer in server.writers:
            writer.transport.abort()


@pytest.fixture
def closed() -> list[CloseReason]:
    """Why connections were closed, as their client hears it."""
    return []


@pytest.fixture
async def connection(
    server: Server, tls: tuple[ssl.SSLContext, ssl.SSLContext] | None, closed: list[CloseReason]
) -> AsyncIterator[Any]:
    """One of aiokafka's own, taken over."""
    connection: AIOKafkaConnection = await create_conn(
        "127.0.0.1",
        server.port,
        request_timeout_ms=20_000,
        security_protocol="SSL" if tls else "PLAINTEXT",
        ssl_context=tls and tls[1],
        on_close=lambda _, reason: closed.append(reason),
    )
    reading = connection._read_task
    take_frames(connection)
    with suppress(asyncio.CancelledError):
        await reading
    assert reading.cancelled()
    yield connection
    await asyncio.wait_for(connection.close(), 20)


async def test_requests_of_a_real_connection_are_answered_each_with_its_own(connection: Any, server: Server) -> None:
    server.at_once = 5
    answers = await asyncio.gather(*(connection.send(ApiVersionRequest()) for _ in range(10)))
    assert [answer.throttle_time_ms for answer in answers] == list(range(1, 11))
    assert connection.connected()


@pytest.mark.parametrize("reset", [False, True])
async def test_requests_of_a_real_connection_fail_when_the_server_goes(
    connection: Any, server: Server, closed: list[CloseReason], *, reset: bool
) -> None:
    """
    asked      1 2 3 4
    answered   1 2 │ the end
    """
    server.n_answered, server.reset = 2, reset
    answers = await asyncio.gather(*(connection.send(ApiVersionRequest()) for _ in range(4)), return_exceptions=True)
    assert [answer.throttle_time_ms for answer in answers[:2]] == [1, 2]
    assert [type(answer) for answer in answers[2:]] == [KafkaConnectionError] * 2
    assert not connection.connected()
    assert closed == [CloseReason.CONNECTION_BROKEN]
    with pytest.raises(KafkaConnectionError):
        await connection.send(ApiVersionRequest())


async def test_a_real_connection_that_is_idle_hears_that_the_server_goes(
    connection: Any, server: Server, closed: list[CloseReason]
) -> None:
    server.writers[0].close()
    await asyncio.wait_for(connection._closed_fut, 20)
    assert not connection.connected()
    assert closed == [CloseReason.CONNECTION_BROKEN]


@pytest.mark.parametrize("tls", ["plain"], indirect=True)
async def test_a_real_connection_is_left_alone_that_its_reader_is_about_to_close(
    server: Server, closed: list[CloseReason]
) -> None:
    """Between the loss of the socket and the turn of the reading task, aiokafka calls it connected."""
    connection = await create_conn("127.0.0.1", server.port, on_close=lambda _, reason: closed.append(reason))
    connection._writer.transport._force_close(ConnectionResetError("reset"))
    await asyncio.sleep(0)
    assert connection.connected()
    take_frames(connection)
    asked = asyncio.ensure_future(connection.send(ApiVersionRequest()))
    for _ in range(10):
        await asyncio.sleep(0)
    try:
        assert asked.done()
        assert isinstance(asked.exception(), KafkaConnectionError)
        assert closed == [CloseReason.CONNECTION_BROKEN]
    finally:
        asked.cancel()
        connection.close()


async def test_an_answer_out_of_turn_closes_a_real_connection(connection: Any, closed: list[CloseReason]) -> None:
    asked = asyncio.ensure_future(connection.send(ApiVersionRequest()))
    await asyncio.sleep(0)
    connection._protocol.data_received(framed(struct.pack(">i", 999)))
    assert closed == [CloseReason.OUT_OF_SYNC]
    with pytest.raises(Exception, match="Correlation ids do not match"):
        await asked
