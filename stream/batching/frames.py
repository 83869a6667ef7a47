"""Requests of our own on aiokafka's connections, and answers taken where they arrive.

aiokafka reads a connection in a task: each answer wakes it, it takes four bytes, then the rest, then hands over what it
has. That is a turn of the event loop and two coroutines more for each answer than it takes. Here the socket's bytes
become answers in the callback that brings them, and a `Request` is told of its answer by a call.
"""

from __future__ import annotations

import asyncio
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

from aiokafka import errors
from aiokafka.conn import CloseReason

from stream.batching import private as _private  # noqa: F401  (refuses other releases)

__all__ = ["INT32", "Frames", "Request", "string_at", "string_of", "take_frames"]

INT32: Final = struct.Struct(">i")
_INT16: Final = struct.Struct(">h")
_HEADER: Final = struct.Struct(">hhi")


class Request(ABC):
    """A request under way.

    It stands in aiokafka's connection for three at once: the request, which knows how its answer is read, the kind of
    the answer, and the future that gets it, here by a call instead of a turn of the event loop.
    """

    __slots__ = ("RESPONSE_TYPE", "connection", "correlation_id", "since_s")

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.since_s = asyncio.get_running_loop().time()
        self.RESPONSE_TYPE = self
        self.correlation_id = 0

    def write(self, api: int, version: int, body: Sequence[bytes | bytearray]) -> None:
        """Send it, with the header of versions that are not flexible."""
        connection = self.connection
        number = connection._next_correlation_id()
        parts = [b"", _HEADER.pack(api, version, number), string_of(connection._client_id), *body]
        parts[0] = INT32.pack(sum(map(len, parts)))
        connection._requests.append((number, self, self))
        connection._writer.write(b"".join(parts))

    def late(self) -> None:
        """End the connection, because the answer has not come in time."""
        self.connection.close(reason=CloseReason.CONNECTION_TIMEOUT, exc=errors.RequestTimedOutError())

    @abstractmethod
    def answered(self, answer: bytes) -> None:
        """The answer is there, without its header. What is raised here ends the connection."""

    @abstractmethod
    def broken(self, error: errors.KafkaError) -> None:
        """The connection ended before the answer came."""

    # what aiokafka's connection calls

    def parse_response_header(self, answer: Any) -> Request:
        (self.correlation_id,) = INT32.unpack(answer.read(INT32.size))
        return self

    def decode(self, answer: Any) -> bytes:
        found: bytes = answer.read()
        return found

    def done(self) -> bool:
        return False

    def set_result(self, answer: bytes) -> None:
        self.answered(answer)

    def set_exception(self, error: BaseException) -> None:
        cause = error.__cause__ if isinstance(error.__cause__, errors.KafkaError) else error
        self.broken(cause if isinstance(cause, errors.KafkaError) else errors.KafkaConnectionError(str(cause)))


def string_of(text: str) -> bytes:
    """A string as the protocol writes it."""
    content = text.encode()
    return _INT16.pack(len(content)) + content


def string_at(answer: bytes, at: int) -> tuple[str, int]:
    """The string that begins at `at`, and where it ends."""
    end = at + _INT16.size + _INT16.unpack_from(answer, at)[0]
    return answer[at + _INT16.size : end].decode(), end


class Frames(asyncio.Protocol):
    """Cuts what a connection receives into answers, and hands each to it.

    Args:
        connection: aiokafka's; whom the answers belong to.
        before: the protocol that had the connection before, and goes on to learn how it fares.
    """

    def __init__(self, connection: Any, before: Any) -> None:
        self._connection = connection
        self._before = before
        self._rest = bytearray()

    def data_received(self, data: bytes) -> None:
        """Hand over all answers that are complete now."""
        rest = self._rest
        if rest or len(data) < INT32.size or len(data) != INT32.size + INT32.unpack_from(data)[0]:
            rest += data
            start = 0
            while len(rest) - start >= INT32.size:
                size = INT32.unpack_from(rest, start)[0]
                if size < 0:
                    self._give_up(ValueError(f"an answer of {size} bytes"))
                    return
                end = start + INT32.size + size
                if end > len(rest):
                    break
                with memoryview(rest) as view:
                    answer = bytes(view[start + INT32.size : end])
                start = end
                self._hand_over(answer)
            del rest[:start]
        else:
            self._hand_over(data[INT32.size :])

    def _hand_over(self, answer: bytes) -> None:
        connection = self._connection
        if not connection._requests:  # closed meanwhile, or the broker says what nobody asked
            return
        try:
            connection._handle_frame(answer)
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read: as a broken connection
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=error)

    def eof_received(self) -> bool:
        """The broker has closed its side."""
        self._give_up(EOFError("the broker closed the connection"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._before.connection_lost(exc)
        self._connection.close(reason=CloseReason.CONNECTION_BROKEN, exc=exc)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._before.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._before.resume_writing()


def take_frames(connection: Any) -> None:
    """Let the answers of a connection of aiokafka's be taken by `Frames`; nothing is done while it waits for one."""
    if isinstance(connection._protocol, Frames) or connection._requests or connection._writer is None:
        return
    transport = connection._writer.transport
    if transport.is_closing():  # the reader is about to hear of it, and closes the connection
        return
    connection._read_task.cancel()
    connection._protocol = Frames(connection, connection._protocol)
    transport.set_protocol(connection._protocol)
