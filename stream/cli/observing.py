"""Options of those commands that can be observed while they run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

from stream.cli.options import parse_duration_ms

if TYPE_CHECKING:
    from stream.worker.observed import Observing

__all__ = ["ObservingOptions"]

OBSERVING_GROUP = Group("Health and metrics", sort_key=5)


@Parameter(name="*", group=OBSERVING_GROUP)
@dataclass(frozen=True, slots=True, kw_only=True)
class ObservingOptions:
    """Where health and metrics are served, and when the worker counts as not ready.

    Args:
        http: HOST:PORT for /live, /ready, /status and /metrics; :PORT for this machine only, port 0 for a free one, or
            off. POLYTEMPO_HTTP_TOKEN or POLYTEMPO_HTTP_TOKEN_FILE holds the bearer token that is asked for.
        http_open: let others than this machine read them without a token.
        stalled_after: not ready when events wait and none of their partition was finished for so long.
        silent_after: not ready when the broker answered no fetch for so long.
        unsettled_after: not ready when a rebalance or recovery brought no change for so long.
        old_view_after: not ready when the view of item statistics lacks what is older than this, beyond --refresh.
        blocked_after: not ready when the event loop did not turn for so long.
    """

    http: Annotated[str, Parameter(name="--http")] = "127.0.0.1:0"
    http_open: Annotated[bool, Parameter(name="--http-open")] = False
    stalled_after: Annotated[str, Parameter(name="--stalled-after")] = "30s"
    silent_after: Annotated[str, Parameter(name="--silent-after")] = "15s"
    unsettled_after: Annotated[str, Parameter(name="--unsettled-after")] = "60s"
    old_view_after: Annotated[str, Parameter(name="--old-view-after")] = "30s"
    blocked_after: Annotated[str, Parameter(name="--blocked-after")] = "5s"

    def observing(self, refresh_s: float) -> Observing:
        """What they say, for a worker whose view may be `refresh_s` old.

        Raises:
            PolytempoError: an address or duration cannot be read, or others could read without a token.
        """
        from stream.operations.listen import Listen, read_token
        from stream.operations.watchdog import WatchdogConfig
        from stream.worker.observed import Observing

        token = read_token()
        return Observing(
            listen=Listen.parse(self.http, token=token, open_to_all=self.http_open),
            token=token,
            watchdog=WatchdogConfig(
                stalled_s=parse_duration_ms(self.stalled_after) / 1000,
                silent_s=parse_duration_ms(self.silent_after) / 1000,
                unsettled_s=parse_duration_ms(self.unsettled_after) / 1000,
                view_s=parse_duration_ms(self.old_view_after) / 1000 + refresh_s,
                blocked_s=parse_duration_ms(self.blocked_after) / 1000,
            ),
        )
