"""How far the models of running workers have moved from their training, as their own pages say."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from stream.operations.listen import Token
from stream.operations.probe import ask

__all__ = ["Drifted", "Workers", "summed"]

_EVERY_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Drifted:
    """One variant, over all workers that were asked.

    Attributes:
        variant: of the experiment, or the default.
        verdict: of the worker that has moved most: "changed", "look", "steady", "too few" events; or "not known" where
            no bundle tells what it was trained on.
        n_events: events that were looked at.
        moved_most: (feature, index) of the worker that has moved most, the first one most.
    """

    variant: str
    verdict: str
    n_events: int
    moved_most: tuple[tuple[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        """For one line of JSON."""
        return {
            "variant": self.variant,
            "verdict": self.verdict,
            "events": self.n_events,
            "moved_most": dict(self.moved_most),
        }


def summed(statuses: Sequence[Any]) -> tuple[Drifted, ...]:
    """What pages `/status` of several workers say together; what is none of theirs is passed over."""
    found: dict[str, list[dict[str, Any] | None]] = {}
    for status in statuses:
        said = status.get("drift") if isinstance(status, dict) else None
        for variant, each in (said or {}).items():
            found.setdefault(variant, []).append(each)
    return tuple(_summed(variant, said) for variant, said in sorted(found.items()))


def _summed(variant: str, said: list[dict[str, Any] | None]) -> Drifted:
    known = [each for each in said if each is not None]
    if not known:
        return Drifted(variant, "not known", 0, ())
    n_events = sum(int(each["events"]) for each in known)
    judged = [each for each in known if each["verdict"] != "too few"]
    if not judged:
        return Drifted(variant, "too few", n_events, ())
    worst = max(judged, key=lambda each: max(each["moved_most"].values(), default=0.0))
    return Drifted(variant, str(worst["verdict"]), n_events, tuple(worst["moved_most"].items()))


class Workers:
    """Asks workers for their status in a thread of its own, while it is entered.

    Args:
        urls: addresses of their pages.
        token: for those that want one.
    """

    def __init__(self, urls: Sequence[str], token: Token | None = None) -> None:
        self.drifted: tuple[Drifted, ...] = ()
        """What they said last; empty before the first answer."""
        self.asked: Final = threading.Event()
        """Set when all have been asked once."""
        self._urls: Final = [url.rstrip("/") + "/status" for url in urls]
        self._token: Final = token
        self._over: Final = threading.Event()
        self._thread: Final = threading.Thread(target=self._ask_on, name="workers", daemon=True)

    def __enter__(self) -> Self:
        if self._urls:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def _ask_on(self) -> None:
        while not self._over.is_set():
            statuses = []
            for url in self._urls:
                _, body = ask(url, self._token)
                with contextlib.suppress(ValueError):
                    statuses.append(json.loads(body))
            self.drifted = summed(statuses)
            self.asked.set()
            self._over.wait(_EVERY_S)
