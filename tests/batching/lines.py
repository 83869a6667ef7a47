"""Connections of aiokafka's whose other end is the test, and a time that only the test moves on."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any, NamedTuple

from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol, CloseReason
from aiokafka.protocol.api import RequestHeader_v1

__all__ = ["Clock", "Line", "Received"]


class Received(NamedTuple):
    """A request as a broker gets it: `body` stands behind the header, `data` is all of it."""

    api: int
    version: int
    number: int
    client_id: str
    body: BytesIO
    data: bytes


class Line(asyncio.Transport):
    """The socket of one of aiokafka's connections.

    Args:
        node, lane: whose it is.
        versions: by the number of the kind of request, which the broker knows.
        on_request: what the broker does with each.
        on_broken: told when the connection ends for a reason for which aiokafka's client asks for the brokers anew.
    """

    def __init__(
        self,
        node: int,
        lane: int,
        versions: dict[int, tuple[int, int]],
        on_request: Callable[[Line, Received], None],
        on_broken: Callable[[], None],
    ) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.node, self.lane = node, lane
        self.closed_for: list[CloseReason] = []
        self._on_request, self._on_broken = on_request, on_broken
        self._closing = False
        self.connection = connection = AIOKafkaConnection("broker", 9092, client_id="client", on_close=self._on_close)
        connection._versions = versions
        connection._closed_fut = loop.create_future()
        connection._reader = asyncio.StreamReader(loop=loop)
        self.protocol: Any = AIOKafkaProtocol(connection._closed_fut, connection._reader, loop=loop)
        self.protocol.connection_made(self)
        connection._protocol = self.protocol
        connection._writer = asyncio.StreamWriter(self, self.protocol, connection._reader, loop)
        connection._read_task = connection._create_reader_task()

    def _on_close(self, _connection: Any, reason: CloseReason) -> None:
        self.closed_for.append(reason)
        if reason in {CloseReason.CONNECTION_BROKEN, CloseReason.CONNECTION_TIMEOUT}:
            self._on_broken()

    # what the client sees
    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Any) -> None:
        if self._closing:  # as a socket that is gone
            return
        buffer = BytesIO(data)
        (size,) = struct.unpack(">i", buffer.read(4))
        assert size == len(data) - 4
        self._on_request(self, Received(*RequestHeader_v1.SCHEMA.decode(buffer), buffer, data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    # what the broker does
    def answer(self, number: int, content: bytes) -> None:
        """Answer the request of that number, which must be the oldest."""
        assert self.connection._requests[0][0] == number, "a broker answers in the order of requests"
        self.bring(struct.pack(">i", number) + content)

    def bring(self, answer: bytes) -> None:
        """Send bytes, with their size before them."""
        self.protocol.data_received(struct.pack(">i", len(answer)) + answer)

    def end(self) -> None:
        """The broker closes its side."""
        self.protocol.eof_received()

    def reset(self) -> None:
        """The network breaks."""
        self._closing = True
        self.protocol.connection_lost(ConnectionResetError("reset"))


class Clock:
    """The time of the running event loop, from now on until `stop`."""

    def __init__(self) -> None:
        self._loop: Any = asyncio.get_running_loop()
        self.now_s = 1_000.0
        self._loop.time = lambda: self.now_s

    async def settle(self, n_turns: int = 12) -> None:
        """Let everything that can run, run."""
        for _ in range(n_turns):
            await asyncio.sleep(0)

    async def wait(self, seconds: float, step_s: float = 0.5) -> None:
        """Let time pass, and whatever rings in it ring at its time."""
        until_s = self.now_s + seconds
        await self.settle()
        while self.now_s < until_s:
            self.now_s = min(until_s, self.now_s + step_s)
            await self.settle()

    def stop(self) -> None:
        """Give the loop its own time back."""
        del self._loop.time
