"""What an aiokafka consumer's fetches ask for, changed while it runs."""

from __future__ import annotations

from typing import Any

from stream.batching import private as _private  # noqa: F401  (refuses other releases)

__all__ = ["ask_for"]


def ask_for(consumer: Any, *, max_wait_ms: int, min_bytes: int) -> None:
    """Fetches of `consumer` from now on are answered when `min_bytes` are there, after `max_wait_ms` at the latest."""
    fetcher = consumer._fetcher
    fetcher._fetch_max_wait_ms = max_wait_ms
    fetcher._fetch_min_bytes = min_bytes
