"""What an aiokafka consumer's fetches ask for, and how soon one follows another, changed while it runs."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import ConnectionGroup

from stream.batching import private as _private  # noqa: F401  (refuses other releases)
from stream.batching.frames import take_frames

__all__ = ["Pacer", "ask_for"]


def ask_for(consumer: Any, *, max_wait_ms: int, min_bytes: int) -> None:
    """Fetches of `consumer` from now on are answered when `min_bytes` are there, after `max_wait_ms` at the latest."""
    fetcher = consumer._fetcher
    fetcher._fetch_max_wait_ms = max_wait_ms
    fetcher._fetch_min_bytes = min_bytes


class Pacer:
    """Holds back a consumer's fetches until `pace_s` after the last one to the same broker; 0 holds back nothing.

    The broker could wait as well, with `min_bytes` that never come. But then each record that arrives makes it look at
    the fetches that wait, and its clock adds a millisecond or two; and the time that a batch takes comes on top of the
    wait instead of into it.
    """

    def __init__(self, consumer: Any) -> None:
        self.pace_s = 0.0
        self.fetcher = consumer._fetcher
        self._fetch = self.fetcher._proc_fetch_request
        self._last_s: dict[int, float] = {}
        self.fetcher._proc_fetch_request = self._paced

    async def _paced(self, assignment: Any, node_id: int, request: Any) -> Any:
        clock = asyncio.get_running_loop().time
        ahead_s = self._last_s.get(node_id, 0.0) + self.pace_s - clock()
        if self.pace_s > 0 and ahead_s > 0:
            try:
                await asyncio.sleep(ahead_s)
            except asyncio.CancelledError:  # given back, or closed: as while it waits for an answer
                return False
        self._last_s[node_id] = clock()
        connection = self.fetcher._client._conns.get((node_id, ConnectionGroup.DEFAULT))
        if connection is not None:
            take_frames(connection)
        return await self._fetch(assignment, node_id, request)
