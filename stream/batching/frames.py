"""Answers of a broker, taken where they arrive.

aiokafka reads a connection in a task: each answer wakes it, it takes four bytes, then the rest, then hands over what it
has. That is a turn of the event loop and two coroutines more for each answer than it takes. Here the socket's bytes
become answers in the callback that brings them.
"""

from __future__ import annotations

import asyncio
import struct
from typing import Any, Final

from aiokafka.conn import CloseReason

from stream.batching import private as _private  # noqa: F401  (refuses other releases)

__all__ = ["Frames", "take_frames"]

_SIZE: Final = struct.Struct(">i")


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
        if rest or len(data) < _SIZE.size or len(data) != _SIZE.size + _SIZE.unpack_from(data)[0]:
            rest += data
            start = 0
            while len(rest) - start >= _SIZE.size:
                size = _SIZE.unpack_from(rest, start)[0]
                if size < 0:
                    self._give_up(ValueError(f"an answer of {size} bytes"))
                    return
                end = start + _SIZE.size + size
                if end > len(rest):
                    break
                with memoryview(rest) as view:
                    answer = bytes(view[start + _SIZE.size : end])
                start = end
                self._hand_over(answer)
            del rest[:start]
        else:
            self._hand_over(data[_SIZE.size :])

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
